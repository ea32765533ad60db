"""The side column: new and temporary chats, and the list of conversations.

The list is one piece of HTML that the page's script fills over REST. The server tells it by a
marker which conversation is open and that there is news; what is picked comes back by a press.
"""

import secrets
import time
from dataclasses import dataclass

import gradio as gr

from ui.parts import esc

# The script presses by calling this; which conversation it picked is given with the event.
_PRESS = "window.chatGo = () => trigger('click');"
PICKED = "(_, chat) => [window.chatPicked(), chat]"


@dataclass
class Side:
    """The column's components."""

    new: gr.Button
    temporary: gr.Button
    listing: gr.HTML


def build() -> Side:
    """The layout, without any data."""
    with gr.Column(elem_id="chat-side", scale=0, min_width=260):
        with gr.Row(elem_id="chat-begin"):
            new = gr.Button("New chat", elem_id="new-chat", size="md")
            temporary = gr.Button("Temporary", elem_id="chat-temporary", size="md", scale=0)
        listing = gr.HTML("", elem_id="conversation-list", js_on_load=_PRESS)
    return Side(new, temporary, listing)


def opened(conversation: str | None, *, news: bool = False, at: int | None = None) -> str:
    """Says that this conversation is open, None an empty chat; with `news`, that the list changed.

    `at` is when that was known to be so, by `moment`: what is older than what the page knows
    already changes nothing there. Markers may overtake each other and get lost, the last one not.
    """
    number, known = secrets.token_hex(4), moment() if at is None else at
    return (
        f'<i data-side="{number}" data-at="{known}" data-open="{esc(conversation or "")}"'
        f"{' data-news' if news else ''} hidden></i>"
    )


def moment() -> int:
    """Now, for `at`, in µs."""
    return time.time_ns() // 1000
