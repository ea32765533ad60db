"""The shell: the header around the tabs, and what tabs may change in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.app import App
from chat_app.credits import ledger
from chat_app.notify import inbox
from ui import parts

_BRAND = (
    '<svg viewBox="0 0 24 24" width="24" height="24" aria-hidden="true">'
    '<rect width="24" height="24" rx="7" fill="#4f46e5"/>'
    '<path d="M7 8.5h10M7 12h10M7 15.5h6" stroke="#fff" stroke-width="1.8" '
    'stroke-linecap="round"/></svg><span>ML Chat Billing</span></div>'
)

_SKIP = '<a class="skip" href="#tabs">Skip to the content</a>'


def demo_banner(*, framed: bool) -> str:
    """What visitors of the demonstration are told; `framed`: another site shows the page."""
    own = '<a href="/" target="_blank">Open in its own tab</a> · ' if framed else ""
    return (
        '<p role="status"><b>Demo.</b> '
        '<span class="more">You are one of many made-up people. </span>'
        'Nothing here is real<span class="more">, and it begins anew now and then</span>. '
        f'{own}<a href="/?leave">Sign in as staff</a></p>'
    )


@dataclass
class Shell:
    """The header's components. `open_chat` and `follow` are set by the chat tab."""

    tabs: gr.Tabs
    pill: gr.HTML
    who: gr.HTML
    sign_out: gr.Button
    open_chat: Callable[..., Any] | None = None
    follow: Callable[[Any], None] | None = None
    open_outputs: tuple[Any, ...] = ()
    chat: Any = None


def brand(*, verify: bool) -> str:
    """The name. `verify`: the script reminds people of an address that is not confirmed."""
    return f'{_SKIP}<div class="brand" data-verify="{int(verify)}">{_BRAND}'


def pill(app: App, user_id: int) -> str:
    """The pill with the balance as it is now."""
    with app.db.read() as session:
        return parts.pill(ledger.balance(session, user_id=user_id))


def bell(app: App, user_id: int) -> str:
    """The bell with the number of unread notifications.

    The script opens it and looks for new ones when the balance beside it has changed, so it
    costs no event and no timer.
    """
    with app.db.read() as session:
        count = inbox.unread(session, user_id=user_id)
    return (
        '<button id="bell-open" aria-label="Notifications" aria-expanded="false" '
        'aria-controls="bell-panel"><svg viewBox="0 0 24 24" width="18" height="18" fill="none" '
        'stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" '
        'aria-hidden="true"><path d="M6 9a6 6 0 0 1 12 0c0 6 2.5 7 2.5 7h-17S6 15 6 9"/>'
        f'<path d="M10 20a2.2 2.2 0 0 0 4 0"/></svg><b id="bell-count">{count or ""}</b></button>'
        '<div id="bell-panel" role="region" aria-label="Notifications" hidden></div>'
    )
