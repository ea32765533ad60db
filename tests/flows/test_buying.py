"""Plans, codes, gifts and top-ups through the App: on the record, once, for whom they are meant."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import Session, func, select

from chat_app.app import App
from chat_app.audit.tables import EventRow
from chat_app.clock import ManualClock, to_micros
from chat_app.credits import grants, ledger, lots, plans
from chat_app.credits.plans import Plan
from chat_app.errors import AppError
from chat_app.flows import free, people, topup
from chat_app.flows import plans as plan_flow
from chat_app.flows.doors import TooManyCodes
from chat_app.money import MICRO, Money
from chat_app.notify import outbox
from chat_app.settings import zone
from tests.apps import answer, ask, person, running_app


def total(app: App, user_id: int) -> float:
    with app.db.read() as session:
        return ledger.balance(session, user_id=user_id).total / MICRO


def events(app: App, type: str) -> int:
    with app.db.read() as session:
        query = select(func.count()).select_from(EventRow).where(EventRow.type == type)
        return session.exec(query).one()


def test_a_plan_renews_by_itself_and_rests_with_its_owner(
    tmp_path: Path, database_url: str
) -> None:
    async def story() -> None:
        clock = ManualClock(datetime(2026, 1, 31, tzinfo=UTC))
        async with running_app(tmp_path, url=database_url, clock=clock) as app:
            alice, bob = await person(app), await person(app, "bob")
            offer = Plan("basic", "Basic", Money(900), 1000 * MICRO)
            app.db.write(lambda s: plans.create(s, offer, now=clock.micros()))
            for _ in range(2):
                held = await plan_flow.choose(app, user_id=alice, plan_code="basic", key="k")
                await plan_flow.choose(app, user_id=bob, plan_code="basic", key="k")
            assert held.status == "active"
            assert total(app, alice) == 1100
            assert plan_flow.renew_due(app) == 0
            await people.change(app, admin_id=await boss(app), user_id=bob, suspended=True)
            clock.moment = datetime(2026, 2, 28, tzinfo=UTC)
            assert plan_flow.renew_due(app) == 1
            assert plan_flow.renew_due(app) == 0
            with app.db.read() as session:
                coming = free.next_grant(
                    app, session, user=await found(app, alice), now=clock.micros()
                )
            assert coming is not None
            assert (coming.kind, coming.at) == (
                "plan", to_micros(datetime(2026, 3, 31, tzinfo=UTC))
            )  # fmt: skip
            held = await plan_flow.cancel(app, user_id=alice, key="c")
            assert held.cancel_at_end
            assert (events(app, "plan_chosen"), events(app, "plan_renewed")) == (2, 1)
            assert told(app) == 3  # each payment once

    asyncio.run(story())


def told(app: App) -> int:
    """How many mails about payments there are."""
    with app.db.read() as session:
        rows = outbox.page(session, limit=50)[0]
    return sum((row.kind, row.channel) == ("payment_paid", "mail") for row in rows)


async def boss(app: App) -> int:
    from chat_app.accounts import users

    id = await person(app, "boss")
    app.db.write(lambda session: users.set_role(session, user_id=id, role="admin"))
    return id


async def found(app: App, user_id: int):  # type: ignore[no-untyped-def]
    from chat_app.accounts import users

    with app.db.read() as session:
        return users.get(session, user_id)


def test_guessing_codes_ends_soon(tmp_path: Path) -> None:
    """T30, T34: for each user and each address; a right code is not counted."""

    async def story() -> None:
        limits = {"code_failures_per_15_minutes": 3}
        async with running_app(tmp_path, limits=limits) as app:
            crowd = [await person(app, f"user{number}") for number in range(7)]
            good = (
                await free.make_codes(app, actor="t", micro=MICRO, uses=99, per_user=9, key="k")
            )[0].text
            assert good is not None

            async def attempt(user: int, text: str, ip: str) -> str:
                try:
                    await free.redeem(app, user_id=user, text=text, ip=ip, key=f"{len(seen)}")
                    seen.append("ok")
                except AppError as error:
                    seen.append(error.code)
                return seen[-1]

            seen: list[str] = []
            for _ in range(5):
                assert await attempt(crowd[0], good, "a") == "ok"
            got = [await attempt(crowd[0], f"guess {number}", "a") for number in range(4)]
            assert got == ["unknown_code"] * 3 + [TooManyCodes.code]
            assert await attempt(crowd[0], good, "b") == TooManyCodes.code
            for user in crowd[1:5]:
                for _ in range(3):
                    assert await attempt(user, "guess", "a") == "unknown_code"
            assert await attempt(crowd[5], good, "a") == TooManyCodes.code  # 15 from this address
            assert await attempt(crowd[5], good, "b") == "ok"

    asyncio.run(story())


def test_the_same_key_redeems_once(tmp_path: Path, database_url: str) -> None:
    async def story() -> None:
        async with running_app(tmp_path, url=database_url) as app:
            alice = await person(app)
            made = await free.make_codes(app, actor="t", micro=MICRO, uses=9, per_user=9, key="k")
            text = str(made[0].text)
            given = await asyncio.gather(
                *(free.redeem(app, user_id=alice, text=text, ip="a", key="r") for _ in range(5))
            )
            assert sorted(one.replayed for one in given) == [False] + [True] * 4
            assert total(app, alice) == 101
            assert events(app, "code_redeemed") == 1

    asyncio.run(story())


def test_a_new_account_gets_nothing_free(tmp_path: Path) -> None:
    """T34: codes and gifts wait until the account is what the settings ask."""

    async def story() -> None:
        rules = {"free_after_hours": 24, "periodic_credits": 20}
        clock = ManualClock()
        async with running_app(tmp_path, clock=clock, credits=rules) as app:
            alice = await person(app)
            text = str((await free.make_codes(app, actor="t", micro=MICRO, key="k"))[0].text)
            clock.advance(hours=24, microseconds=-1)
            with pytest.raises(free.AccountTooNew) as refused:
                await free.redeem(app, user_id=alice, text=text, ip="a", key="1")
            assert refused.value.facts == {"retry_after_seconds": 1}
            assert free.give_periodic(app) == 0
            clock.advance(microseconds=1)
            await free.redeem(app, user_id=alice, text=text, ip="a", key="2")
            assert free.give_periodic(app) == 1
            assert total(app, alice) == 121

    asyncio.run(story())


def test_gifts_come_once_in_each_period_and_end_with_it(tmp_path: Path, database_url: str) -> None:
    """T32: two processes at once, a job that runs often, a clock that goes back."""

    async def story() -> None:
        rules = {"periodic_credits": 20, "periodic_every": "week"}
        clock = ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
        async with running_app(
            tmp_path, url=database_url, clock=clock, credits=rules, accounts={"welcome_credits": 0}
        ) as app:
            crowd = [await person(app, f"user{number}") for number in range(3)]
            counts = await asyncio.gather(
                *(asyncio.to_thread(free.give_periodic, app) for _ in range(4))
            )
            assert sum(counts) == 3
            clock.moment = datetime(2026, 1, 5, tzinfo=UTC)  # Monday, midnight
            app.db.write(lambda s: lots.expire_due(s, now=clock.micros()))
            assert [total(app, user) for user in crowd] == [0, 0, 0]
            assert free.give_periodic(app) == 3
            clock.advance(days=-2)
            assert free.give_periodic(app) == 0
            assert [total(app, user) for user in crowd] == [20, 20, 20]

    asyncio.run(story())


def test_gifts_are_for_whom_they_are_meant(tmp_path: Path) -> None:
    async def story() -> None:
        rules = {"periodic_credits": 5, "periodic_for": "plan:basic"}
        async with running_app(tmp_path, credits=rules) as app:
            alice = await person(app)
            await person(app, "bob")
            offer = Plan("basic", "Basic", Money(900), MICRO)
            app.db.write(lambda s: plans.create(s, offer, now=app.clock.micros()))
            assert free.give_periodic(app) == 0
            await plan_flow.choose(app, user_id=alice, plan_code="basic", key="k")
            assert free.give_periodic(app) == 1
            assert total(app, alice) == 106

    asyncio.run(story())


@pytest.mark.parametrize(
    ("moment", "every", "name", "end"),
    [
        ("2026-01-01T00:00", "week", "2026-W01", "2026-01-05T00:00"),
        ("2027-01-03T23:59", "week", "2026-W53", "2027-01-04T00:00"),
        ("2026-03-29T12:00", "week", "2026-W13", "2026-03-30T00:00"),
        ("2028-02-29T12:00", "month", "2028-02", "2028-03-01T00:00"),
        ("2026-12-31T23:59", "month", "2026-12", "2027-01-01T00:00"),
    ],
)
def test_weeks_and_months_of_the_seller(moment: str, every: str, name: str, end: str) -> None:
    """In Berlin, where one Sunday in March has 23 hours."""
    berlin = zone("Europe/Berlin")
    now = datetime.fromisoformat(moment).replace(tzinfo=berlin)
    found = grants.window(to_micros(now), every, berlin)
    assert found.name == name
    assert found.ends_at == to_micros(datetime.fromisoformat(end).replace(tzinfo=berlin))


def test_an_answer_that_leaves_little_tops_up(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            await topup.set_rule(
                app, user_id=alice, threshold=100 * MICRO, package_code="starter", per_day=1
            )
            assert total(app, alice) == 100  # not below it yet
            await answer(app, alice, await ask(app, alice))
            for _ in range(100):
                if total(app, alice) > 100:
                    break
                await asyncio.sleep(0.02)
            assert total(app, alice) == 599
            assert topup.run_low(app) == 0
            assert events(app, "auto_topup_ordered") == 1
            assert told(app) == 1
            await topup.stop(app, user_id=alice)

    asyncio.run(story())


def test_the_job_finds_what_was_missed(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, accounts={"welcome_credits": 0}) as app:
            alice = await person(app)

            def quietly(session: Session) -> None:
                from chat_app.credits import topups

                topups.put(
                    session, user_id=alice, threshold=MICRO, package_code="starter", per_day=1,
                    now=app.clock.micros(),
                )  # fmt: skip

            app.db.write(quietly)
            assert topup.run_low(app) == 1
            assert topup.run_low(app) == 0
            assert total(app, alice) == 500

    asyncio.run(story())
