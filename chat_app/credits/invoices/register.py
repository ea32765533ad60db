"""The register: drafts, numbers, states and credit notes. Everything happens in the caller's
transaction, so a number is taken if and only if its document exists.

    draft -> open -> paid | void | uncollectible -> paid

A paid invoice is corrected by credit notes alone, up to its total. Its state may change, with a
reason; what was issued never does.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import func
from sqlmodel import Session, col, or_, select, update

from chat_app.accounts.tables import User
from chat_app.audit import log
from chat_app.clock import from_micros
from chat_app.credits import operations
from chat_app.credits.invoices import documents, making, sellers
from chat_app.credits.invoices.documents import Document, Line, Paid
from chat_app.credits.invoices.tables import InvoiceRow
from chat_app.credits.tables import PaymentRow
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ids import new_id

STATUSES = ("draft", "open", "paid", "void", "uncollectible")
REASON_LENGTH = 200
MAX_PAGE = 100


class UnknownInvoice(NotFound):
    """There is no such invoice, or it is another user's."""

    code = "unknown_invoice"
    message = "This invoice could not be found. Open the invoices of your account to see yours."


class InvoiceState(Conflict):
    """The invoice is not in a state from which this can be done."""

    code = "invoice_state"
    message = "This cannot be done with an invoice in this state. Reload to see how it stands."


class InvoiceReasonMissing(Invalid):
    """Voiding and writing off need a reason."""

    code = "invoice_reason_missing"
    message = "Give a reason of 3 to 200 characters; it stays with the invoice."


class CreditNoteTooLarge(Invalid):
    """More than the invoice's total less earlier credit notes, or nothing."""

    code = "credit_note_too_large"
    message = "A credit note is above zero and at most what is left of the invoice. Choose less."


@dataclass(frozen=True)
class Invoice:
    """A document with its state. `credited_minor` is what credit notes took off it."""

    id: str
    kind: str
    status: str
    number: str | None
    user_id: int
    payment_id: str | None
    corrects_id: str | None
    currency: str
    net_minor: int
    tax_minor: int
    total_minor: int
    due_on: str | None
    reason: str | None
    created_at: int
    issued_at: int | None
    document: Document
    document_sha256: str
    shared: bool = False
    credited_minor: int = 0


def for_payment(session: Session, *, payment_id: str, now: int) -> Invoice:
    """The order is paid: issue its invoice, or mark the open one as paid. Once for each order."""
    payment = session.get_one(PaymentRow, payment_id)
    row = _in_force(session, payment_id)
    if row is not None and row.status == "paid":
        return _invoice(session, row)
    if row is not None and row.status != "draft":
        _move(session, row, to="paid", now=now, of=("open", "uncollectible"))
        _record(session, "invoice_paid", row, actor="system", now=now)
        return _invoice(session, row)
    paid = Paid(payment.provider, payment.id, payment.paid_at or now)
    row = row or _draft(session, payment, now=now)
    return _issue(session, row, payment, status="paid", paid=paid, now=now)


def draft(session: Session, *, payment_id: str, now: int) -> Invoice:
    """A draft for an order, or the invoice that it has already. It has no number."""
    row = _in_force(session, payment_id)
    if row is None:
        row = _draft(session, session.get_one(PaymentRow, payment_id), now=now)
    return _invoice(session, row)


def open_draft(session: Session, *, invoice_id: str, actor: str, now: int) -> Invoice:
    """Issue a draft before it is paid, with a day on which it is due; raises InvoiceState."""
    row = _row(session, invoice_id)
    if row.status != "draft" or row.payment_id is None:
        raise InvoiceState(status=row.status)
    payment = session.get_one(PaymentRow, row.payment_id)
    return _issue(session, row, payment, status="open", paid=None, now=now, actor=actor)


def void(session: Session, *, invoice_id: str, reason: str, actor: str, now: int) -> Invoice:
    """Take back an invoice that nobody has paid; its number stays taken.

    Raises InvoiceState (a paid one takes a credit note) or InvoiceReasonMissing.
    """
    return _end(
        session, invoice_id, to="void", of=("open", "uncollectible"), reason=reason, actor=actor,
        now=now,
    )  # fmt: skip


def write_off(session: Session, *, invoice_id: str, reason: str, actor: str, now: int) -> Invoice:
    """Mark an open invoice as uncollectible; raises InvoiceState or InvoiceReasonMissing."""
    return _end(
        session, invoice_id, to="uncollectible", of=("open",), reason=reason, actor=actor, now=now
    )


