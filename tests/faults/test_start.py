"""Disks that take nothing when the program starts: a sentence and an end, and then it starts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch
from chat_app.credits import ledger
from tests.apps import answer, ask, person, running_app
from tests.faults.disk import Disk
from tests.logging_state import kept_handlers


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    if not made.own:
        pytest.skip("mounting a small disk is not allowed here")
    yield made
    made.close()


def start(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Why the program does not start, in one line for the operator."""
    capsys.readouterr()
    with kept_handlers():
        assert launch.main(["--data-dir", str(data_dir), "--port", "0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


async def chat(data_dir: Path, *, first: bool) -> int:
    """One answer; what is left then."""
    async with running_app(data_dir) as app:
        ann = await person(app, "ann") if first else 1
        await answer(app, ann, await ask(app, ann))
        with app.db.read() as session:
            return ledger.balance(session, user_id=ann).total


def test_it_says_so_loses_nothing_and_starts_when_it_can(
    disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T24: read-only from the start, with books on it and without; then full; then well."""
    monkeypatch.setenv("CHAT_APP_LLM__ENGINE", "script")
    used, new = disk.folder / "used", disk.folder / "new"
    left = asyncio.run(chat(used, first=True))
    books = (used / "chat.db").read_bytes()
    disk.read_only()
    for place in (used, new):
        said = start(place, capsys)
        assert f"{place} cannot be written: Read-only file system" in said
        assert said.endswith("and start again.")
    disk.free()
    disk.fill()
    assert "start again" in start(new, capsys)
    assert start(used, capsys).startswith("The books cannot be written right now")
    disk.free()
    assert (used / "chat.db").read_bytes() == books
    assert asyncio.run(chat(used, first=False)) < left


def test_a_directory_for_models_that_takes_none(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fetching the demo model is a help, and its failure none of the start's."""
    settings = launch.read_settings(launch.arguments(["--data-dir", str(disk.folder / "data")]))
    disk.read_only()
    launch.pull_demo_model(settings.model_copy(update={"models_dir": disk.folder / "models"}))
    assert "Read-only file system. The chat starts without a model." in capsys.readouterr().out
