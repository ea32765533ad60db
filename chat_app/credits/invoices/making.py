"""Making documents: what an order's invoice or a credit note says, its number, the frozen rows.

The number is taken in the caller's transaction, as late as possible. Knows nothing of states.
"""

from dataclasses import dataclass, replace

from sqlmodel import Session

from chat_app.accounts.tables import User
from chat_app.clock import from_micros
from chat_app.credits.invoices import details, documents, tax
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.documents import Document, Line, Paid
from chat_app.credits.invoices.sellers import Seller
from chat_app.credits.invoices.tables import InvoiceLineRow, InvoiceRow, InvoiceTaxRow
from chat_app.credits.invoices.tax import TaxLine
from chat_app.credits.sql import Books, Statement
from chat_app.credits.tables import PackageRow, PaymentRow
from chat_app.money import show_credits

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


@dataclass(frozen=True)
class Number:
    """A number that was taken, and the time of issue in microseconds."""

    text: str
    year: int
    sequence: int
    at: int


def take(session: Session, *, series: str, now: int) -> Number:
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
    return Number(f"{series}-{this_year}-{following:06d}", this_year, following, at)


def document_of(
    session: Session,
    payment: PaymentRow,
    *,
    seller: Seller,
    number: Number | None,
    now: int,
    paid: Paid | None = None,
    due_on: str | None = None,
) -> Document:
    """What an order's invoice says, as the details and the rates are today; raises NoTaxRate."""
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


def freeze(
    session: Session, row: InvoiceRow, document: Document, *, number: Number, status: str
) -> None:
    """Write down an issued document, with its lines and taxes, for good."""
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


def shares(original: Document, *, done: int, more: int) -> list[TaxLine]:
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


def printed_buyer(original: Document) -> BillingDetails:
    """The buyer as a document names them."""
    buyer = original["buyer"]
    return BillingDetails(
        buyer["name"], "\n".join(buyer["address"]), buyer["country"], buyer["vat_id"],
        buyer["email"],
    )  # fmt: skip


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
