"""Backups: what is kept, whether it could be restored, and the next step."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit.log import Event
from chat_app.backups import keeping
from chat_app.backups.keeping import Kept
from chat_app.backups.make import Place
from chat_app.clock import MICROS_PER_SECOND
from chat_app.flows import backup
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

MOST = 40
HOUR = 3600 * MICROS_PER_SECOND
KINDS = {"scheduled": "by schedule", "asked": "by hand", "migration": "before a migration"}


@dataclass
class Backups:
    """The components."""

    tab: gr.Tab
    cards: gr.HTML
    make: gr.Button
    drill: gr.Button
    said: gr.HTML
    kept: gr.HTML


def build() -> Backups:
    """The layout, without any data."""
    with gr.Tab("Backups", id="admin-backups") as tab:
        cards = gr.HTML(parts.loading(), elem_id="admin-backups-state")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Backups</h2><span class="hint">Made while people '
                "chat; each is read back before it counts</span></div>"
            )
            with gr.Row(elem_classes="filters"):
                make = gr.Button(
                    "Back up now", variant="primary", elem_id="admin-backups-make", scale=0
                )
                drill = gr.Button("Try a restore", elem_id="admin-backups-drill", scale=0)
            said = gr.HTML(elem_id="admin-backups-said")
            kept = gr.HTML(parts.loading(), elem_id="admin-backups-kept")
    return Backups(tab, cards, make, drill, said, kept)


def needs(c: Backups) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "backups.make"}


def bind(c: Backups, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened."""

    def state() -> dict[Any, Any]:
        kept = keeping.listed(Place.of(app.settings).folder)
        drill = backup.last_event(app.db, backup.DRILL)
        return {c.cards: _cards(app, kept, drill), c.kept: _kept(kept)}

    @guard(app, "backups.make")
    async def backups_show(_admin: User) -> dict[Any, Any]:
        """All of the section."""
        return {**await asyncio.to_thread(state), c.said: ""}

    @guard(app, "backups.make")
    async def backups_make(admin: User) -> AsyncIterator[dict[Any, Any]]:
        """Make one now."""
        yield {c.said: parts.loading(1), c.make: gr.update(interactive=False)}
        try:
            made = await asyncio.to_thread(backup.make_one, app, actor=f"user:{admin.id}")
        except Exception:
            yield {c.said: "", c.make: gr.update(interactive=True)}
            raise
        words = f"<b>Made and read back.</b> {parts.esc(_size(made.bytes))}"
        yield {
            **await asyncio.to_thread(state),
            c.said: f'<div class="verdict good" role="status">{words}</div>',
            c.make: gr.update(interactive=True),
        }

    @guard(app, "backups.make")
    async def backups_drill(admin: User) -> AsyncIterator[dict[Any, Any]]:
        """Restore the newest into a temporary place."""
        yield {c.said: parts.loading(1), c.drill: gr.update(interactive=False)}
        try:
            found = await asyncio.to_thread(backup.drill_now, app, actor=f"user:{admin.id}")
        except Exception:
            yield {c.said: "", c.drill: gr.update(interactive=True)}
            raise
        yield {
            **await asyncio.to_thread(state),
            c.said: _verdict(found),
            c.drill: gr.update(interactive=True),
        }

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    all_of_it = [c.cards, c.kept, c.said]
    c.tab.select(backups_show, None, all_of_it, **quiet)
    c.make.click(backups_make, None, [*all_of_it, c.make], **quiet)
    c.drill.click(backups_drill, None, [*all_of_it, c.drill], **quiet)


def _cards(app: App, kept: list[Kept], drill: Event | None) -> str:
    chosen = app.settings.backups
    whole = [one for one in kept if one.manifest is not None]
    regular = [one for one in whole if one.kind == "scheduled"]
    following = "off"
    if chosen.every_hours:
        since = regular[0].made_at if regular else app.clock.micros()
        following = _ago(max(0, since + chosen.every_hours * HOUR - app.clock.micros()))
    newest = (
        Card("Newest", _since(app.clock.micros() - whole[0].made_at), _size(whole[0].bytes))
        if whole
        else Card("Newest", "–", "none yet")
    )
    tried = Card("Last drill", "–", "no restore was tried yet")
    if drill is not None:
        word = "proven" if drill.facts["ok"] else "failed"
        tried = Card("Last drill", word, _since(app.clock.micros() - drill.at))
    items = [
        newest,
        Card("Kept", str(len(whole)), _size(sum(one.bytes for one in kept))),
        Card("Next by schedule", following, f"every {chosen.every_hours} hours"),
        tried,
    ]
    return parts.cards(items)


def _kept(kept: list[Kept]) -> str:
    if not kept:
        return parts.empty(
            "No backup yet", "The first is made a day after the installation, or now by the button."
        )
    rows = []
    for one in kept[:MOST]:
        manifest = one.manifest
        if manifest is None:
            words, file = parts.badge("damaged", "bad"), ""
        elif manifest.secrets:
            words, file = parts.badge("with keys", "warn"), "on the machine alone"
        else:
            words = f"schema {parts.esc(manifest.revision)}, {sum(manifest.counts.values()):,} rows"
            link = f"/api/admin/backups/{parts.esc(one.id)}/file"
            file = f'<a href="{link}" target="_blank">Download</a>'
        rows.append(
            [
                parts.when(one.made_at),
                parts.esc(KINDS[one.kind]),
                parts.esc(_size(one.bytes)),
                words,
                file,
            ]
        )
    cells = [[f"<div>{cell}</div>" for cell in row] for row in rows]
    heads = ["Made", "Why", "Size", "What", ""]
    hint = (
        '<p class="hint">A download asks for a fresh code of your authenticator '
        "(Account › Two-factor). The keys are not in it: keep secrets.json and receipt_keys.json "
        "in another safe place.</p>"
    )
    return parts.table(heads, cells, caption="Backups") + hint


def _verdict(found: Event) -> str:
    facts = found.facts
    if facts["ok"]:
        words = f"<b>It can be restored.</b> Unpacked and proven in {facts['seconds']:.1f} s."
        return f'<div class="verdict good" role="status">{words}</div>'
    why = parts.esc(facts.get("reason") or f"{facts.get('problems')} discrepancies")
    return f'<div class="verdict bad" role="status"><b>It could not be restored.</b> {why}</div>'


def _size(bytes: int) -> str:
    if bytes < 1e6:
        return f"{bytes / 1e3:,.0f} kB"
    return f"{bytes / 1e6:,.1f} MB" if bytes < 1e9 else f"{bytes / 1e9:,.2f} GB"


def _since(micros: int) -> str:
    return "just now" if micros < 60 * MICROS_PER_SECOND else f"{_ago(micros)} ago"


def _ago(micros: int) -> str:
    minutes = micros // (60 * MICROS_PER_SECOND)
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h" if hours < 48 else f"{hours // 24} days"
