"""The operator's table of tax rates: dated, without overlap, and never behind an issued invoice.

A new rate ends the one before it on the day before. What was issued keeps the rate that it says;
the next invoice takes the one of its day. Knows nothing of sellers and buyers.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import func
from sqlmodel import Session, col, select

from chat_app.audit import log
from chat_app.clock import from_micros
from chat_app.credits.invoices.tables import InvoiceRow, InvoiceTaxRow, SeriesRow, TaxRateRow
from chat_app.credits.invoices.tax import BUILT_IN, FULL, STANDARD
from chat_app.errors import Conflict, Invalid, NotFound

SOURCE_LENGTH = 200
_PLACE = re.compile(r"[A-Z]{2}")
_DAY = timedelta(days=1)


class BadTaxRate(Invalid):
    """A rate that cannot be: the country, the rate, the days or the source."""

    code = "bad_tax_rate"
    message = (
        "A tax rate has a country of two letters, 0 to 10000 hundredths of a percent, and days "
        "such as 2027-01-01 of which the last is not before the first. Correct it and try again."
    )


class TaxRateOverlap(Conflict):
    """Another rate of the country is dated for these days."""

    code = "tax_rate_overlap"
    message = (
        "Another rate of this country covers some of these days. Choose other days, or remove "
        "the planned rate first."
    )


class TaxRateTooEarly(Conflict):
    """Invoices of the country were issued on or after the first day; `earliest` is possible."""

    code = "tax_rate_too_early"
    message = (
        "Invoices with a rate of this country were issued on that day or later, and they stay as "
        "they are. Let the new rate begin after them."
    )


class TaxRateBegun(Conflict):
    """A rate that is or was in force stays."""

    code = "tax_rate_begun"
    message = "This rate has begun, so it stays. Add the next one with its first day instead."


class UnknownTaxRate(NotFound):
    """There is no such rate."""

    code = "unknown_tax_rate"
    message = "This tax rate could not be found. Reload the list."


@dataclass(frozen=True)
class TaxRate:
    """A rate in hundredths of a percent for the days `first` to `last` (ISO), or without end."""

    id: int
    jurisdiction: str
    category: str
    rate_bp: int
    first: str
    last: str | None
    source: str

    @property
    def built_in(self) -> bool:
        """Whether it comes with the program."""
        return self.source.startswith(BUILT_IN)

    def covers(self, day: str) -> bool:
        """Whether it is in force on an ISO day."""
        return self.first <= day and (self.last is None or day <= self.last)


def listed(session: Session, *, jurisdiction: str = "") -> list[TaxRate]:
    """The whole table, or one country's rates: by country, the newest first."""
    query = select(TaxRateRow)
    if jurisdiction:
        query = query.where(TaxRateRow.jurisdiction == jurisdiction)
    rows = session.exec(
        query.order_by(
            col(TaxRateRow.jurisdiction), col(TaxRateRow.category),
            col(TaxRateRow.valid_from).desc(),
        )
    )  # fmt: skip
    return [_rate(row) for row in rows]


def add(
    session: Session,
    *,
    jurisdiction: str,
    rate_bp: int,
    first: str,
    last: str | None,
    source: str,
    actor: str,
    now: int,
) -> TaxRate:
    """A rate from its first day on, until a last one if there is any.

    The rate that runs without an end ends on the day before, and goes on after the last day.
    Raises BadTaxRate, TaxRateOverlap or TaxRateTooEarly.
    """
    source = " ".join(source.split())
    place = _PLACE.fullmatch(jurisdiction)
    if not (place and 0 <= rate_bp <= FULL and len(source) <= SOURCE_LENGTH):
        raise BadTaxRate
    begins, ends = day_of(first), None if last is None else day_of(last)
    if (ends is not None and ends < begins) or source.startswith(BUILT_IN):
        raise BadTaxRate
    _line_up(session)
    issued = last_issued(session, jurisdiction=jurisdiction)
    if issued is not None and first <= issued:
        raise TaxRateTooEarly(earliest=(day_of(issued) + _DAY).isoformat())
    rows = _rows(session, jurisdiction)
    before = next((row for row in rows if row.valid_from < first), None)
    after = [row for row in rows if row.valid_from >= first]
    if after and (last is None or after[-1].valid_from <= last):
        raise TaxRateOverlap(day=after[-1].valid_from)
    if before is not None and before.valid_to is not None and before.valid_to >= first:
        raise TaxRateOverlap(day=before.valid_to)
    if before is not None and before.valid_to is None:
        before.valid_to = (begins - _DAY).isoformat()
        session.add(before)
        if ends is not None and not after:
            following = (ends + _DAY).isoformat()
            _put(
                session, jurisdiction, before.rate_bp, days=(following, None),
                source=before.source, now=now,
            )  # fmt: skip
    row = _put(session, jurisdiction, rate_bp, days=(first, last), source=source, now=now)
    _record(session, "tax_rate_added", row, actor=actor, now=now)
    return _rate(row)


