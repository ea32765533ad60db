"""Messages: what leaves the program and what could not, and words for everybody."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.flows import notices
from chat_app.flows.notices import BadAnnouncement
from chat_app.notify import announcements, kinds, outbox
from chat_app.notify.announcements import Announcement
from chat_app.notify.tables import OutboxRow
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

PAGE = 25
STATES = [("All", ""), ("Waiting", "waiting"), ("Delivered", "sent"), ("Given up", "dead")]
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
                '<div class="sheet-head"><h2>Announcements</h2><span class="hint">To everybody, by '
                "mail and in the app as each of them prefers</span></div>"
            )
            title = gr.Textbox(label="Title", max_lines=1, elem_id="admin-announce-title")
            text = gr.Textbox(label="Text", lines=3, max_lines=8, elem_id="admin-announce-text")
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
            news = gr.HTML(elem_id="admin-announcements")
    return Messages(tab, cards, state, table, news, title, text, review, sure, summary, send, back)


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
            c.news: _news(latest),
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
    async def announce_review(_admin: User, title: str, text: str) -> dict[Any, Any]:
        """Show how it will read."""
        if len((title or "").strip()) < 3 or len((text or "").strip()) < 3:
            raise BadAnnouncement
        return {
            c.summary: f"<h3>{parts.esc(title)}</h3><p>{parts.esc(text)}</p>"
            '<p class="hint">It cannot be taken back.</p>',
            c.sure: gr.update(visible=True),
        }

    @guard(app, "messages.write")
    async def announce_send(admin: User, title: str, text: str, state: str) -> dict[Any, Any]:
        """Tell everybody."""
        await notices.announce(app, admin_id=_id(admin), title=title or "", text=text or "")
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

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [c.cards, c.table, c.news]
    c.tab.select(messages_show, [c.state], shown, **quiet)
    c.state.change(messages_show, [c.state], shown, trigger_mode="always_last", **quiet)
    c.table.click(messages_act, [c.state], shown, **quiet)
    c.review.click(announce_review, [c.title, c.text], [c.summary, c.sure], **quiet)
    c.send.click(
        announce_send, [c.title, c.text, c.state], [*shown, c.title, c.text, c.sure], **quiet
    )
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


def _news(latest: list[Announcement]) -> str:
    return "".join(_announcement(one) for one in latest)


def _announcement(one: Announcement) -> str:
    done = one.done_at is not None
    state = parts.badge("everybody has it" if done else "on its way", "good" if done else "warn")
    return (
        f'<article class="hit"><div><h3>{parts.esc(one.title)}</h3><p>{parts.esc(one.text)}</p>'
        f'<p class="meta">{parts.when(one.created_at)} {state}</p></div></article>'
    )


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
