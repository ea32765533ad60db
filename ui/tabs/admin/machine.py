"""The machine: load, disk, the engine's work, open holds, and every model's state."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits import holds
from chat_app.flows import shelf
from chat_app.flows.shelf import ModelView
from chat_app.monitor import system
from chat_app.monitor.system import SystemStats
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell
from ui.tabs.chat import price_words

TICK_SECONDS = 10
GIB = 2**30
_KINDS = {"ready": "good", "available": "good", "loading": "warn", "broken": "bad"}


@dataclass
class Machine:
    """The components."""

    cards: gr.HTML
    models: gr.HTML
    timer: gr.Timer


def build() -> Machine:
    """The layout, without any data."""
    cards = gr.HTML(parts.loading(), elem_id="admin-health")
    with gr.Column(elem_classes="sheet"):
        gr.HTML('<div class="sheet-head"><h2>Models</h2></div>')
        models = gr.HTML(parts.loading(), elem_id="admin-models")
    return Machine(cards, models, gr.Timer(TICK_SECONDS, active=False))


def bind(c: Machine, app: App, shell: Shell, tab: gr.Tab) -> None:
    """Wire: a look when the tab opens, then one each ten seconds while it is open."""

    def look() -> tuple[SystemStats, dict[str, int], list[ModelView]]:
        with app.db.read() as session:
            people, views = users.count(session), shelf.models(app, session=session)
        return system.snapshot(app.settings), people, views

    async def shown() -> dict[Any, Any]:
        stats, people, views = await asyncio.to_thread(look)
        return {
            c.cards: _cards(app, stats, people),
            c.models: _models(app, views),
        }

    @guard(app, "admin")
    async def open_tab(_user: User) -> dict[Any, Any]:
        """The first look; the timer starts."""
        return {**await shown(), c.timer: gr.update(active=True)}

    @guard(app, "admin")
    async def tick(_user: User) -> dict[Any, Any]:
        """Another look."""
        return await shown()

    @guard(app, "anyone")
    async def leave(_user: User | None) -> dict[Any, Any]:
        """Another tab was opened: the timer rests."""
        return {c.timer: gr.update(active=False)}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    tab.select(open_tab, None, [c.cards, c.models, c.timer], **quiet)
    c.timer.tick(tick, None, [c.cards, c.models], **quiet)
    for other in shell.tabs.children:
        if other is not tab and isinstance(other, gr.Tab):
            other.select(leave, None, [c.timer], **quiet)


def _cards(app: App, stats: SystemStats, people: dict[str, int]) -> str:
    engine = app.engine.stats()
    memory = stats.memory_used_bytes / max(1, stats.memory_total_bytes)
    items = [
        Card("Processor", f"{stats.cpu_percent:.0f} %", f"load {stats.load_1m:.1f}"),
        Card(
            "Memory",
            f"{memory:.0%}",
            f"{stats.memory_used_bytes / GIB:.1f} of {stats.memory_total_bytes / GIB:.1f} GiB",
        ),
        Card(
            "Disk free",
            f"{stats.disk_free_bytes / GIB:.1f} GiB",
            f"of {stats.disk_total_bytes / GIB:.0f} GiB",
        ),
        Card(
            "Answers",
            str(engine.get("running", 0)),
            f"{engine.get('waiting', 0)} waiting in the engine",
        ),
        Card("Open holds", str(_open_holds(app)), "credits set aside for answers"),
        Card("People", f"{people['total']:,}", f"{people['suspended']} suspended"),
    ]
    items += [
        Card(
            gpu.name,
            f"{gpu.memory_used_bytes / max(1, gpu.memory_total_bytes):.0%}",
            f"of {gpu.memory_total_bytes / GIB:.0f} GiB GPU memory",
        )
        for gpu in stats.gpus
    ]
    note = f'<p class="hint">{parts.esc(stats.gpu_reason)}</p>' if stats.gpu_reason else ""
    return parts.cards(items) + note


def _open_holds(app: App) -> int:
    with app.db.read() as session:
        return holds.count_open(session)


def _models(app: App, views: list[ModelView]) -> str:
    rows = []
    for view in views:
        why = view.reason or app.engine.why(view.id)
        state = view.state.replace("_", " ")
        rows.append(
            [
                f"<b>{parts.esc(view.name)}</b><br><code>{parts.esc(view.id)}</code>",
                parts.badge(state, _KINDS.get(view.state, "")),
                parts.esc(price_words(view.price)),
                parts.esc(why),
            ]
        )
    heads = ["Model", "State", "Price", "Reason"]
    return parts.table(heads, rows, caption="Models and their states")