def remove(session: Session, *, rate_id: int, actor: str, now: int) -> None:
    """Take a planned rate back; the one before it goes on in its place.

    Raises UnknownTaxRate, or TaxRateBegun when its first day is not still to come.
    """
    _line_up(session)
    row = session.get(TaxRateRow, rate_id)
    if row is None:
        raise UnknownTaxRate
    if row.valid_from <= from_micros(now).date().isoformat():
        raise TaxRateBegun(first=row.valid_from)
    eve = (day_of(row.valid_from) - _DAY).isoformat()
    before = next((one for one in _rows(session, row.jurisdiction) if one.valid_to == eve), None)
    if before is not None:
        before.valid_to = row.valid_to
        session.add(before)
    session.delete(row)
    session.flush()
    _record(session, "tax_rate_removed", row, actor=actor, now=now)


def last_issued(session: Session, *, jurisdiction: str) -> str | None:
    """The newest ISO day on which an invoice with a rate of this country was issued."""
    newest = session.exec(
        select(func.max(InvoiceRow.issued_at))
        .join(InvoiceTaxRow, col(InvoiceTaxRow.invoice_id) == InvoiceRow.id)
        .where(InvoiceTaxRow.jurisdiction == jurisdiction, InvoiceRow.kind == "invoice")
    ).one()
    return None if newest is None else from_micros(int(newest)).date().isoformat()


def day_of(text: str) -> date:
    """An ISO day; raises BadTaxRate."""
    try:
        found = date.fromisoformat(text)
    except ValueError as error:
        raise BadTaxRate from error
    if found.isoformat() != text:
        raise BadTaxRate
    return found


def _line_up(session: Session) -> None:
    """Nobody takes a number meanwhile, so no invoice is issued with what is just being changed."""
    session.exec(select(SeriesRow).order_by(col(SeriesRow.series)).with_for_update()).all()


def _rows(session: Session, jurisdiction: str) -> list[TaxRateRow]:
    """The newest first."""
    return list(
        session.exec(
            select(TaxRateRow)
            .where(TaxRateRow.jurisdiction == jurisdiction, TaxRateRow.category == STANDARD)
            .order_by(col(TaxRateRow.valid_from).desc())
        )
    )


def _put(
    session: Session,
    jurisdiction: str,
    rate_bp: int,
    *,
    days: tuple[str, str | None],
    source: str,
    now: int,
) -> TaxRateRow:
    row = TaxRateRow(
        jurisdiction=jurisdiction,
        category=STANDARD,
        rate_bp=rate_bp,
        valid_from=days[0],
        valid_to=days[1],
        source=source,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def _rate(row: TaxRateRow) -> TaxRate:
    assert row.id is not None
    return TaxRate(
        row.id, row.jurisdiction, row.category, row.rate_bp, row.valid_from, row.valid_to,
        row.source,
    )  # fmt: skip


def _record(session: Session, type: str, row: TaxRateRow, *, actor: str, now: int) -> None:
    log.record(
        session,
        type=type,
        actor=actor,
        now=now,
        jurisdiction=row.jurisdiction,
        rate_bp=row.rate_bp,
        first=row.valid_from,
        last=row.valid_to,
        source=row.source,
    )
