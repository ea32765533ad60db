"""What the money ledger is written from: sales, lots with a price, uses, money that went back.

Rows in the order in which they happened, of a span of transfers (`after` excluded, `upto`
included). Amounts are minor units and microcredits, times µs. Knows nothing of accounts of money.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlmodel import Session

_UPTO = "SELECT MAX(id) FROM transfer WHERE id > :after AND created_at < :before"
_SALES = """SELECT t.id, t.created_at, p.id, p.provider, p.user_id, p.amount_minor, p.currency,
  l.id, l.granted, l.price_minor, s.starts_at, s.ends_at, i.id,
  COALESCE(i.net_minor, p.amount_minor)
 FROM payment p JOIN operation o ON o.id = p.fulfilled_op_id
 JOIN transfer t ON t.id = o.transfer_id
 JOIN lot l ON l.transfer_id = t.id AND l.parent_lot_id IS NULL
 LEFT JOIN subscription_period s ON s.subscription_id = p.subscription_id AND s.number = p.period
 LEFT JOIN invoice i ON i.payment_id = p.id AND i.kind = 'invoice' AND i.status <> 'void'
 WHERE t.id > :after AND t.id <= :upto AND p.amount_minor > 0 ORDER BY t.id"""
_TAXES = """SELECT x.invoice_id, x.jurisdiction, SUM(x.tax_minor) FROM invoice_tax x
 JOIN invoice i ON i.id = x.invoice_id JOIN payment p ON p.id = i.payment_id
 JOIN operation o ON o.id = p.fulfilled_op_id
 WHERE o.transfer_id > :after AND o.transfer_id <= :upto AND i.kind = 'invoice'
 GROUP BY x.invoice_id, x.jurisdiction HAVING SUM(x.tax_minor) > 0 ORDER BY 1, 2"""
_LOTS = """SELECT l.transfer_id, t.created_at, l.id, l.parent_lot_id, l.granted, l.price_minor,
  l.currency, r.id, d.id
 FROM lot l JOIN transfer t ON t.id = l.transfer_id
 LEFT JOIN refund r ON r.returned_id = l.transfer_id
 LEFT JOIN dispute d ON d.returned_id = l.transfer_id
 LEFT JOIN operation o ON o.transfer_id = l.transfer_id
 LEFT JOIN payment p ON p.fulfilled_op_id = o.id
 WHERE l.transfer_id > :after AND l.transfer_id <= :upto AND p.id IS NULL
  AND (l.price_minor > 0 OR l.parent_lot_id IS NOT NULL)
 ORDER BY l.transfer_id, l.id"""
_USES = """SELECT u.transfer_id, t.created_at, u.lot_id, u.kind, u.amount, u.revenue_minor,
  r.id, d.id, t.code
 FROM lot_use u JOIN transfer t ON t.id = u.transfer_id JOIN lot l ON l.id = u.lot_id
 LEFT JOIN refund r ON r.transfer_id = u.transfer_id
 LEFT JOIN dispute d ON d.transfer_id = u.transfer_id
 WHERE u.transfer_id > :after AND u.transfer_id <= :upto AND l.price_minor > 0
 ORDER BY u.transfer_id, u.lot_id"""
_REFUNDS = """SELECT r.id, r.payment_id, p.provider, p.user_id, r.amount_minor, r.currency,
  r.ended_at
 FROM refund r JOIN payment p ON p.id = r.payment_id
 WHERE r.state = 'succeeded' AND r.ended_at >= :since AND r.ended_at < :before
 ORDER BY r.ended_at, r.id"""
_DISPUTES = """SELECT d.id, d.payment_id, d.provider, d.user_id, d.state, d.disputed_minor,
  d.amount_minor, p.currency, d.opened_at, d.closed_at
 FROM dispute d JOIN payment p ON p.id = d.payment_id
 WHERE d.operation_id IS NOT NULL AND d.opened_at < :before
  AND (d.closed_at IS NULL OR d.closed_at >= :since)
 ORDER BY d.opened_at, d.id"""
_INVOICES = """SELECT i.id, i.payment_id, i.user_id, i.status, i.net_minor, i.total_minor,
  i.currency, i.issued_at, i.closed_at, p.paid_at
 FROM invoice i LEFT JOIN payment p ON p.id = i.payment_id
 WHERE i.kind = 'invoice' AND i.number IS NOT NULL AND i.issued_at < :before
  AND (p.paid_at IS NULL OR p.paid_at > i.issued_at)
  AND (i.issued_at >= :since OR i.closed_at >= :since)
 ORDER BY i.issued_at, i.id"""
_NOTES = """SELECT i.id, i.payment_id, i.user_id, i.currency, i.issued_at, x.jurisdiction,
  x.tax_minor
 FROM invoice i JOIN invoice_tax x ON x.invoice_id = i.id
 WHERE i.kind = 'credit_note' AND i.issued_at >= :since AND i.issued_at < :before
  AND x.tax_minor > 0 ORDER BY i.issued_at, i.id, x.position"""
_NOTED = """SELECT COALESCE(SUM(x.tax_minor), 0) FROM invoice i
 JOIN invoice_tax x ON x.invoice_id = i.id
 WHERE i.kind = 'credit_note' AND i.payment_id = :payment_id
  AND x.jurisdiction = :jurisdiction AND i.issued_at <= :until"""
_TAX_OF = """SELECT jurisdiction, SUM(tax_minor) FROM invoice_tax WHERE invoice_id = :id
 GROUP BY jurisdiction HAVING SUM(tax_minor) > 0 ORDER BY 1"""
_PLANS = """SELECT s.user_id, e.starts_at, e.ends_at, e.plan_name, e.currency,
  COALESCE(i.net_minor, e.price_minor)
 FROM subscription_period e JOIN subscription s ON s.id = e.subscription_id
 LEFT JOIN invoice i ON i.payment_id = e.payment_id AND i.kind = 'invoice' AND i.status <> 'void'
 WHERE e.state = 'paid' AND e.starts_at <= :until ORDER BY s.user_id, e.starts_at, e.number"""
_OPEN = """SELECT i.id, i.number, i.user_id, i.due_on, i.total_minor, i.currency, i.issued_at
 FROM invoice i LEFT JOIN payment p ON p.id = i.payment_id
 WHERE i.kind = 'invoice' AND i.number IS NOT NULL AND i.issued_at <= :at
  AND (p.paid_at IS NULL OR p.paid_at > :at)
  AND (i.closed_at IS NULL OR i.closed_at > :at) AND i.due_on IS NOT NULL
 ORDER BY i.due_on, i.id"""
# A document counts when it is issued; one that was voided or written off in a later time takes
# its tax back then, as the ledger does. Within one time such a document is none.
DOCUMENTS = """SELECT i.id, i.issued_at AS at,
  CASE WHEN i.kind = 'invoice' THEN 1 ELSE -1 END AS sign
 FROM invoice i WHERE i.issued_at >= :since AND i.issued_at < :until AND i.number IS NOT NULL
  AND (i.status NOT IN ('void', 'uncollectible') OR i.closed_at >= :until)
 UNION ALL
 SELECT i.id, i.closed_at, CASE WHEN i.kind = 'invoice' THEN -1 ELSE 1 END
 FROM invoice i WHERE i.closed_at >= :since AND i.closed_at < :until AND i.number IS NOT NULL
  AND i.status IN ('void', 'uncollectible') AND i.issued_at < :since"""
_TAXED = f"""SELECT x.jurisdiction, x.category, x.treatment, x.rate_bp, i.currency,
  CAST(SUM(d.sign * x.base_minor) AS BIGINT), CAST(SUM(d.sign * x.tax_minor) AS BIGINT), COUNT(*)
 FROM ({DOCUMENTS}) d JOIN invoice i ON i.id = d.id JOIN invoice_tax x ON x.invoice_id = i.id
 GROUP BY x.jurisdiction, x.category, x.treatment, x.rate_bp, i.currency
 ORDER BY 1, 2, 3, 4"""  # noqa: S608 - made of constants
_BY_MODEL = """SELECT u.model, l.currency, SUM(lu.revenue_minor), SUM(lu.amount), COUNT(*)
 FROM usage u JOIN lot_use lu ON lu.transfer_id = u.transfer_id JOIN lot l ON l.id = lu.lot_id
 WHERE u.at >= :since AND u.at < :until AND lu.kind = 'use'
 GROUP BY u.model, l.currency ORDER BY 3 DESC, 1"""


@dataclass(frozen=True)
class Sale:
    """A paid order and the lot that it became. With `starts_at` it is a period of a plan."""

    transfer_id: int
    at: int
    payment_id: str
    provider: str
    user_id: int
    amount_minor: int
    currency: str
    lot_id: int
    granted: int
    price_minor: int
    starts_at: int | None
    ends_at: int | None
    invoice_id: str | None
    net_minor: int
    taxes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Made:
    """A lot with a price that no order made: moved here from its parent, or come back."""

    transfer_id: int
    at: int
    lot_id: int
    parent_id: int | None
    granted: int
    price_minor: int
    currency: str
    refund_id: str | None
    dispute_id: str | None


@dataclass(frozen=True)
class Use:
    """Credits that left a lot with a price. `gross_minor` is their share of it.

    `code` is the transfer's: a `repayment` pays for what was used before.
    """

    transfer_id: int
    at: int
    lot_id: int
    kind: str
    micro: int
    gross_minor: int
    refund_id: str | None
    dispute_id: str | None
    code: str = ""


@dataclass(frozen=True)
class PaidBack:
    """A refund whose money has gone."""

    id: str
    payment_id: str
    provider: str
    user_id: int
    amount_minor: int
    currency: str
    at: int


@dataclass(frozen=True)
class Disputed:
    """A dispute that took money: what the bank took, and the price of the credits that left."""

    id: str
    payment_id: str
    provider: str
    user_id: int
    state: str
    disputed_minor: int
    taken_minor: int
    currency: str
    opened_at: int
    closed_at: int | None


@dataclass(frozen=True)
class Billed:
    """An invoice that was sent before it was paid."""

    id: str
    payment_id: str | None
    user_id: int
    status: str
    net_minor: int
    total_minor: int
    currency: str
    issued_at: int
    closed_at: int | None
    paid_at: int | None


@dataclass(frozen=True)
class NoteTax:
    """The tax that a credit note takes back in one jurisdiction."""

    id: str
    payment_id: str
    user_id: int
    currency: str
    at: int
    jurisdiction: str
    tax_minor: int


@dataclass(frozen=True)
class PlanPeriod:
    """A paid period of somebody's plan; the price is net of tax, for its length."""

    user_id: int
    starts_at: int
    ends_at: int
    plan: str
    currency: str
    net_minor: int


