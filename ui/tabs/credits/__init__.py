"""Credits: a person's own money matters, in sections that load when they are opened."""

from dataclasses import dataclass

import gradio as gr

from chat_app.app import App
from ui.shell import Shell
from ui.tabs.credits import organisation, overview, send


@dataclass
class Credits:
    """The tab's components."""

    tab: gr.Tab
    overview: overview.Overview
    send: send.Send
    organisation: organisation.Organisation


def build() -> Credits:
    """The layout, without any data."""
    with gr.Tab("Credits", id="credits", visible=False, elem_id="credits-tab") as tab:
        gr.HTML("<h1>Credits</h1>", elem_classes="page-title")
        with gr.Tabs(elem_id="credits-sections", elem_classes="sections"):
            with gr.Tab("Overview", id="credits-overview"):
                first = overview.build()
            giving = send.build()
            pool = organisation.build()
    return Credits(tab, first, giving, pool)


def bind(c: Credits, app: App, shell: Shell) -> None:
    """Wire each section."""
    overview.bind(c.overview, app, shell, c.tab)
    send.bind(c.send, app, shell, c.tab)
    organisation.bind(c.organisation, app, shell, c.tab)
