"""Send: credits to another person, looked at once more before they go."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits import ledger
from chat_app.flows import transfer
from chat_app.flows.transfer import Limits
from chat_app.money import parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell

PAGE = 10


@dataclass
class Send:
    """The section's components."""

    tab: gr.Tab
    cards: gr.HTML
    name: gr.Textbox
    amount: gr.Textbox
    note: gr.Textbox
    review: gr.Button
    sure: gr.Column
    summary: gr.HTML
    confirm: gr.Button
    back: gr.Button
    nonce: gr.Textbox
    table: gr.HTML


def build() -> Send:
    """The layout, without any data."""
    with gr.Tab("Send", id="credits-send") as tab:
        cards = gr.HTML(parts.loading(1), elem_id="credits-send-cards")
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Send credits</h2></div>')
            nonce = gr.Textbox(visible=False)
            with gr.Row(elem_classes="filters"):
                name = gr.Textbox(
                    label="To",
                    placeholder="User name",
                    elem_id="credits-send-name",
                    max_lines=1,
                )
                amount = gr.Textbox(
                    label="Credits", placeholder="25", elem_id="credits-send-amount", max_lines=1
                )
                note = gr.Textbox(
                    label="Note",
                    placeholder="Both of you see it",
                    elem_id="credits-send-note",
                    max_lines=1,
                )
                review = gr.Button("Review", elem_id="credits-send-review", scale=0)
            with gr.Column(
                visible=False, elem_id="credits-send-sure", elem_classes="inset"
            ) as sure:
                summary = gr.HTML()
                with gr.Row(elem_classes="filters"):
                    confirm = gr.Button(
                        "Send", variant="primary", elem_id="credits-send-confirm", scale=0
                    )
                    back = gr.Button("Back", scale=0)
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Sent and received</h2></div>')
            table = gr.HTML(parts.loading(3), elem_id="credits-send-table")
    return Send(tab, cards, name, amount, note, review, sure, summary, confirm, back, nonce, table)


def bind(c: Send, app: App, shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section."""
    allowed = transfer.limits(app)

    def look(user: User) -> dict[Any, Any]:
        balance, free = transfer.sendable(app, user_id=_id(user))
        with app.db.read() as session:
            rows, _ = ledger.transactions(session, user_id=_id(user), type="transfer", limit=PAGE)
        items = [
            Card("You can send", show_credits(free), "paid for, received or given to you"),
            Card("Available", show_credits(balance.available), "ready to spend"),
            Card("At most", show_credits(allowed.most), f"at once, {_day(allowed)} a day"),
        ]
        cells = [
            [
                parts.when(row.created_at),
                parts.esc(row.description or ""),
                parts.signed(row.credits),
                show_credits(row.balance_after),
            ]
            for row in rows
        ]
        nothing = parts.empty("Nothing sent or received yet", "What you send appears here.")
        heads = ["When", "Who", "Credits>", "Balance>"]
        return {
            c.cards: parts.cards(items),
            c.table: parts.table(heads, cells, caption="Transfers") if cells else nothing,
            shell.pill: parts.pill(balance),
        }

    def asked(name: str, amount: str, note: str) -> tuple[str, int, str | None]:
        micro = parse_credits((amount or "").replace(",", "").strip())
        transfer.check_size(app, micro)
        with app.db.read() as session:
            found = transfer.recipient(session, name or "")
        return found.username, micro, transfer.clean_note(note)

    @guard(app, "user")
    async def send_show(user: User) -> dict[Any, Any]:
        """What can be sent, and what was."""
        return await asyncio.to_thread(look, user)

    @guard(app, "user")
    async def send_review(_user: User, name: str, amount: str, note: str) -> dict[Any, Any]:
        """Say what would happen."""
        to, micro, words = await asyncio.to_thread(asked, name, amount, note)
        line = f"<br>Note: {parts.esc(words)}" if words else ""
        return {
            c.summary: f"<p><b>Send {parts.amount(micro)} to {parts.esc(to)}</b>{line}<br>"
            '<span class="hint">This cannot be taken back.</span></p>',
            c.sure: gr.update(visible=True),
        }

    @guard(app, "user")
    async def send_confirm(
        user: User, name: str, amount: str, note: str, nonce: str
    ) -> dict[Any, Any]:
        """Send."""
        to, micro, words = await asyncio.to_thread(asked, name, amount, note)
        await transfer.send(
            app, user_id=_id(user), to_username=to, micro=micro, note=words, key=nonce[:64]
        )
        gr.Info(f"{parts.amount(micro)} sent to {to}.", duration=4)
        shown = await asyncio.to_thread(look, user)
        return {
            **shown,
            c.sure: gr.update(visible=False),
            c.name: "",
            c.amount: "",
            c.note: "",
        }

    @guard(app, "user")
    async def send_back(_user: User) -> dict[Any, Any]:
        """Hide the confirmation."""
        return {c.sure: gr.update(visible=False)}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [c.cards, c.table, shell.pill]
    form = [c.name, c.amount, c.note]
    c.tab.select(send_show, None, shown, **quiet)
    c.review.click(send_review, form, [c.summary, c.sure], **quiet)
    c.confirm.click(
        send_confirm,
        [*form, c.nonce],
        [*shown, c.sure, *form],
        js="(a, b, d, nonce) => [a, b, d, window.chatKey('give')]",
        **quiet,
    ).then(None, js="() => { window.chatDone('give'); }", api_visibility="private")
    c.back.click(send_back, None, [c.sure], **quiet)


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _day(allowed: Limits) -> str:
    return show_credits(allowed.day)