def credit_note(
    session: Session, *, payment_id: str, amount_minor: int, reason: str, now: int, key: str
) -> Invoice:
    """Correct the invoice of a paid order by an amount in minor units, once for each key.

    Called in the transaction of a refund. Partial notes share out the tax of each rate so that
    all of them together take off exactly what the invoice says. A paid order without an invoice
    gets one first. Raises CreditNoteTooLarge, UnknownInvoice or IdempotencyConflict.
    """
    outcome, _ = operations.once(
        session,
        scope=f"credit_note:{payment_id}",
        key=key,
        request={"amount_minor": amount_minor, "reason": reason},
        now=now,
        actor="system",
        run=lambda: {
            "id": _credit(
                session, payment_id=payment_id, amount_minor=amount_minor, reason=reason, now=now
            )
        },
    )
    return _invoice(session, session.get_one(InvoiceRow, outcome["id"]))


def get(session: Session, *, invoice_id: str, user_id: int | None = None) -> Invoice:
    """A document; raises UnknownInvoice, also when it is not the given user's."""
    row = session.get(InvoiceRow, invoice_id)
    if row is None or (user_id is not None and row.user_id != user_id):
        raise UnknownInvoice
    return _invoice(session, row)


def of_payment(session: Session, *, payment_id: str) -> Invoice | None:
    """The invoice of an order that is in force, or None."""
    row = _in_force(session, payment_id)
    return None if row is None else _invoice(session, row)


def by_token(session: Session, *, token_hash: str) -> Invoice:
    """The document behind a public link; raises UnknownInvoice."""
    row = session.exec(select(InvoiceRow).where(InvoiceRow.public_token_hash == token_hash)).first()
    if row is None or row.number is None:
        raise UnknownInvoice
    return _invoice(session, row)


def listed(
    session: Session,
    *,
    user_id: int | None = None,
    status: str | None = None,
    q: str = "",
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Invoice], str | None]:
    """Documents, newest first, and the cursor of the next page or None.

    `q` is a part of a number, of the buyer's name or address of mail, or an order's id.
    """
    query = select(InvoiceRow)
    if user_id is not None:
        query = query.where(InvoiceRow.user_id == user_id)
    if status:
        query = query.where(InvoiceRow.status == status)
    if wanted := q.strip().lower():
        like = f"%{_escaped(wanted)}%"
        people = select(User.id).where(
            or_(
                col(User.username_key).like(like, escape="\\"),
                col(User.email_key).like(like, escape="\\"),
            )
        )
        query = query.where(
            or_(
                func.lower(col(InvoiceRow.number)).like(like, escape="\\"),
                col(InvoiceRow.payment_id) == wanted,
                col(InvoiceRow.user_id).in_(people),
            )
        )
    if cursor:
        before = session.get(InvoiceRow, cursor)
        if before is None:
            raise UnknownInvoice
        query = query.where(
            or_(
                col(InvoiceRow.created_at) < before.created_at,
                (col(InvoiceRow.created_at) == before.created_at)
                & (col(InvoiceRow.id) < before.id),
            )
        )
    limit = max(1, min(limit, MAX_PAGE))
    rows = session.exec(
        query.order_by(col(InvoiceRow.created_at).desc(), col(InvoiceRow.id).desc()).limit(
            limit + 1
        )
    ).all()
    page = [_invoice(session, row) for row in rows[:limit]]
    return page, page[-1].id if len(rows) > limit else None


