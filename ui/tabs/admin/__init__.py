"""Admin: the operator's sections. Every handler asks for its permission again."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission, may
from chat_app.app import App
from ui.shell import Shell
from ui.tabs.admin import (
    backups,
    books,
    fraud,
    invoices,
    machine,
    messages,
    models,
    monitoring,
    payments,
    people,
    predictions,
    prices,
    revenue,
    setup,
    shop,
)

# In the order in which they stand; each has `build()`, `bind(c, app, shell, tab)` and
# `needs(c)`: which of its components are of no use without which permission.
SECTIONS: tuple[Any, ...] = (
    setup, monitoring, prices, shop, payments, invoices, revenue, predictions, messages, fraud,
    models, books, backups
)  # fmt: skip


@dataclass
class Admin:
    """The tab's components."""

    tab: gr.Tab
    machine: machine.Machine
    people: people.People
    sections: tuple[Any, ...]


def build() -> Admin:
    """The layout, without any data."""
    with gr.Tab("Admin", id="admin", visible=False, elem_id="admin-tab") as tab:
        gr.HTML("<h1>Administration</h1>", elem_classes="page-title")
        with gr.Tabs(elem_id="admin-sections", elem_classes="sections"):
            with gr.Tab("Overview", id="admin-overview"):
                state = machine.build()
                users = people.build()
            rest = tuple(section.build() for section in SECTIONS)
    return Admin(tab, state, users, rest)


def bind(c: Admin, app: App, shell: Shell) -> None:
    """Wire each section."""
    machine.bind(c.machine, app, shell, c.tab)
    people.bind(c.people, app, shell, c.tab)
    for section, parts in zip(SECTIONS, c.sections, strict=True):
        section.bind(parts, app, shell, c.tab)


def needs(c: Admin) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    found = dict(people.needs(c.people))
    for section, parts in zip(SECTIONS, c.sections, strict=True):
        found |= section.needs(parts)
    return found


def hidden(c: Admin, role: str) -> dict[Any, Any]:
    """The updates that hide from this role what it may not use. The guards refuse it anyway."""
    return {
        part: gr.update(visible="hidden")
        for part, permission in needs(c).items()
        if not may(role, permission)
    }
