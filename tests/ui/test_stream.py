"""Streams of pieces become few updates; messages keep their text as it is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from chat_app.chat.conversations import MessageRow
from chat_app.chat.live import Piece, Status
from chat_app.chat.tables import MessageImage
from chat_app.credits.ledger import Balance
from chat_app.flows.reply import ReplyView
from ui import stream
from ui.stream import Snapshot

END = ReplyView(
    reply_id="rep_x",
    conversation_id="con_x",
    message_id="msg_x",
    model="small",
    state="done",
    content="done",
    finish_reason="stop",
    error_code=None,
    error_message=None,
    prompt_tokens=1,
    completion_tokens=100,
    cached_tokens=0,
    dropped_messages=0,
    charged=1_000_000,
    balance=Balance(9_000_000, 0, 9_000_000),
    receipt_id=None,
    created_at=0,
)


async def _fast(count: int) -> AsyncIterator[Piece | Status | ReplyView]:
    yield Status("Loading…")
    for index in range(1, count + 1):
        yield Piece(index, "x", 1)
        await asyncio.sleep(0)
    yield END


def _all(source: AsyncIterator[Piece | Status | ReplyView], per_second: float) -> list[Snapshot]:
    async def gather() -> list[Snapshot]:
        return [item async for item in stream.snapshots(source, per_second=per_second)]

    return asyncio.run(gather())


def test_many_pieces_become_few_updates_and_the_end_is_never_lost() -> None:
    """A thousand pieces at once are a handful of updates; the last has all text and the end."""
    seen = _all(_fast(1000), per_second=30)
    assert len(seen) < 20
    assert seen[-1].text == "x" * 1000
    assert seen[-1].tokens == 1000
    assert seen[-1].end == END
    assert all(item.end is None for item in seen[:-1])


def test_a_silent_source_still_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without news there is a beat now and then, or a closed page would never be noticed."""
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.01)

    async def slow() -> AsyncIterator[Piece | Status | ReplyView]:
        yield Piece(1, "a", 1)
        await asyncio.sleep(0.2)
        yield END

    seen = _all(slow(), per_second=30)
    assert any(item.beat and item.text == "a" for item in seen)
    assert seen[-1].end == END


def test_a_broken_source_raises() -> None:
    """What goes wrong while following reaches the handler, and so the toast."""

    async def broken() -> AsyncIterator[Piece | Status | ReplyView]:
        yield Piece(1, "a", 1)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        _all(broken(), per_second=30)


def test_leaving_early_ends_the_listener() -> None:
    """A closed page leaves no task behind."""

    async def leave() -> int:
        updates = stream.snapshots(_fast(10_000), per_second=30)
        await anext(updates)
        await updates.aclose()
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(leave()) == 1


def test_text_keeps_its_indentation() -> None:
    """Traps: `gr.Chatbot` strips indentation from strings."""
    text = "- a\n  - b\n\n\tmake\n    code"
    assert stream.text_message("assistant", text)["content"][0]["text"] == text


def test_an_answer_without_text_says_why_and_markup_is_escaped() -> None:
    """The foot is our own HTML, so what goes into it is escaped."""
    row = MessageRow(
        id="msg_x",
        role="assistant",
        content="",
        model="<b>x</b>",
        created_at=0,
        reply_id="rep_x",
        charged=0,
        finish_reason="error",
        error_message="The engine <crashed>. Try again.",
        state="failed",
    )
    message = stream.shown([row])[0]
    assert "crashed" in message["content"][0]["text"]
    foot = message["content"][1]["value"]
    assert "no charge" in foot
    assert "<crashed>" not in foot
    assert "<b>x</b>" not in foot


@pytest.mark.parametrize(
    ("dropped", "said"),
    [
        (1, "The first message of this conversation no longer fits and was not read"),
        (6, "The first 6 messages of this conversation no longer fit and were not read"),
    ],
)
def test_what_was_not_read_is_noted_now_and_after_a_reload(dropped: int, said: str) -> None:
    """A trimmed conversation is never silently wrong."""
    row = MessageRow("msg_x", "assistant", "text", "small", 0, "rep_x", 1_000_000, "stop")
    kept = stream.shown([replace(row, dropped_messages=dropped)])[0]["content"][1]["value"]
    fresh = stream.ended(replace(END, dropped_messages=dropped))["content"][1]["value"]
    assert said in kept
    assert said in fresh
    assert "unread" not in stream.shown([row])[0]["content"][1]["value"]
    assert "unread" not in stream.ended(END)["content"][1]["value"]


def test_a_cached_answer_says_so_beside_its_cost() -> None:
    row = MessageRow("msg_x", "assistant", "text", "small", 0, "rep_x", 500_000, "stop")
    for shown in (
        stream.shown([replace(row, cached=True)])[0],
        stream.ended(replace(END, cached=True, charged=500_000)),
    ):
        foot = shown["content"][1]["value"]
        assert "<b>0.5 credits</b>" in foot
        assert ">cached</span>" in foot
    assert "cached" not in stream.shown([row])[0]["content"][1]["value"]


def test_images_stand_above_the_words_and_alone() -> None:
    """Ours are escaped, and a message without words is not shown as one that failed."""
    image = MessageImage(
        id="img_<x>", message_id="msg_x", user_id=1, position=0, digest="ab", kind="png",
        width=30, height=20, bytes=9,
    )  # fmt: skip
    row = MessageRow("msg_x", "user", "look", "small", 0, images=(image, image))
    head, words, _deeds = stream.shown([row])[0]["content"]
    assert words == {"type": "text", "text": "look"}
    assert head["value"].count("<img ") == 2
    assert "img_&lt;x&gt;" in head["value"]
    assert "img_<x>" not in head["value"]
    alone, _deeds = stream.shown([replace(row, content="")])[0]["content"]
    assert alone == head


def test_parts_of_one_answer_are_one_message_with_both_receipts() -> None:
    """The text is joined as it is; every part keeps its own line of what it cost."""
    first = MessageRow(
        "msg_1", "assistant", "half a wo", "small", 0, reply_id="rep_1", charged=1_000_000,
        finish_reason="length", receipt_id="7", siblings=("msg_0", "msg_1"), sibling_index=1,
    )  # fmt: skip
    more = replace(
        first, id="msg_2", content="rd", receipt_id="8", siblings=("msg_2",), sibling_index=0
    )
    (shown,) = stream.shown([first, more])
    text, feet = shown["content"]
    assert text["text"] == "half a word"
    assert [f"receipts/{number}" in feet["value"] for number in (7, 8)] == [True, True]
    assert "2/2" in feet["value"]
    assert feet["value"].count('data-deed="continue"') == 1
    assert 'data-id="msg_0"' in feet["value"]


def test_answers_side_by_side_stand_in_columns_until_both_are_there() -> None:
    row = MessageRow(
        "msg_1", "assistant", "one", "small", 0, reply_id="rep_1", state="done", pair_id="pair"
    )
    other = replace(row, id="msg_2", content="two", reply_id="rep_2")
    (shown,) = stream.shown([replace(row, beside=(row, other))])
    assert [part["text"] for part in shown["content"] if part["type"] == "text"] == ["one", "two"]
    heads = [part["value"] for part in shown["content"] if part["type"] != "text"]
    assert [id in heads[at] for at, id in ((0, "msg_1"), (2, "msg_2"))] == [True, True]
    late = replace(row, beside=(row, replace(other, state="running")))
    assert "beside" not in str(stream.shown([late]))
