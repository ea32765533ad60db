"""Streaming: a reply's pieces become few updates of the page, and messages become dicts.

Gradio's own message handling strips indentation from strings and costs more with each earlier
message, so the dicts are built here once and events use `postprocess=False`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from chat_app.chat.conversations import MessageRow
from chat_app.chat.live import Piece, Status
from chat_app.flows.reply import ReplyView
from chat_app.money import show_credits
from ui.parts import amount, esc

Message = dict[str, Any]
HEARTBEAT_SECONDS = 1.0
SHOWN_MESSAGES = 60
_CACHED = "You asked exactly this before, so the same answer was given again. Retry for a new one."
_REASONS = {"length": "stopped at the length limit", "cancelled": "stopped"}


@dataclass
class Snapshot:
    """The answer so far. `beat` marks one without news, so that a closed page is noticed."""

    text: str = ""
    tokens: int = 0
    status: str = ""
    end: ReplyView | None = None
    beat: bool = False


async def snapshots(
    source: AsyncIterator[Piece | Status | ReplyView], *, per_second: float
) -> AsyncIterator[Snapshot]:
    """At most `per_second` snapshots of what `source` gives; the last one has the end.

    Ends when the source ends; closing it early stops listening and changes nothing else.
    """
    now, changed = Snapshot(), asyncio.Event()

    async def listen() -> None:
        try:
            async for item in source:
                if isinstance(item, Piece):
                    now.text += item.text
                    now.tokens += item.tokens
                    now.status = ""
                elif isinstance(item, Status):
                    now.status = item.sentence
                else:
                    now.end = item
                changed.set()
        finally:
            changed.set()

    listener = asyncio.create_task(listen())
    try:
        while True:
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
            except TimeoutError:
                yield Snapshot(now.text, now.tokens, now.status, beat=True)
                continue
            changed.clear()
            began = time.monotonic()
            yield Snapshot(now.text, now.tokens, now.status, now.end)
            if now.end is not None:
                return
            if listener.done():
                listener.result()  # raises what went wrong
                return
            await asyncio.sleep(max(0.0, 1 / per_second - (time.monotonic() - began)))
    finally:
        listener.cancel()


def text_message(role: str, text: str, foot: str = "", head: str = "") -> Message:
    """A message for the Chatbot; `head` and `foot` are our own HTML above and below the text."""
    content: list[dict[str, Any]] = [_html(head)] if head else []
    if text or not head:
        content.append({"type": "text", "text": text})
    if foot:
        content.append(_html(foot))
    return {"role": role, "content": content, "metadata": None, "options": None}


def _html(value: str) -> dict[str, Any]:
    return {
        "type": "component",
        "component": "html",
        "value": value,
        "constructor_args": {},
        "props": {},
    }


def shown(rows: Sequence[MessageRow]) -> list[Message]:
    """The newest messages of a conversation; a running answer is left to its stream."""
    return [
        text_message(row.role, row.content or _silence(row), foot_of(row), shots(row))
        for row in rows[-SHOWN_MESSAGES:]
        if row.state != "running"
    ]


def _silence(row: MessageRow) -> str:
    return "" if row.images else failed(row.error_message)


def shots(row: MessageRow) -> str:
    """The images of a question, small; each opens in its size."""
    shown = [
        f'<a href="/api/chat/images/{esc(image.id)}" target="_blank" rel="noopener">'
        f'<img src="/api/chat/images/{esc(image.id)}" width="{image.width}" '
        f'height="{image.height}" loading="lazy" alt="Image {number} of your message"></a>'
        for number, image in enumerate(row.images, start=1)
    ]
    return f'<div class="shots">{"".join(shown)}</div>' if shown else ""


def foot_of(row: MessageRow) -> str:
    """The line below a stored answer."""
    if row.role != "assistant":
        return ""
    return unread(row.dropped_messages) + foot(
        row.charged or 0,
        row.model,
        row.finish_reason,
        row.error_message,
        cached=row.cached,
        receipt=row.receipt_id,
    )


def unread(dropped: int) -> str:
    """The note that the beginning of the conversation was not read, if that is so."""
    if not dropped:
        return ""
    which = (
        "The first message of this conversation no longer fits and was"
        if dropped == 1
        else f"The first {dropped} messages of this conversation no longer fit and were"
    )
    return f'<p class="unread" role="note">{which} not read for this answer.</p>'


def foot(
    charged: int,
    model: str,
    reason: str | None,
    trouble: str | None,
    balance: int | None = None,
    *,
    cached: bool = False,
    receipt: str | None = None,
) -> str:
    """What an answer cost, which model wrote it, and why it ended if that needs saying."""
    parts = [f"<b>{amount(charged)}</b>" if charged else "<b>no charge</b>", esc(model)]
    if cached:
        parts.append(f'<span title="{_CACHED}">cached</span>')
    if reason in _REASONS:
        parts.append(_REASONS[reason])
    if trouble:
        parts.append(f'<span class="bad">{esc(trouble)}</span>')
    if balance is not None:
        parts.append(f"balance {show_credits(balance)}")
    if receipt and charged:
        path = f"/api/billing/receipts/{esc(receipt)}"
        parts.append(f'<a href="{path}" download title="Signed, for your records">receipt</a>')
    copy = ' <button type="button" data-copy aria-label="Copy this answer">Copy</button>'
    return '<div class="foot">' + " · ".join(parts) + copy + "</div>"


def failed(trouble: str | None) -> str:
    """What stands in place of an answer without text."""
    return f"*{trouble or 'The model gave no text. Nothing was charged.'}*"


def ended(view: ReplyView) -> Message:
    """A finished answer with its cost and the balance after it."""
    return text_message(
        "assistant",
        view.content or failed(view.error_message),
        unread(view.dropped_messages)
        + foot(
            view.charged,
            view.model,
            view.finish_reason,
            view.error_message,
            view.balance.available if view.org_id is None else None,
            cached=view.cached,
            receipt=view.receipt_id,
        ),
    )
