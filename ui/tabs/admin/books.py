"""Audit and books: who did what, whether the books hold, and what does not agree with them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts import users
from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import differences, log
from chat_app.audit.differences import Difference, Run, Side
from chat_app.audit.log import Event
from chat_app.audit.seal import Problem
from chat_app.clock import from_micros
from chat_app.credits import checkpoints
from chat_app.credits.checkpoints import Turnover
from chat_app.errors import NotFound
from chat_app.flows import books, reconcile
from chat_app.money import show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

PAGE = 25
MOST = 50
ALL = "Everything"


@dataclass
class Books:
    """The components."""

    tab: gr.Tab
    cards: gr.HTML
    prove: gr.Button
    proof: gr.HTML
    reconcile: gr.Button
    differences: gr.HTML
    kind: gr.Dropdown
    actor: gr.Textbox
    events: gr.HTML
    cursor: gr.State
    older: gr.Button


def build() -> Books:
    """The layout, without any data."""
    with gr.Tab("Audit & books", id="admin-books") as tab:
        cards = gr.HTML(parts.loading(), elem_id="admin-books-state")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>The proof</h2><span class="hint">Reads every movement '
                "and every event, and holds them against the seals and the anchors</span></div>"
            )
            with gr.Row(elem_classes="filters"):
                prove = gr.Button(
                    "Prove the books", variant="primary", elem_id="admin-books-prove", scale=0
                )
            proof = gr.HTML(elem_id="admin-books-proof")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Reconciliation</h2><span class="hint">Answers, usage, '
                "movements, lots and payments; nothing is repaired by itself</span></div>"
            )
            with gr.Row(elem_classes="filters"):
                again = gr.Button("Reconcile now", elem_id="admin-books-reconcile", scale=0)
            found = gr.HTML(parts.loading(), elem_id="admin-books-differences")
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Who did what</h2></div>')
            with gr.Row(elem_classes="filters"):
                kind = gr.Dropdown([ALL], value=ALL, label="What", elem_id="admin-books-kind")
                actor = gr.Textbox(
                    label="Who",
                    placeholder="user name, or system",
                    elem_id="admin-books-actor",
                    max_lines=1,
                )
            events = gr.HTML(parts.loading(4), elem_id="admin-books-events")
            cursor = gr.State(None)
            older = gr.Button("Older", elem_id="admin-books-older", size="sm", visible=False)
    return Books(tab, cards, prove, proof, again, found, kind, actor, events, cursor, older)


def needs(c: Books) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "books.read"}


def bind(c: Books, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened."""

    def state() -> dict[Any, Any]:
        with app.db.read() as session:
            run = differences.newest(session)
            open_ones, _ = differences.find(session, limit=MOST)
            turnover = checkpoints.turnover(session)
        return {
            c.cards: _cards(books.state(app), run, turnover),
            c.differences: _differences(run, open_ones),
        }

    def events(kind: str, actor: str, cursor: str | None) -> dict[Any, Any]:
        with app.db.read() as session:
            wanted = actor.strip()
            if wanted and ":" not in wanted:
                person = users.find(session, wanted)
                wanted = f"user:{person.id}" if person else wanted
            found, more = log.find(
                session,
                type="" if kind == ALL else kind[:64],
                actor=wanted[:64],
                limit=PAGE,
                cursor=cursor,
            )
            names = {name: _who(session, name) for name in {event.actor for event in found}}
        return {
            c.events: _events(found, names),
            c.cursor: more,
            c.older: gr.update(visible=more is not None),
        }

    def kinds() -> list[str]:
        with app.db.read() as session:
            return [ALL, *log.types(session)]

    @guard(app, "books.read")
    async def books_show(_admin: User, kind: str, actor: str) -> dict[Any, Any]:
        """All of the section."""
        choices = await asyncio.to_thread(kinds)
        return {
            **await asyncio.to_thread(state),
            **await asyncio.to_thread(events, kind or ALL, actor or "", None),
            c.kind: gr.update(choices=choices),
        }

    @guard(app, "audit.read")
    async def books_events(_admin: User, kind: str, actor: str) -> dict[Any, Any]:
        """The newest events that match."""
        return await asyncio.to_thread(events, kind or ALL, actor or "", None)

    @guard(app, "audit.read")
    async def books_older(
        _admin: User, kind: str, actor: str, cursor: str | None
    ) -> dict[Any, Any]:
        """The next page of events."""
        return await asyncio.to_thread(events, kind or ALL, actor or "", cursor)

    @guard(app, "books.read")
    async def books_prove(_admin: User) -> AsyncIterator[dict[Any, Any]]:
        """Prove the books and list every discrepancy."""
        yield {c.proof: parts.loading(2)}
        problems = await asyncio.to_thread(
            books.prove, app.db, key=app.secrets.audit_key, data_dir=app.settings.data_dir
        )
        yield {c.proof: _proof(problems, app.clock.micros())}

    @guard(app, "books.write")
    async def books_reconcile(admin: User) -> dict[Any, Any]:
        """Compare everything now."""
        run = await asyncio.to_thread(reconcile.run, app, actor=f"user:{admin.id}")
        gr.Info(_count(run.found, "difference") if run.found else "All records agree.", duration=4)
        return await asyncio.to_thread(state)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    listed = [c.events, c.cursor, c.older]
    filters = [c.kind, c.actor]
    c.tab.select(books_show, filters, [c.cards, c.differences, *listed, c.kind], **quiet)
    asked = [c.kind.input, c.actor.change]
    gr.on(asked, books_events, filters, listed, trigger_mode="always_last", **quiet)
    c.older.click(books_older, [*filters, c.cursor], listed, **quiet)
    c.prove.click(books_prove, None, [c.proof], **quiet)
    c.reconcile.click(books_reconcile, None, [c.cards, c.differences], **quiet)


