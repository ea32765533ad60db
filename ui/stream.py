"""Streaming: a reply's pieces become few updates of the page, and messages become dicts.

Gradio's own message handling strips indentation from strings and costs more with each earlier
message, so the dicts are built here once and events use `postprocess=False`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson

from chat_app.chat.conversations import MessageRow
from chat_app.chat.live import Piece, Status
from chat_app.clock import MICROS_PER_SECOND
from chat_app.flows.reply import ReplyView
from chat_app.money import show_credits
from ui import marks
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
    async with aclosing(together([source], per_second=per_second)) as several:
        async for (one,) in several:
            yield one


async def together(
    sources: Sequence[AsyncIterator[Piece | Status | ReplyView]], *, per_second: float
) -> AsyncGenerator[list[Snapshot], None]:
    """As `snapshots`, of several sources at once: one of each, in their order."""
    now, changed, due = [Snapshot() for _ in sources], asyncio.Event(), asyncio.Event()
    taken = 0

    async def listen(source: AsyncIterator[Piece | Status | ReplyView], state: Snapshot) -> None:
        nonlocal taken
        try:
            async for item in source:
                if isinstance(item, Piece):
                    state.text += item.text
                    state.tokens += item.tokens
                    state.status = ""
                elif isinstance(item, Status):
                    state.status = item.sentence
                else:
                    state.end = item
                taken += 1
                changed.set()
                await due.wait()  # what comes until the next snapshot is taken in at once
        finally:
            changed.set()

    listeners = [
        asyncio.create_task(listen(source, state))
        for source, state in zip(sources, now, strict=True)
    ]
    try:
        while True:
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_SECONDS)
            except TimeoutError:
                yield [
                    Snapshot(one.text, one.tokens, one.status, one.end, beat=True) for one in now
                ]
                continue
            due.set()
            before = -1
            while before != taken:
                before = taken
                await asyncio.sleep(0)
            due.clear()
            changed.clear()
            began = time.monotonic()
            yield [replace(one) for one in now]
            if all(one.end is not None for one in now):
                return
            over = [task for task, one in zip(listeners, now, strict=True) if not one.end]
            if all(task.done() for task in over):
                for task in over:
                    task.result()  # raises what went wrong
                return
            await asyncio.sleep(max(0.0, 1 / per_second - (time.monotonic() - began)))
    finally:
        for task in listeners:
            task.cancel()


class Packed:
    """Messages that stay as they are while an answer is written, each encoded once.

    Gradio walks through a value three times for every update. It passes over what it does not
    know, so that earlier messages cost nothing; the same message is always the same object.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, orjson.Fragment] = {}

    def __call__(self, messages: Sequence[Message]) -> list[Any]:
        """The messages as they are to be given to Gradio."""
        encoded = (orjson.dumps(message) for message in messages)
        return [self._known.setdefault(text, orjson.Fragment(text)) for text in encoded]


def text_message(role: str, text: str, foot: str = "", head: str = "") -> Message:
    """A message for the Chatbot; `head` and `foot` are our own HTML above and below the text.

    The text stays as it is but for the marks around its formulas.
    """
    content: list[dict[str, Any]] = [_html(head)] if head else []
    if text or not head:
        content.append(_text(marks.marked(text)))
    if foot:
        content.append(_html(foot))
    return {"role": role, "content": content, "metadata": None, "options": None}


def writing(text: str) -> Message:
    """An answer so far. Its formulas are set when it has ended."""
    return {"role": "assistant", "content": [_text(text)], "metadata": None, "options": None}


def _text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def _html(value: str) -> dict[str, Any]:
    return {
        "type": "component",
        "component": "html",
        "value": value,
        "constructor_args": {},
        "props": {},
    }


def shown(rows: Sequence[MessageRow], *, balance: int | None = None) -> list[Message]:
    """The newest messages of a conversation; a running answer is left to its stream.

    What continues an answer is shown in one with it. Answers side by side stand in columns until
    one is picked. `balance` is shown with the last answer.
    """
    told = [row for row in rows if row.state != "running"]
    groups: list[list[MessageRow]] = []
    for row in told:
        if row.role == "assistant" and groups and groups[-1][-1].role == "assistant":
            groups[-1].append(row)
        else:
            groups.append([row])
    return [
        _shown(group, balance if group[-1] is told[-1] else None, last=group[-1] is told[-1])
        for group in groups[-SHOWN_MESSAGES:]
    ]


def _shown(group: Sequence[MessageRow], balance: int | None, *, last: bool) -> Message:
    first, end = group[0], group[-1]
    if last and end.beside and all(row.state != "running" for row in end.beside):
        return columns([_column(row) for row in end.beside])
    text = "".join(row.content for row in group) or _silence(end)
    feet = [
        foot_of(row, balance if row is end else None, last=last and row is end) for row in group
    ]
    return text_message(first.role, text, "".join(feet), shots(first))


@dataclass(frozen=True)
class Column:
    """One of the answers side by side; `head` and `foot` are our own HTML, `text` has its marks."""

    head: str
    text: str
    foot: str = ""


def columns(items: Sequence[Column]) -> Message:
    """Answers side by side in one message: the stylesheet makes columns of its parts."""
    content: list[dict[str, Any]] = []
    for item in items:
        content += [
            _html(f'<div class="beside">{item.head}</div>'),
            _text(item.text),
            _html(item.foot or '<div class="foot"></div>'),
        ]
    return {"role": "assistant", "content": content, "metadata": None, "options": None}


