"""Account: profile, password, second factor, sign-ins, API keys, own data.

One piece of HTML, filled and driven by the page's script over REST: passwords, keys and codes
never enter Gradio's queue. It has no handlers and knows nothing about anybody.
"""

from dataclasses import dataclass

import gradio as gr

from chat_app.settings import Accounts
from ui import hub as by_hub
from ui import languages
from ui.parts import esc

_SCOPES = (
    ("chat", "Chat and models", True),
    ("billing:read", "Read balance and invoices", True),
    ("billing:write", "Buy and send credits", False),
    ("account:read", "Read the profile", False),
)


@dataclass
class Account:
    """The tab. It has no handlers."""

    tab: gr.Tab


def build(rules: Accounts, *, hub: bool = False) -> Account:
    """The page; settings only shape the sentences, `hub` adds Hugging Face."""
    with gr.Tab("Account", id="account", visible=False, elem_id="account-tab") as tab:
        gr.HTML("<h1>Your account</h1>", elem_classes="page-title")
        gr.HTML(_page(rules, hub=hub), elem_id="account-page")
    return Account(tab)


def _input(id: str, name: str, label: str, kind: str = "text", more: str = "") -> str:
    return (
        f'<label class="field"><span>{esc(label)}</span>'
        f'<input id="account-{id}" name="{name}" type="{kind}" {more}></label>'
    )


def _password(id: str, name: str, label: str, complete: str, more: str = "") -> str:
    return _input(id, name, label, "password", f'autocomplete="{complete}" required {more}')


def _beside(id: str) -> str:
    """The code beside a password; the script shows it where two-factor sign-in is on."""
    more = 'autocomplete="one-time-code" inputmode="numeric" maxlength="16"'
    return f"<div data-beside hidden>{_input(id, 'code', 'Code', more=more)}</div>"


def _form(does: str, inner: str, button: str, kind: str = "") -> str:
    """A form that the script sends; the result or the trouble is said in its last line."""
    return (
        f'<form data-does="{does}" novalidate>{inner}<div class="row">'
        f'<button type="submit" class="{kind or "primary"}" id="account-{does}">{esc(button)}'
        '</button><p class="said" role="status"></p></div></form>'
    )


def _section(id: str, name: str, hint: str, inner: str) -> str:
    return (
        f'<section class="sheet settings" id="account-{id}" aria-labelledby="account-{id}-name">'
        f'<header><h2 id="account-{id}-name">{esc(name)}</h2><p class="hint">{esc(hint)}</p>'
        f"</header><div>{inner}</div></section>"
    )


def _page(rules: Accounts, *, hub: bool = False) -> str:
    length, staff = rules.shortest_password("user"), rules.shortest_password("admin")
    code = 'autocomplete="one-time-code" inputmode="numeric" maxlength="16" required'
    return "".join(
        (
            _section("profile", "Profile", "How the program speaks to you.", _profile()),
            _section(
                "password",
                "Password",
                "A new password signs you out on every other device.",
                _form(
                    "password-change",
                    _password("current", "current", "Current password", "current-password")
                    + _password(
                        "new",
                        "new",
                        "New password",
                        "new-password",
                        f'minlength="{length}" data-staff="{staff}" maxlength="1024"',
                    ),
                    "Change password",
                ),
            ),
            _section(
                "second-factor",
                "Two-factor",
                "A code from an app on your phone, asked for at each sign-in.",
                _second_factor(code),
            ),
            _hub() if hub else "",
            _section(
                "sessions",
                "Sessions",
                "Where you are signed in. Ending one takes effect at once.",
                '<div id="account-session-list" class="list"></div><div class="row">'
                '<button type="button" data-act="leave-all" id="account-leave-all">'
                'Sign out everywhere</button><p class="said" role="status"></p></div>',
            ),
            _section(
                "keys",
                "API keys",
                "For programs that use the API in your name, within a budget that you set.",
                _keys(),
            ),
            _section("data", "Data and privacy", "What is stored, and how it ends.", _data()),
        )
    )


def _profile() -> str:
    return (
        '<dl class="facts"><dt>User name</dt><dd id="account-username"></dd><dt>E-mail</dt>'
        '<dd><span id="account-email"></span> <span id="account-verified"></span></dd></dl>'
        + _form(
            "profile-save",
            '<div class="pair">'
            + _input("name", "display_name", "Display name", more='maxlength="64"')
            + _language()
            + '<label class="field"><span>Time zone</span><select translate="no" id="account-zone" '
            'name="timezone"><option value="">As in this browser</option></select></label></div>',
            "Save",
        )
        + '<details class="more" id="account-email-part"><summary>Change the e-mail address'
        "</summary>"
        + _form(
            "email-change",
            '<div class="pair">'
            + _input("new-email", "email", "New address", "email", 'autocomplete="email" required')
            + _password("email-password", "password", "Password", "current-password")
            + _beside("email-code")
            + "</div>",
            "Send a link to the new address",
        )
        + "</details>"
    )


def _language() -> str:
    own = "".join(f'<option value="{tag}">{name}</option>' for tag, name in languages.NAMES.items())
    return (
        '<label class="field"><span>Language</span><select id="account-language" name="language">'
        f'<option value="">As in this browser</option>{own}</select></label>'
    )


