"""Whole answers are given again to the same user for the same request, within bounds."""

from dataclasses import replace
from typing import Any

import pytest

from chat_app.llm import cache, catalogue, loader
from chat_app.llm.cache import Cache, Kept
from chat_app.llm.catalogue import Entry, File
from chat_app.llm.engine import ChatMessage, Request, Sampling
from chat_app.settings import AnswerCache

ASKED = Request(
    id="rep_1",
    model="m",
    messages=(ChatMessage("user", "What is a quay?"),),
    max_tokens=20,
    sampling=Sampling(temperature=0.0),
    user_scope="7",
)


def kept(text: str = "A wall.") -> Kept:
    return Kept(((text, 3),), "stop", prompt_tokens=5)


def small(**bounds: Any) -> Cache:
    return Cache(AnswerCache(**bounds))


@pytest.mark.parametrize(
    "change",
    [
        {"user_scope": "8"},
        {"model": "n"},
        {"messages": (ChatMessage("user", "What is a quay? "),)},
        {"messages": (ChatMessage("system", "What is a quay?"),)},
        {"messages": (ChatMessage("system", "Be kind."), *ASKED.messages)},
        {"max_tokens": 21},
        {"stop": ("x",)},
        {"sampling": Sampling(temperature=0.0, seed=1)},
        {"sampling": Sampling(temperature=0.0, top_p=0.5)},
        {"sampling": Sampling(temperature=0.0, repetition_penalty=1.1)},
    ],
)
def test_whatever_the_text_depends_on_is_in_the_key(change: dict[str, Any]) -> None:
    assert cache.key(replace(ASKED, **change), version="v1") != cache.key(ASKED, version="v1")


def test_other_weights_are_another_key_and_another_id_is_not() -> None:
    assert cache.key(ASKED, version="v2") != cache.key(ASKED, version="v1")
    again = replace(ASKED, id="rep_2", deadline_seconds=5)
    assert cache.key(again, version="v1") == cache.key(ASKED, version="v1")


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (Sampling(temperature=0.0), True),
        (Sampling(temperature=0.7, seed=4), True),
        (Sampling(temperature=0.7), False),
        (Sampling(temperature=0.01), False),
    ],
)
def test_only_what_always_gives_the_same_text_is_kept(sampling: Sampling, wanted: bool) -> None:
    assert cache.repeatable(replace(ASKED, sampling=sampling)) is wanted


def test_the_least_recently_used_answer_goes_first() -> None:
    held = small(entries=2)
    one, two, three = (("7", name) for name in "abc")
    held.put(one, kept())
    held.put(two, kept())
    assert held.get(one) is not None
    held.put(three, kept())
    assert (held.get(one), held.get(two), held.get(three)) == (kept(), None, kept())


def test_bytes_are_bounded_and_a_giant_is_not_kept() -> None:
    held = small(max_mib=1)
    text = "é" * 100_000
    for number in range(20):
        held.put(("7", str(number)), kept(text))
    assert held.stats()["bytes"] <= 2**20
    assert held.stats()["entries"] == 5
    held.put(("7", "giant"), kept("x" * 2**21))
    assert held.get(("7", "giant")) is None
    assert held.stats()["entries"] == 5


def test_an_answer_is_given_until_it_is_too_old() -> None:
    now = [0.0]
    held = Cache(AnswerCache(ttl_seconds=60), now=lambda: now[0])
    held.put(("7", "a"), kept())
    now[0] = 59.9
    assert held.get(("7", "a")) == kept()
    now[0] = 60.1
    assert held.get(("7", "a")) is None
    assert (held.stats()["hits_total"], held.stats()["misses_total"]) == (1, 1)


def test_forgetting_a_user_leaves_the_others() -> None:
    held = small()
    held.put(("7", "a"), kept())
    held.put(("8", "a"), kept())
    held.forget("7")
    assert held.get(("7", "a")) is None
    assert held.get(("8", "a")) == kept()


def test_with_no_entries_nothing_is_kept() -> None:
    held = small(entries=0)
    assert not held.on
    held.put(("7", "a"), kept())
    assert held.stats()["entries"] == 0


def test_a_file_that_changes_is_another_version(tmp_path: Any) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"one")
    entry = _file(str(path))
    before = loader.version(entry, tmp_path)
    assert loader.version(entry, tmp_path) == before
    path.write_bytes(b"three")
    assert loader.version(entry, tmp_path) != before


def test_a_manifest_that_changes_is_another_version(tmp_path: Any) -> None:
    entry = catalogue.get("smollm2-135m-instruct")
    before = loader.version(entry, tmp_path)
    folder = tmp_path / entry.id
    folder.mkdir()
    (folder / loader.MANIFEST).write_text('{"source": "x", "files": {"a": {"sha256": "1"}}}')
    assert loader.version(entry, tmp_path) != before


def _file(path: str) -> Entry:
    return replace(catalogue.get("smollm2-135m-instruct"), source=File(path))
