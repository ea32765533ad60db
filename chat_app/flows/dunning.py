"""Dunning: whoever has not paid is reminded step by step, each step once.

A renewal that fails is told of with each try, and once when the plan stops. A sent invoice is
reminded of on the days of `revenue.reminder_days`, and may be written off at the end.
"""

from datetime import date, datetime
from functools import partial

from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import from_micros
from chat_app.credits import takings
from chat_app.credits.invoices import register
from chat_app.credits.payments.orders import Payment
from chat_app.credits.plans import Subscription
from chat_app.credits.takings import OpenInvoice
from chat_app.flows import notices
from chat_app.money import Money
from chat_app.settings import Credits as Rules

# A step is not caught up any more when it was due so many days ago.
STALE_DAYS = 30


def renewal(
    session: Session,
    *,
    before: Subscription,
    after: Subscription,
    rules: Rules,
    tried: bool,
    now: int,
) -> None:
    """Tell the owner of a plan what became of a try to renew it, in the try's transaction.

    When it was not `tried` yet, because the provider is asked after the commit, `unpaid` follows.
    """
    if tried:
        unpaid(session, held=after, rules=rules, now=now)
    if before.status == "past_due" and after.status in ("paused", "cancelled"):
        notices.tell(
            session,
            user_id=after.user_id,
            kind="plan_stopped",
            key=f"{after.id}:{before.period.number + 1}",
            data={
                "plan": after.period.plan_name,
                "then": "pause" if after.status == "paused" else "end",
            },
            now=now,
        )


def unpaid(
    session: Session, *, held: Subscription, rules: Rules, now: int, reason: str = ""
) -> None:
    """A try to renew a plan has failed; `reason` as in `Charged`. Nothing for one that is paid."""
    if held.status != "past_due" or not held.tries:
        return
    # The tries after the first, and of those the ones that are left.
    left = max(rules.plan_retries + 1 - held.tries, 0)
    notices.tell(
        session,
        user_id=held.user_id,
        kind="renewal_unpaid",
        key=f"{held.id}:{held.period.number + 1}:{held.tries}",
        data={
            "plan": held.period.plan_name,
            "amount": str(held.period.price),
            "left": left,
            "next": f"{from_micros(held.due_at):%d %b %Y %H:%M}",
            "then": rules.plan_unpaid,
            "reason": reason,
        },
        now=now,
    )


def topup(session: Session, order: Payment, *, now: int, reason: str = "") -> None:
    """An automatic top-up was declined, or waits for its owner to pay."""
    notices.tell(
        session,
        user_id=order.user_id,
        kind="topup_unpaid",
        key=order.id,
        data={
            "payment": order.id,
            "amount": str(Money(order.amount_minor, order.currency)),
            "state": order.status,
            "reason": reason,
        },
        now=now,
    )


def remind_due(app: App) -> int:
    """Take the steps that are due for sent invoices; returns how many were taken."""
    rules = app.settings.revenue
    steps = sorted({int(day) for day in rules.reminder_days.split()})
    if not steps and not rules.write_off_days:
        return 0
    now = app.clock.micros()
    today = from_micros(now).astimezone(app.settings.business.zone).date()
    with app.db.read() as session:
        found = takings.open_invoices(session, at=now)
    taken = 0
    for invoice in found:
        late = (today - date.fromisoformat(invoice.due_on)).days
        if rules.write_off_days and late >= rules.write_off_days:
            taken += app.db.write(partial(_write_off, invoice=invoice, late=late, now=now))
        elif (step := due_step(steps, late)) is not None:
            taken += app.db.write(partial(_remind, invoice=invoice, step=step, late=late, now=now))
    return taken


def due_step(steps: list[int], late: int) -> int | None:
    """The newest step of a rising list that is reached; None when there is none, or long ago."""
    reached = [step for step in steps if step <= late < step + STALE_DAYS]
    return reached[-1] if reached else None


def _remind(session: Session, *, invoice: OpenInvoice, step: int, late: int, now: int) -> bool:
    due = datetime.fromisoformat(invoice.due_on)
    return notices.tell(
        session,
        user_id=invoice.user_id,
        kind="invoice_reminder",
        key=f"{invoice.id}:{step}",
        data={
            "invoice": invoice.number,
            "amount": str(Money(invoice.open_minor, invoice.currency)),
            "due": f"{due:%d %b %Y}",
            "late": late,
        },
        now=now,
    )


def _write_off(session: Session, *, invoice: OpenInvoice, late: int, now: int) -> bool:
    """Once: somebody may have paid or ended it in between."""
    if register.get(session, invoice_id=invoice.id).status != "open":
        return False
    register.write_off(
        session,
        invoice_id=invoice.id,
        reason=f"Not paid {late} days after it was due",
        actor="system",
        now=now,
    )
    return True
