"""The sums of usage: exact with every settlement, whole periods in UTC, rebuilt from the rows."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from chat_app.clock import to_micros
from chat_app.credits import holds, rollups, usage, verify
from chat_app.credits.usage import Runout, UsageLine, Volume
from chat_app.db import Database
from chat_app.money import MICRO
from tests.credits.books import ALICE, BOB, NOON, credits, facts, fresh, grant, place
from tests.credits.test_races import at_once

DAY = rollups.DAY


def at(*moment: int) -> int:
    return to_micros(datetime(*moment, tzinfo=UTC))  # type: ignore[arg-type]


def settle(database: Database, now: int, cost: float, *, user: int = ALICE, **more: object) -> None:
    """One answer, held and settled at `now`."""

    def story(session) -> None:  # type: ignore[no-untyped-def]
        hold = place(session, cost, user=user, now=now)
        holds.settle(
            session, hold_id=hold.id, micro=credits(cost), now=now, usage=facts(fresh(), **more)
        )

    database.write(story)


def fund(database: Database, now: int, *users: int) -> None:
    for user in users or (ALICE,):
        database.write(lambda session, user=user: grant(session, 10_000, user=user, now=now))


@pytest.mark.parametrize(
    ("moment", "first", "following"),
    [
        (at(2028, 2, 29, 23, 59, 59), at(2028, 2, 1), at(2028, 3, 1)),
        (at(2026, 1, 1), at(2026, 1, 1), at(2026, 2, 1)),
        (at(2026, 1, 1) - 1, at(2025, 12, 1), at(2026, 1, 1)),
        (at(2026, 10, 31, 12), at(2026, 10, 1), at(2026, 11, 1)),
    ],
)
def test_months_begin_and_end(moment: int, first: int, following: int) -> None:
    """The 31st, a leap day and the last microsecond of a year."""
    assert rollups.month_start(moment) == first
    assert rollups.next_month(moment) == following


def test_each_answer_counts_in_its_minute_day_and_month(database: Database) -> None:
    """Edges at ±1 µs; others' answers and other models have their own sums."""
    edge = at(2026, 2, 1)
    fund(database, edge - DAY, ALICE, BOB)
    settle(database, edge - 1, 1)
    settle(database, edge, 2)
    settle(database, edge + 59_999_999, 4, status="error")
    settle(database, edge + 60_000_000, 0, completion_tokens=0)
    settle(database, edge + 1, 8, user=BOB)
    settle(database, edge + 60_000_001, 16, model="n")

    def lines(period: str) -> list[tuple[int, str, int, int]]:
        with database.read() as session:
            rows = usage.lines(session, user_id=ALICE, since=0, until=edge + DAY, period=period)
        return [(row.at, row.model, row.messages, row.credits // MICRO) for row in rows]

    minute = edge + 60_000_000
    assert lines("month") == [(at(2026, 1, 1), "m", 1, 1), (edge, "m", 3, 6), (edge, "n", 1, 16)]
    assert lines("day") == [(edge - DAY, "m", 1, 1), (edge, "m", 3, 6), (edge, "n", 1, 16)]
    assert lines("minute") == [
        (edge - 60_000_000, "m", 1, 1),
        (edge, "m", 2, 6),
        (minute, "m", 1, 0),
        (minute, "n", 1, 16),
    ]
    with database.read() as session:
        # What failed or gave nothing is a message, and no answer.
        volume = usage.volume(session, user_id=ALICE, model="m", now=edge)
        assert volume == Volume(credits=6 * MICRO, messages=1)
        assert usage.volume(session, user_id=ALICE, model="m", now=edge - 1).messages == 1
        assert usage.volume(session, user_id=ALICE, model="m", now=at(2026, 3, 1)) == Volume()
        one = usage.lines(session, user_id=ALICE, since=minute + 7, until=minute + 8, period="day")
        assert one[0] == UsageLine(edge, "m", 3, 30, 40, 6 * MICRO)
        assert rollups.check(session) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE usage_day SET cost = cost + 1",
        "DELETE FROM usage_month",
        "UPDATE usage_month SET answers = 0",
        "INSERT INTO usage_day VALUES (9, 0, 'm', 1, 1, 1, 1, 1)",
    ],
)
def test_a_wrong_sum_is_found_and_rebuilt(database: Database, damage: str) -> None:
    fund(database, NOON)
    settle(database, NOON, 3)
    settle(database, NOON + 40 * DAY, 5)
    database.write(lambda session: session.execute(text(damage)))
    with database.read() as session:
        found = verify.run(session)
    assert {(item.invariant, item.sentence) for item in found} == {
        ("I15", "A sum of usage is not what its answers add up to.")
    }
    assert database.write(rollups.rebuild) == 4
    with database.read() as session:
        assert verify.run(session) == []