@dataclass(frozen=True)
class OpenInvoice:
    """An invoice that nobody has paid yet; `due_on` is a day (ISO)."""

    id: str
    number: str
    user_id: int
    due_on: str
    open_minor: int
    currency: str
    issued_at: int


@dataclass(frozen=True)
class Taxed:
    """What documents of a time say of one rate, credit notes taken off."""

    jurisdiction: str
    category: str
    treatment: str
    rate_bp: int
    currency: str
    base_minor: int
    tax_minor: int
    documents: int


@dataclass(frozen=True)
class OfModel:
    """What answers of a model earned: minor units (gross), microcredits, number of charges."""

    model: str
    currency: str
    gross_minor: int
    micro: int
    charges: int


def last_before(session: Session, *, after: int, before: int) -> int:
    """The newest transfer of the time before `before`, or `after` when there is none."""
    found = session.execute(text(_UPTO), {"after": after, "before": before}).scalar()
    return after if found is None else int(found)


def sales(session: Session, *, after: int, upto: int) -> list[Sale]:
    """Orders that were paid."""
    span = {"after": after, "upto": upto}
    taxes: dict[str, list[tuple[str, int]]] = {}
    for invoice_id, jurisdiction, minor in session.execute(text(_TAXES), span):
        taxes.setdefault(invoice_id, []).append((jurisdiction, int(minor)))
    rows = session.execute(text(_SALES), span)
    return [replace(Sale(*row), taxes=tuple(taxes.get(row[12], ()))) for row in rows]