def _second_factor(code: str) -> str:
    password = _password("factor-password", "password", "Password", "current-password")
    off = _password("off-password", "password", "Password", "current-password")
    return (
        '<p id="account-factor-state"></p><div data-factor="off">'
        + _form("factor-begin", password, "Set up")
        + '</div><div data-factor="setup" hidden><div class="qr" id="account-qr"></div>'
        '<p>Scan the picture with the app, or enter this key: '
        '<code class="secret" id="account-factor-secret"></code></p>'
        + _form("factor-confirm", _input("factor-code", "code", "Code of the app", more=code),
                "Confirm")
        + '</div><div data-factor="codes" hidden><p><b>Keep these codes.</b> Each one signs you '
        "in once when the phone is gone. They are shown this once.</p>"
        '<pre class="secret" id="account-backup-codes" tabindex="0"></pre><div class="row">'
        '<button type="button" class="primary" data-act="codes-save">Download</button>'
        '<button type="button" data-act="codes-copy">Copy</button>'
        '<button type="button" data-act="codes-done">I have kept them</button></div>'
        '</div><div data-factor="on" hidden>'
        + _form("factor-verify", _input("proof-code", "code", "Code of the app", more=code),
                "Prove it for this session")
        + '<details class="more"><summary>Switch it off</summary>'
        + _form("factor-off", f'<div class="pair">{off}'
                + _input("off-code", "code", "Code", more=code) + "</div>", "Switch off", "danger")
        + "</details></div>"
    )  # fmt: skip


def _hub() -> str:
    def form(does: str, button: str, kind: str = "") -> str:
        password = _password(f"{does}-password", "password", "Password", "current-password")
        return _form(
            does, f'<div class="pair">{password}{_beside(f"{does}-code")}</div>', button, kind
        )

    return _section(
        "hub",
        "Hugging Face",
        "Sign in with your account there instead of a password.",
        by_hub.section(form("hub-link", "Link an account"), form("hub-unlink", "Unlink", "danger")),
    )


def _keys() -> str:
    scopes = "".join(
        f'<label class="check"><input type="checkbox" name="scopes" value="{scope}"'
        f"{' checked' if usual else ''}> {esc(words)}</label>"
        for scope, words, usual in _SCOPES
    )
    amount = 'inputmode="decimal" maxlength="20" placeholder="no limit"'
    return (
        '<div id="account-key-list" class="list"></div>'
        '<div id="account-new-key" class="inset" hidden><p><b>Your new key.</b> It is shown this '
        'once: copy it now.</p><code class="secret" id="account-key-text"></code><div class="row">'
        '<button type="button" class="primary" data-act="key-copy">Copy</button>'
        '<button type="button" data-act="key-done">I have kept it</button></div></div>'
        '<details class="more" id="account-key-part"><summary>Make a key</summary>'
        + _form(
            "key-make",
            _input("key-name", "name", "Name", more='maxlength="64" required')
            + f'<fieldset><legend>What it may do</legend>{scopes}</fieldset><div class="pair">'
            + _input("key-day", "day", "Credits a day", more=amount)
            + _input("key-month", "month", "Credits a month", more=amount)
            + _input("key-total", "total", "Credits in all", more=amount)
            + _input("key-ends", "expires_at", "Ends on", "date")
            + "</div>"
            + _input("key-password", "password", "Password", "password",
                     'autocomplete="current-password"'),
            "Make the key",
        )
        + "</details>"
    )  # fmt: skip


def _data() -> str:
    return (
        "<p>Everything that is stored about you: profile, conversations with images, every "
        "movement of credits, invoices, receipts, sign-ins and messages, as a ZIP of JSON and PDF "
        'files.</p><div class="row"><button type="button" data-act="export" id="account-export">'
        'Download my data</button><p class="said" role="status" id="account-export-said"></p>'
        '</div><div class="inset" id="account-export-sure" hidden>'
        + _form(
            "export-confirm",
            '<p class="hint">You signed in a while ago. Show that it is you.</p><div class="pair">'
            + _password("export-password", "password", "Password", "current-password")
            + _beside("export-code")
            + "</div>",
            "Go on",
        )
        + "</div><hr><p>An account that is erased cannot be brought back. Conversations, images, "
        "name, address, keys and messages are deleted. Amounts stay in the books under a number, "
        "and invoices as they were issued, because the law asks for them.</p>"
        '<div class="row"><button type="button" class="danger" data-act="erase-open" '
        'id="account-erase-open">Erase this account</button></div>'
        '<div class="inset" id="account-erase-sure" hidden>'
        + _form(
            "erase",
            '<p id="account-erase-about"></p><div class="pair">'
            + _input(
                "erase-name", "name", "Type your user name", more='autocomplete="off" required'
            )
            + _password("erase-password", "password", "Password", "current-password")
            + _beside("erase-code")
            + '</div><label class="check"><input type="checkbox" name="forfeit" '
            'id="account-erase-forfeit"> I give up the credits that are left</label>',
            "Erase for good",
            "danger",
        )
        + '<div class="row"><button type="button" data-act="erase-close">Keep the account</button>'
        "</div></div>"
    )
