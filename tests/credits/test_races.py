"""Many at once, on both databases: nothing spent twice, nothing lost, nobody starved."""

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import text

from chat_app.credits import holds, ledger, operations, verify
from chat_app.db import Database
from chat_app.errors import AppError, OutOfCredits
from tests.credits.books import ALICE, NOON, balance, credits, facts, grant, place


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """Run `work(0…count-1)`, each in a thread, all from one start; results or AppErrors."""
    results: list[object] = [None] * count
    ready = threading.Barrier(count)

    def run(number: int) -> None:
        ready.wait()
        try:
            results[number] = work(number)
        except AppError as error:
            results[number] = error

    crowd = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return results


def assert_sound(database: Database) -> None:
    with database.read() as session:
        assert verify.run(session) == []


def test_64_holds_on_credits_for_ten(database: Database) -> None:
    """T1: exactly as many are admitted as are funded; available never goes below zero."""
    database.write(lambda session: grant(session, 10))
    results = at_once(64, lambda _: database.write(lambda session: place(session, 1)))
    assert sum(isinstance(result, holds.HoldView) for result in results) == 10
    assert sum(isinstance(result, OutOfCredits) for result in results) == 54
    assert balance(database) == (10, 10, 0)
    assert_sound(database)


def test_64_charges_on_credits_for_ten(database: Database) -> None:
    """T1 with adjustments: the other way that credits leave."""
    database.write(lambda session: grant(session, 10))
    results = at_once(
        64,
        lambda number: database.write(
            lambda session: ledger.adjust(
                session,
                user_id=ALICE,
                micro=credits(-1),
                reason="race",
                actor="test",
                now=NOON,
                scope="race",
                key=str(number),
            )
        ),
    )
    assert sum(isinstance(result, ledger.Outcome) for result in results) == 10
    assert balance(database) == (0, 0, 0)
    assert_sound(database)


def test_stop_disconnect_and_finally_settle_once(database: Database) -> None:
    """T11: settle and release race; one of them ends the hold, and it ends once."""
    database.write(lambda session: grant(session, 100))
    ended: Counter[str] = Counter()
    for round_ in range(12):
        hold = database.write(lambda session: place(session, 5))

        def end(number: int, name: int = hold.id, key: str = f"r{round_}") -> object:
            if number % 3 == 2:
                return database.write(
                    lambda session: holds.release(session, hold_id=name, now=NOON + 1)
                )
            return database.write(
                lambda session: holds.settle(
                    session, hold_id=name, micro=credits(2), now=NOON + 1, usage=facts(key)
                )
            )

        results = at_once(6, end)
        first = [r for r in results if isinstance(r, holds.Settlement) and not r.replayed]
        released = results.count(True)
        assert len(first) + released == 1
        ended["settled" if first else "released"] += 1
        if released:
            assert sum(isinstance(result, holds.HoldEnded) for result in results) == 4
    assert balance(database)[:2] == (100 - 2 * ended["settled"], 0)
    assert_sound(database)


def test_fifty_settlements_and_reports_at_once(database: Database) -> None:
    """T33: none is lost, and reading never stands in the way."""
    database.write(lambda session: grant(session, 100))
    placed = [database.write(lambda session: place(session, 1)) for _ in range(50)]

    def settle_or_report(number: int) -> object:
        if number < 50:
            return database.write(
                lambda session: holds.settle(
                    session,
                    hold_id=placed[number].id,
                    micro=credits(1),
                    now=NOON + 1,
                    usage=facts(f"r{number}"),
                )
            )
        with database.read() as session:
            found = session.execute(text("SELECT COUNT(*), COALESCE(SUM(cost), 0) FROM usage"))
            count, cost = found.one()
        assert cost == count * credits(1)
        return None

    at_once(60, settle_or_report)
    assert balance(database) == (50, 0, 50)
    assert_sound(database)


def test_a_retry_storm_has_one_outcome_for_each_key(database: Database) -> None:
    """T12: twelve clients send the same fifteen keys; each happens once."""

    def storm(_: int) -> list[int]:
        return [
            database.write(lambda session, key=str(n): grant(session, 1, key=key)).transfer_id
            for n in range(15)
        ]

    results = at_once(12, storm)
    assert all(result == results[0] for result in results)
    assert balance(database) == (15, 0, 15)
    assert_sound(database)


def test_320_grants_from_32_threads_all_count(database: Database) -> None:
    """An ORM that reads, adds and writes back loses most of these without an error."""

    def give(number: int) -> None:
        for _ in range(10):
            database.write(lambda session: grant(session, 1, user=1 + number % 2))

    at_once(32, give)
    assert balance(database, 1) == balance(database, 2) == (160, 0, 160)
    assert_sound(database)


def test_the_first_credit_of_a_user_opens_one_wallet(database: Database) -> None:
    at_once(16, lambda _: database.write(lambda session: grant(session, 1)))
    with database.read() as session:
        wallets = session.execute(text("SELECT COUNT(*) FROM account WHERE kind = 'wallet'"))
        assert wallets.scalar_one() == 1
    assert balance(database) == (16, 0, 16)


@pytest.mark.parametrize("same", [True, False])
def test_once_runs_once_in_a_race(database: Database, same: bool) -> None:
    """I9: whoever comes later gets the stored outcome, or a conflict for another request."""
    runs: list[int] = []

    def work(number: int) -> object:
        return database.write(
            lambda session: operations.once(
                session,
                scope="s",
                key="k",
                request={"n": 0 if same else number},
                now=NOON,
                actor="test",
                run=lambda: runs.append(number) or {"number": number},
            )
        )

    results = at_once(12, work)
    won = [result for result in results if isinstance(result, tuple)]
    if same:
        assert len({result[0]["number"] for result in won}) == 1
        assert sorted(result[1] for result in won) == [False] + [True] * 11
    else:
        assert len(won) == 1
        assert sum(isinstance(r, operations.IdempotencyConflict) for r in results) == 11
    assert len(runs) == 1
