"""The bar draws on a terminal, through several steps, and is silent elsewhere."""

import io
import sys

import pytest

from chat_app.llm.bar import bar


class Terminal(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self) -> bool:
        return True


def pull() -> None:
    """A download and a check, each from nothing to all."""
    with bar() as tell:
        for done in (0, 20_000_000, 50_000_000):
            tell(done, 50_000_000, "Downloading…")
        for done in (10, 30):
            tell(done, 30, "Checking…")


def test_draws_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    pull()
    assert "%|" in terminal.getvalue()


def test_is_silent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    pull()
    assert capsys.readouterr().err == ""
