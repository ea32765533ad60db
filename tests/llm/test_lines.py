"""A worker's log lines reach the log as what they are: one event each, with its answer's id."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from chat_app import logs
from chat_app.llm import lines
from tests.logging_state import kept_handlers


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with kept_handlers():
        yield


def relayed(*texts: str) -> list[dict[str, str]]:
    """What the web process's log has of these lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter("json"))
    log = logging.Logger("chat_app.llm.worker")
    log.addHandler(handler)
    for text in texts:
        lines.relay(log, text, model="tiny")
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a worker writes when an answer fails."""
    lines.configure()
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError as error:
        logging.getLogger("x").error("the answer failed", exc_info=error, extra={"reply": "r1"})
    return capsys.readouterr().err.splitlines(keepends=True)


def test_an_error_is_one_line_with_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = written(capsys)
    (event,) = relayed(line)
    assert (event["event"], event["level"], event["model"]) == (
        "the answer failed",
        "error",
        "tiny",
    )
    assert event["reply"] == "r1"
    assert "RuntimeError: two\nlines" in event["exception"]


def test_what_libraries_print_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = written(capsys)
    found = relayed("loading 50%\n", "\n", "half a line " + line, lines.MARK + "{broken\n")
    assert [item["event"] for item in found] == [
        "tiny: loading 50%", "tiny: half a line", "the answer failed", "tiny: {broken",
    ]  # fmt: skip
