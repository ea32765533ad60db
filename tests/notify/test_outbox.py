"""The outbox: once by its key, tried by one process at a time, never forgotten."""

import threading
from collections.abc import Sequence

import pytest
from sqlmodel import Session

from chat_app.db import Database
from chat_app.notify import outbox
from chat_app.notify.outbox import Claimed, UnknownMessage

NOON = 1_767_268_800_000_000
SECOND = 1_000_000


def put(database: Database, key: str = "k", **more: object) -> bool:
    """A mail to nobody in particular."""
    values: dict[str, object] = {
        "kind": "mail_test",
        "channel": "mail",
        "target": "ann@example.org",
        "data": {"a": 1},
        "now": NOON,
        **more,
    }
    return database.write(lambda s: outbox.put(s, dedupe_key=key, **values))  # type: ignore[arg-type]


def claim(database: Database, now: int = NOON) -> list[Claimed]:
    """All that is due, as one process takes it."""
    with database.read() as session:
        rows = outbox.due(session, now=now, limit=100)
    return database.write(lambda s: _claim(s, rows, now))


def _claim(session: Session, rows: Sequence[outbox.OutboxRow], now: int) -> list[Claimed]:
    found = (outbox.claim(session, row=row, now=now) for row in rows)
    return [item for item in found if item is not None]


def test_a_key_is_used_once(database: Database) -> None:
    assert put(database)
    assert not put(database, data={"a": 2})
    (message,) = claim(database)
    assert message.data == '{"a":1}'


def test_a_cause_that_is_rolled_back_tells_nobody(database: Database) -> None:
    """The row stands in the transaction of its cause."""

    def story(session: Session) -> None:
        outbox.put(session, kind="mail_test", channel="mail", target="a@b.cd", dedupe_key="k",
                   data={}, now=NOON)  # fmt: skip
        raise RuntimeError("the cause failed")

    with pytest.raises(RuntimeError):
        database.write(story)
    assert claim(database) == []


def test_two_processes_never_try_one_message_at_once(database: Database) -> None:
    """Both saw the same rows as due; each row goes to one of them."""
    for number in range(40):
        put(database, f"k{number}")
    with database.read() as session:
        rows = outbox.due(session, now=NOON, limit=100)
    taken: list[list[Claimed]] = []
    start = threading.Barrier(4)

    def process() -> None:
        start.wait()
        mine = []
        for row in rows:
            mine += database.write(lambda s, row=row: _claim(s, [row], NOON))
        taken.append(mine)

    threads = [threading.Thread(target=process) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [message.message_id for mine in taken for message in mine]
    assert len(ids) == len(set(ids)) == 40


def test_a_claim_whose_process_died_is_taken_again_under_the_same_id(database: Database) -> None:
    """Crash between claim and mark: at least once, and the receiver can tell."""
    put(database)
    (first,) = claim(database)
    lease = outbox.LEASE_SECONDS * SECOND
    assert claim(database, NOON + lease - 1) == []
    (second,) = claim(database, NOON + lease)
    assert second.message_id == first.message_id
    assert (first.attempts, second.attempts) == (1, 2)
    # The first wakes up late: it has nothing to say any more.
    assert not database.write(lambda s: outbox.sent(s, first, now=NOON + lease))
    assert database.write(lambda s: outbox.sent(s, second, now=NOON + lease))
    assert claim(database, NOON + 100 * lease) == []


def test_failures_wait_longer_each_time_and_end_as_dead_letter(database: Database) -> None:
    put(database)
    now, waits = NOON, []
    for attempt in range(1, 6):
        (message,) = claim(database, now)
        dead = database.write(
            lambda s, message=message, now=now: outbox.failed(
                s, message, error="down\nagain", now=now, attempts=5, retry_seconds=30
            )
        )
        assert dead == (attempt == 5)
        with database.read() as session:
            (row,) = outbox.page(session, limit=5)[0]
        waits.append((row.due_at - now) / SECOND)
        now = row.due_at
    for number, wait in enumerate(waits[:4]):
        assert 15 * 2**number <= wait <= 30 * 2**number
    with database.read() as session:
        assert outbox.counts(session) == {"waiting": 0, "sent": 0, "dead": 1}
    assert (row.state, row.error, row.attempts) == ("dead", "down again", 5)
    assert claim(database, now + 10**12) == []


def test_a_dead_letter_is_sent_again_from_the_start(database: Database) -> None:
    put(database)
    (message,) = claim(database)
    with pytest.raises(UnknownMessage):
        database.write(lambda s: outbox.resend(s, message_id=message.message_id, now=NOON))
    database.write(
        lambda s: outbox.failed(
            s, message, error="no", now=NOON, attempts=5, retry_seconds=1, final=True
        )
    )
    row = database.write(lambda s: outbox.resend(s, message_id=message.message_id, now=NOON + 5))
    assert (row.state, row.attempts, row.ended_at) == ("waiting", 0, None)
    (again,) = claim(database, NOON + 5)
    assert again.message_id == message.message_id


def test_pages_follow_each_other(database: Database) -> None:
    for number in range(5):
        put(database, f"k{number}")
    seen, cursor = [], None
    with database.read() as session:
        for _ in range(3):
            rows, cursor = outbox.page(session, limit=2, cursor=cursor)
            seen += [row.dedupe_key for row in rows]
        assert cursor is None
        with pytest.raises(UnknownMessage):
            outbox.page(session, limit=2, cursor="ntf_other")
    assert seen == ["k4", "k3", "k2", "k1", "k0"]


def test_only_what_was_sent_is_forgotten_of_mails(database: Database) -> None:
    for key in ("sent", "dead", "waiting"):
        put(database, key)
    for message in claim(database):
        with database.read() as session:
            key = outbox.page(session, limit=9)[0]
        name = next(row.dedupe_key for row in key if row.id == message.id)
        if name == "sent":
            database.write(lambda s, m=message: outbox.sent(s, m, now=NOON))
        elif name == "dead":
            database.write(
                lambda s, m=message: outbox.failed(
                    s, m, error="no", now=NOON, attempts=1, retry_seconds=1
                )
            )
    assert database.write(lambda s: outbox.forget(s, before=NOON)) == 0
    assert database.write(lambda s: outbox.forget(s, before=NOON + 1)) == 1
    with database.read() as session:
        assert outbox.counts(session) == {"waiting": 1, "sent": 0, "dead": 1}
