"""What a person reads when something fails, and nothing more."""

import logging
from typing import Any

import pytest

from chat_app.errors import OutOfCredits
from tests.ui.conftest import Site
from ui import errors, parts

MODEL = "smollm2-135m-instruct"


def test_a_refusal_is_its_sentence(site: Site) -> None:
    """An AppError reaches the page as the sentence that was written for people."""
    end, _ = site.person().call(site.number("send"), ["   ", MODEL, None, "k", "", ""])
    assert end["output"]["error"] == "The message is empty. Write something and send it again."
    assert "Traceback" not in str(end)


def test_too_few_credits_say_so(site: Site) -> None:
    """The toast has a title, and nothing is stored."""
    person = site.person()
    for key in ("a", "b"):
        person.call(site.number("send"), ["hello", "gemma-3-12b-it", None, key, "", ""])
    end, _ = person.call(site.number("send"), ["hello", "gemma-3-12b-it", None, "c", "", ""])
    assert end["output"]["title"] == "Not enough credits"


def test_a_bug_gets_a_reference_number(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception's own words stay in the log."""

    def broken(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("password=hunter2 at /etc/secret")

    monkeypatch.setattr("chat_app.chat.conversations.list_for", broken)
    with caplog.at_level(logging.ERROR):
        end, _ = site.person().call(history_number(site), ["", "", "", "0", ""])
    shown = end["output"]["error"]
    assert "hunter2" not in str(end)
    reference = shown.rsplit(" ", 1)[1].rstrip(".")
    assert reference in caplog.text
    assert "hunter2" in caplog.text


def history_number(site: Site) -> int:
    """The search of the History tab."""
    return next(
        number
        for number, fn in site.demo.fns.items()
        if fn.fn
        and fn.fn.__name__ == "show"
        and any(getattr(block, "elem_id", "") == "history-list" for block in fn.outputs)
    )


def test_a_wrong_amount_is_told(site: Site) -> None:
    """The custom amount is checked by the server."""
    for amount in ("", "1.5.2", "NaN", "-100", "1e9", "99"):
        end, _ = site.person().call(site.number("buy"), ["custom", amount, "k", "", "30"])
        assert not end["success"], amount
        assert end["output"]["error"]


async def _stream() -> Any:
    yield 1
    raise OutOfCredits


def test_async_generators_are_told_too() -> None:
    """Traps: a decorator that is not itself a generator kills the stream silently."""
    import asyncio
    import inspect

    import gradio as gr

    wrapped = errors.told(_stream)
    assert inspect.isasyncgenfunction(wrapped)

    async def run() -> list[Any]:
        stream = wrapped()
        seen = [await anext(stream)]
        with pytest.raises(gr.Error, match="not enough credits"):
            await anext(stream)
        return seen

    assert asyncio.run(run()) == [1]


def test_escaping_leaves_no_markup_and_no_template() -> None:
    """gr.HTML executes markup and templates; user text has neither afterwards."""
    shown = parts.esc("<img src=x onerror=alert(1)> ${alert(1)} {{constructor}} `x`")
    assert not set("<>{}$`") & set(shown)