def _column(row: MessageRow) -> Column:
    pick = (
        f'<button type="button" data-deed="path" data-id="{esc(row.id)}">'
        "Go on with this answer</button>"
    )
    foot = foot_of(row, None, last=False, turns=False)
    text = marks.marked(row.content or _silence(row))
    return Column(f"<b>{esc(row.model)}</b>{pick}", text, foot)


def column_of(view: ReplyView) -> Column:
    """A finished answer, while one beside it is still being written."""
    text = marks.marked(view.content or failed(view.error_message))
    return Column(f"<b>{esc(view.model)}</b>", text, _foot_of_end(view))


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


def foot_of(
    row: MessageRow, balance: int | None = None, *, last: bool = False, turns: bool = True
) -> str:
    """The line below a stored message: what it cost, and what can be done with it."""
    deeds = switcher(row) + _deeds(row, last=last) if turns else ""
    if row.role != "assistant":
        return f'<div class="turns">{deeds}</div>' if deeds else ""
    return unread(row.dropped_messages) + foot(
        row.charged or 0,
        row.model,
        row.finish_reason,
        row.error_message,
        balance,
        cached=row.cached,
        receipt=row.receipt_id,
        message=row.id,
        vote=row.feedback.vote if row.feedback else "",
        took=_took(row.tokens, row.created_at, row.ended_at),
        deeds=deeds,
    )


def _took(tokens: int, began: int, ended: int | None) -> str:
    """`60 tokens · 3.1 s`, with what is known; the time counts waiting too."""
    if not tokens or ended is None:
        return ""
    seconds = max(0, ended - began) / MICROS_PER_SECOND
    shown = f"{seconds:.1f}" if seconds < 10 else f"{seconds:,.0f}"
    return f"{tokens:,} {'token' if tokens == 1 else 'tokens'} · {shown}\u00a0s"


def switcher(row: MessageRow) -> str:
    """`‹ 2/3 ›`, where a message has others beside it."""
    count, at = len(row.siblings), row.sibling_index
    if count < 2:
        return ""

    def step(to: int, sign: str, name: str) -> str:
        if not 0 <= to < count:
            return f'<button type="button" disabled aria-label="{name}">{sign}</button>'
        return _deed("path", row.siblings[to], sign, name)

    return (
        f'<span class="versions" role="group" aria-label="Version {at + 1} of {count}">'
        f"{step(at - 1, '‹', 'Previous version')}{at + 1}/{count}"
        f"{step(at + 1, '›', 'Next version')}</span>"
    )


def _deeds(row: MessageRow, *, last: bool) -> str:
    if row.role != "assistant":
        edit = _deed("edit", row.id, "Edit", "Edit this message in a new branch")
        return edit + _deed("fork", row.id, "Fork", "Copy the chat up to here into a new one")
    deeds = _deed("retry", row.id, "Retry", "Retry: have this answered again")
    if last and row.reply_id and row.finish_reason in _REASONS and row.content.strip():
        deeds = _deed("continue", row.reply_id, "Continue", "Go on with this answer") + deeds
    return deeds + _deed("fork", row.id, "Fork", "Copy the chat up to here into a new one")


def _deed(deed: str, id: str, words: str, name: str) -> str:
    return (
        f'<button type="button" data-deed="{deed}" data-id="{esc(id)}" aria-label="{name}" '
        f'title="{name}">{words}</button>'
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
    message: str = "",
    vote: str = "",
    took: str = "",
    deeds: str = "",
) -> str:
    """What an answer cost, which model wrote it, and why it ended if that needs saying.

    `deeds` are buttons; the page's script adds what else can be done with the `message`.
    """
    parts = [f"<b>{amount(charged)}</b>" if charged else "<b>no charge</b>", esc(model)]
    if cached:
        parts.append(f'<span title="{_CACHED}">cached</span>')
    if reason in _REASONS:
        parts.append(_REASONS[reason])
    if trouble:
        parts.append(f'<span class="bad">{esc(trouble)}</span>')
    if took:
        parts.append(took)
    if balance is not None:
        parts.append(f"balance {show_credits(balance)}")
    if receipt and charged:
        path = f"/api/billing/receipts/{esc(receipt)}"
        parts.append(f'<a href="{path}" download data-receipt>receipt</a>')
    known = f' data-m="{esc(message)}"' + (f' data-v="{esc(vote)}"' if vote else "")
    acts = f'<span class="deeds">{deeds}</span>' if deeds else ""
    return f'<div class="foot"{known}>{" · ".join(parts)}{acts}</div>'


def failed(trouble: str | None) -> str:
    """What stands in place of an answer without text."""
    return f"*{trouble or 'The model gave no text. Nothing was charged.'}*"


def ended(view: ReplyView) -> Message:
    """A finished answer with its cost and the balance after it."""
    return text_message(
        "assistant",
        view.content or failed(view.error_message),
        unread(view.dropped_messages)
        + _foot_of_end(view, view.balance.available if view.org_id is None else None),
    )


def _foot_of_end(view: ReplyView, balance: int | None = None) -> str:
    return foot(
        view.charged,
        view.model,
        view.finish_reason,
        view.error_message,
        balance,
        cached=view.cached,
        receipt=view.receipt_id,
        message=view.message_id,
        took=_took(view.completion_tokens, view.created_at, view.ended_at),
    )
