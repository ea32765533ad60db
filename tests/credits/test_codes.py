"""Redemption codes: shown once, kept as a keyed hash, redeemed as often as they say."""

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.credits import codes, operations, verify
from chat_app.credits.codes import Code, Redeemed
from chat_app.db import Database
from chat_app.settings import Credits as Rules
from tests.credits.books import ALICE, BOB, HOUR, NOON, balance, credits, fresh
from tests.credits.test_races import assert_sound, at_once

SECRET = b"s" * 32
DAY = 24 * HOUR


def make(database: Database, **more: object) -> list[Code]:
    values = {"micro": credits(50), "now": NOON, "scope": "test", "actor": "user:9", **more}
    values.setdefault("key", fresh())
    return database.write(lambda s: codes.make(s, secret=SECRET, **values))  # type: ignore[arg-type]


def redeem(database: Database, code: str | None, user: int = ALICE, now: int = NOON) -> Redeemed:
    return database.write(
        lambda s: codes.redeem(
            s, secret=SECRET, text=code or "", user_id=user, now=now, rules=Rules()
        )
    )


def test_twenty_users_redeem_one_code_at_once(database: Database) -> None:
    """T30: one wins, the others are told why, and nothing else moves."""
    made = make(database)[0]
    results = at_once(20, lambda number: redeem(database, made.text, user=100 + number))
    assert sum(isinstance(result, Redeemed) for result in results) == 1
    assert sum(isinstance(result, codes.CodeUsedUp) for result in results) == 19
    with database.read() as session:
        total = session.execute(text("SELECT SUM(posted) FROM account WHERE kind = 'wallet'"))
        assert int(total.scalar_one()) == credits(50)
    assert_sound(database)


def test_one_user_presses_ten_times(database: Database) -> None:
    """T30: the limit of a user holds in a race, too; the uses of others stay."""
    made = make(database, uses=5, per_user=2)[0]
    results = at_once(10, lambda _: redeem(database, made.text))
    assert sum(isinstance(result, Redeemed) for result in results) == 2
    assert sum(isinstance(result, codes.CodeAlreadyYours) for result in results) == 8
    for user in (2, 3, 4):
        assert redeem(database, made.text, user=user).micro == credits(50)
    with pytest.raises(codes.CodeUsedUp):
        redeem(database, made.text, user=5)
    assert balance(database) == (100, 0, 100)
    assert_sound(database)


def test_a_code_ends_at_its_microsecond(database: Database) -> None:
    made = make(database, uses=3, expires_at=NOON + DAY)[0]
    assert redeem(database, made.text, now=NOON + DAY - 1).expires_at is None
    for late in (0, 1):
        with pytest.raises(codes.CodeExpired):
            redeem(database, made.text, user=BOB, now=NOON + DAY + late)


def test_its_credits_end_when_the_batch_says(database: Database) -> None:
    made = make(database, valid_days=30)[0]
    given = redeem(database, made.text)
    assert given.expires_at == NOON + 30 * DAY
    with database.read() as session:
        lot = session.execute(text("SELECT source, price_minor, expires_at FROM lot")).one()
        assert tuple(lot) == ("promo", 0, NOON + 30 * DAY)
        assert verify.run(session) == []


def test_a_revoked_code_is_worth_nothing(database: Database) -> None:
    one, two, three = make(database, count=3)
    redeem(database, one.text)
    assert database.write(lambda s: codes.revoke(s, two.id, now=NOON)) == 1
    with pytest.raises(codes.UnknownCode):
        redeem(database, two.text)
    assert database.write(lambda s: codes.revoke(s, one.batch_id, now=NOON)) == 2
    with pytest.raises(codes.UnknownCode):
        redeem(database, three.text, user=BOB)
    with pytest.raises(codes.UnknownCode):
        database.write(lambda s: codes.revoke(s, "bat_nothing", now=NOON))
    assert balance(database) == (50, 0, 50)


def test_the_database_has_no_code_in_it(sqlite_database: Database) -> None:
    """A stolen database redeems nothing: a keyed hash, and another key has other codes."""
    made = make(sqlite_database, count=20)
    assert len({code.text for code in made}) == 20
    with sqlite_database.read() as session:
        dump = "\n".join(session.connection().connection.driver_connection.iterdump())  # type: ignore[union-attr]
        shown, following = codes.list_codes(session, limit=15)
        rest, end = codes.list_codes(session, limit=15, cursor=following)
    for code in made:
        assert code.text is not None
        assert code.text not in dump
        assert code.text.replace("-", "") not in dump
    assert {code.text for code in [*shown, *rest]} == {None}
    assert {code.id for code in [*shown, *rest]} == {code.id for code in made}
    assert end is None
    with pytest.raises(codes.UnknownCode):
        sqlite_database.write(
            lambda s: codes.redeem(
                s, secret=b"t" * 32, text=str(made[0].text), user_id=1, now=NOON, rules=Rules()
            )
        )


def test_a_repeated_request_shows_the_same_codes(sqlite_database: Database) -> None:
    first = make(sqlite_database, key="k", count=3)
    assert [code.text for code in make(sqlite_database, key="k", count=3)] == [
        code.text for code in first
    ]
    with pytest.raises(operations.IdempotencyConflict):
        make(sqlite_database, key="k", count=4)


def test_codes_are_read_as_people_write_them(sqlite_database: Database) -> None:
    made = make(sqlite_database)[0]
    assert made.text is not None
    written = made.text.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert redeem(sqlite_database, f"  {written} ").micro == credits(50)
    for nonsense in ("", "x" * 10_000, "ä" * 16, "AAAA-AAAA-AAAA-AAAA"):
        with pytest.raises(codes.UnknownCode):
            redeem(sqlite_database, nonsense)


@pytest.mark.parametrize(
    "wrong",
    [{"micro": 0}, {"micro": -1}, {"count": 0}, {"count": 1001}, {"uses": 0}, {"per_user": 0},
     {"expires_at": NOON}, {"valid_days": 0}, {"name": "x" * 65}],
)  # fmt: skip
def test_batches_that_make_no_sense(sqlite_database: Database, wrong: dict[str, object]) -> None:
    with pytest.raises(codes.BadBatch):
        make(sqlite_database, **wrong)


def test_redemptions_are_append_only(database: Database) -> None:
    redeem(database, make(database)[0].text)

    def tamper(session: Session) -> None:
        session.execute(text("DELETE FROM redemption"))

    with pytest.raises(Exception, match="append-only"):
        database.write(tamper)
