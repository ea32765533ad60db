"""Every refusal has one code, words that a person can act on, and a status."""

import importlib
import inspect
import re

import pytest

from chat_app.api.errors import FAMILIES, family
from chat_app.errors import AppError
from tests.house import tree

tree.import_everything()
importlib.import_module("chat_app.__main__")


def subclasses(start: type[AppError] = AppError) -> list[type[AppError]]:
    """All error classes of the program below `start`."""
    found: list[type[AppError]] = []
    for child in start.__subclasses__():
        if child.__module__.split(".")[0] in {"chat_app", "ui"}:
            found += [child, *subclasses(child)]
    return found


ERRORS = sorted(set(subclasses()), key=lambda error: error.__qualname__)
LEAVES = [error for error in ERRORS if error.__module__ != "chat_app.errors"]


def named(error: type[AppError]) -> str:
    return error.__qualname__


def test_there_is_something_to_walk() -> None:
    assert len(LEAVES) > 20


def test_codes_are_unique() -> None:
    codes: dict[str, str] = {}
    for error in [AppError, *ERRORS]:
        own = vars(error).get("code")
        if own is not None:
            assert own not in codes, f"{error.__name__} and {codes[own]} share {own!r}"
            codes[own] = error.__name__


@pytest.mark.parametrize("error", ERRORS, ids=named)
def test_code_is_its_own_and_snake_case(error: type[AppError]) -> None:
    assert "code" in vars(error), f"{error.__name__} needs a code of its own"
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", error.code)


@pytest.mark.parametrize("error", ERRORS, ids=named)
def test_words_end_with_a_next_step(error: type[AppError]) -> None:
    """What happened and what to do: two sentences, or one that is itself the step."""
    words = error.message
    assert words.strip() == words
    assert words.endswith((".", "!", "?")), words
    assert words[0].isupper(), words
    sentences = re.split(r"(?<=[.!?])\s+", words)
    is_step = re.match(r"(Please|Give|Choose|Use|Send|Credits are|A user name|Times are)", words)
    assert len(sentences) >= 2 or is_step or " has " in words, f"no next step in: {words}"


@pytest.mark.parametrize("error", ERRORS, ids=named)
def test_family_has_a_status(error: type[AppError]) -> None:
    status, kind = family(error)
    assert 400 <= status < 600
    assert status != 500, f"{error.__name__} belongs to no family of api/errors.py"
    assert kind


def test_every_family_is_mapped() -> None:
    families = {
        child for child in AppError.__subclasses__() if child.__module__ == "chat_app.errors"
    }
    assert set(FAMILIES) == families


@pytest.mark.parametrize("error", ERRORS, ids=named)
def test_docstring_says_when(error: type[AppError]) -> None:
    own = inspect.getdoc(error)
    assert own
    assert own != inspect.getdoc(AppError)


def test_errors_are_not_swallowed_whole() -> None:
    """`except:` and `except BaseException: pass` hide bugs; there are none."""
    for path in tree.kept_files():
        if path.suffix == ".py" and "tests" not in path.parts:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"except\s*:", text), path
            assert not re.search(r"except BaseException[^\n]*:\s*\n\s*pass\b", text), path
