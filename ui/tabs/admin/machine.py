"""The machine: what needs somebody, the load, what each model does now, every model's state."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits import holds
from chat_app.flows import figures, shelf
from chat_app.flows.figures import Trouble
from chat_app.flows.shelf import ModelView
from chat_app.monitor import system
from chat_app.monitor.system import SystemStats
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell
from ui.tabs.admin import servers
from ui.tabs.chat.words import price_words

TICK_SECONDS = 10
GIB = 2**30
_KINDS = {"ready": "good", "available": "good", "loading": "warn", "broken": "bad"}


@dataclass
class Machine:
    """The components."""

    verdict: gr.HTML
    cards: gr.HTML
    work: gr.HTML
    models: gr.HTML
    timer: gr.Timer


def build() -> Machine:
    """The layout, without any data."""
    verdict = gr.HTML(elem_id="admin-verdict")
    cards = gr.HTML(parts.loading(), elem_id="admin-health")
    with gr.Column(elem_classes="sheet"):
        gr.HTML(
            '<div class="sheet-head"><h2>Models at work</h2>'
            '<span class="hint">Speed and load over the last minute, answers and waiting times '
            "over the last five</span></div>"
        )
        work = gr.HTML(parts.loading(), elem_id="admin-work")
    with gr.Column(elem_classes="sheet"):
        gr.HTML('<div class="sheet-head"><h2>Models</h2></div>')
        models = gr.HTML(parts.loading(), elem_id="admin-models")
    return Machine(verdict, cards, work, models, gr.Timer(TICK_SECONDS, active=False))


def bind(c: Machine, app: App, shell: Shell, tab: gr.Tab) -> None:
    """Wire: a look when the tab opens, then one each ten seconds while it is open."""

    def look() -> tuple[SystemStats, dict[str, int], list[ModelView]]:
        with app.db.read() as session:
            people, views = users.count(session), shelf.models(app, session=session)
        return system.snapshot(app.settings), people, views

    async def shown() -> dict[Any, Any]:
        stats, people, views = await asyncio.to_thread(look)
        engine = app.engine.stats()
        names = {view.id: view.name for view in views}
        return {
            c.verdict: _verdict(figures.troubles(app, stats, engine), app.clock.micros()),
            c.cards: _cards(app, stats, people, engine),
            c.work: _work(app, engine, names),
            c.models: _models(app, views) + servers.shown(engine.get("servers", ())),
        }

    @guard(app, "machine.read")
    async def open_tab(_user: User) -> dict[Any, Any]:
        """The first look; the timer starts."""
        return {**await shown(), c.timer: gr.update(active=True)}

    @guard(app, "machine.read")
    async def tick(_user: User) -> dict[Any, Any]:
        """Another look."""
        return await shown()

    @guard(app, "anyone")
    async def leave(_user: User | None) -> dict[Any, Any]:
        """Another tab was opened: the timer rests."""
        return {c.timer: gr.update(active=False)}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown_in = [c.verdict, c.cards, c.work, c.models]
    tab.select(open_tab, None, [*shown_in, c.timer], **quiet)
    c.timer.tick(tick, None, shown_in, **quiet)
    for other in shell.tabs.children:
        if other is not tab and isinstance(other, gr.Tab):
            other.select(leave, None, [c.timer], **quiet)


def _verdict(troubles: list[Trouble], now: int) -> str:
    """One look says whether somebody has to do something."""
    looked = f'<span class="looked">Looked at {parts.when(now)}</span>'
    if not troubles:
        return f'<div class="verdict good" role="status"><b>All is well.</b> {looked}</div>'
    rows = "".join(
        f"<li>{parts.badge('now' if item.level == 'bad' else 'soon', item.level)} "
        f"{parts.esc(item.sentence)}</li>"
        for item in troubles
    )
    worst = troubles[0].level
    return (
        f'<div class="verdict {worst}" role="status"><b>This needs you.</b> {looked}'
        f"<ul>{rows}</ul></div>"
    )


def _cards(app: App, stats: SystemStats, people: dict[str, int], engine: dict[str, Any]) -> str:
    recent = list(engine.get("recent", {}).values())
    speed = sum(item["tokens_per_second"] for item in recent)
    first = [item["ttft_ms_p95"] for item in recent if "ttft_ms_p95" in item]
    answers = sum(item["answers_done"] for item in recent)
    failed = sum(item["answers_failed"] for item in recent)
    kept = app.cache.stats()
    memory = stats.memory_used_bytes / max(1, stats.memory_total_bytes)
    items = [
        Card("Processor", f"{stats.cpu_percent:.0f}%", f"load {stats.load_1m:.1f}"),
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
        Card("Speed", f"{speed:,.0f} tok/s", "of all models, last minute"),
        Card("First word", _seconds(max(first)) if first else "–", "95 of 100 are faster"),
        Card("Failed answers", str(failed), f"{answers} complete, last 5 minutes"),
        Card("Cached answers", f"{kept['hits_total']:,}", f"{kept['entries']:,} kept"),
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


def _work(app: App, engine: dict[str, Any], names: dict[str, str]) -> str:
    """A line for each model that is in memory or was asked lately."""
    rows = []
    for model in sorted({*engine["models"], *engine.get("recent", {})}):
        state, did = engine["models"].get(model), engine.get("recent", {}).get(model, {})
        rows.append(
            [
                f"<b>{parts.esc(names.get(model, model))}</b>"
                f"<br><small>{_where(app, model, state)}</small>",
                _now(state),
                f"{did.get('tokens_per_second', 0):,.1f} tok/s",
                f"{did.get('busy_share', 0):.0%}" + _small(did, "engine_ms_mean", "each"),
                _wait(did, "ttft_ms"),
                _wait(did, "queue_ms"),
                _ends(did),
                _memory(state),
            ]
        )
    if not rows:
        return parts.empty("Nothing to do yet", "Models appear here with their first message.")
    heads = [
        "Model",
        "Now",
        "Speed>",
        "Busy>",
        "First word>",
        "In line>",
        "Answers>",
        "Memory>",
    ]
    return parts.table(heads, rows, caption="What each model does now")


def _where(app: App, model: str, state: dict[str, Any] | None) -> str:
    if state is None:
        found = app.engine.state(model)
        return parts.esc(found.backend if found.state == "ready" else "not in memory")
    words = f"{state.get('backend', '')} on {state.get('device', '')}"
    if state.get("load_seconds"):
        words += f", loaded in {state['load_seconds']:.1f} s"
    return parts.esc(words)


def _now(state: dict[str, Any] | None) -> str:
    if state is None:
        return "–"
    waiting = state.get("waiting", 0)
    words = f"{state.get('running', 0)} running"
    return words + (f"<br>{parts.badge(f'{waiting} waiting', 'warn')}" if waiting else "")


def _wait(did: dict[str, Any], name: str) -> str:
    """The usual time, and below it what 95 of 100 do not exceed."""
    if f"{name}_p50" not in did:
        return "–"
    return _seconds(did[f"{name}_p50"]) + _small(did, f"{name}_p95", "p95")


def _ends(did: dict[str, Any]) -> str:
    words = f"{did.get('answers_done', 0)} done"
    if did.get("answers_cancelled"):
        words += f"<br><small>{did['answers_cancelled']} stopped</small>"
    if failed := did.get("answers_failed"):
        codes = ", ".join(did.get("failure_codes", {}))
        words += (
            f'<br><span title="{parts.esc(codes)}">{parts.badge(f"{failed} failed", "bad")}</span>'
        )
    return words


def _memory(state: dict[str, Any] | None) -> str:
    if state is None:
        return "–"
    own = state.get("figures", {})
    words = f"{state.get('memory_bytes', 0) / GIB:.1f} GiB"
    if "kv_used_share" in own:
        words += f"<br><small>{own['kv_used_share']:.0%} of KV cache used</small>"
    if own.get("prefix_asked_tokens"):
        hits = own.get("prefix_hit_tokens", 0) / own["prefix_asked_tokens"]
        words += f"<br><small>{hits:.0%} of prompts reused</small>"
    return words


def _small(did: dict[str, Any], name: str, words: str) -> str:
    return f"<br><small>{_seconds(did[name])} {words}</small>" if name in did else ""


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


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
