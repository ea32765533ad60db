"""Power is lost at hundreds of moments: no acknowledged commit is lost, no file is damaged.

The statements are the product's own, as its writer sent them to SQLite: pragmas, BEGIN IMMEDIATE,
a savepoint for each story, COMMIT; between commits the log is carried over. They run again on a
disk that keeps only what was synced, and any part of the rest (`power.py`). SIGKILL cannot show
this: the system's cache survives it.
"""

import random
import shutil
import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import Session

from chat_app import wal
from chat_app.credits import holds, verify
from chat_app.db import Database
from tests.credits import power
from tests.credits.books import NOON, SECOND, credits, facts, grant, place
from tests.effort import effort

SEED = 20_261_121
USERS = 5
BURSTS = 70
FULL_CUTS, NORMAL_CUTS = effort(400, 150), 60
# Often, so that the log is folded into the database many times: those moments are cut too.
CARRY_EVERY = 4
NEWEST = "SELECT COALESCE(MAX(id), 0) FROM operation"


def one_message(session: Session, *, number: int, dice: random.Random) -> None:
    """A hold, and how it ended, at the ledger's own speed."""
    user, now = 1 + number % USERS, NOON + number * SECOND
    hold = place(session, 3, user=user, now=now)
    if dice.random() < 0.2:
        holds.release(session, hold_id=hold.id, now=now)
    elif dice.random() < 0.9:
        spent = credits(dice.choice((0.5, 1, 3)))
        usage = facts(f"rep_{number}")
        holds.settle(session, hold_id=hold.id, micro=spent, now=now, usage=usage)


def statements(database: Database) -> list[str]:
    """What the writer sends for a few hundred stories in groups of a known size."""
    sent: list[str] = []

    def listen(connection: Any, _record: object) -> None:
        connection.set_trace_callback(sent.append)

    event.listen(database.engine, "connect", listen, insert=True)
    dice = random.Random(SEED)
    for user in range(1, USERS + 1):
        database.write(lambda session, u=user: grant(session, 1000, user=u))
    number = 0
    for _ in range(BURSTS):
        # The writer waits for the gate, so all of a burst are one group.
        gate = threading.Event()
        waiting = [database.submit(lambda _session, gate=gate: gate.wait(30))]
        for _ in range(dice.choice((1, 1, 2, 5))):
            number += 1
            waiting.append(database.submit(partial(one_message, number=number, dice=dice)))
        gate.set()
        for future in waiting:
            future.result(30)
    return sent


@pytest.fixture(scope="module")
def base(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database at rest: one file."""
    path = tmp_path_factory.mktemp("power") / "base.db"
    shutil.copyfile(_sqlite_template, path)
    return path


@pytest.fixture(scope="module")
def sent(base: Path) -> list[str]:
    """The product's statements."""
    path = base.with_name("live.db")
    shutil.copyfile(base, path)
    database = Database(f"sqlite:///{path}")
    try:
        return statements(database)
    finally:
        database.close()


def wrecks(
    base: Path, sent: list[str], folder: Path, *, count: int
) -> tuple[list[tuple[int, str, int]], power.Disk]:
    """For each cut: what was acknowledged, what the integrity check said, what was there."""
    path = folder / "replayed.db"
    shutil.copyfile(base, path)
    disk = power.replay(path, carried(sent), ask=NEWEST)
    dice = random.Random(SEED)
    points = [dice.randrange(1, len(disk.log) + 1) for _ in range(count)]
    seen = []
    for number, wreck in enumerate(power.cuts(disk, base.read_bytes(), points, SEED)):
        file = folder / f"cut-{number}.db"
        for suffix, content in wreck.files.items():
            file.with_name(file.name + suffix).write_bytes(content)
        connection = sqlite3.connect(file)
        try:
            said = connection.execute("PRAGMA integrity_check").fetchone()[0]
            there = connection.execute(NEWEST).fetchone()[0]
        except sqlite3.DatabaseError as error:
            said, there = str(error), -1
        connection.close()
        seen.append((wreck.acknowledged, said, there))
        if number % 40 == 0 and said == "ok":
            prove(file)
        file.unlink()
    return seen, disk


def carried(sent: list[str]) -> list[str]:
    """The statements with the carrier's own between every few commits."""
    commits, out = 0, []
    for statement in sent:
        out.append(statement)
        if statement == "COMMIT":
            commits += 1
            if commits % CARRY_EVERY == 0:
                out.append(wal._CARRY)
    return out


def prove(file: Path) -> None:
    """What is there is right as a whole: no half of a story."""
    database = Database(f"sqlite:///{file}")
    try:
        with database.read() as session:
            assert verify.run(session) == []
    finally:
        database.close()


def test_no_acknowledged_commit_is_lost(base: Path, sent: list[str], tmp_path: Path) -> None:
    """The product's pragmas and pattern: 0 of 400 cuts lose anything, 0 are damaged."""
    begins = [statement for statement in sent if statement.startswith("BEGIN")]
    assert set(begins) == {"BEGIN IMMEDIATE"}
    assert "PRAGMA synchronous=FULL" in sent
    assert "PRAGMA wal_autocheckpoint=0" in sent
    assert sum(statement == "SAVEPOINT story" for statement in sent) > len(begins)
    seen, disk = wrecks(base, sent, tmp_path, count=FULL_CUTS)
    assert [said for _, said, _ in seen if said != "ok"] == []
    assert [(acked, there) for acked, _, there in seen if there < acked] == []
    # The cuts were of all kinds: within commits, within checkpoints, from first to last.
    folded = [entry for entry in disk.log if entry[:2] == ("", "write")]
    assert len(folded) > 200, "the log was folded into the database"
    assert len({acked for acked, _, _ in seen}) > 40


def test_the_same_with_less_syncing_loses_commits(
    base: Path, sent: list[str], tmp_path: Path
) -> None:
    """The control: this disk does lose what was not synced, so the test above can fail."""
    weaker = [
        "PRAGMA synchronous=NORMAL" if statement == "PRAGMA synchronous=FULL" else statement
        for statement in sent
    ]
    seen, _ = wrecks(base, weaker, tmp_path, count=NORMAL_CUTS)
    assert [said for _, said, _ in seen if said != "ok"] == []
    lost = [acked - there for acked, _, there in seen if there < acked]
    assert len(lost) > NORMAL_CUTS // 4