def made(session: Session, *, after: int, upto: int) -> list[Made]:
    """Lots with a price that no order made."""
    return [Made(*row) for row in session.execute(text(_LOTS), {"after": after, "upto": upto})]


def uses(session: Session, *, after: int, upto: int) -> list[Use]:
    """What left lots with a price."""
    return [Use(*row) for row in session.execute(text(_USES), {"after": after, "upto": upto})]


def paid_back(session: Session, *, since: int, before: int) -> list[PaidBack]:
    """Refunds that arrived in this time."""
    found = session.execute(text(_REFUNDS), {"since": since, "before": before})
    return [PaidBack(*row) for row in found]


def disputed(session: Session, *, since: int, before: int) -> list[Disputed]:
    """Disputes that are open, or were decided since."""
    found = session.execute(text(_DISPUTES), {"since": since, "before": before})
    return [Disputed(*row) for row in found]


def is_lost(session: Session, *, dispute_id: str) -> bool:
    """Whether the bank has kept the money of this dispute."""
    query = "SELECT 1 FROM dispute WHERE id = :id AND state = 'lost'"
    return session.execute(text(query), {"id": dispute_id}).first() is not None


def billed(session: Session, *, since: int, before: int) -> list[Billed]:
    """Invoices that were issued or ended in this time without being paid at once."""
    found = session.execute(text(_INVOICES), {"since": since, "before": before})
    return [Billed(*row) for row in found]


