"""Plans and top-ups paid through a provider: its page, kept cards, declines, lost answers."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chat_app.clock import ManualClock
from chat_app.credits import packages, plans, verify
from chat_app.credits.payments import attempts, orders
from chat_app.credits.payments.attempts import BeingCharged
from chat_app.credits.payments.orders import NotPayable, Payment
from chat_app.credits.plans import Plan, Subscription
from chat_app.flows import collect, payments, purchase, topup
from chat_app.flows import plans as flow
from chat_app.money import MICRO, Money
from tests.apps import person
from tests.fakes.stripe import server as standin
from tests.fakes.stripe.server import Fake
from tests.flows.test_payments import Shop, shop

BASIC = Plan("basic", "Basic", Money(1000, "USD"), 1000 * MICRO, keep_periods=None)
LARGE = Plan("large", "Large", Money(3000, "USD"), 4000 * MICRO, keep_periods=None)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with standin.running(hold=True) as running:
        yield running


def dated(path: Path, fake: Fake) -> AbstractAsyncContextManager[Shop]:
    """A shop with Stripe's stand-in, on a clock of its own."""
    return shop(path, fake, clock=ManualClock(datetime(2026, 3, 10, 12, tzinfo=UTC)))


def clock_of(at: Shop) -> ManualClock:
    assert isinstance(at.app.clock, ManualClock)
    return at.app.clock


def offer(at: Shop) -> None:
    for plan in (BASIC, LARGE):
        at.app.db.write(lambda session, plan=plan: plans.create(session, plan, now=1))


def held(at: Shop, user: int) -> Subscription:
    found = flow.current(at.app, user_id=user)
    assert found is not None
    return found


def waiting(at: Shop, user: int) -> Payment:
    found = flow.waiting(at.app, user_id=user)
    assert found is not None
    return found


async def subscribed(at: Shop, plan: str = "basic") -> int:
    """Somebody whose plan is paid on the provider's page; the card is kept."""
    user = await person(at.app)
    assert (
        await flow.choose(at.app, user_id=user, plan_code=plan, key="choose")
    ).status == "pending"
    order = await collect.checkout(at.app, user_id=user, payment_id=waiting(at, user).id)
    assert order.checkout_url is not None
    await at.pay(order)
    assert held(at, user).status == "active"
    return user


def later(at: Shop, days: float) -> None:
    """Time passes, and the jobs run."""
    clock_of(at).advance(days=days)
    flow.renew_due(at.app)
    collect.due(at.app)


def intents(fake: Fake) -> list[dict[str, Any]]:
    return [one for one in fake.account.things.values() if one["object"] == "payment_intent"]


def run(story: Callable[[], Any]) -> None:
    asyncio.run(story())


def proven(at: Shop) -> None:
    with at.app.db.read() as session:
        assert verify.run(session) == []


def test_a_plan_is_paid_on_the_page_and_renewed_from_the_kept_card(
    tmp_path: Path, fake: Fake
) -> None:
    """Nobody is charged twice, whoever comes how often; the card is shown and forgotten."""

    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            offer(at)
            user = await subscribed(at)
            assert at.balance(user) == (1100, 0)
            (card,) = await collect.cards(at.app, user_id=user)
            assert (card.brand, card.last4) == ("visa", "4242")

            later(at, 32)
            assert at.balance(user) == (2100, 0)
            assert (held(at, user).status, held(at, user).period.number) == ("active", 1)
            await at.announce(times=3)
            later(at, 0)
            assert (at.balance(user), at.refused()) == ((2100, 0), [])
            assert len(intents(fake)) == 2

            await collect.forget(at.app, user_id=user)
            assert await collect.cards(at.app, user_id=user) == []
            later(at, 31)
            assert (held(at, user).status, at.told("renewal_unpaid")) == ("past_due", 1)
            order = await collect.checkout(at.app, user_id=user, payment_id=waiting(at, user).id)
            await at.pay(order)
            assert (held(at, user).status, at.balance(user)) == ("active", (3100, 0))
            proven(at)

    run(story)


