"""The rows behind a figure of revenue: orders, customers, invoices, documents, postings.

All rows of a figure add up to it. Ledger figures are read page by page, the others at once.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Literal, cast, get_args

from sqlalchemy import bindparam, text
from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.credits import takings
from chat_app.credits.statements import safe
from chat_app.flows import revenue_detail, revenue_figures
from chat_app.flows.revenue_detail import By
from chat_app.revenue import spans
from chat_app.revenue.spans import Span

Ledger = Literal[
    "earned", "billed", "usage", "subscription", "breakage", "adjustment", "refunded", "closing"
]
Movement = Literal["moved", "new", "reactivation", "expansion", "contraction", "churned"]
Figure = Literal[
    "earned", "billed", "usage", "subscription", "breakage", "adjustment", "refunded", "closing",
    "cost", "mrr", "moved", "new", "reactivation", "expansion", "contraction", "churned",
    "cohort", "open", "tax", "model", "channel", "organisation", "plan", "country",
]  # fmt: skip
CHUNK = 500
# The same lines that make up a month of `revenue.months`; the sign turns them into its figure.
_FIGURES: dict[str, tuple[str, int]] = {
    "earned": ("p.account LIKE 'revenue:%'", -1),
    "billed": ("p.account LIKE 'deferred:%' AND j.kind = 'sale'", -1),
    "usage": ("p.account = 'revenue:usage'", -1),
    "subscription": ("p.account = 'revenue:subscription'", -1),
    "breakage": ("p.account = 'revenue:breakage'", -1),
    "adjustment": ("p.account = 'revenue:adjustment'", -1),
    "refunded": ("p.account LIKE 'deferred:%' AND j.kind LIKE '%~_taken' ESCAPE '~'", 1),
    "closing": ("p.account LIKE 'deferred:%'", -1),
}
_BOUGHT = """ AND EXISTS (SELECT 1 FROM journal s WHERE s.key = 'sale:' || p.payment_id
  AND SUBSTR(s.day, 1, 7) = :part)"""
_ROWS = """SELECT COALESCE(p.payment_id, '') AS id, SUM(p.amount_minor) AS minor, COUNT(*),
  MIN(j.day), MAX(j.day)
 FROM posting p JOIN journal j ON j.id = p.journal_id
 WHERE {condition} AND p.currency = :currency AND j.day >= :since AND j.day <= :until
 GROUP BY COALESCE(p.payment_id, '') HAVING SUM(p.amount_minor) <> 0"""
_SUMS = "SELECT COUNT(*), COALESCE(SUM(minor), 0) FROM ({rows}) found"
_ORDERS = """SELECT y.id, y.user_id, u.username, i.id, i.number FROM payment y
 LEFT JOIN "user" u ON u.id = y.user_id
 LEFT JOIN invoice i ON i.payment_id = y.id AND i.kind = 'invoice' AND i.status <> 'void'
 WHERE y.id IN :ids"""
_PEOPLE = 'SELECT id, username FROM "user" WHERE id IN :ids'
_COSTS = """SELECT j.day, p.account, j.memo, p.amount_minor FROM posting p
 JOIN journal j ON j.id = p.journal_id
 WHERE p.account LIKE 'cost:%' AND p.currency = :currency AND j.day >= :since AND j.day <= :until
 ORDER BY j.day DESC, j.id DESC, p.line"""
_DOCUMENTS = f"""SELECT i.id, i.number, i.kind, i.status, i.user_id, u.username, d.at,
  i.payment_id, d.sign, x.base_minor, x.tax_minor
 FROM ({takings.DOCUMENTS}) d JOIN invoice i ON i.id = d.id
 JOIN invoice_tax x ON x.invoice_id = i.id LEFT JOIN "user" u ON u.id = i.user_id
 WHERE i.currency = :currency AND x.jurisdiction = :place AND x.category = :category
  AND x.treatment = :treatment AND x.rate_bp = :rate
 ORDER BY d.at, i.id"""  # noqa: S608 - made of constants


@dataclass(frozen=True)
class Row:
    """The part of a figure that comes from one order, customer or document."""

    minor: int
    first_day: str
    last_day: str
    payment_id: str = ""
    entries: int = 1
    user_id: int | None = None
    username: str | None = None
    invoice_id: str | None = None
    invoice: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Behind:
    """A figure of a span. `part` narrows it: to a month of purchase, a bucket, a name, a rate."""

    figure: Figure
    span: Span
    currency: str
    part: str = ""


@dataclass(frozen=True)
class Found:
    """A page of rows, with how many there are in all and their sum (minor units)."""

    items: list[Row]
    next_cursor: str | None
    count: int
    total_minor: int


def find(app: App, what: Behind, *, limit: int = 50, cursor: str = "") -> Found:
    """A page of the rows behind a figure, from the cursor of the page before."""
    with app.db.read() as session:
        if what.figure in get_args(Ledger):
            return _of_ledger(session, what, limit, cursor)
        rows = _LISTS[what.figure](app, session, what)
        start = int(cursor) if cursor.isdigit() else 0
        shown = _named(session, rows[start : start + limit])
    following = str(start + limit) if len(rows) > start + limit else None
    return Found(shown, following, len(rows), sum(row.minor for row in rows))


def as_csv(app: App, what: Behind) -> Iterator[str]:
    """All rows as CSV, page by page; no text in it is a formula."""
    heads = ("payment_id", "amount_minor", "currency", "entries", "first_day", "last_day",
             "user_id", "username", "invoice", "note")  # fmt: skip
    yield _line(heads)
    cursor: str | None = ""
    while cursor is not None:
        page = find(app, what, limit=CHUNK, cursor=cursor)
        for row in page.items:
            yield _line(
                (row.payment_id, row.minor, what.currency, row.entries, row.first_day,
                 row.last_day, row.user_id or "", safe(row.username or ""),
                 safe(row.invoice or ""), safe(row.note))
            )  # fmt: skip
        cursor = page.next_cursor


def _of_ledger(session: Session, what: Behind, limit: int, cursor: str) -> Found:
    condition, sign = _FIGURES[what.figure]
    query = _ROWS.format(condition=condition + (_BOUGHT if what.part else ""))
    values: dict[str, Any] = {
        "currency": what.currency,
        "since": "" if what.figure == "closing" else what.span.first.isoformat(),
        "until": what.span.last.isoformat(),
    }
    if what.part:
        values["part"] = what.part
    count, total = session.execute(text(_SUMS.format(rows=query)), values).one()
    after = ""
    if cursor:
        after, values["after"] = " AND COALESCE(p.payment_id, '') > :after", cursor
    paged = query.replace(" GROUP BY", after + " GROUP BY") + " ORDER BY 1 LIMIT :limit"
    found = session.execute(text(paged), {**values, "limit": limit + 1}).all()
    rows = [
        Row(sign * int(row[1]), row[3], row[4], payment_id=row[0], entries=int(row[2]))
        for row in found[:limit]
    ]
    following = rows[-1].payment_id if len(found) > limit else None
    return Found(_named(session, rows), following, int(count), sign * int(total))


def _standing(app: App, session: Session, what: Behind) -> list[Row]:
    """Whose plans make up MRR at the end of the span."""
    end = revenue_figures.end_of(app, what.span)
    newest = {
        one.user_id: one
        for one in takings.plan_periods(session, until=to_micros(end))
        if one.currency == what.currency
    }
    return _most(
        Row(one.net_minor, _day(one.starts_at), _day(one.ends_at), user_id=user, note=one.plan)
        for user, one in newest.items()
        if to_micros(end) < one.ends_at and one.net_minor
    )


def _moved(app: App, _session: Session, what: Behind) -> list[Row]:
    """Who moved MRR in the span, by how much."""
    found = revenue_detail.moved(
        app, since=what.span.begin, until=revenue_figures.end_of(app, what.span),
        currency=what.currency,
    )  # fmt: skip
    first, last = what.span.first.isoformat(), what.span.last.isoformat()
    return _most(
        Row(
            one.after_minor - one.before_minor, first, last, user_id=one.user_id,
            note=f"{one.movement}: {one.before_minor / 100:,.2f} to {one.after_minor / 100:,.2f}",
        )
        for one in found
        if what.figure in ("moved", one.movement)
    )  # fmt: skip


def _cohort(app: App, session: Session, what: Behind) -> list[Row]:
    """What each of those pays who began in a month: `2026-03+2` is two months later."""
    from chat_app.revenue import metrics

    cohort, _, age = what.part.partition("+")
    end = revenue_figures.end_of(app, what.span)
    periods = takings.plan_periods(session, until=to_micros(end))
    found = metrics.members(
        revenue_figures.movements(periods), end, cohort=cohort,
        age=int(age) if age.isdigit() and len(age) < 4 else 0, currency=what.currency,
    )  # fmt: skip
    began: dict[int, int] = {}
    for one in periods:
        if one.currency == what.currency and one.net_minor:
            began.setdefault(one.user_id, one.starts_at)
    last = min(end.date(), what.span.last).isoformat()
    return _most(
        Row(minor, _day(began[user]), last, user_id=user, note="pays" if minor else "has left")
        for user, minor in found.items()
    )


def _open(app: App, session: Session, what: Behind) -> list[Row]:
    """Invoices that are not paid, of one bucket or of all."""
    from chat_app.revenue.receivables import bucket

    end = revenue_figures.end_of(app, what.span)
    rows = []
    for one in takings.open_invoices(session, at=to_micros(end)):
        late = (end.date() - date.fromisoformat(one.due_on)).days
        if one.currency == what.currency and what.part in ("", bucket(late)):
            rows.append(
                Row(
                    one.open_minor, _day(one.issued_at), one.due_on, user_id=one.user_id,
                    invoice_id=one.id, invoice=one.number,
                    note=f"{late} days late" if late > 0 else "not due yet",
                )
            )  # fmt: skip
    return rows


def _documents(_app: App, session: Session, what: Behind) -> list[Row]:
    """Invoices and credit notes of one rate: `DE|standard|standard|1900`."""
    place, category, treatment, rate = [*what.part.split("|"), "", "", ""][:4]
    values = {
        "since": to_micros(spans.midnight(what.span.first)),
        "until": to_micros(spans.midnight(what.span.last + timedelta(days=1))),
        "currency": what.currency, "place": place, "category": category, "treatment": treatment,
        "rate": int(rate) if rate.isdigit() and len(rate) < 8 else -1,
    }  # fmt: skip
    rows = []
    for id, number, kind, status, user, name, at, payment, sign, base, tax in session.execute(
        text(_DOCUMENTS), values
    ):
        given_up = sign < 0 and kind == "invoice"
        said = f"{status} {kind}" if given_up else kind.replace("_", " ")
        day = _day(at)
        rows.append(
            Row(
                sign * int(tax), day, day, payment_id=payment or "", user_id=user, username=name,
                invoice_id=id, invoice=number,
                note=f"{said}, base {sign * int(base) / 100:,.2f}",
            )
        )  # fmt: skip
    return rows


def _costs(_app: App, session: Session, what: Behind) -> list[Row]:
    """What was booked as cost."""
    values = {
        "currency": what.currency,
        "since": what.span.first.isoformat(),
        "until": what.span.last.isoformat(),
    }
    return [
        Row(int(minor), day, day, note=f"{account.partition(':')[2]}: {memo}")
        for day, account, memo, minor in session.execute(text(_COSTS), values)
    ]


def _source(_app: App, session: Session, what: Behind) -> list[Row]:
    """The orders that a line of a breakdown comes from."""
    first, last = what.span.first.isoformat(), what.span.last.isoformat()
    sums: dict[str, int] = defaultdict(int)
    for one in revenue_detail.attributed(
        session, by=cast(By, what.figure), since=what.span.first, until=what.span.last,
        currency=what.currency,
    ):  # fmt: skip
        if one.name == what.part:
            sums[one.payment_id or ""] += one.minor
    return _most(Row(minor, first, last, payment_id=id) for id, minor in sums.items() if minor)


_LISTS: dict[str, Callable[[App, Session, Behind], list[Row]]] = {
    "cost": _costs, "mrr": _standing, "cohort": _cohort, "open": _open, "tax": _documents,
    **dict.fromkeys(get_args(Movement), _moved), **dict.fromkeys(get_args(By), _source),
}  # fmt: skip


def _named(session: Session, rows: list[Row]) -> list[Row]:
    """Rows with the names of their customers and the numbers of their invoices."""
    bare = [row for row in rows if row.username is None]
    orders = {
        one[0]: one[1:]
        for one in _all(session, _ORDERS, {row.payment_id for row in bare if row.payment_id})
    }
    people = dict(_all(session, _PEOPLE, {row.user_id for row in bare if row.user_id}))

    def named(row: Row) -> Row:
        if row.username is not None:
            return row
        if row.user_id is not None:
            return replace(row, username=people.get(row.user_id))
        user, name, invoice, number = orders.get(row.payment_id, (None, None, None, None))
        return replace(row, user_id=user, username=name, invoice_id=invoice, invoice=number)

    return [named(row) for row in rows]


def _all(session: Session, query: str, ids: "set[Any]") -> Iterator[tuple[Any, ...]]:
    """The rows of some ids, a few at a time."""
    asked, made = text(query).bindparams(bindparam("ids", expanding=True)), sorted(ids)
    for at in range(0, len(made), CHUNK):
        yield from (tuple(row) for row in session.execute(asked, {"ids": made[at : at + CHUNK]}))


def _most(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-abs(row.minor), row.payment_id, row.user_id or 0))


def _day(micros: int) -> str:
    return (spans.midnight(date(1970, 1, 1)) + timedelta(microseconds=micros)).date().isoformat()


def _line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()
