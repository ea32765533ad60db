"""Payments from the order to the refund, over both providers and against a stand-in for Stripe."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chat_app import settings as settings_room
from chat_app.accounts import users
from chat_app.app import App, build
from chat_app.credits import debts, ledger, verify
from chat_app.credits.holds import DebtUnpaid
from chat_app.credits.invoices import register
from chat_app.credits.payments import events, orders, provider, returns
from chat_app.credits.payments.orders import Payment
from chat_app.credits.refunds import BadRefund, NothingToRefund
from chat_app.flows import forgive, payments, purchase, reconcile, refund
from chat_app.money import MICRO
from chat_app.notify import outbox
from tests.apps import answer, ask, person, running_app, script_settings
from tests.fakes.stripe import server as standin
from tests.fakes.stripe.server import Fake

ADMIN = 99


@dataclass
class Shop:
    """An app with a provider, and a way to pay there."""

    app: App
    fake: Fake | None

    async def order(self, user: int, package: str = "starter", key: str = "k") -> Payment:
        return await purchase.buy(
            self.app, user_id=user, package_code=package, key=key, base="http://shop.test/"
        )

    async def pay(self, order: Payment) -> None:
        """Pay, and hear of it."""
        if self.fake is None:
            await purchase.confirm(self.app, user_id=order.user_id, payment_id=order.id)
            return
        self.fake.account.pay(order.provider_ref)
        await self.announce()

    async def bought(self, user: int, package: str = "starter", key: str = "k") -> Payment:
        order = await self.order(user, package, key)
        await self.pay(order)
        with self.app.db.read() as session:
            return orders.find(session, order.id)

    async def announce(self, *, times: int = 1, only: str = "", **how: Any) -> None:
        """Deliver what the stand-in has to say."""
        assert self.fake is not None
        waiting, self.fake.outbox = self.fake.outbox, []
        for event in waiting:
            if event["type"].startswith(only):
                await asyncio.gather(*(self.tell(event, **how) for _ in range(times)))

    async def tell(self, event: dict[str, Any], *, age: int = 0, secret: str = "") -> None:
        import time

        import stripe

        body = json.dumps(event)
        signature = stripe.WebhookSignature.generate_signature_header(
            body, secret or standin.WEBHOOK_SECRET, int(time.time()) - age
        )
        await payments.receive(self.app, provider="stripe", body=body.encode(), signature=signature)

    def balance(self, user: int) -> tuple[int, int]:
        """Available and owed, in credits."""
        with self.app.db.read() as session:
            found = ledger.balance(session, user_id=user)
        return found.available // MICRO, found.debt // MICRO

    def told(self, kind: str) -> int:
        """How many mails of a kind there are."""
        with self.app.db.read() as session:
            rows = outbox.page(session, limit=50)[0]
        return sum((row.kind, row.channel) == (kind, "mail") for row in rows)

    def credited(self, order: Payment) -> int:
        """What credit notes took off the order's invoice; the books are proven on the way."""
        with self.app.db.read() as session:
            assert verify.run(session) == []
            invoice = register.of_payment(session, payment_id=order.id)
        assert invoice is not None
        return invoice.credited_minor

    def refused(self) -> list[str]:
        """Why events were refused."""
        with self.app.db.read() as session:
            return [str(event.reason) for event in events.search(session, state="refused")]


@pytest.fixture
def fake() -> Iterator[Fake]:
    with standin.running(hold=True) as running:
        yield running


def stripe_settings(fake: Fake) -> dict[str, str]:
    return {
        "provider": "stripe",
        "stripe_api_key": standin.API_KEY,
        "stripe_webhook_secret": standin.WEBHOOK_SECRET,
        "stripe_api_base": fake.url,
    }


@asynccontextmanager
async def shop(path: Path, fake: Fake | None, url: str = "", **over: Any) -> AsyncIterator[Shop]:
    more = {"payments": stripe_settings(fake)} if fake else {}
    async with running_app(path, url=url, **more, **over) as app:
        yield Shop(app, fake)