def test_a_declined_card_is_tried_again_and_then_the_plan_pauses(
    tmp_path: Path, fake: Fake
) -> None:
    """Each try is a payment of its own and a letter; a card that works again is charged once."""

    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            offer(at)
            user = await subscribed(at)
            card = fake.account.methods(next(iter(customers(fake))))[0]["id"]
            for does in ("declined", "authenticate"):
                fake.account.cards[card] = does
                later(at, 32 if does == "declined" else 1.01)
                assert held(at, user).status == "past_due"
            assert (at.told("renewal_unpaid"), at.balance(user)) == (2, (1100, 0))
            fake.account.cards.clear()
            later(at, 1.01)
            assert (held(at, user).status, at.balance(user)) == ("active", (2100, 0))

            fake.account.cards[card] = "declined"
            before = len(intents(fake))
            later(at, 31)
            for _ in range(6):
                later(at, 1.01)
            assert (held(at, user).status, at.told("plan_stopped")) == ("paused", 1)
            assert len(intents(fake)) - before == at.app.settings.credits.plan_retries + 1
            assert at.balance(user) == (2100, 0)
            await at.announce()
            assert at.refused() == []
            proven(at)

    run(story)


def customers(fake: Fake) -> list[str]:
    return [id for id, one in fake.account.things.items() if one["object"] == "customer"]


@pytest.mark.parametrize("page", [False, True])
def test_a_lost_answer_is_looked_up_before_anything_else(
    tmp_path: Path, fake: Fake, page: bool
) -> None:
    """T27: the card was charged and nobody heard; neither a later job nor the page charges anew."""

    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            offer(at)
            user = await subscribed(at)
            clock_of(at).advance(days=32)
            flow.renew_due(at.app)
            order = waiting(at, user)
            # The first request finds the card, the second charges it; then silence, also again.
            find, charge = fake._route, []

            def route(method: str, path: str, params: Any) -> Any:
                done = find(method, path, params)
                if (method, path) == ("POST", "/v1/payment_intents"):
                    charge.append(done)
                    raise ConnectionError
                return done

            fake._route = route  # type: ignore[method-assign]
            collect.due(at.app)
            fake._route = find  # type: ignore[method-assign]
            assert len(charge) >= 1
            assert waiting(at, user).id == order.id
            with pytest.raises(BeingCharged):
                await collect.checkout(at.app, user_id=user, payment_id=order.id)
            clock_of(at).advance(seconds=attempts.BUSY / MICRO + 1)
            if page:
                with pytest.raises(NotPayable):
                    await collect.checkout(at.app, user_id=user, payment_id=order.id)
            else:
                collect.due(at.app)
            assert at.balance(user) == (2100, 0)
            await at.announce()
            assert (at.balance(user), held(at, user).status) == ((2100, 0), "active")
            proven(at)

    run(story)


def test_a_dearer_plan_begins_when_it_is_paid(tmp_path: Path, fake: Fake) -> None:
    """The old plan stays until then, and whoever never pays keeps it and its renewals."""

    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            offer(at)
            user = await subscribed(at)
            card = fake.account.methods(customers(fake)[0])[0]["id"]
            fake.account.cards[card] = "declined"
            after = await flow.choose(at.app, user_id=user, plan_code="large", key="dearer")
            assert (after.period.plan_code, after.status) == ("basic", "active")
            again = await flow.choose(at.app, user_id=user, plan_code="large", key="dearer 2")
            assert again.period.number == 0
            opened = await collect.checkout(at.app, user_id=user, payment_id=waiting(at, user).id)
            fake.account.cards.clear()
            later(at, 32)
            now = held(at, user)
            assert (now.period.plan_code, now.period.number) == ("basic", 1)
            assert at.balance(user) == (2100, 0)
            # The page of what was given up is closed, so nobody pays for nothing.
            assert collect.retire(at.app) == 1
            assert fake.account.get(opened.provider_ref, "checkout.session")["status"] == "expired"
            await at.announce()

            changed = await flow.choose(at.app, user_id=user, plan_code="large", key="dearer 3")
            assert (changed.period.plan_code, changed.period.number) == ("large", 2)
            assert at.balance(user) == (6100, 0)
            await at.announce()
            assert at.refused() == []
            proven(at)

    run(story)


