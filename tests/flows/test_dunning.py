"""Who has not paid is told step by step, each step once; finance staff get their reports."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import Session

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import ManualClock, to_micros
from chat_app.credits import plans as shelf
from chat_app.credits import topups
from chat_app.credits.invoices import register
from chat_app.credits.payments import offline, orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.plans import Plan
from chat_app.flows import dunning, finance_mail, plans, revenue, topup
from chat_app.money import MICRO, Money
from chat_app.notify import inbox, outbox, preferences
from tests.apps import in_loop, person, running_app
from tests.credits.books import fresh

START = datetime(2026, 2, 2, 12, tzinfo=UTC)


def told(app: App, user_id: int) -> list[str]:
    """Titles in the inbox, oldest first."""
    with app.db.read() as session:
        return [row.title for row in reversed(inbox.page(session, user_id=user_id, limit=50)[0])]


def mails(app: App) -> int:
    with app.db.read() as session:
        return len(outbox.page(session, limit=100)[0])


def declined(session: Session, payment: Payment, *, now: int) -> Payment:
    """A provider that takes nothing."""
    orders.fail(session, payment_id=payment.id, now=now)
    return orders.find(session, payment.id)


@in_loop
async def test_a_renewal_that_fails_is_told_of_once_for_each_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T32 for dunning: however often the job runs, a try is one letter; then the plan pauses."""
    clock = ManualClock(START)
    async with running_app(
        tmp_path, clock=clock, credits={"plan_retries": 2, "plan_retry_hours": 48}
    ) as app:
        ann = await person(app, "ann")
        plan = Plan("plus", "Plus", Money(990), 1000 * MICRO, 0)
        app.db.write(lambda s: shelf.create(s, plan, now=app.clock.micros()))
        await plans.choose(app, user_id=ann, plan_code="plus", key="k")
        before = told(app, ann)
        with monkeypatch.context() as patched:
            patched.setattr(offline, "charge", declined)
            for hours in (0, 24, 48, 96, 120, 144):
                clock.moment = datetime(2026, 3, 2, 12, tzinfo=UTC) + timedelta(hours=hours)
                plans.renew_due(app)
                plans.renew_due(app)
        assert told(app, ann)[len(before) :] == [
            *["Your plan Plus could not be renewed"] * 3,
            "Your plan Plus is paused",
        ]
        with app.db.read() as session:
            texts = [row.body for row in inbox.page(session, user_id=ann, limit=4)[0]]
        assert "04 Mar 2026 12:00" in texts[3]
        assert "no further try" in texts[1]
        assert (await plans.resume(app, user_id=ann, key="again")).status == "active"
        clock.moment += timedelta(days=3)
        with monkeypatch.context() as patched:
            patched.setattr(offline, "charge", declined)
            app.db.write(
                lambda s: topups.put(
                    s, user_id=ann, threshold=5000 * MICRO, package_code="standard", per_day=3,
                    now=app.clock.micros(),
                )
            )  # fmt: skip
            assert [topup.run_low(app), topup.run_low(app)] == [1, 0]
        assert told(app, ann)[-1] == "Your automatic top-up was declined"


@in_loop
async def test_a_sent_invoice_is_reminded_of_and_written_off(tmp_path: Path) -> None:
    """Three days before, one day after, and so on; after a stop only the newest step."""
    clock = ManualClock(START)
    async with running_app(tmp_path, clock=clock, revenue={"write_off_days": 60}) as app:
        ann = await person(app, "ann")

        def send(session: Session) -> tuple[str, str]:
            now = app.clock.micros()
            order = orders.create(
                session, user_id=ann, micro=1000 * MICRO, now=now, scope="t", key=fresh()
            )
            made = register.draft(session, payment_id=order.id, now=now)
            sent = register.open_draft(session, invoice_id=made.id, actor="user:1", now=now)
            return order.id, sent.id

        late, paid = app.db.write(send), app.db.write(send)
        app.db.write(lambda s: orders.fulfil(s, payment_id=paid[0], now=app.clock.micros() + 1))
        due = datetime(2026, 2, 16, 9, tzinfo=UTC)
        taken = {}
        for day in (-4, -3, -2, 0, 1, 2, 20, 21, 46, 59):
            clock.moment = due + timedelta(days=day)
            taken[day] = (dunning.remind_due(app), dunning.remind_due(app))
        assert taken == {
            day: (int(day in (-3, 1, 20)), 0) for day in taken
        }  # the one of day 8 was passed over, that of day 15 came late
        with app.db.read() as session:
            texts = [row.body for row in inbox.page(session, user_id=ann, limit=9)[0]]
        assert "was due on 16 Feb 2026, 1 day ago" in texts[1]
        clock.moment = due + timedelta(days=60)
        assert [dunning.remind_due(app), dunning.remind_due(app)] == [1, 0]
        with app.db.read() as session:
            ended = register.get(session, invoice_id=late[1])
        assert (ended.status, ended.reason) == (
            "uncollectible",
            "Not paid 60 days after it was due",
        )


@pytest.mark.parametrize(
    ("late", "step"), [(-9, None), (-3, -3), (0, -3), (1, 1), (14, 8), (44, 15), (45, None)]
)
def test_the_step_that_is_due(late: int, step: int | None) -> None:
    assert dunning.due_step([-3, 1, 8, 15], late) == step


@in_loop
async def test_finance_staff_get_the_reports_they_asked_for(tmp_path: Path) -> None:
    """Each period once, when it is written to its end; nobody without the permission."""
    clock = ManualClock(START)
    async with running_app(tmp_path, clock=clock) as app:
        boss, ann = await person(app, "boss"), await person(app, "ann")

        def promote(session: Session) -> None:
            found = session.get(User, boss)
            assert found is not None
            found.role = "finance"
            session.add(found)
            for who in (boss, ann):
                preferences.choose(
                    session, user_id=who, now=app.clock.micros(),
                    wanted={"books_daily": {"app": True}, "books_weekly": {"app": True}},
                )  # fmt: skip

        app.db.write(promote)
        with app.db.read() as session:
            assert "books_daily" in preferences.of(session, user_id=ann)
            assert users.get(session, boss).role == "finance"
        order = app.db.write(
            lambda s: orders.create(
                s, user_id=ann, micro=1000 * MICRO, now=app.clock.micros(), scope="t", key="k"
            )
        )
        app.db.write(lambda s: orders.fulfil(s, payment_id=order.id, now=app.clock.micros()))
        before = len(told(app, boss))
        clock.moment = datetime(2026, 2, 3, 0, 30, tzinfo=UTC)
        assert finance_mail.send_due(app) == 0  # yesterday is not written yet
        clock.moment = datetime(2026, 2, 3, 2, tzinfo=UTC)
        revenue.post_due(app)
        assert [finance_mail.send_due(app), finance_mail.send_due(app)] == [1, 0]
        clock.moment = datetime(2026, 2, 9, 2, tzinfo=UTC)
        revenue.post_due(app)
        assert finance_mail.send_due(app) == 2  # a day and a week
        fresh_ones = told(app, boss)[before:]
        assert fresh_ones[0] == "02 Feb 2026: 0.00 USD earned"
        assert "Week 06: 0.00 USD earned" in fresh_ones
        with app.db.read() as session:
            rows, _ = finance_mail.figures(
                session,
                begin=datetime(2026, 2, 2, tzinfo=UTC),
                end=datetime(2026, 2, 9, tzinfo=UTC),
            )
        assert dict(rows)["Sold, net of tax"] == str(Money(order.amount_minor, order.currency))
        assert not any("earned" in title for title in told(app, ann))
        assert to_micros(clock.moment)