def run(story: Callable[[], Any]) -> None:
    asyncio.run(story())


# One battery for every provider.


@pytest.mark.parametrize("kind", ["offline", "stripe"])
def test_the_contract_of_a_provider(tmp_path: Path, kind: str, fake: Fake) -> None:
    """Order, pay, hear of it ten times, look, refund in parts: the same for each provider."""

    async def story() -> None:
        async with shop(tmp_path, fake if kind == "stripe" else None) as at:
            alice = await person(at.app)
            order = await at.order(alice, "standard")
            assert (order.provider, order.status) == (kind, "pending")
            assert (order.checkout_url is not None) == at.app.payments.hosted
            assert (await at.order(alice, "standard")).id == order.id
            standing = at.app.payments.look(order)
            assert (standing.state, standing.order_id) == ("open", order.id)
            assert at.balance(alice) == (100, 0)

            await at.pay(order)
            with at.app.db.read() as session:
                order = orders.find(session, order.id)
            standing = at.app.payments.look(order)
            assert standing.state == "paid"
            assert (standing.amount_minor, standing.currency) == (2000, "USD")
            for _ in range(10):
                at.app.db.write(lambda session: orders.accept(session, standing, now=1))
            assert at.balance(alice) == (2300, 0)

            half = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=1000, reason="half", key="a"
            )
            again = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=1000, reason="half", key="a"
            )
            assert again.id == half.id
            assert (half.state, half.amount_minor, half.credits) == (
                "succeeded", 1000, 1100 * MICRO,
            )  # fmt: skip
            with pytest.raises(BadRefund) as too_much:
                await refund.refund(
                    at.app, admin_id=ADMIN, payment_id=order.id, minor=1001, reason="more", key="b"
                )
            assert too_much.value.facts == {"refundable": 1000}
            rest = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=None, reason="rest", key="c"
            )
            assert (rest.amount_minor, rest.credits) == (1000, 1100 * MICRO)
            with pytest.raises(NothingToRefund):
                await refund.refund(
                    at.app, admin_id=ADMIN, payment_id=order.id, minor=None, reason="none", key="d"
                )
            assert at.balance(alice) == (100, 0)

    run(story)


def test_an_order_of_another_provider_is_nobodys(tmp_path: Path, fake: Fake) -> None:
    """T27: neither provider completes the other's order, whatever it says."""

    async def story() -> None:
        async with shop(tmp_path, None) as at:
            alice = await person(at.app)
            offline = await at.order(alice)
        async with shop(tmp_path, fake) as at:
            event = fake.account.open_session(
                {
                    "mode": "payment",
                    "success_url": "http://x.test",
                    "client_reference_id": offline.id,
                    "metadata": {"user_id": str(alice)},
                    "line_items": [{"price_data": {"currency": "usd", "unit_amount": "500"}}],
                }
            )
            fake.account.pay(event["id"])
            await at.announce()
            assert at.refused() == ["provider"]
            ours = await at.order(alice, key="other")
            with pytest.raises(orders.UnknownPayment):
                await purchase.confirm(at.app, user_id=alice, payment_id=ours.id)
            assert at.balance(alice) == (100, 0)

    run(story)


# What is announced, and how.


def test_ten_parallel_announcements_grant_once(
    tmp_path: Path, fake: Fake, database_url: str
) -> None:
    """T28: one grant, in the transaction of the status; every delivery is answered."""

    async def story() -> None:
        async with shop(tmp_path, fake, database_url) as at:
            alice = await person(at.app)
            order = await at.order(alice)
            fake.account.pay(order.provider_ref)
            landing = [payments.settle(at.app, payment_id=order.id) for _ in range(3)]
            await asyncio.gather(at.announce(times=10), *landing)
            assert at.balance(alice) == (600, 0)
            with at.app.db.read() as session:
                rows = events.search(session)
                paid = session.execute(
                    text("SELECT COUNT(*) FROM event_log WHERE type = 'payment_fulfilled'")
                )
                assert paid.scalar_one() == 1
            assert at.told("payment_paid") == 1
            completed = [row for row in rows if row.type == "checkout.session.completed"]
            assert [(row.state, row.payment_id) for row in completed] == [("done", order.id)]

    run(story)