def test_what_was_given_up_and_paid_after_all_is_shown_to_operators(
    tmp_path: Path, fake: Fake
) -> None:
    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            offer(at)
            user = await person(at.app)
            await flow.choose(at.app, user_id=user, plan_code="basic", key="a")
            order = await collect.checkout(at.app, user_id=user, payment_id=waiting(at, user).id)
            await flow.cancel(at.app, user_id=user, key="b")
            fake.account.pay(order.provider_ref)
            assert collect.retire(at.app) == 1
            assert (at.refused(), at.balance(user)) == (["not_payable"], (100, 0))
            assert collect.retire(at.app) == 0

    run(story)


def test_a_payment_that_takes_days_is_waited_for(tmp_path: Path, fake: Fake) -> None:
    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            offer(at)
            user = await subscribed(at)
            card = fake.account.methods(customers(fake)[0])[0]["id"]
            fake.account.cards[card] = "later"
            later(at, 32)
            order = waiting(at, user)
            assert order.provider_ref.startswith("pi_")
            with pytest.raises(BeingCharged):
                await collect.checkout(at.app, user_id=user, payment_id=order.id)
            later(at, 1.01)
            assert len(intents(fake)) == 2
            fake.account._charge(fake.account.get(order.provider_ref, "payment_intent"))
            payments.poll(at.app)
            assert (held(at, user).status, at.balance(user)) == ("active", (2100, 0))

    run(story)


def test_a_top_up_is_charged_at_once_and_rests_after_a_decline(tmp_path: Path, fake: Fake) -> None:
    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            user = await person(at.app)

            async def rule() -> None:
                await topup.set_rule(
                    at.app, user_id=user, threshold=2000 * MICRO, package_code="starter", per_day=5
                )

            with pytest.raises(topup.NoCard):
                await rule()
            order = await purchase.buy(
                at.app, user_id=user, package_code="starter", key="k", keep=True
            )
            await at.pay(order)
            before = at.balance(user)[0]
            await rule()
            with at.app.db.read() as session:
                gives = packages.get(session, "starter")
            more = (gives.credits + gives.bonus_credits) // MICRO
            assert at.balance(user) == (before + more, 0)

            card = fake.account.methods(customers(fake)[0])[0]["id"]
            fake.account.cards[card] = "declined"
            clock_of(at).advance(hours=1)
            await topup.look(at.app, user_id=user)
            assert at.balance(user) == (before + more, 0)
            assert at.told("topup_unpaid") == 1
            with at.app.db.read() as session:
                open_ = orders.search(session, status="pending", user_id=user)[0]
            assert open_ == []
            clock_of(at).advance(minutes=1)
            assert topup.run_low(at.app) == 0
            proven(at)

    run(story)


def test_a_card_is_forgotten_though_the_provider_was_away(tmp_path: Path, fake: Fake) -> None:
    """Nothing is charged from that moment, and the card leaves as soon as somebody answers."""

    async def story() -> None:
        async with dated(tmp_path, fake) as at:
            offer(at)
            user = await subscribed(at)
            (customer,) = customers(fake)
            fake.failing = 10
            await collect.forget(at.app, user_id=user)
            assert await collect.cards(at.app, user_id=user) == []
            fake.failing = 0
            assert len(fake.account.methods(customer)) == 1
            assert collect.forget_gone(at.app) == 1
            assert (fake.account.methods(customer), collect.forget_gone(at.app)) == ([], 0)
            later(at, 32)
            assert (held(at, user).status, at.balance(user)) == ("past_due", (1100, 0))

    run(story)
