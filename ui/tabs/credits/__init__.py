"""Credits: a person's own money matters, in sections that load when they are opened."""

from dataclasses import dataclass

import gradio as gr

from chat_app.app import App
from ui.shell import Shell
from ui.tabs.credits import alerts, overview


@dataclass
class Credits:
    """The tab's components."""

    tab: gr.Tab
    overview: overview.Overview
    alerts: alerts.Alerts


def build() -> Credits:
    """The layout, without any data."""
    with gr.Tab("Credits", id="credits", visible=False, elem_id="credits-tab") as tab:
        gr.HTML("<h1>Credits</h1>", elem_classes="page-title")
        sections = gr.Tabs(elem_id="credits-sections", elem_classes="sections")
        with sections:
            with gr.Tab("Overview", id="credits-overview"):
                first = overview.build()
            warnings = alerts.build()
    return Credits(tab, first, warnings)


def bind(c: Credits, app: App, shell: Shell) -> None:
    """Wire each section."""
    overview.bind(c.overview, app, shell, c.tab)
    alerts.bind(c.alerts, app, shell)