@pytest.mark.parametrize(
    ("how", "ok"),
    [
        ({"secret": "whsec_other"}, False),
        ({"age": 301}, False),
        ({"age": 200}, True),
    ],
)
def test_forged_and_stale_events_leave_no_row(
    tmp_path: Path, fake: Fake, how: dict[str, Any], ok: bool
) -> None:
    """T26: what is not signed with our secret, or too long ago, is refused without a trace."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.order(alice)
            fake.account.pay(order.provider_ref)
            if ok:
                await at.announce(**how)
            else:
                with pytest.raises(provider.BadSignature):
                    await at.announce(**how)
            with at.app.db.read() as session:
                assert bool(events.search(session)) is ok
            assert at.balance(alice) == (600 if ok else 100, 0)

    run(story)


@pytest.mark.parametrize("signature", ["", "t=1", "t=x,v1=y", "v1=abc", "t=99999999999,v1="])
@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"type":"a"}'])
def test_broken_events_are_refused(tmp_path: Path, fake: Fake, signature: str, body: bytes) -> None:
    made = build(script_settings(tmp_path, payments=stripe_settings(fake)))
    with pytest.raises(provider.BadSignature):
        made.payments.parse(body, signature)
    made.db.close()


@pytest.mark.parametrize("value", ["amount", "currency", "user", "checkout"])
def test_a_payment_that_does_not_fit_is_refused_and_shown(
    tmp_path: Path, fake: Fake, value: str
) -> None:
    """T27: amount, currency, user and checkout must be the order's; operators see why."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.order(alice)
            session = fake.account.things[order.provider_ref]
            if value == "amount":
                session["amount_total"] -= 1
            elif value == "currency":
                session["currency"] = "eur"
            elif value == "user":
                session["metadata"] = {"user_id": "12345"}
            fake.account.pay(order.provider_ref)
            if value == "checkout":
                event = fake.outbox[-1]
                event["data"]["object"]["id"] = "cs_test_other"
            await at.announce()
            assert at.refused() == [value]
            if value != "checkout":
                await payments.settle(at.app, payment_id=order.id)
                assert at.refused() == [value, value]  # the look at the provider is kept too
            assert at.balance(alice) == (100, 0)

    run(story)


def test_slow_payments_come_when_they_come(tmp_path: Path, fake: Fake) -> None:
    """Completed without money grants nothing; the money does, or its absence ends the order."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            good, bad = await at.order(alice, key="a"), await at.order(alice, key="b")
            for order in (good, bad):
                fake.account.pay(order.provider_ref, later=True)
            await at.announce()
            assert at.balance(alice) == (100, 0)
            fake.account.arrive(good.provider_ref)
            fake.account.arrive(bad.provider_ref, success=False)
            fake.outbox.reverse()  # events come in any order
            await at.announce()
            assert at.balance(alice) == (600, 0)
            with at.app.db.read() as session:
                states = [orders.find(session, order.id).status for order in (good, bad)]
            assert states == ["paid", "failed"]

    run(story)


def test_a_late_expiry_does_not_undo_a_payment(tmp_path: Path, fake: Fake) -> None:
    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.bought(alice)
            fake.account.emit(
                "checkout.session.expired",
                {
                    **fake.account.things[order.provider_ref],
                    "status": "expired",
                    "payment_status": "unpaid",
                },
            )
            await at.announce()
            assert at.balance(alice) == (600, 0)
            with at.app.db.read() as session:
                assert orders.find(session, order.id).status == "paid"

    run(story)


def test_lost_events_are_found_by_asking(tmp_path: Path, fake: Fake) -> None:
    """No webhook arrives at all: the schedule asks about open orders."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            paid, left = await at.order(alice, key="a"), await at.order(alice, key="b")
            fake.account.pay(paid.provider_ref)
            fake.account.expire(left.provider_ref)
            assert await asyncio.to_thread(payments.poll, at.app) == 2
            assert await asyncio.to_thread(payments.poll, at.app) == 0
            assert at.balance(alice) == (600, 0)

    run(story)


