"""A price is looked at before it is published, and slips are held up (T20, T21, T22, T25)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from chat_app.app import App
from chat_app.audit.tables import EventRow
from chat_app.clock import ManualClock
from chat_app.credits import ledger, pricing, rollups
from chat_app.credits.pricing import BadPrice, NotOffered, Tier
from chat_app.errors import Conflict
from chat_app.flows import message, prices, shelf
from chat_app.flows.prices import BadStart, Draft, PriceJump
from chat_app.llm.engine import UnknownModel
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, person, running_app

OTHER = "gemma-3-1b-it"


def by_message(credits: float, **more: Any) -> Draft:
    return Draft(MODEL, "per_message", per_message=round(credits * MICRO), **more)


async def publish(app: App, draft: Draft, key: str = "", **more: Any) -> pricing.Price:
    return await prices.publish(
        app, draft, admin_id=1, key=key or f"k{draft.per_message}{draft.valid_from}", **more
    )


def test_a_preview_prices_the_last_thirty_days_again(tmp_path: Path, database_url: str) -> None:
    """What was free stays free, other models are shown as they were, the most moved come first."""

    async def story() -> None:
        clock = ManualClock()
        async with running_app(tmp_path, url=database_url, clock=clock) as app:
            alice, bob = await person(app), await person(app, "bob")
            await answer(app, alice, await ask(app, alice))
            clock.advance(days=31)  # too old for what follows
            for who, count in ((alice, 3), (bob, 1)):
                for _ in range(count):
                    await answer(app, who, await ask(app, who))
            await answer(app, bob, await ask(app, bob, model=OTHER))
            seen = await asyncio.to_thread(prices.preview, app, by_message(2.5))
            assert [(item.model, vars(item.change)) for item in seen.models] == [
                (MODEL, {"messages": 4, "before": 4 * MICRO, "after": 10 * MICRO}),
                (OTHER, {"messages": 1, "before": 10 * MICRO, "after": 10 * MICRO}),
            ]
            assert vars(seen.total) == {
                "messages": 5,
                "before": 14 * MICRO,
                "after": 20 * MICRO,
            }
            assert [(item.username, item.change.after) for item in seen.users] == [
                ("alice", 7_500_000),
                ("bob", 2_500_000),
            ]
            assert seen.sentence == (
                "A message of 300 tokens in and 400 out will cost 2.5 credits, now 1."
            )
            assert (seen.factor, seen.needs_confirm) == (2.5, False)
            # Looking published nothing.
            with app.db.read() as session:
                assert len(pricing.versions(session, MODEL)) == 1

    asyncio.run(story())


def test_a_preview_counts_tiers_anew_and_failures_not(tmp_path: Path) -> None:
    async def story() -> None:
        clock = ManualClock()
        async with running_app(tmp_path, clock=clock) as app:
            alice = await person(app)
            clock.advance(days=9)
            for _ in range(5):
                await answer(app, alice, await ask(app, alice))
            draft = by_message(2, tiers=(Tier("messages", 3, per_message=MICRO),))
            seen = await asyncio.to_thread(prices.preview, app, draft)
            assert seen.total.after == (3 * 2 + 2 * 1) * MICRO
            draft = by_message(2, tiers=(Tier("credits", 8 * MICRO, per_message=0),))
            seen = await asyncio.to_thread(prices.preview, app, draft)
            assert seen.total.after == 4 * 2 * MICRO
            assert seen.needs_confirm  # a tier that is free

    asyncio.run(story())


@pytest.mark.parametrize(
    ("credits", "needs"),
    [(20, False), (20.000001, True), (0.05, False), (0.049999, True), (0, True)],
)
def test_a_price_far_off_needs_a_second_word(tmp_path: Path, credits: float, needs: bool) -> None:
    """T21: more than twenty times up or down is probably the wrong unit."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            if needs:
                with pytest.raises(PriceJump):
                    await publish(app, by_message(credits))
                with app.db.read() as session:
                    assert len(pricing.versions(session, MODEL)) == 1
            made = await publish(app, by_message(credits), confirm=needs)
            assert (made.version, made.per_message) == (2, round(credits * MICRO))
            again = await publish(app, by_message(credits), confirm=needs)
            assert again == made  # the same key publishes once

    asyncio.run(story())