def test_parallel_settlements_of_one_user_are_all_counted(database: Database) -> None:
    fund(database, NOON)
    at_once(24, lambda number: settle(database, NOON + number % 3, 1))
    with database.read() as session:
        assert usage.volume(session, user_id=ALICE, model="m", now=NOON) == Volume(24 * MICRO, 24)
        assert verify.run(session) == []


def runout(database: Database, now: int, available: float) -> Runout:
    with database.read() as session:
        return usage.runout(session, user_id=ALICE, available=credits(available), now=now)


def test_how_long_credits_last_is_unknown_before_three_active_days(
    sqlite_database: Database,
) -> None:
    database, first = sqlite_database, at(2026, 3, 1, 12)
    fund(database, first)
    assert runout(database, first, 100) == Runout(0)
    settle(database, first, 10)
    settle(database, first + 1, 10)
    settle(database, first + 3 * DAY, 10)
    settle(database, first + 4 * DAY, 0)  # a free answer uses nothing up
    assert runout(database, first + 5 * DAY, 100) == Runout(2)
    settle(database, first + 5 * DAY, 10)
    assert runout(database, first + 5 * DAY, 100).per_day is not None


def test_a_steady_burn_gives_the_day(sqlite_database: Database) -> None:
    """Ten credits a day, half of today gone with half of its credits: ten a day."""
    database, first = sqlite_database, at(2026, 3, 1, 6)
    fund(database, first)
    for day in range(10):
        settle(database, first + day * DAY, 10)
    now = at(2026, 3, 11, 12)
    settle(database, now, 5)
    found = runout(database, now, 50)
    assert found == Runout(11, 10 * MICRO, 5.0, now + 5 * DAY)
    assert runout(database, now, 0).at == now
    # Credits that last a lifetime have no date.
    assert runout(database, now, 1e9) == Runout(11, 10 * MICRO)
    # Weeks without use halve the rate again and again.
    later = runout(database, at(2026, 3, 25, 12), 50)
    assert later.per_day is not None
    assert 0 < later.per_day < 3 * MICRO


def test_a_day_counts_half_as_much_as_one_a_week_later(sqlite_database: Database) -> None:
    database, first = sqlite_database, at(2026, 3, 1)
    fund(database, first)
    for day, cost in ((0, 8), (7, 4), (8, 0.000001), (9, 0.000001)):
        settle(database, first + day * DAY, cost)
    now = first + 14 * DAY
    weights = [0.5 ** (day / 7) for day in range(14, 0, -1)]
    expected = (8 * weights[0] + 4 * weights[7]) / sum(weights) * MICRO
    assert runout(database, now, 1).per_day == pytest.approx(expected, abs=2)


def test_the_usual_length_is_the_median_of_the_last_answers(sqlite_database: Database) -> None:
    database = sqlite_database
    fund(database, NOON)

    def usual() -> int | None:
        with database.read() as session:
            return usage.usual_length(session, user_id=ALICE, model="m")

    for number, tokens in enumerate((500, 0, 700)):
        settle(database, NOON + number, 1, completion_tokens=tokens)
    settle(database, NOON + 3, 1, completion_tokens=900, status="error")
    assert usual() is None  # two that count
    settle(database, NOON + 4, 1, completion_tokens=600)
    assert usual() == 600
    for number in range(usage.LAST_ANSWERS):
        settle(database, NOON + 5 + number, 1, completion_tokens=7)
    assert usual() == 7
