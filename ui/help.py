"""Help: the shortcuts, how prices work, and whom to ask, as one dialog of the page.

It is plain HTML that `help.js` opens; it knows no user and asks for nothing.
"""

from chat_app.settings import Business
from ui import languages
from ui.parts import esc

# What is pressed, and what it does. `Alt` and `Ctrl` are written as a Mac's where it is one.
KEYS = (
    ("?", "This help"),
    ("Alt N", "New chat"),
    ("Ctrl K", "Search in conversations; / does too"),
    ("Alt I", "Write: go to the message box"),
    ("Alt C", "Copy the last answer"),
    ("Esc", "Stop the answer; close what is open"),
    ("Enter", "Send; Shift Enter begins a new line"),
    ("← →", "From tab to tab, when one has the focus"),
)
MONEY = (
    (
        "The quote binds",
        "Beside Send stands what a message will likely cost and the most it can. The charge is "
        "never above that.",
    ),
    (
        "A hold, then the charge",
        "While an answer is written, its most is set aside. At the end the real cost is taken "
        "and the rest is free again. Stopped early, you pay for what arrived; an answer that "
        "fails costs nothing.",
    ),
    (
        "A receipt for each answer",
        "Under every answer stands what it cost. The link beside it opens a signed receipt that "
        "anybody can check with our public keys.",
    ),
    (
        "Limits of your own",
        "The shield in the message box stops an answer or a chat at an amount that you choose. "
        "Alerts and more limits are under Credits.",
    ),
)
_ICONS = {
    "help": '<path d="M9.2 9.3a2.9 2.9 0 1 1 4.3 2.6c-1 .5-1.5 1.100-1.500 2.100"/>'
    '<path d="M12 17.300v.1"/><circle cx="12" cy="12" r="9"/>',
    "system": '<rect x="3.500" y="5" width="17" height="11.500" rx="2"/><path d="M9 20h6"/>',
    "light": '<circle cx="12" cy="12" r="4"/><path d="M12 3v1.500M12 19.500V21M3 12h1.500'
    "M19.500 12H21M5.600 5.600l1.100 1.100M17.300 17.300l1.100 1.100M5.600 18.400l1.100-1.100"
    'M17.300 6.700l1.100-1.100"/>',
    "dark": '<path d="M19.500 14.300A8 8 0 0 1 9.700 4.500a8 8 0 1 0 9.800 9.800z"/>',
}


def tools(business: Business) -> str:
    """The buttons of the bar for help and the look, and the help itself."""
    looks = "".join(_icon(name) for name in ("system", "light", "dark"))
    return (
        '<button type="button" id="help-open" aria-haspopup="dialog" aria-label="Help" '
        f'title="Help and shortcuts (?)">{_icon("help")}</button>'
        '<button type="button" id="theme-toggle" aria-label="Theme: as the system">'
        f"{looks}</button>{languages.chooser()}"
        '<p id="announce" class="unseen" role="status"></p>'
        f"{_dialog(business)}"
    )


def _icon(name: str) -> str:
    return (
        f'<svg class="as-{name}" viewBox="0 0 24 24" width="18" height="18" fill="none" '
        'stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" '
        f'aria-hidden="true">{_ICONS[name]}</svg>'
    )


def _dialog(business: Business) -> str:
    keys = "".join(
        f"<div><dt>{''.join(f'<kbd>{esc(key)}</kbd>' for key in pressed.split())}</dt>"
        f"<dd>{esc(does)}</dd></div>"
        for pressed, does in KEYS
    )
    money = "".join(f"<h3>{esc(name)}</h3><p>{esc(words)}</p>" for name, words in MONEY)
    return (
        '<dialog id="help" aria-labelledby="help-title"><header><h2 id="help-title">Help</h2>'
        '<button type="button" id="help-close" aria-label="Close">×</button></header>'
        '<div class="columns"><section aria-labelledby="help-keys"><h2 id="help-keys">Shortcuts'
        f'</h2><dl class="keys">{keys}</dl></section>'
        '<section aria-labelledby="help-money"><h2 id="help-money">What a message costs</h2>'
        f"{money}</section></div>"
        f'<section class="ask" aria-labelledby="help-ask"><h2 id="help-ask">Still stuck?</h2>'
        f"<p>{_contact(business)} An error that has a reference number is found by it: give it "
        'along. Programs find the <a href="/api/docs">REST API here</a>.</p></section></dialog>'
    )


def _contact(business: Business) -> str:
    if not business.email:
        return "Ask whoever runs this site."
    address = esc(business.email)
    return f'Write to <a href="mailto:{address}">{address}</a>.'
