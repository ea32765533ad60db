"""Leaving: what the books do when a person is erased. Amounts stay, words about them go.

Invoices stay as they were issued: the law asks for them, with the buyer on them. What was
booked stays under the number of the wallet.
"""

from sqlmodel import Session, col, delete, select, update

from chat_app.credits import accounts, ledger, lots, renewals
from chat_app.credits.invoices.tables import BillingDetailsRow, InvoiceRow
from chat_app.credits.note_tables import TransferNoteRow
from chat_app.credits.payments import kept
from chat_app.credits.payments.tables import WebhookEventRow
from chat_app.credits.renewals import Shop
from chat_app.credits.shop_tables import AutoTopupRow
from chat_app.credits.sql import Books
from chat_app.credits.tables import PaymentRow
from chat_app.credits.usage_tables import SpendLimitRow
from chat_app.errors import Conflict
from chat_app.money import format_credits

SCOPE = "erasure"
REASON = "Given up with the account"


class CreditsLeft(Conflict):
    """The account still has credits, and nobody said that they are given up. Facts: `available`."""

    code = "credits_left"
    message = (
        "There are credits left, and they end with the account. Use or send them first, or "
        'confirm that you give them up: {"confirm": "forfeit"}.'
    )


class AnswersRunning(Conflict):
    """Credits are held for an answer that is being written."""

    code = "answers_running"
    message = "An answer is still being written. Stop it or wait for its end, then try again."


def settle(
    session: Session, shop: Shop, *, user_id: int, forfeit: bool, actor: str, now: int
) -> int:
    """End plan and rules, give up what is left and close the wallet; returns the microcredits.

    What is given up is an adjustment with a reason in the books, once for each user. Raises
    CreditsLeft unless `forfeit`, or AnswersRunning.
    """
    books = Books(session)
    wallet = accounts.lock(books, user_id=user_id, now=now)
    if wallet.held:
        raise AnswersRunning
    lots.free(books, wallet, now=wallet.time(now))  # what has ended by now is not given up
    left = max(0, wallet.available)
    if left and not forfeit:
        raise CreditsLeft(available=format_credits(left))
    renewals.end(session, shop, user_id=user_id, now=now)
    if left:
        ledger.adjust(
            session,
            user_id=user_id,
            micro=-left,
            reason=REASON,
            actor=actor,
            now=now,
            scope=SCOPE,
            key=str(user_id),
        )
    ledger.close(session, user_id=user_id, now=now)
    return left


def forget(session: Session, *, user_id: int) -> None:
    """Delete what the person entered: details, rules, limits, notes, drafts, links."""
    kept.forget(session, user_id=user_id)
    for table in (BillingDetailsRow, AutoTopupRow, SpendLimitRow, TransferNoteRow):
        session.execute(delete(table).where(col(table.user_id) == user_id))
    mine = select(PaymentRow.id).where(PaymentRow.user_id == user_id)
    session.execute(
        update(WebhookEventRow)
        .where(col(WebhookEventRow.payment_id).in_(mine), col(WebhookEventRow.state) != "new")
        .values(payload="{}")
    )
    session.execute(
        update(PaymentRow).where(col(PaymentRow.user_id) == user_id).values(checkout_url=None)
    )
    own = col(InvoiceRow.user_id) == user_id
    session.execute(delete(InvoiceRow).where(own, col(InvoiceRow.number).is_(None)))
    session.execute(update(InvoiceRow).where(own).values(public_token_hash=None))
