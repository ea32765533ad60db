"""Admin: people, the machine, payments, in sections. Every handler asks for the role again."""

from dataclasses import dataclass

import gradio as gr

from chat_app.app import App
from ui.shell import Shell
from ui.tabs.admin import machine, payments, people


@dataclass
class Admin:
    """The tab's components."""

    tab: gr.Tab
    machine: machine.Machine
    people: people.People
    payments: payments.Payments


def build() -> Admin:
    """The layout, without any data."""
    with gr.Tab("Admin", id="admin", visible=False, elem_id="admin-tab") as tab:
        gr.HTML("<h1>Administration</h1>", elem_classes="page-title")
        sections = gr.Tabs(elem_id="admin-sections", elem_classes="sections")
        with sections:
            with gr.Tab("Overview", id="admin-overview"):
                state = machine.build()
                users = people.build()
            paid = payments.build()
    return Admin(tab, state, users, paid)


def bind(c: Admin, app: App, shell: Shell) -> None:
    """Wire each section."""
    machine.bind(c.machine, app, shell, c.tab)
    people.bind(c.people, app, shell, c.tab)
    payments.bind(c.payments, app, shell, c.tab)
