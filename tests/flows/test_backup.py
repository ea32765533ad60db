"""Backup and restore on both databases: nothing is lost, nothing is touched before it is proven."""

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from chat_app import __main__ as commands
from chat_app import db as database_room
from chat_app import migrations, secrets
from chat_app.app import build
from chat_app.backups import archive, keeping, make, snapshot
from chat_app.backups.make import Place
from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.db import Database
from chat_app.flows import backup, books, figures
from chat_app.monitor import system
from chat_app.settings import Settings
from tests.apps import answer, ask, in_loop, person, running_app, script_settings
from tests.effort import effort
from tests.flows.test_reconcile import history

HOUR = 3600 * MICROS_PER_SECOND
KILLS = effort(25, 2)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a history; tests copy it."""
    folder = tmp_path_factory.mktemp("past") / "data"

    async def story() -> None:
        async with running_app(folder) as app:
            await history(app)
            await asyncio.to_thread(books.seal_and_anchor, app)
            (folder / "images" / "1").mkdir(parents=True)
            (folder / "images" / "1" / "a.png").write_bytes(b"picture")

    asyncio.run(story())
    return folder


@pytest.fixture
def data_dir(past: Path, tmp_path: Path) -> Path:
    return shutil.copytree(past, tmp_path / "data")


@pytest.fixture
def kept(data_dir: Path, tmp_path: Path) -> Path:
    """A backup of it, without keys."""
    return write(data_dir, tmp_path / "kept.zip")


def write(data_dir: Path, path: Path, url: str = "", *, with_secrets: bool = False) -> Path:
    settings = script_settings(data_dir, url=url)
    db = Database(settings.database_url)
    try:
        now = Clock().micros()
        backup.write(db, settings, path, now=now, with_secrets=with_secrets)
    finally:
        db.close()
    return path


def content(data_dir: Path) -> dict[str, bytes]:
    """Everything in a directory but locks, by name."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in sorted(data_dir.rglob("*"))
        if path.is_file() and path.name != keeping.IN_USE
    }


def proven(settings: Settings) -> bool:
    key = secrets.reread(settings.data_dir).audit_key
    db = Database(settings.database_url)
    try:
        return books.prove(db, key=key, data_dir=settings.data_dir) == []
    finally:
        db.close()


def count(url: str, table: str) -> int:
    db = Database(url)
    try:
        with db.read() as session:
            return snapshot.facts(session.connection()).counts[table]
    finally:
        db.close()