def test_a_provider_that_fails_leaves_an_order_to_go_on_with(tmp_path: Path, fake: Fake) -> None:
    """No network call is part of a transaction: the order stays, the same key goes on, once."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            fake.losing = 2  # the library tries twice by itself
            with pytest.raises(provider.ProviderUnreachable):
                await at.order(alice)
            order = await at.order(alice)
            assert order.checkout_url
            sessions = [t for t in fake.account.things.values() if "checkout" in t["object"]]
            assert [session["id"] for session in sessions] == [order.provider_ref]

    run(story)


# Money that goes back.


def test_only_what_is_unused_is_refunded_to_the_cent(tmp_path: Path, fake: Fake) -> None:
    """T29: 500 credits for 5.00, seven used: 493 are worth 4.93, and parts never drift."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            await use_up(at, alice, 100)
            order = await at.bought(alice)
            await use_up(at, alice, 7)
            first = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=333, reason="part", key="a"
            )
            rest = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=None, reason="rest", key="b"
            )
            assert (first.amount_minor, rest.amount_minor) == (333, 160)
            assert first.credits + rest.credits == 493 * MICRO
            await at.announce()
            story = refund.story(at.app, payment_id=order.id)
            assert [row.state for row in story.refunds] == ["succeeded", "succeeded"]
            there = [t for t in fake.account.things.values() if t["object"] == "charge"]
            assert there[0]["amount_refunded"] == 493
            assert (at.told("payment_refunded"), at.credited(order)) == (2, 493)

    run(story)


