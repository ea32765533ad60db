"""Credits: a person's own money matters, in sections that load when they are opened."""

from dataclasses import dataclass

import gradio as gr

from chat_app.app import App
from ui.shell import Shell
from ui.tabs.credits import overview, plan, redeem


@dataclass
class Credits:
    """The tab's components."""

    tab: gr.Tab
    overview: overview.Overview
    plan: plan.Plan
    redeem: redeem.Redeem


def build() -> Credits:
    """The layout, without any data."""
    with gr.Tab("Credits", id="credits", visible=False, elem_id="credits-tab") as tab:
        gr.HTML("<h1>Credits</h1>", elem_classes="page-title")
        sections = gr.Tabs(elem_id="credits-sections", elem_classes="sections")
        with sections:
            with gr.Tab("Overview", id="credits-overview"):
                first = overview.build()
            plans, codes = plan.build(), redeem.build()
    return Credits(tab, first, plans, codes)


def bind(c: Credits, app: App, shell: Shell) -> None:
    """Wire each section."""
    overview.bind(c.overview, app, shell, c.tab)
    plan.bind(c.plan, app, shell, c.tab)
    redeem.bind(c.redeem, app, shell, c.tab)
