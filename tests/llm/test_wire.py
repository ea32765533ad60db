"""Messages between the web process and a worker."""

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_app.llm import wire
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Failed,
    Loading,
    Queued,
    Request,
    Sampling,
    Started,
    Usage,
)

TEXT = st.text(st.characters(), max_size=40)
USAGE = st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
EVENTS = st.one_of(
    st.builds(Queued, st.integers(0, 99)),
    st.builds(Loading, TEXT, st.none() | st.floats(0, 1)),
    st.builds(Started, st.integers(0, 99), st.integers(0, 99), st.integers(0, 9)),
    st.builds(Delta, TEXT, st.integers(1, 9)),
    st.builds(Done, st.sampled_from(["stop", "length", "cancelled"]), USAGE),
    st.builds(Failed, TEXT, TEXT, USAGE),
)
REQUESTS = st.builds(
    Request,
    id=TEXT,
    model=TEXT,
    messages=st.lists(st.builds(ChatMessage, st.sampled_from(["user", "system"]), TEXT)).map(tuple),
    max_tokens=st.integers(1, 99),
    sampling=st.builds(Sampling, st.floats(0, 2), seed=st.none() | st.integers()),
    stop=st.lists(TEXT).map(tuple),
    deadline_seconds=st.none() | st.floats(1, 9),
)


def over_the_line(message: wire.Message) -> wire.Message:
    """The message after a trip through its bytes, in small pieces."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = wire.Line(theirs)
        data = wire.pack(message)
        found: list[wire.Message] = []
        for at in range(0, len(data), 7):
            ours.sendall(data[at : at + 7])
            found += line.receive()
    (single,) = found
    return single


@given(EVENTS)
def test_an_event_arrives_as_it_was(event: Event) -> None:
    assert wire.event_in(over_the_line(wire.event_out(event))) == event


@given(REQUESTS)
def test_a_request_arrives_as_it_was(request: Request) -> None:
    assert wire.request_in(over_the_line(wire.request_out(request))) == request


def test_a_closed_line_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(EOFError):
        wire.Line(theirs).receive()


def test_the_reader_ends_in_the_middle_of_a_message() -> None:
    async def story() -> list[object]:
        reader = asyncio.StreamReader()
        reader.feed_data(wire.pack({"op": "beat"}) + wire.pack({"op": "lost"})[:-1])
        reader.feed_eof()
        return [await wire.read(reader), await wire.read(reader)]

    assert asyncio.run(story()) == [{"op": "beat"}, None]


def test_an_absurd_length_cuts_the_line() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(wire.WireError):
            wire.Line(theirs).receive()
