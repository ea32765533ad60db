"""Setup: what a new installation has and lacks, filled by `setup.js` from the REST API.

It has no handler: models are fetched, a message is tried and everything is shown by the script.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.app import App
from ui import parts
from ui.shell import Shell

_STEPS = (
    (
        "models",
        "A model that answers",
        "The demo model is small and quick, so a machine answers at once. Gemma 3 writes far "
        "better: 1B runs on a laptop, 12B wants a GPU. By getting a model you accept its licence.",
    ),
    (
        "message",
        "A first message",
        "One short question, paid from your own credits: it proves model, prices and books at "
        "once.",
    ),
    (
        "prices",
        "Prices and payments",
        "Every model begins with a price for each message. Packages are what people buy.",
    ),
    (
        "people",
        "People",
        "Whoever opens the address can create an account. Codes give them credits to begin with.",
    ),
    ("machine", "This machine", "What the self-check sees, and what to do about it."),
)


@dataclass
class Setup:
    """The components."""

    tab: gr.Tab


def build() -> Setup:
    """The steps; the script fills them."""
    with gr.Tab("Setup", id="admin-setup") as tab:
        gr.HTML(_page(), elem_id="admin-setup-page")
    return Setup(tab)


def bind(c: Setup, app: App, shell: Shell, tab: gr.Tab) -> None:
    """Nothing to wire: the script looks when the section is shown."""


def needs(c: Setup) -> dict[Any, Permission]:
    """Only who may change the machine has use for it."""
    return {c.tab: "machine.write"}


def _page() -> str:
    steps = "".join(
        f'<li data-step="{name}"><header><h2>{parts.esc(title)}</h2>'
        f'<p class="hint">{parts.esc(words)}</p></header>'
        f'<div class="step-body">{parts.loading(2)}</div></li>'
        for name, title, words in _STEPS
    )
    return (
        '<div id="setup"><div id="setup-verdict" class="verdict" role="status">Looking…</div>'
        f'<ol class="steps">{steps}</ol></div>'
    )
