"""The seller: name, address, ids and tax mode, kept in the books with the day they began.

The settings say who sells today; an invoice says who sold then. So each change of the settings
is a new row, and nothing here needs the settings when an order is paid.
"""

import json
from dataclasses import asdict, dataclass

from sqlmodel import Session, col, select

from chat_app.audit.log import canonical
from chat_app.clock import from_micros
from chat_app.credits.invoices import tax
from chat_app.credits.invoices.tables import SellerRow
from chat_app.credits.invoices.tax import Mode
from chat_app.settings import Business


@dataclass(frozen=True)
class Seller:
    """What a document says about the seller. `address` has lines; countries are ISO 3166."""

    name: str = "ML Chat Billing"
    address: str = ""
    country: str = ""
    registration: str = ""
    vat_id: str = ""
    email: str = ""
    note: str = ""
    tax: Mode = "off"
    invoice_prefix: str = "INV"
    credit_note_prefix: str = "CN"
    payment_days: int = 14


def of(business: Business) -> Seller:
    """The seller of the settings."""
    lines = [line.strip() for line in business.address.split(";")]
    facts = business.model_dump(exclude={"timezone"})
    return Seller(**facts | {"address": "\n".join(line for line in lines if line)})


def keep(session: Session, *, seller: Seller, now: int) -> int:
    """Make this the seller from now on; returns the row's id. The same again adds no row.

    Raises NoTaxRate when tax is on and the seller's country is not in the table.
    """
    if seller.tax != "off":
        day = from_micros(now).date().isoformat()
        if tax.rate(session, jurisdiction=seller.country, day=day) is None:
            raise tax.NoTaxRate(country=seller.country)
    facts = canonical(asdict(seller))
    row = _newest(session)
    if row is None or row.facts != facts:
        row = SellerRow(tax=seller.tax, country=seller.country, facts=facts, created_at=now)
        session.add(row)
        session.flush()
    assert row.id is not None
    return row.id


def current(session: Session, *, now: int) -> tuple[int, Seller]:
    """The seller in force with the row's id; a nameless one is kept when there is none yet."""
    row = _newest(session)
    if row is None:
        return keep(session, seller=Seller(), now=now), Seller()
    assert row.id is not None
    return row.id, Seller(**json.loads(row.facts))


def newest(session: Session) -> Seller:
    """The seller in force, for reading."""
    row = _newest(session)
    return Seller() if row is None else Seller(**json.loads(row.facts))


def _newest(session: Session) -> SellerRow | None:
    return session.exec(select(SellerRow).order_by(col(SellerRow.id).desc()).limit(1)).first()