def edit_manifest(path: Path, **change: Any) -> Path:
    """The archive with another manifest, and everything else as it is."""
    changed = path.with_name(f"changed-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == archive.MANIFEST:
                data = json.dumps({**json.loads(data), **change}).encode()
            new.writestr(info, data)
    return changed


@in_loop
async def test_backup_under_load_comes_back_whole(tmp_path: Path, database_url: str) -> None:
    """Chats go on while it is made; what it holds is proven, and takes the place of what is."""
    data_dir, made = tmp_path / "data", []
    async with running_app(data_dir, url=database_url) as app:
        people = [await person(app, f"person{number}") for number in range(4)]
        ended = asyncio.Event()

        async def chat(user: int) -> int:
            done = 0
            while not ended.is_set() or done < 2:
                await answer(app, user, await ask(app, user, f"question {done}"))
                done += 1
            return done

        chats = [asyncio.create_task(chat(user)) for user in people]
        for number in range(2):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(books.seal_and_anchor, app)
            path = tmp_path / f"{number}.zip"
            made.append(await asyncio.to_thread(write, data_dir, path, database_url))
        ended.set()
        answers = sum(await asyncio.gather(*chats))
        settings = app.settings
    url = settings.database_url
    assert count(url, "reply") == answers
    first, second = (archive.check(path) for path in made)
    assert first.counts["transfer"] < second.counts["transfer"] <= count(url, "transfer")
    assert second.head
    assert stat.S_IMODE(made[0].stat().st_mode) == 0o600
    done = await asyncio.to_thread(backup.restore, settings, made[1])
    assert (done.missing, done.problems) == ((), ())
    assert done.aside
    assert proven(settings)
    assert count(url, "reply") == second.counts["reply"]
    async with running_app(data_dir, url=database_url) as app:  # and it goes on
        await answer(app, people[0], await ask(app, people[0], "after"))
        assert backup.last_event(app.db, backup.RESTORED) is not None


def test_restore_into_a_fresh_directory(data_dir: Path, tmp_path: Path) -> None:
    """With its keys it needs nothing else; rights and images come along."""
    whole = write(data_dir, tmp_path / "whole.zip", with_secrets=True)
    settings = script_settings(tmp_path / "fresh")
    done = backup.restore(settings, whole)
    assert (done.missing, done.problems, done.aside) == ((), (), "")
    assert proven(settings)
    fresh = settings.data_dir
    assert (fresh / "images/1/a.png").read_bytes() == b"picture"
    for name in ("secrets.json", "receipt_keys.json", "chat.db"):
        assert stat.S_IMODE((fresh / name).stat().st_mode) == 0o600
    assert content(fresh)["secrets.json"] == content(data_dir)["secrets.json"]
    assert not [path for path in fresh.iterdir() if path.name.startswith(".restore")]


def test_keys_that_are_nowhere_are_named_and_no_new_ones_are_made(
    kept: Path, data_dir: Path, tmp_path: Path
) -> None:
    settings = script_settings(tmp_path / "fresh")
    done = backup.restore(settings, kept)
    assert done.missing == (
        "audit_key (secrets.json)",
        "link_key (secrets.json)",
        "pepper 1 (secrets.json)",
        "receipt key 1 (receipt_keys.json)",
    )
    with pytest.raises(secrets.BadSecrets, match="without their keys"):
        secrets.load_or_create(settings.data_dir)
    # Found after all; the keys of a stranger are not taken.
    stranger = tmp_path / "stranger"
    secrets.load_or_create(stranger)
    assert backup.restore(settings, kept, secrets_from=stranger).missing == done.missing
    assert backup.restore(settings, kept, secrets_from=data_dir).missing == ()
    assert proven(settings)


def test_damaged_archives_are_refused_and_change_nothing(
    kept: Path, data_dir: Path, tmp_path: Path
) -> None:
    before = content(data_dir)
    whole = kept.read_bytes()
    bad = tmp_path / "bad.zip"
    size = len(whole)
    broken = [b"", b"PK", whole[: size // 2], whole[:-30]]
    for at in range(50, size, max(1, size // effort(200, 12))):
        broken.append(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
    refused = 0
    for data in broken:
        bad.write_bytes(data)
        try:
            archive.check(bad)
        except archive.DamagedArchive:
            refused += 1
    # A flipped bit in the zip's own padding (a time, a comment) is harmless.
    assert refused >= len(broken) - 2
    for data in (broken[2], broken[-3]):
        bad.write_bytes(data)
        with pytest.raises(archive.DamagedArchive):
            backup.restore(script_settings(data_dir), bad)
    assert content(data_dir) == before


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"revision": "9999"}, backup.NewerBackup),
        ({"database": "postgresql"}, backup.OtherDatabase),
        ({"made_at": 7}, archive.DamagedArchive),
        ({"format": 2}, archive.DamagedArchive),
        ({"entries": []}, archive.DamagedArchive),
    ],
)
def test_what_does_not_belong_here_is_refused(
    kept: Path, data_dir: Path, change: dict[str, Any], refusal: type[Exception]
) -> None:
    """A newer schema, another database, a manifest that was made to fit."""
    before = content(data_dir)
    with pytest.raises(refusal):
        backup.restore(script_settings(data_dir), edit_manifest(kept, **change))
    assert content(data_dir) == before


def test_books_with_discrepancies_are_taken_only_on_demand(data_dir: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(data_dir / "chat.db")) as connection, connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'account'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE account SET posted = posted + 1 WHERE kind = 'wallet'")
    path = write(data_dir, tmp_path / "wrong.zip", with_secrets=True)
    before = content(data_dir)
    with pytest.raises(backup.NotProven):
        backup.restore(script_settings(data_dir), path)
    assert content(data_dir) == before
    assert not backup.drill(Place.of(script_settings(data_dir)), path).ok
    done = backup.restore(script_settings(data_dir), path, anyway=True)
    assert done.problems


def test_nothing_is_restored_under_a_running_server(kept: Path, data_dir: Path) -> None:
    with keeping.serving(data_dir), pytest.raises(keeping.StillServing):
        backup.restore(script_settings(data_dir), kept)


def test_a_restore_that_breaks_off_starts_nothing_and_can_be_repeated(
    kept: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between old and new no server may begin with empty books or new keys."""
    settings = script_settings(data_dir)

    def broken(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", broken)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(settings, kept)
    with pytest.raises(secrets.BadSecrets, match="broken off"):
        build(settings)
    [aside] = data_dir.glob("before-restore-*")
    done = backup.restore(settings, kept, secrets_from=aside)
    assert (done.missing, done.problems) == ((), ())
    assert proven(settings)


def _victim(data_dir: Path, folder: Path, ready: Connection) -> None:
    place = Place.of(script_settings(data_dir))
    db = Database(place.url)
    ready.send("going")
    while True:
        made = make.keep(db, place, kind="scheduled", now=Clock().micros())
        made.path.unlink()


def test_a_kill_leaves_no_half_backup_that_counts(data_dir: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    place = Place.of(script_settings(data_dir))
    for number in range(KILLS):
        ours, theirs = spawn.Pipe()
        child = spawn.Process(target=_victim, args=(data_dir, tmp_path, theirs))
        child.start()
        assert ours.recv() == "going"
        # The moment that matters is while there is something half done.
        while not list(place.folder.glob(f".*{archive.PART}")):
            time.sleep(0.001)
        time.sleep(0.007 * number)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        for one in keeping.listed(place.folder):
            archive.check(one.path)
            one.path.unlink()
    db = Database(place.url)
    made = make.keep(db, place, kind="scheduled", now=Clock().micros())
    db.close()
    assert [one.id for one in keeping.listed(place.folder)] == [made.id]
    assert {path.name for path in place.folder.iterdir()} == {keeping.LOCK, made.path.name}


def _killed_migration(data_dir: Path, url: str) -> None:
    """Dies when the schema has changed and nothing is committed."""
    from chat_app.migrations import triggers

    triggers.create = lambda _connection: os.kill(os.getpid(), signal.SIGKILL)
    settings = script_settings(data_dir, url=url)
    db = Database(settings.database_url)
    with make.before_migration(db, settings, now=Clock().micros()):
        database_room.migrate(db)


def _downgrade(url: str) -> None:
    """One revision back: the schema of the release before."""
    db = Database(url)
    with db.engine.connect() as connection:
        if db.sqlite:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            command.downgrade(migrations.config(connection), "-1")
    db.close()


@pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.full])],
    indirect=True,
)
@in_loop
async def test_a_migration_killed_half_way_recovers(tmp_path: Path, database_url: str) -> None:
    """The schema is the old one, there is a backup of it, and the next start goes through."""
    data_dir = tmp_path / "data"
    async with running_app(data_dir, url=database_url) as app:
        user = await person(app)
        await answer(app, user, await ask(app, user))
        settings = app.settings
    await asyncio.to_thread(_downgrade, settings.database_url)
    spawn = multiprocessing.get_context("spawn")
    child = spawn.Process(target=_killed_migration, args=(data_dir, database_url))
    child.start()
    await asyncio.to_thread(child.join)
    assert child.exitcode == -signal.SIGKILL
    place = Place.of(settings)
    [made] = keeping.listed(place.folder)
    assert made.kind == "migration"
    assert archive.check(made.path).revision != migrations.head()
    # The test session copies new databases; this one is old and goes the real way.
    async with running_app(data_dir, url=database_url) as app:
        assert database_room.schema_is_current(app.db)
        await answer(app, user, await ask(app, user, "after"))
        assert len(keeping.listed(place.folder)) == 2
    assert proven(settings)
    # And what was backed up before is restored into the newest schema.
    done = await asyncio.to_thread(backup.restore, settings, made.path)
    assert (done.missing, done.problems) == ((), ())


class Later(Clock):
    """A clock that can be moved."""

    ahead = 0

    def micros(self) -> int:
        return super().micros() + self.ahead


@in_loop
async def test_the_schedule_makes_keeps_and_tries(tmp_path: Path) -> None:
    clock = Later()
    chosen = {"every_hours": 24, "keep_daily": 2, "keep_weekly": 0, "drill_days": 7}
    async with running_app(tmp_path / "data", clock=clock, backups=chosen) as app:
        begun: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backup, "_drill_apart", lambda _app, actor: begun.append(actor))
            assert backup.tend(app) is None, "not in the first minute"
            for days in range(1, 5):
                clock.ahead = days * 24 * HOUR + HOUR
                assert await asyncio.to_thread(backup.tend, app) is not None
                assert await asyncio.to_thread(backup.tend, app) is None, "once a day"
            assert begun == []
            clock.ahead = 8 * 24 * HOUR
            await asyncio.to_thread(backup.tend, app)
            assert begun == ["schedule"]
        assert len(backup.whole(app.settings)) == 2
        assert backup.last_event(app.db, backup.MADE) is not None
        found = await asyncio.to_thread(backup.drill_now, app, actor="user:1")
        assert found.facts["ok"] is True, found
        assert found.actor == "user:1"


@in_loop
async def test_a_failure_is_on_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_app(tmp_path / "data") as app:
        monkeypatch.setattr(make, "_SPARE", 2**60)
        with pytest.raises(make.NoRoom):
            await asyncio.to_thread(backup.make_one, app, actor="schedule")
        found = backup.last_event(app.db, backup.FAILED)
        assert found is not None
        assert "no room" in str(found.facts["reason"])
        machine = system.snapshot(app.settings)
        told = [item.sentence for item in figures.troubles(app, machine, {})]
        assert any("The last backup failed" in sentence for sentence in told), told
        assert keeping.listed(Place.of(app.settings).folder) == []
        monkeypatch.undo()
        await asyncio.to_thread(backup.make_one, app, actor="schedule")
        told = [item.sentence for item in figures.troubles(app, machine, {})]
        assert not any("backup" in sentence for sentence in told), told
        for one in keeping.listed(Place.of(app.settings).folder):
            one.path.unlink()
        with pytest.raises(backup.NothingToTry):
            await asyncio.to_thread(backup.drill_now, app, actor="user:1")


def test_everything_in_the_data_directory_is_accounted_for(data_dir: Path) -> None:
    """What a new room puts there must be kept or be named here as not worth it."""
    kept = {make.ANCHORS, *make.FOLDERS, *make.SECRET}
    left = {"chat.db", "chat.db-wal", "chat.db-shm", "outbox", keeping.FOLDER, keeping.IN_USE}
    assert {path.name for path in data_dir.iterdir()} <= kept | left


def test_names_are_those_of_the_rooms() -> None:
    """The room of backups stands beside these and cannot ask them."""
    from chat_app.audit import anchors
    from chat_app.chat import images
    from chat_app.credits.receipts import keys
    from chat_app.ml import registry

    assert anchors.FILE == make.ANCHORS
    assert (images.FOLDER, registry.FOLDER) == make.FOLDERS
    assert keys.FILE == make.RECEIPT_KEYS


@pytest.fixture
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("CHAT_APP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHAT_APP_LLM__ENGINE", "script")
    return


@pytest.mark.usefixtures("_clean_environment")
def test_the_commands(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, at: Path = data_dir) -> int:
        capsys.readouterr()
        return commands.main([*words, "--data-dir", str(at)])

    file = tmp_path / "one.zip"
    assert run("backup", str(file)) == commands.OK
    assert "every byte was read back" in capsys.readouterr().out
    assert run("backup", str(file)) == commands.PROBLEMS, "never written over"
    assert run("backup", str(tmp_path / "no" / "one.zip")) == commands.WRONG_USE
    assert run("backups", "drill", str(file)) == commands.OK
    assert "restored and proven" in capsys.readouterr().out
    assert run("backups", "drill") == commands.PROBLEMS, "the folder is empty"
    assert run("restore", str(file), at=tmp_path / "fresh") == commands.PROBLEMS
    assert "Missing key: audit_key (secrets.json)" in capsys.readouterr().out
    fresh = tmp_path / "other"
    assert run("restore", str(file), "--secrets-from", str(data_dir), at=fresh) == commands.OK
    assert "no discrepancy" in capsys.readouterr().out
    assert run("verify", at=fresh) == commands.OK
    assert run("backups", "list") == commands.OK
    assert capsys.readouterr().out == "0 backups.\n"
