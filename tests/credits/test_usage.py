"""A user's own usage: by UTC day and model, from settled rows alone."""

from datetime import UTC, date, datetime

from chat_app.clock import to_micros
from chat_app.credits import holds, ledger, usage
from chat_app.credits.holds import UsageFacts
from chat_app.db import Database
from chat_app.money import MICRO


def _settle(database: Database, *, user: int, key: str, at: int, model: str, cost: int) -> None:
    def story(session):  # type: ignore[no-untyped-def]
        hold = holds.place(
            session,
            user_id=user,
            micro=10 * MICRO,
            ttl_seconds=60,
            now=at,
            scope="test",
            key=key,
            reference=key,
        )
        facts = UsageFacts(
            reply_id=key,
            model=model,
            price_version=1,
            prompt_tokens=7,
            completion_tokens=5,
            cached_tokens=0,
            duration_ms=1,
            status="done",
        )
        holds.settle(session, hold_id=hold.id, micro=cost * MICRO, now=at, usage=facts)

    database.write(story)


def test_days_and_models_are_summed_and_others_left_out(database: Database) -> None:
    """A midnight between two answers makes two days; another user's answers are not there."""
    evening = to_micros(datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC))
    morning = to_micros(datetime(2026, 3, 2, tzinfo=UTC))
    for user in (1, 2):
        database.write(
            lambda session, user=user: ledger.grant(
                session,
                user_id=user,
                micro=100 * MICRO,
                source="welcome",
                now=evening - 1,
                scope="welcome",
                key=str(user),
                actor="system",
            )
        )
    _settle(database, user=1, key="rep_a", at=evening, model="small", cost=1)
    _settle(database, user=1, key="rep_b", at=morning, model="small", cost=2)
    _settle(database, user=1, key="rep_c", at=morning + 1, model="small", cost=3)
    _settle(database, user=1, key="rep_d", at=morning + 2, model="large", cost=4)
    _settle(database, user=2, key="rep_e", at=morning + 3, model="small", cost=5)
    with database.read() as session:
        rows = usage.own(session, user_id=1, since=evening, until=morning + 9)
        assert rows == [
            usage.UsageDay(date(2026, 3, 1), "small", 1, 7, 5, MICRO),
            usage.UsageDay(date(2026, 3, 2), "large", 1, 7, 5, 4 * MICRO),
            usage.UsageDay(date(2026, 3, 2), "small", 2, 14, 10, 5 * MICRO),
        ]
        # Lines are whole days, from the one that the time is in.
        assert usage.own(session, user_id=1, since=morning + 9, until=morning + 10) == rows[1:]
        assert usage.own(session, user_id=1, since=evening, until=morning) == rows[:1]
