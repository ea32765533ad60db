"""Throttles: bounded, shared, kept over a restart; and a device that is known again."""

import threading

import pytest
from alembic import command
from sqlmodel import select

from chat_app import migrations
from chat_app.accounts import devices, throttles
from chat_app.accounts.throttle_tables import Throttle
from chat_app.accounts.throttles import Bucket
from chat_app.db import Database, schema_is_current

SECRET = b"s" * 32
SECOND = 1_000_000
NOON = 1_790_000_000 * SECOND


def make(*whose: str, limit: int = 3, seconds: int = 60) -> Bucket:
    return throttles.bucket(SECRET, "door", *whose, limit=limit, seconds=seconds)


def take(db: Database, *buckets: Bucket, now: int = NOON) -> int:
    return db.write(lambda session: throttles.take(session, buckets, now=now))


def test_a_burst_passes_then_one_attempt_for_each_share_of_the_window(db: Database) -> None:
    ann = make("ann")
    assert [take(db, ann) for _ in range(5)] == [0, 0, 0, 20 * SECOND, 20 * SECOND]
    assert take(db, make("bob")) == 0
    almost = NOON + 20 * SECOND - 1
    with db.read() as session:
        assert throttles.wait(session, [ann, make("bob")], now=almost) == 1
    assert take(db, ann, now=almost) == 1
    assert take(db, ann, now=almost + 1) == 0
    assert take(db, ann, now=almost + 1) > 0
    assert [take(db, ann, now=NOON + 200 * SECOND) for _ in range(4)] == [0, 0, 0, 20 * SECOND]


def test_attempts_can_be_taken_back_and_forgotten(db: Database) -> None:
    ann, other = make("ann"), make("other", limit=1)
    for _ in range(10):
        assert take(db, ann) == 0
        db.write(lambda session: throttles.give_back(session, [ann]))
    assert [take(db, ann) for _ in range(4)] == [0, 0, 0, 20 * SECOND]
    db.write(lambda session: throttles.clear(session, ann))
    assert take(db, ann, other) == 0
    assert take(db, ann, other) == 60 * SECOND


def test_no_limit_writes_nothing(db: Database) -> None:
    free = make("ann", limit=0)
    assert {take(db, free) for _ in range(20)} == {0}
    db.write(lambda session: throttles.give_back(session, [free]))
    with db.read() as session:
        assert session.exec(select(Throttle)).all() == []


def test_parallel_attempts_never_pass_the_limit(db: Database) -> None:
    """T1: guesses that arrive together are counted one by one."""
    ann, everybody = make("ann", limit=5), make("everybody", limit=100)
    barrier = threading.Barrier(16)
    passed: list[int] = []

    def guess() -> None:
        barrier.wait()
        for _ in range(4):
            passed.append(take(db, ann, everybody))

    threads = [threading.Thread(target=guess) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed.count(0) == 5
    assert len(passed) == 64


def test_a_clock_that_went_wrong_locks_nobody_out(db: Database) -> None:
    ann = make("ann")
    for _ in range(3):
        take(db, ann, now=NOON + 10**9 * SECOND)
    assert [take(db, ann) for _ in range(4)] == [0, 0, 0, 20 * SECOND]


def test_empty_buckets_go_away(db: Database) -> None:
    take(db, make("ann"))
    take(db, make("bob"), now=NOON + 30 * SECOND)
    assert db.write(lambda session: throttles.purge(session, now=NOON + 20 * SECOND)) == 1
    with db.read() as session:
        left = session.exec(select(Throttle)).one()
    assert left.bucket == make("bob").key
    assert "bob" not in left.bucket


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("203.0.113.7", "::ffff:203.0.113.7", "203.0.113.8"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
        ("unknown", "unknown", ""),
    ],
)
def test_one_subscriber_is_one_block(address: str, same: str, other: str) -> None:
    assert throttles.block(address) == throttles.block(same) != throttles.block(other)


def test_a_device_is_known_for_its_own_account_alone() -> None:
    cookie = devices.issue(SECRET, user_id=7)
    name = devices.known(SECRET, cookie, user_id=7)
    assert name
    assert devices.known(SECRET, devices.issue(SECRET, user_id=7), user_id=7) != name
    assert devices.known(SECRET, cookie, user_id=8) is None
    assert devices.known(b"x" * 32, cookie, user_id=7) is None
    for bad in ("", ".", "a.b", f"x{cookie}", cookie + "0", "é.é", "a" * 10_000):
        assert devices.known(SECRET, bad, user_id=7) is None


def test_the_table_can_be_taken_back(db: Database) -> None:
    """Down with what it holds, and up again: everybody starts anew."""
    take(db, make("ann"))
    for revision in ("0010", "head"):
        with db.engine.connect() as connection, connection.begin():
            go = command.downgrade if revision == "0010" else command.upgrade
            go(migrations.config(connection), revision)
    assert schema_is_current(db)
    assert take(db, make("ann")) == 0