def _cards(state: books.State, run: Run | None, turnover: dict[str, Turnover]) -> str:
    moves, events = state.streams["transfer"], state.streams["event"]
    sealed_at = max(moves.sealed_at or 0, events.sealed_at or 0)
    anchored_at = state.anchor.at if state.anchor else 0
    issued = -sum(flow.balance for name, flow in turnover.items() if name in ("issued", "promo"))
    items = [
        Card(
            "Sealed rows",
            f"{moves.sealed + events.sealed:,}",
            f"{moves.unsealed + events.unsealed} wait for the next seal",
        ),
        Card("Last seal", *_time(sealed_at)),
        Card("Last anchor", *_time(anchored_at)),
        Card(
            "Differences",
            str(run.found) if run else "–",
            f"{run.fresh} new at {' '.join(_time(run.ended_at))}" if run else "not reconciled yet",
        ),
        Card("Credits issued", show_credits(issued), "bought and given"),
        Card("Credits consumed", show_credits(_balance(turnover, "consumed")), "by answers"),
    ]
    return parts.cards(items)


def _balance(turnover: dict[str, Turnover], name: str) -> int:
    return turnover[name].balance if name in turnover else 0


def _time(micros: int) -> tuple[str, str]:
    """The time and the day, plain, because cards show text alone."""
    if not micros:
        return "–", "not yet"
    moment = from_micros(micros)
    return f"{moment:%H:%M}", f"{moment:%d %b %Y}, UTC"


def _proof(problems: list[Problem], now: int) -> str:
    looked = f'<span class="looked">Proven at {parts.when(now)}</span>'
    if not problems:
        return (
            f'<div class="verdict good" role="status"><b>The books are right.</b> '
            f"No discrepancy. {looked}</div>"
        )
    rows = [
        [
            parts.badge(item.invariant, "bad"),
            f"<div>{parts.esc(item.sentence)}</div>",
            f"<div>{_facts(item.facts)}</div>",
        ]
        for item in problems[:MOST]
    ]
    words = _count(len(problems), "discrepancy", "discrepancies")
    more = f" The first {MOST} are shown." if len(problems) > MOST else ""
    table = parts.table(["Rule", "What is wrong", "Where"], rows, caption="Discrepancies")
    return (
        f'<div class="verdict bad" role="status"><b>{words}</b>'
        f"{more} Keep a copy of the data directory before anything else. {looked}</div>{table}"
    )


def _differences(run: Run | None, found: list[Difference]) -> str:
    if run is None:
        return parts.empty("Not reconciled yet", "It happens once a day, or now by the button.")
    if not found:
        return parts.empty(
            "All records agree",
            f"{run.checks} comparisons, looked at {' '.join(_time(run.ended_at))}.",
        )
    rows = []
    for item in found:
        check = reconcile.check_named(item.check)
        sentence, advice = (check.sentence, check.advice) if check else (item.check, "")
        rows.append(
            [
                f"<details><summary>{parts.esc(sentence)}</summary>"
                f"<p>{parts.esc(advice)}</p><p>{_facts(item.facts)}</p></details>",
                _side(item.left),
                _side(item.right),
                parts.when(item.first_seen_at),
            ]
        )
    more = f'<p class="hint">The first {MOST} of {run.found}.</p>' if run.found > MOST else ""
    heads = ["Difference", "One side", "Other side", "Since"]
    return parts.table(heads, rows, caption="Differences") + more


def _side(side: Side) -> str:
    if side.id is None:
        return f"{parts.esc(side.kind)} {parts.badge('missing', 'bad')}"
    return f"{parts.esc(side.kind)} <code>{parts.esc(side.id)}</code>"


def _events(found: list[Event], names: dict[str, str]) -> str:
    if not found:
        return parts.empty("Nothing matches", "Choose another kind, or empty the name.")
    rows = [
        [
            parts.when(event.at),
            parts.esc(names[event.actor]),
            parts.badge(event.type.replace("_", " ")),
            _facts(event.facts),
        ]
        for event in found
    ]
    cells = [[f"<div>{cell}</div>" for cell in row] for row in rows]
    return parts.table(["When", "Who", "What", "Facts"], cells, caption="Events")


def _who(session: Any, actor: str) -> str:
    group, _, number = actor.partition(":")
    if group != "user" or not number.isdigit():
        return actor
    try:
        return users.get(session, int(number)).username
    except NotFound:
        return actor


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}."


def _facts(facts: dict[str, Any]) -> str:
    return '<small translate="no">' + parts.esc(", ".join(_pairs(facts.items()))) + "</small>"


def _pairs(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [
        f"{name.replace('_', ' ')}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in items
    ]
