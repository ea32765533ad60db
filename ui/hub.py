"""The button for signing in with Hugging Face, and the part of the account about it.

Plain HTML: the button is a link to the REST API, the rest is the page's script's. Only in a Space.
"""

from chat_app.flows import hub
from ui.parts import esc

_FACE = (
    '<svg viewBox="0 0 24 24" width="21" height="21" aria-hidden="true">'
    '<circle cx="12" cy="11" r="9.5" fill="#ffd21e" stroke="#ff9d0b" stroke-width="1.2"/>'
    '<circle cx="8.6" cy="9.2" r="1.3" fill="#3a3b45"/>'
    '<circle cx="15.4" cy="9.2" r="1.3" fill="#3a3b45"/>'
    '<path d="M7.5 12.2c2.6 1.1 6.4 1.1 9 0-.3 2.7-2 4.4-4.5 4.4s-4.2-1.7-4.5-4.4z" '
    'fill="#3a3b45"/><path d="M2.6 15.6c1.2-.7 3.2 1.4 4.6 3.4.9 1.4.2 3-1.3 3.1-2.3.1-4.7-3.5'
    '-3.3-6.5zM21.4 15.6c-1.2-.7-3.2 1.4-4.6 3.4-.9 1.4-.2 3 1.3 3.1 2.3.1 4.7-3.5 3.3-6.5z" '
    'fill="#ffd21e" stroke="#ff9d0b" stroke-width="1.1"/></svg>'
)


def button() -> str:
    """Under the form for signing in, with what may have gone wrong on the way back."""
    return (
        '<p class="or"><span>or</span></p>'
        '<a id="login-hub" class="hub" href="/api/auth/hub/start">'
        f"{_FACE}Sign in with Hugging Face</a>{_sentences()}"
    )


def section(link: str, unlink: str) -> str:
    """How it stands, and the two forms."""
    return (
        '<p id="account-hub-state"></p><p class="said bad" id="account-hub-said" role="status"></p>'
        f'<div data-hub-part="off" hidden>{link}</div>'
        '<p data-hub-part="framed" class="hint" hidden>'
        '<a href="/#account" target="_blank" rel="noopener">Open the page in its own tab</a> '
        "to link an account.</p>"
        '<div data-hub-part="on" hidden><details class="more"><summary>Unlink it</summary>'
        f"{unlink}</details></div>" + _sentences()
    )


def _sentences() -> str:
    """The refusals that come back as a code in the address, as the program words them."""
    told = {error.code: error.message for error in hub.TOLD}
    told["other"] = "Signing in with Hugging Face did not work. Try again."
    return "".join(f'<p hidden data-hub="{code}">{esc(words)}</p>' for code, words in told.items())
