"""Buying and adjusting: once for each key, on the record, refused without a trace."""

import asyncio
from pathlib import Path

import pytest
from sqlmodel import func, select

from chat_app.audit.tables import EventRow
from chat_app.credits import ledger
from chat_app.credits.operations import IdempotencyConflict
from chat_app.errors import NotFound, OutOfCredits
from chat_app.flows import adjust, purchase
from chat_app.money import MICRO
from tests.apps import ask, person, running_app


def test_a_package_comes_with_its_bonus_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice, bob = await person(app), await person(app, "bob")
            orders = await asyncio.gather(
                *(purchase.buy(app, user_id=alice, package_code="standard", key="k") for _ in "123")
            )
            assert len({order.id for order in orders}) == 1
            order = orders[0]
            with pytest.raises(NotFound):
                await purchase.confirm(app, user_id=bob, payment_id=order.id)
            paid = await asyncio.gather(
                *(
                    purchase.confirm(app, user_id=alice, payment_id=order.id, key="c")
                    for _ in range(10)
                )
            )
            assert {payment.status for payment in paid} == {"paid"}
            granted = order.credits + order.bonus_credits
            assert order.bonus_credits > 0
            other = await purchase.buy(app, user_id=alice, micro=100 * MICRO, key="other")
            with pytest.raises(IdempotencyConflict):
                await purchase.confirm(app, user_id=alice, payment_id=other.id, key="c")
            with app.db.read() as session:
                assert ledger.balance(session, user_id=alice).total == 100 * MICRO + granted
                count = select(func.count()).select_from(EventRow)
                assert session.exec(count.where(EventRow.type == "payment_fulfilled")).one() == 1

    asyncio.run(story())


def test_an_adjustment_needs_a_reason_and_happens_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)

            async def change(micro: int, key: str, reason: str = "a good reason") -> int:
                after = await adjust.adjust(
                    app, admin_id=9, user_id=alice, micro=micro, reason=reason, key=key
                )
                return after.total // MICRO

            assert await change(5 * MICRO, "a") == 105
            assert await change(-20 * MICRO, "b") == 85
            assert await change(5 * MICRO, "a") == 105  # the stored answer
            with pytest.raises(IdempotencyConflict):
                await change(6 * MICRO, "a")
            with pytest.raises(adjust.ReasonMissing):
                await change(1, "c", " x ")
            with pytest.raises(adjust.NothingToAdjust):
                await change(0, "d")
            with pytest.raises(NotFound):
                await adjust.adjust(app, admin_id=9, user_id=404, micro=1, reason="nobody", key="e")
            with app.db.read() as session:
                assert ledger.balance(session, user_id=alice).total == 85 * MICRO

    asyncio.run(story())


def test_held_credits_cannot_be_adjusted_away(tmp_path: Path) -> None:
    """T4: nothing is clamped at zero; what is held stays held."""

    async def story() -> None:
        async with running_app(
            tmp_path, script={"first_token_ms": 3000}, accounts={"welcome_credits": 3}
        ) as app:
            alice = await person(app)
            await ask(app, alice)
            with pytest.raises(OutOfCredits) as refused:
                await adjust.adjust(
                    app, admin_id=9, user_id=alice, micro=-3 * MICRO, reason="too much", key="a"
                )
            assert refused.value.facts["available"] == "2"

    asyncio.run(story())
