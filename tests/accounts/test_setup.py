"""Setup: one link, one administrator, and then never again."""

import threading

import pytest

from chat_app.accounts import setup, users
from chat_app.accounts.setup import SetupClosed
from chat_app.db import Database

KEY = b"k" * 32
NOON = 1_800_000_000_000_000
DAY = 86_400 * 1_000_000


def token(db: Database, *, now: int = NOON, key: bytes = KEY) -> str | None:
    return db.write(lambda s: setup.token(s, key=key, now=now))


def claim(db: Database, text: str, name: str = "root", *, now: int = NOON) -> None:
    def story(session):  # type: ignore[no-untyped-def]
        setup.use(session, token=text, key=KEY, now=now)
        users.create(
            session,
            username=name,
            email=f"{name}@example.org",
            password_hash="x",
            now=now,
            role="admin",
        )

    db.write(story)


def test_every_start_prints_the_same_link_until_it_is_a_day_old(db: Database) -> None:
    first = token(db)
    assert first is not None
    assert len(first) >= 43
    assert token(db, now=NOON + DAY - 1) == first
    assert token(db, now=NOON + DAY) != first
    with pytest.raises(SetupClosed):
        claim(db, first, now=NOON + DAY)


def test_the_database_alone_is_not_enough(db: Database) -> None:
    assert token(db) != token(db, key=b"j" * 32)
    with db.read() as session:
        row = session.exec(setup.select(setup.SetupToken)).one()
    with pytest.raises(SetupClosed):
        claim(db, row.nonce)


def test_the_link_works_once(db: Database) -> None:
    link = token(db)
    assert link is not None
    for wrong in ("", "x", "\ud800", link + "x", link[:-1]):
        with pytest.raises(SetupClosed):
            claim(db, wrong)
    claim(db, link)
    with pytest.raises(SetupClosed):
        claim(db, link, "second")
    assert token(db) is None


def test_a_refused_claim_leaves_the_link_open(db: Database) -> None:
    link = token(db)
    assert link is not None
    with pytest.raises(users.BadUsername):
        claim(db, link, "no good name")
    claim(db, link)


def test_racing_claims_make_one_administrator(db: Database) -> None:
    """Bar 9: whoever is second is refused."""
    link = token(db)
    assert link is not None
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def go(number: int) -> None:
        barrier.wait()
        try:
            claim(db, link, f"root{number}")
            outcomes.append("made")
        except SetupClosed:
            outcomes.append("closed")

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["closed"] * 7 + ["made"]
    with db.read() as session:
        assert users.count(session)["admins"] == 1
