"""Messages: what leaves the program and what could not, and words for everybody."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.flows import notices
from chat_app.flows.notices import BadAnnouncement
from chat_app.notify import announcements, kinds, outbox
from chat_app.notify.announcements import Announcement, Bar
from chat_app.notify.tables import OutboxRow
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

PAGE = 25
STATES = [("All", ""), ("Waiting", "waiting"), ("Delivered", "sent"), ("Given up", "dead")]
LEVELS = [("Information", "info"), ("Warning", "warning")]
DAYS = [
    ("For a day", "1"), ("For three days", "3"), ("For a week", "7"), ("For a month", "30"),
    ("Not at all", "0"),
]  # fmt: skip
_WHEN = "The time cannot be read. Write it like 2026-12-31 18:00, or leave it empty for now."
_BADGES = {"waiting": "warn", "sent": "good", "dead": "bad"}
_NAMES = {state: name.lower() for name, state in STATES if state}
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""


@dataclass
class Messages:
    """The section's components."""

    tab: gr.Tab
    cards: gr.HTML
    state: gr.Dropdown
    table: gr.HTML
    news: gr.HTML
    title: gr.Textbox
    text: gr.Textbox
    level: gr.Dropdown
    start: gr.Textbox
    days: gr.Dropdown
    notify: gr.Checkbox
    review: gr.Button
    sure: gr.Column
    summary: gr.HTML
    send: gr.Button
    back: gr.Button


def build() -> Messages:
    """The layout, without any data."""
    with gr.Tab("Messages", id="admin-messages") as tab:
        cards = gr.HTML(parts.loading(), elem_id="admin-messages-cards")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Mails and webhooks</h2><span class="hint">What was '
                "given up stays here until it is sent again</span></div>"
            )
            with gr.Row(elem_classes="filters"):
                state = gr.Dropdown(
                    STATES, value="", label="State", filterable=False, scale=0,
                    elem_id="admin-messages-state",
                )  # fmt: skip
            table = gr.HTML(parts.loading(4), elem_id="admin-messages-table", js_on_load=_CLICKS)
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Announcements</h2><span class="hint">To everybody: a '
                "line on top of the page, mails and inboxes as each of them prefers</span></div>"
            )
            title = gr.Textbox(label="Title", max_lines=1, elem_id="admin-announce-title")
            text = gr.Textbox(label="Text", lines=3, max_lines=8, elem_id="admin-announce-text")
            with gr.Row(elem_classes="filters"):
                days = gr.Dropdown(
                    DAYS, value="7", label="On the page", filterable=False, scale=0,
                    elem_id="admin-announce-days",
                )  # fmt: skip
                start = gr.Textbox(
                    label="From (UTC)", placeholder="now", max_lines=1,
                    elem_id="admin-announce-start",
                )  # fmt: skip
                level = gr.Dropdown(
                    LEVELS, value="info", label="As", filterable=False, scale=0,
                    elem_id="admin-announce-level",
                )  # fmt: skip
            notify = gr.Checkbox(
                value=True, label="Mails and inboxes too", elem_id="admin-announce-notify"
            )
            with gr.Row(elem_classes="filters"):
                review = gr.Button("Review", elem_id="admin-announce-review", scale=0)
            with gr.Column(
                visible=False, elem_id="admin-announce-sure", elem_classes="inset"
            ) as sure:
                summary = gr.HTML()
                with gr.Row(elem_classes="filters"):
                    send = gr.Button(
                        "Send to everybody", variant="primary", elem_id="admin-announce-send",
                        scale=0,
                    )  # fmt: skip
                    back = gr.Button("Back", elem_id="admin-announce-back", scale=0)
            news = gr.HTML(elem_id="admin-announcements", js_on_load=_CLICKS)
    return Messages(
        tab, cards, state, table, news, title, text, level, start, days, notify, review, sure,
        summary, send, back,
    )  # fmt: skip


def needs(c: Messages) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "messages.read"}