def _draft(session: Session, payment: PaymentRow, *, now: int) -> InvoiceRow:
    seller_id, seller = sellers.current(session, now=now)
    document = making.document_of(session, payment, seller=seller, number=None, now=now)
    text = documents.text_of(document)
    row = InvoiceRow(
        id=new_id("inv"),
        kind="invoice",
        status="draft",
        series=seller.invoice_prefix,
        user_id=payment.user_id,
        payment_id=payment.id,
        seller_id=seller_id,
        currency=payment.currency,
        net_minor=document["net_minor"],
        tax_minor=document["tax_minor"],
        total_minor=document["total_minor"],
        document=text,
        document_sha256=documents.hash_of(text),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def _issue(
    session: Session,
    row: InvoiceRow,
    payment: PaymentRow,
    *,
    status: str,
    paid: Paid | None,
    now: int,
    actor: str = "system",
) -> Invoice:
    """Take a number and freeze the document, as the details and the rates are today."""
    row.seller_id, seller = sellers.current(session, now=now)
    row.series = seller.invoice_prefix
    number = making.take(session, series=row.series, now=now)
    if paid is None:
        due = from_micros(number.at).date() + timedelta(days=seller.payment_days)
        row.due_on = due.isoformat()
    document = making.document_of(
        session, payment, seller=seller, number=number, now=now, paid=paid, due_on=row.due_on
    )
    making.freeze(session, row, document, number=number, status=status)
    _record(session, "invoice_issued", row, actor=actor, now=now)
    return _invoice(session, row)


def _credit(session: Session, *, payment_id: str, amount_minor: int, reason: str, now: int) -> str:
    payment = session.get(PaymentRow, payment_id)
    if payment is None or payment.paid_at is None:
        raise UnknownInvoice
    invoice = for_payment(session, payment_id=payment_id, now=now)
    seller_id, seller = sellers.current(session, now=now)
    row = InvoiceRow(
        id=new_id("cn"),
        kind="credit_note",
        status="paid",
        series=seller.credit_note_prefix,
        user_id=invoice.user_id,
        payment_id=payment_id,
        corrects_id=invoice.id,
        seller_id=seller_id,
        currency=invoice.currency,
        net_minor=0,
        tax_minor=0,
        total_minor=0,
        reason=" ".join(reason.split())[:REASON_LENGTH] or None,
        document="",
        document_sha256="",
        created_at=now,
    )
    # The series' lock also puts the notes of one invoice in a line, so none counts the others
    # as they were before.
    number = making.take(session, series=row.series, now=now)
    done = _credited(session, invoice.id)
    if not 0 < amount_minor <= invoice.total_minor - done:
        raise CreditNoteTooLarge(amount_minor=amount_minor, left_minor=invoice.total_minor - done)
    original = invoice.document
    document = documents.make(
        kind="credit_note",
        number=number.text,
        at=number.at,
        seller=seller,
        buyer=making.printed_buyer(original),
        currency=invoice.currency,
        lines=[Line(f"Correction of invoice {invoice.number}", amount_minor)],
        taxes=making.shares(original, done=done, more=amount_minor),
        corrects=original,
        reason=row.reason,
    )
    making.freeze(session, row, document, number=number, status="paid")
    _record(session, "credit_note_issued", row, actor="system", now=now)
    return row.id


def _end(
    session: Session,
    invoice_id: str,
    *,
    to: str,
    of: tuple[str, ...],
    reason: str,
    actor: str,
    now: int,
) -> Invoice:
    row = _row(session, invoice_id)
    _move(session, row, to=to, of=of, now=now, reason=clean_reason(reason))
    _record(session, f"invoice_{to}", row, actor=actor, now=now)
    return _invoice(session, row)


def _move(
    session: Session,
    row: InvoiceRow,
    *,
    to: str,
    of: tuple[str, ...],
    now: int,
    reason: str | None = None,
) -> None:
    changed = session.execute(
        update(InvoiceRow)
        .where(
            col(InvoiceRow.id) == row.id,
            col(InvoiceRow.kind) == "invoice",
            col(InvoiceRow.status).in_(of),
        )
        .values(status=to, reason=reason, closed_at=now)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise InvoiceState(status=row.status)
    session.refresh(row)


def clean_reason(text: str) -> str:
    """A reason as it is kept; raises InvoiceReasonMissing."""
    cleaned = " ".join(text.split())
    if not 3 <= len(cleaned) <= REASON_LENGTH:
        raise InvoiceReasonMissing
    return cleaned


def _record(session: Session, type: str, row: InvoiceRow, *, actor: str, now: int) -> None:
    """What `verify` holds the row against: the audit log is sealed."""
    log.record(
        session,
        type=type,
        actor=actor,
        now=now,
        invoice=row.id,
        number=row.number,
        status=row.status,
        total_minor=row.total_minor,
        currency=row.currency,
        document_sha256=row.document_sha256,
        **({"reason": row.reason} if row.reason else {}),
    )


def _in_force(session: Session, payment_id: str) -> InvoiceRow | None:
    return session.exec(
        select(InvoiceRow).where(
            InvoiceRow.payment_id == payment_id,
            InvoiceRow.kind == "invoice",
            InvoiceRow.status != "void",
        )
    ).first()


def _row(session: Session, invoice_id: str) -> InvoiceRow:
    row = session.get(InvoiceRow, invoice_id)
    if row is None:
        raise UnknownInvoice
    return row


def _credited(session: Session, invoice_id: str) -> int:
    total = session.exec(
        select(func.coalesce(func.sum(InvoiceRow.total_minor), 0)).where(
            InvoiceRow.corrects_id == invoice_id, InvoiceRow.kind == "credit_note"
        )
    ).one()
    return int(total)


def _invoice(session: Session, row: InvoiceRow) -> Invoice:
    return Invoice(
        id=row.id,
        kind=row.kind,
        status=row.status,
        number=row.number,
        user_id=row.user_id,
        payment_id=row.payment_id,
        corrects_id=row.corrects_id,
        currency=row.currency,
        net_minor=row.net_minor,
        tax_minor=row.tax_minor,
        total_minor=row.total_minor,
        due_on=row.due_on,
        reason=row.reason,
        created_at=row.created_at,
        issued_at=row.issued_at,
        document=documents.read(row.document),
        document_sha256=row.document_sha256,
        shared=row.public_token_hash is not None,
        credited_minor=_credited(session, row.id) if row.kind == "invoice" else 0,
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def overdue(invoice: Invoice, today: date) -> bool:
    """Whether an open invoice is past its day."""
    return (
        invoice.status == "open"
        and invoice.due_on is not None
        and (invoice.due_on < today.isoformat())
    )
