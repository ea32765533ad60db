"""Credits: a person's own money matters, in sections that load when they are opened."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.app import App
from ui.shell import Shell
from ui.tabs.credits import (
    alerts,
    calculator,
    forecast,
    invoices,
    limits,
    organisation,
    overview,
    plan,
    redeem,
    send,
)

# In the order in which they stand; each has `build()` and `bind(c, app, shell, tab)`.
SECTIONS: tuple[Any, ...] = (
    plan,
    forecast,
    redeem,
    invoices,
    send,
    organisation,
    limits,
    calculator,
    alerts,
)


@dataclass
class Credits:
    """The tab's components."""

    tab: gr.Tab
    overview: overview.Overview
    sections: tuple[Any, ...]


def build() -> Credits:
    """The layout, without any data."""
    with gr.Tab("Credits", id="credits", visible=False, elem_id="credits-tab") as tab:
        gr.HTML("<h1>Credits</h1>", elem_classes="page-title")
        with gr.Tabs(elem_id="credits-sections", elem_classes="sections"):
            with gr.Tab("Overview", id="credits-overview"):
                first = overview.build()
            rest = tuple(section.build() for section in SECTIONS)
    return Credits(tab, first, rest)


def bind(c: Credits, app: App, shell: Shell) -> None:
    """Wire each section."""
    overview.bind(c.overview, app, shell, c.tab)
    for section, parts in zip(SECTIONS, c.sections, strict=True):
        section.bind(parts, app, shell, c.tab)