def bind(c: Messages, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section."""

    def look(state: str) -> dict[Any, Any]:
        with app.db.read() as session:
            counts = outbox.counts(session)
            rows, more = outbox.page(session, state=state, limit=PAGE)
            latest = announcements.newest(session, limit=5)
        return {
            c.cards: _cards(counts, app.settings.mail.kind),
            c.table: _table(rows, more=more is not None),
            c.news: _news(latest, app.clock.micros()),
        }

    @guard(app, "messages.read")
    async def messages_show(_admin: User, state: str) -> dict[Any, Any]:
        """The newest messages."""
        return await asyncio.to_thread(look, state or "")

    @guard(app, "messages.write")
    async def messages_act(admin: User, state: str, event: gr.EventData) -> dict[Any, Any]:
        """Send a dead message again."""
        pressed = getattr(event, "_data", None) or {}
        await notices.resend(app, admin_id=_id(admin), message_id=str(pressed.get("id", ""))[:64])
        gr.Info("It will be tried again within seconds.", duration=4)
        return await asyncio.to_thread(look, state or "")

    @guard(app, "messages.write")
    async def announce_review(
        _admin: User, title: str, text: str, level: str, start: str, days: str, notify: bool
    ) -> dict[Any, Any]:
        """Show how it will read."""
        if len((title or "").strip()) < 3 or len((text or "").strip()) < 3:
            raise BadAnnouncement
        bar = _bar(level, start, days, app.clock.micros())
        where = _where(bar) if bar else "Not on the page."
        mails = "Mails and inboxes cannot be taken back." if notify else "No mails, no inboxes."
        return {
            c.summary: f"<h3>{parts.esc(title)}</h3><p>{parts.esc(text)}</p>"
            f'<p class="hint">{where} {mails}</p>',
            c.sure: gr.update(visible=True),
        }

    @guard(app, "messages.write")
    async def announce_send(
        admin: User,
        title: str,
        text: str,
        level: str,
        start: str,
        days: str,
        notify: bool,
        state: str,
    ) -> dict[Any, Any]:
        """Tell everybody."""
        await notices.announce(
            app,
            admin_id=_id(admin),
            title=title or "",
            text=text or "",
            bar=_bar(level, start, days, app.clock.micros()),
            notify=bool(notify),
        )
        gr.Info("It is on its way to everybody.", duration=4)
        return {
            **await asyncio.to_thread(look, state or ""),
            c.title: "",
            c.text: "",
            c.sure: gr.update(visible=False),
        }

    @guard(app, "messages.write")
    async def announce_back(_admin: User) -> dict[Any, Any]:
        """Hide the confirmation."""
        return {c.sure: gr.update(visible=False)}

    @guard(app, "messages.write")
    async def announce_end(admin: User, state: str, event: gr.EventData) -> dict[Any, Any]:
        """Take an announcement down."""
        pressed = getattr(event, "_data", None) or {}
        wanted = str(pressed.get("id", ""))[:64]
        await notices.take_down(app, admin_id=_id(admin), announcement_id=wanted)
        gr.Info("It is off the page.", duration=4)
        return await asyncio.to_thread(look, state or "")

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [c.cards, c.table, c.news]
    asked = [c.tab.select, c.state.change]
    gr.on(asked, messages_show, [c.state], shown, trigger_mode="always_last", **quiet)
    c.table.click(messages_act, [c.state], shown, **quiet)
    c.news.click(announce_end, [c.state], shown, **quiet)
    words = [c.title, c.text, c.level, c.start, c.days, c.notify]
    c.review.click(announce_review, words, [c.summary, c.sure], **quiet)
    c.send.click(announce_send, [*words, c.state], [*shown, c.title, c.text, c.sure], **quiet)
    c.back.click(announce_back, None, [c.sure], **quiet)


def _cards(counts: dict[str, int], kind: str) -> str:
    where = "sent by a mail server" if kind == "smtp" else "written as files, not sent"
    return parts.cards(
        [
            Card("Waiting", f"{counts['waiting']:,}", "to be delivered"),
            Card("Delivered", f"{counts['sent']:,}", f"mails are {where}"),
            Card("Given up", f"{counts['dead']:,}", "need a look" if counts["dead"] else "none"),
        ]
    )


def _table(rows: list[OutboxRow], *, more: bool) -> str:
    if not rows:
        return parts.empty("No messages here", "Choose another state, or come back later.")
    heads = ["When", "To", "About", "State", "Tries>", "What went wrong", ""]
    note = '<p class="hint">Older ones are in the API: /api/admin/messages</p>' if more else ""
    return parts.table(heads, [_row(row) for row in rows], caption="Messages") + note


def _row(row: OutboxRow) -> list[str]:
    again = (
        f'<button data-act="resend" data-id="{parts.esc(row.message_id)}">Send again</button>'
        if row.state == "dead"
        else ""
    )
    to = row.target if row.channel == "mail" else f"webhook {row.target[4:12]}…"
    return [
        parts.when(row.created_at),
        parts.esc(to),
        parts.esc(kinds.TOPICS[kinds.KINDS[row.kind].topic].name),
        parts.badge(_NAMES[row.state], _BADGES[row.state]),
        str(row.attempts),
        parts.esc(row.error or "") if row.state != "sent" else "",
        again,
    ]


def _bar(level: str, start: str, days: str, now: int) -> Bar | None:
    """When it stands on the page, from the fields. Raises BadAnnouncement."""
    length = int(days) if (days or "").isdigit() else 0
    if not length:
        return None
    starts = _moment(start) or now
    return Bar("warning" if level == "warning" else "info", starts, starts + length * parts.DAY)


def _moment(text: str) -> int | None:
    cleaned = (text or "").strip().removesuffix("UTC").strip()
    if not cleaned:
        return None
    try:
        moment = datetime.fromisoformat(cleaned)
        return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise BadAnnouncement(_WHEN) from error


def _where(bar: Bar) -> str:
    return f"On the page from {parts.when(bar.starts_at)} until {parts.when(bar.ends_at)}."


def _news(latest: list[Announcement], now: int) -> str:
    return "".join(_announcement(one, now) for one in latest)


def _announcement(one: Announcement, now: int) -> str:
    marks, button = [], ""
    bar = one.bar
    if bar is not None and bar.ends_at > now:
        name = "on the page" if bar.starts_at <= now else "comes"
        marks.append(parts.badge(name, "good" if bar.level == "info" else "warn"))
        marks.append(f"until {parts.when(bar.ends_at)}")
    if one.done_at is None:
        marks.append(parts.badge("being handed out", "warn"))
    if marks:
        button = (
            f'<div class="actions"><button data-ask data-sure aria-label="Take down '
            f'{parts.esc(one.title)}">Take down</button><span data-sure hidden class="sure">'
            f'Take it down? <button class="danger" data-act="end" data-id="{parts.esc(one.id)}">'
            "Yes, take it down</button> "
            "<button data-ask>Keep</button></span></div>"
        )
    return (
        '<article class="hit" data-row><div>'
        f"<h3>{parts.esc(one.title)}</h3><p>{parts.esc(one.text)}</p>"
        f'<p class="meta">{parts.when(one.created_at)} {" ".join(marks)}</p></div>{button}'
        "</article>"
    )


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