def test_a_refund_is_sent_until_it_arrives_and_once(tmp_path: Path, fake: Fake) -> None:
    """T29: credits leave at once; the provider is asked until it has answered, with one key."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.bought(alice)
            fake.losing = 2
            made = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=100, reason="part", key="a"
            )
            assert made.state == "pending"
            assert at.balance(alice) == (500, 0)
            assert (at.told("payment_refunded"), at.credited(order)) == (0, 0)
            fake._answers.clear()  # a day later the keys are forgotten there
            await asyncio.to_thread(refund.send, at.app, made.id)
            with at.app.db.read() as session:
                assert returns.get(session, made.id).state == "succeeded"
            assert (at.told("payment_refunded"), at.credited(order)) == (1, 100)
            assert len([t for t in fake.account.things.values() if t["object"] == "refund"]) == 1

    run(story)


def test_a_refund_that_fails_gives_the_credits_back(tmp_path: Path, fake: Fake) -> None:
    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.bought(alice)
            await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=None, reason="all", key="a"
            )
            assert at.balance(alice) == (100, 0)
            number = next(n for n, t in fake.account.things.items() if t["object"] == "refund")
            fake.account.fail_refund(number)
            await at.announce(times=3)
            assert at.balance(alice) == (600, 0)
            again = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=None, reason="all", key="b"
            )
            assert (again.state, again.amount_minor) == ("succeeded", 500)
            assert at.balance(alice) == (100, 0)
            # The first was corrected before it failed; the second makes up for it.
            assert at.credited(order) == 500

    run(story)


def test_a_refund_made_elsewhere_is_for_an_operator(tmp_path: Path, fake: Fake) -> None:
    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.bought(alice)
            fake.account.refund({"payment_intent": order.intent_ref})
            await at.announce(only="refund.")
            assert at.refused() == ["refund_made_elsewhere"]
            assert at.balance(alice) == (600, 0)
            told = await refund.refund(
                at.app, admin_id=ADMIN, payment_id=order.id, minor=None, reason="all", key="a"
            )
            assert (told.state, at.balance(alice)) == ("failed", (600, 0))
            assert "already been refunded" in str(told.error)

    run(story)


def test_a_chargeback_takes_everything_and_what_was_spent_is_owed(
    tmp_path: Path, fake: Fake, database_url: str
) -> None:
    """T29: the lot is revoked, the debt blocks the next message, and a purchase pays it first."""

    async def story() -> None:
        async with shop(tmp_path, fake, database_url) as at:
            alice, fina = await person(at.app), await person(at.app, "fina")
            at.app.db.write(lambda s: users.set_role(s, user_id=fina, role="finance"))
            await use_up(at, alice, 100)
            order = await at.bought(alice)
            await use_up(at, alice, 30)
            assert order.intent_ref is not None
            dispute = fake.account.dispute(order.intent_ref)
            await at.announce(times=3)
            assert at.balance(alice) == (0, 30)
            assert (at.told("payment_disputed"), at.told("staff_dispute")) == (1, 1)
            with pytest.raises(DebtUnpaid) as blocked:
                await ask(at.app, alice)
            assert blocked.value.facts["reason"] == "debt"
            assert blocked.value.facts["debt"] == "30"
            assert at.credited(order) == 0  # nothing is decided
            story = refund.story(at.app, payment_id=order.id)
            assert story.flagged
            assert [(one.state, one.owed) for one in story.disputes] == [("open", 30 * MICRO)]
            with pytest.raises(returns.Disputed):
                await refund.refund(
                    at.app, admin_id=ADMIN, payment_id=order.id, minor=None, reason="again", key="a"
                )
            await at.bought(alice, key="second")
            assert at.balance(alice) == (470, 0)
            await answer(at.app, alice, await ask(at.app, alice))
            fake.account.decide(dispute["id"], won=False)
            await at.announce(times=2)
            assert at.balance(alice) == (469, 0)
            assert at.credited(order) == 470  # what was spent stays sold
            assert (at.told("payment_disputed"), at.told("staff_dispute")) == (2, 2)

    run(story)


def test_a_dispute_that_is_won_gives_everything_back(tmp_path: Path, fake: Fake) -> None:
    """Also when its decision comes before its beginning, and the beginning late."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            await use_up(at, alice, 100)
            order = await at.bought(alice)
            await use_up(at, alice, 30)
            assert order.intent_ref is not None
            dispute = fake.account.dispute(order.intent_ref)
            await at.announce()
            await at.bought(alice, key="second")  # pays the 30
            fake.account.decide(dispute["id"], won=True)
            await at.announce(times=2)
            assert at.balance(alice) == (970, 0)
            assert not refund.story(at.app, payment_id=order.id).flagged

            third = await at.bought(alice, key="third")
            assert third.intent_ref is not None
            early = fake.account.dispute(third.intent_ref)
            fake.account.decide(early["id"], won=True)
            fake.outbox.reverse()
            await at.announce()
            assert at.balance(alice) == (1470, 0)

    run(story)


def test_what_was_forgiven_stays_forgiven_when_the_dispute_is_won(
    tmp_path: Path, fake: Fake, database_url: str
) -> None:
    """T29: of 30 that were spent, 12 are forgiven: 470 come back, and the rest is owed no more."""

    async def story() -> None:
        async with shop(tmp_path, fake, database_url) as at:
            alice = await person(at.app)
            await use_up(at, alice, 100)
            order = await at.bought(alice)
            await use_up(at, alice, 30)
            assert order.intent_ref is not None
            dispute = fake.account.dispute(order.intent_ref)
            await at.announce()
            wanted: dict[str, Any] = {"admin_id": ADMIN, "user_id": alice, "reason": "our fault"}
            for _ in range(2):
                left = await forgive.forgive(at.app, micro=12 * MICRO, key="f", **wanted)
                assert (left.debt, left.total) == (18 * MICRO, 0)
            with pytest.raises(debts.BadForgiveness):
                await forgive.forgive(at.app, micro=19 * MICRO, key="g", **wanted)
            assert at.told("debt_forgiven") == 1
            fake.account.decide(dispute["id"], won=True)
            await at.announce(times=2)
            assert at.balance(alice) == (470, 0)
            assert at.credited(order) == 0
            found = reconcile.compare(at.app.db, now=at.app.clock.micros())
            # What was used up without an answer; nothing of the dispute or the debt.
            assert {one.check for one in found} == {"charge_without_usage"}
            with pytest.raises(debts.NothingOwed):
                await forgive.forgive(at.app, micro=None, key="h", **wanted)

    run(story)


