"""The register: drafts, numbers, states and credit notes. Everything happens in the caller's
transaction, so a number is taken if and only if its document exists.

    draft -> open -> paid | void | uncollectible -> paid

A paid invoice is corrected by credit notes alone, up to its total. Its state may change, with a
reason; what was issued never does.
"""

from dataclasses import dataclass, replace
from datetime import date, timedelta

from sqlalchemy import func
from sqlmodel import Session, col, or_, select, update

from chat_app.accounts.tables import User
from chat_app.audit import log
from chat_app.clock import from_micros
from chat_app.credits import operations
from chat_app.credits.invoices import details, documents, sellers, tax
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.documents import Document, Line, Paid
from chat_app.credits.invoices.sellers import Seller
from chat_app.credits.invoices.tables import InvoiceLineRow, InvoiceRow, InvoiceTaxRow
from chat_app.credits.invoices.tax import TaxLine
from chat_app.credits.sql import Books, Statement
from chat_app.credits.tables import PackageRow, PaymentRow
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ids import new_id
from chat_app.money import show_credits

STATUSES = ("draft", "open", "paid", "void", "uncollectible")
REASON_LENGTH = 200
MAX_PAGE = 100

_OPEN_SERIES = Statement(
    """INSERT INTO invoice_series (series, year, last, last_at) VALUES (:series, :year, 0, 0)
    ON CONFLICT (series) DO NOTHING"""
)
_LOCK_SERIES = Statement(
    "SELECT year, last, last_at FROM invoice_series WHERE series = :series", lock=True
)
_TAKE = Statement(
    """UPDATE invoice_series SET year = :year, last = :next, last_at = :at
    WHERE series = :series AND last = :last AND last_at = :last_at"""
)


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
class _Number:
    text: str
    year: int
    sequence: int
    at: int


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


def share(session: Session, *, invoice_id: str, token_hash: str) -> None:
    """Let the public link with this hash open an issued document."""
    session.execute(
        update(InvoiceRow)
        .where(
            col(InvoiceRow.id) == invoice_id,
            col(InvoiceRow.number).is_not(None),
            col(InvoiceRow.public_token_hash).is_(None),
        )
        .values(public_token_hash=token_hash)
    )


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
    document = _document(session, payment, seller=seller, number=None, now=now)
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
    number = _take(session, series=row.series, now=now)
    if paid is None:
        due = from_micros(number.at).date() + timedelta(days=seller.payment_days)
        row.due_on = due.isoformat()
    document = _document(
        session, payment, seller=seller, number=number, now=now, paid=paid, due_on=row.due_on
    )
    _freeze(session, row, document, number=number, status=status)
    _record(session, "invoice_issued", row, actor=actor, now=now)
    return _invoice(session, row)


def _freeze(
    session: Session, row: InvoiceRow, document: Document, *, number: _Number, status: str
) -> None:
    row.number, row.issued_at, row.status = number.text, number.at, status
    row.year, row.sequence = number.year, number.sequence
    row.net_minor, row.tax_minor = document["net_minor"], document["tax_minor"]
    row.total_minor = document["total_minor"]
    row.document = documents.text_of(document)
    row.document_sha256 = documents.hash_of(row.document)
    session.add(row)
    session.flush()
    for position, line in enumerate(document["lines"], 1):
        session.add(InvoiceLineRow(invoice_id=row.id, position=position, **line))
    for position, line in enumerate(document["taxes"], 1):
        session.add(InvoiceTaxRow(invoice_id=row.id, position=position, **line))
    session.flush()


def _take(session: Session, *, series: str, now: int) -> _Number:
    """The next number of the series and the time of issue, which never goes back.

    The series is locked until the transaction ends, so it is taken as late as possible; who
    rolls back gives the number back.
    """
    books = Books(session)
    books.change(_OPEN_SERIES, series=series, year=from_micros(now).year)
    found = books.one(_LOCK_SERIES, series=series)
    assert found is not None
    year, last, last_at = found
    at = max(now, last_at)
    this_year = max(year, from_micros(at).year)
    following = last + 1 if this_year == year else 1
    changed = books.change(
        _TAKE, series=series, year=this_year, next=following, at=at, last=last, last_at=last_at
    )
    assert changed == 1, "a series is locked by whoever takes its number"
    return _Number(f"{series}-{this_year}-{following:06d}", this_year, following, at)


def _document(
    session: Session,
    payment: PaymentRow,
    *,
    seller: Seller,
    number: _Number | None,
    now: int,
    paid: Paid | None = None,
    due_on: str | None = None,
) -> Document:
    buyer = _buyer(session, payment.user_id)
    at = number.at if number else now
    rule = tax.decide(
        session,
        mode=seller.tax,
        seller_country=seller.country,
        buyer_country=buyer.country,
        buyer_has_vat_id=bool(buyer.vat_id),
        day=documents.day_of(at),
    )
    lines = [Line(_description(session, payment), payment.amount_minor)]
    return documents.make(
        kind="invoice",
        number=number.text if number else None,
        at=at,
        seller=seller,
        buyer=buyer,
        currency=payment.currency,
        lines=lines,
        taxes=tax.lines([(line.amount_minor, rule) for line in lines]),
        due_on=due_on,
        paid=paid,
    )


def _buyer(session: Session, user_id: int) -> BillingDetails:
    given = details.get(session, user_id=user_id)
    user = session.get(User, user_id)
    return replace(
        given,
        name=given.name or (user.username if user else f"Customer {user_id}"),
        email=given.email or (user.email if user else ""),
    )


def _description(session: Session, payment: PaymentRow) -> str:
    package = session.get(PackageRow, payment.package_code) if payment.package_code else None
    bonus = f" + {show_credits(payment.bonus_credits)} bonus" if payment.bonus_credits else ""
    name = f"{package.name}: " if package else ""
    return f"{name}{show_credits(payment.credits)}{bonus} credits for AI chat"


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
    number = _take(session, series=row.series, now=now)
    done = _credited(session, invoice.id)
    if not 0 < amount_minor <= invoice.total_minor - done:
        raise CreditNoteTooLarge(amount_minor=amount_minor, left_minor=invoice.total_minor - done)
    original = invoice.document
    document = documents.make(
        kind="credit_note",
        number=number.text,
        at=number.at,
        seller=seller,
        buyer=_printed(original),
        currency=invoice.currency,
        lines=[Line(f"Correction of invoice {invoice.number}", amount_minor)],
        taxes=_shares(original, done=done, more=amount_minor),
        corrects=original,
        reason=row.reason,
    )
    _freeze(session, row, document, number=number, status="paid")
    _record(session, "credit_note_issued", row, actor="system", now=now)
    return row.id


def _shares(original: Document, *, done: int, more: int) -> list[TaxLine]:
    """The tax lines of a note over `more` after `done`, cut from those of the invoice."""
    found, left, whole = [], more, original["total_minor"]
    for position, line in enumerate(original["taxes"]):
        gross = line["base_minor"] + line["tax_minor"]
        last = position == len(original["taxes"]) - 1
        part = left if last else tax.part(gross, done=done, more=more, of=whole)
        left -= part
        duty = tax.part(line["tax_minor"], done=done, more=more, of=whole)
        rule = tax.Rule(line["treatment"], line["jurisdiction"], line["rate_bp"], line["category"])
        found.append(TaxLine(rule, part - duty, duty))
    return found


def _printed(original: Document) -> BillingDetails:
    buyer = original["buyer"]
    return BillingDetails(
        buyer["name"], "\n".join(buyer["address"]), buyer["country"], buyer["vat_id"],
        buyer["email"],
    )  # fmt: skip


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
