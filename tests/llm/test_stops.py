"""Text as it may be shown: whole characters, whole tokens, nothing of a stop text."""

from hypothesis import given
from hypothesis import strategies as st

from chat_app.llm.engine import Delta
from chat_app.llm.stops import Detokenizer, StopText

LETTERS = st.text("ab. ", max_size=12)
STOPS = st.lists(st.text("ab. ", min_size=1, max_size=4), max_size=3)


def cut_at_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The plain definition: grow the text letter by letter until it ends with a stop."""
    for end in range(1, len(text) + 1):
        hits = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if hits:
            return text[: min(hits)], True
    return text, False


def run(tokens: list[str], stops: list[str]) -> tuple[list[Delta], bool]:
    stop = StopText(stops)
    deltas = []
    for token in tokens:
        if delta := stop.feed(token):
            deltas.append(delta)
        if stop.stopped:
            break
    if rest := stop.finish():
        deltas.append(rest)
    return deltas, stop.stopped


@given(st.lists(LETTERS, max_size=12), STOPS)
def test_the_text_is_cut_at_the_first_completed_stop(tokens: list[str], stops: list[str]) -> None:
    deltas, stopped = run(tokens, stops)
    assert ("".join(delta.text for delta in deltas), stopped) == cut_at_stop("".join(tokens), stops)


@given(st.lists(LETTERS, max_size=12), STOPS)
def test_every_token_whose_text_was_shown_counts_once(tokens: list[str], stops: list[str]) -> None:
    """T10: an answer is counted by what was shown: no more tokens than that, none twice."""
    deltas, _ = run(tokens, stops)
    shown = sum(len(delta.text) for delta in deltas)
    starts = [sum(map(len, tokens[:index])) for index in range(len(tokens))]
    visible = [
        start for start, token in zip(starts, tokens, strict=True) if token and start < shown
    ]
    empty = sum(not token for token in tokens)
    counted = sum(delta.tokens for delta in deltas)
    assert len(visible) <= counted <= len(visible) + empty
    assert all(delta.text and delta.tokens >= 1 for delta in deltas)
    if not any(tokens):
        assert counted == 0


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=12))
def test_without_stops_nothing_is_held_back(tokens: list[str]) -> None:
    stop = StopText()
    assert [stop.feed(token) for token in tokens] == [Delta(token, 1) for token in tokens]


def test_the_beginning_of_a_stop_is_held_back_until_it_is_none() -> None:
    stop = StopText(["STOP"])
    assert stop.feed("ok S") is None
    assert stop.feed("T") is None
    assert stop.feed("ART") == Delta("ok START", 3)
    assert not stop.stopped


@given(st.text(max_size=30), st.integers(1, 4))
def test_characters_are_shown_whole(text: str, size: int) -> None:
    data = text.encode("utf-8", errors="replace")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    detokenizer = Detokenizer(lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace"))
    shown = [detokenizer.feed(index) for index in range(len(pieces))]
    assert "".join(shown) == data.decode()


def test_an_incomplete_character_is_not_shown() -> None:
    pieces = [b"a", "€".encode()[:2]]
    detokenizer = Detokenizer(lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace"))
    assert [detokenizer.feed(0), detokenizer.feed(1)] == ["a", ""]


def test_bytes_that_are_no_text_do_not_hold_up_the_rest() -> None:
    pieces = [b"\xff"] * 9 + [b"x"]
    detokenizer = Detokenizer(lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace"))
    shown = "".join(detokenizer.feed(index) for index in range(10))
    assert shown.endswith("x")