def test_a_price_for_one_token_as_for_a_million_is_held_up(tmp_path: Path) -> None:
    """T21: the unit mix-up, in both directions and across kinds."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            right = Draft(
                MODEL, "per_token", input_per_million=1000 * MICRO, output_per_million=2000 * MICRO
            )
            await publish(app, right, "right")
            for slip in (
                Draft(MODEL, "per_token", input_per_million=1000, output_per_million=2000),
                Draft(
                    MODEL,
                    "per_token",
                    input_per_million=MICRO,
                    output_per_million=2000 * MICRO,
                ),
                by_message(1000),
            ):
                with pytest.raises(PriceJump):
                    await publish(app, slip, "slip")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"per_message": -1}, BadPrice),
        ({"per_message": float("nan")}, BadPrice),
        ({"per_message": None}, BadPrice),
        ({"model": "unknown"}, UnknownModel),
        ({"model": "gemma-3-270m"}, UnknownModel),
        ({"valid_from": 0}, BadStart),
        ({"valid_from": 2**62}, BadStart),
    ],
)
def test_impossible_prices_are_refused_in_both_steps(
    tmp_path: Path, wrong: dict[str, Any], error: type[Exception]
) -> None:
    """T20, T22: nothing negative, no NaN, nothing unknown; no price for what was sold before."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            values = {"model": MODEL, "kind": "per_message", "per_message": MICRO, **wrong}
            with pytest.raises(error):
                prices.preview(app, Draft(**values))
            with pytest.raises(error):
                await prices.publish(app, Draft(**values), admin_id=1, key="k", confirm=True)

    asyncio.run(story())


def test_a_price_of_tomorrow_waits_and_is_on_the_record(tmp_path: Path) -> None:
    async def story() -> None:
        clock = ManualClock()
        async with running_app(tmp_path, clock=clock) as app:
            alice = await person(app)
            tomorrow = app.clock.micros() + rollups.DAY
            draft = by_message(3, valid_from=tomorrow)
            results = await asyncio.gather(*(publish(app, draft, "same") for _ in range(8)))
            assert {made.version for made in results} == {2}
            with app.db.read() as session:
                rows = session.exec(select(EventRow).where(EventRow.type == "price_published"))
                (event,) = rows.all()
            assert f'"valid_from":{tomorrow}' in event.payload
            assert (await answer(app, alice, await ask(app, alice))).charged == MICRO
            clock.advance(days=1)
            assert (await answer(app, alice, await ask(app, alice))).charged == 3 * MICRO

    asyncio.run(story())


def test_the_quote_pins_version_and_tier(tmp_path: Path, database_url: str) -> None:
    """T25: what was promised stays, although the tier and the price change meanwhile."""

    async def story() -> None:
        async with running_app(tmp_path, url=database_url, script={"tokens_per_second": 20}) as app:
            alice = await person(app)
            tiers = (Tier("messages", 2, per_message=MICRO // 2), Tier("messages", 3, MICRO * 4))
            await publish(app, by_message(2, tiers=tiers))
            running = [await ask(app, alice) for _ in range(2)]
            assert [started.maximum for started in running] == [2 * MICRO] * 2
            assert [(await answer(app, alice, item)).charged for item in running] == [2 * MICRO] * 2
            quote = await message.quote(app, user_id=alice, text="hi", model=MODEL)
            third = await ask(app, alice)
            assert quote.maximum == third.maximum == MICRO // 2
            await publish(app, by_message(9))
            assert (await answer(app, alice, third)).charged == MICRO // 2
            assert (await ask(app, alice)).maximum == 9 * MICRO

    asyncio.run(story())


def test_a_hidden_model_takes_no_new_message(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens_per_second": 40}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            await prices.offer(app, admin_id=1, model=MODEL, offered=False)
            with pytest.raises(NotOffered):
                await ask(app, alice, "again")
            with pytest.raises(NotOffered):
                await message.quote(app, user_id=alice, text="hi", model=MODEL)
            assert (await answer(app, alice, started)).charged == MICRO
            with app.db.read() as session:
                assert MODEL not in [view.id for view in shelf.models(app, session=session)]
                assert ledger.balance(session, user_id=alice).held == 0
            await prices.offer(app, admin_id=1, model=MODEL, offered=True)
            await answer(app, alice, await ask(app, alice))

    asyncio.run(story())


def test_two_administrators_at_the_same_moment(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            results = await asyncio.gather(
                *(publish(app, by_message(2 + number), f"k{number}") for number in range(6)),
                return_exceptions=True,
            )
            made = [result for result in results if isinstance(result, pricing.Price)]
            assert all(isinstance(result, (pricing.Price, Conflict)) for result in results)
            assert sorted(price.version for price in made) == list(range(2, 2 + len(made)))

    asyncio.run(story())