def note_taxes(session: Session, *, since: int, before: int) -> list[NoteTax]:
    """Taxes on credit notes of this time."""
    found = session.execute(text(_NOTES), {"since": since, "before": before})
    return [NoteTax(*row) for row in found]


def noted_tax(session: Session, *, payment_id: str, jurisdiction: str, until: int) -> int:
    """The tax that all credit notes of an order have taken back up to then."""
    values = {"payment_id": payment_id, "jurisdiction": jurisdiction, "until": until}
    return int(session.execute(text(_NOTED), values).scalar_one())


def taxes_of(session: Session, *, invoice_id: str) -> list[tuple[str, int]]:
    """Jurisdictions and taxes of a document."""
    return [(row[0], int(row[1])) for row in session.execute(text(_TAX_OF), {"id": invoice_id})]


def plan_periods(session: Session, *, until: int) -> Sequence[PlanPeriod]:
    """Paid periods of plans that began up to `until`, by person and time."""
    return [PlanPeriod(*row) for row in session.execute(text(_PLANS), {"until": until})]


def open_invoices(session: Session, *, at: int) -> list[OpenInvoice]:
    """Invoices that were sent and not paid at a moment, the one that is due first comes first."""
    return [OpenInvoice(*row) for row in session.execute(text(_OPEN), {"at": at})]


def taxed(session: Session, *, since: int, until: int) -> list[Taxed]:
    """Taxes by place and rate on documents of this time, less what was given up in it."""
    found = session.execute(text(_TAXED), {"since": since, "until": until})
    return [Taxed(*row) for row in found]


def by_model(session: Session, *, since: int, until: int) -> list[OfModel]:
    """What each model's answers earned in this time."""
    found = session.execute(text(_BY_MODEL), {"since": since, "until": until})
    return [OfModel(row[0], row[1], int(row[2]), int(row[3]), int(row[4])) for row in found]