def test_a_dispute_waits_for_its_payment(tmp_path: Path, fake: Fake) -> None:
    """Reordered: the dispute is announced before the payment that it is about."""

    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.order(alice)
            paid = fake.account.pay(order.provider_ref)
            fake.account.dispute(paid["payment_intent"])
            fake.outbox.reverse()
            await at.announce()
            assert at.balance(alice) == (600, 0)
            with at.app.db.read() as session:
                waiting = events.search(session, state="new")
                assert {event.reason for event in waiting} == {"payment_not_known_yet"}
            at.app.clock.micros = lambda: 10**17  # type: ignore[method-assign]
            assert await asyncio.to_thread(payments.retry_events, at.app) == len(waiting)
            assert at.balance(alice) == (100, 0)

    run(story)


def test_an_inquiry_takes_nothing(tmp_path: Path, fake: Fake) -> None:
    async def story() -> None:
        async with shop(tmp_path, fake) as at:
            alice = await person(at.app)
            order = await at.bought(alice)
            assert order.intent_ref is not None
            asked = fake.account.dispute(order.intent_ref, inquiry=True)
            await at.announce()
            assert at.balance(alice) == (600, 0)
            fake.account.decide(asked["id"], won=True)
            await at.announce()
            assert at.balance(alice) == (600, 0)

    run(story)


def test_credits_that_an_answer_holds_pay_the_debt_when_it_lets_them_go(
    tmp_path: Path, fake: Fake
) -> None:
    """Held credits are owed like spent ones; what the answer did not need pays that again."""

    async def story() -> None:
        slow = {"tokens": 400, "tokens_per_second": 20}
        async with shop(tmp_path, fake, script=slow) as at:
            alice = await person(at.app)
            at.app.db.write(
                lambda session: ledger.adjust(
                    session, user_id=alice, micro=-100 * MICRO, reason="none", actor="t",
                    now=at.app.clock.micros(), scope="t", key="t",
                )
            )  # fmt: skip
            order = await at.bought(alice)
            started = await ask(at.app, alice)
            assert order.intent_ref is not None
            fake.account.dispute(order.intent_ref)
            await at.announce()
            assert at.balance(alice) == (0, 1)
            live = at.app.replies.get(started.reply_id)
            assert live is not None
            live.stop_wanted.set()
            end = await answer(at.app, alice, started)
            freed = (MICRO - end.charged) // MICRO
            assert await asyncio.to_thread(refund.collect, at.app) == freed * MICRO
            assert at.balance(alice) == (0, 1 - freed)

    run(story)


# The settings.


@pytest.mark.parametrize("missing", ["stripe_api_key", "stripe_webhook_secret"])
def test_half_a_provider_does_not_start(tmp_path: Path, fake: Fake, missing: str) -> None:
    """T26: an empty secret never verifies anything."""
    wanted = stripe_settings(fake) | {missing: "  "}
    with pytest.raises(settings_room.SettingsError, match=f"PAYMENTS__{missing.upper()}"):
        build(script_settings(tmp_path, payments=wanted))


def test_without_a_provider_webhooks_are_off(tmp_path: Path) -> None:
    """T26: the endpoint is off, even for what is signed well."""

    async def story() -> None:
        async with shop(tmp_path, None) as at:
            with pytest.raises(provider.WebhooksOff):
                await at.tell({"id": "evt_1", "type": "x"})

    run(story)


async def use_up(at: Shop, user: int, credits: int) -> None:
    """Spend credits by a hold that is settled in full."""
    from chat_app.credits import holds

    number = at.app.clock.micros()

    def story(session: Any) -> None:
        hold = holds.place(
            session, user_id=user, micro=credits * MICRO, ttl_seconds=60, now=number,
            scope="use", key=str(number),
        )  # fmt: skip
        holds.settle(session, hold_id=hold.id, micro=credits * MICRO, now=number)

    await at.app.db.awrite(story)
