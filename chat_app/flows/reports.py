"""Reports for operators: rows of a time with their totals, as JSON, CSV or PDF.

Rows are read page by page, so a report of any length needs little memory, and no session stays
open while somebody downloads it. Money is in minor units, credits are decimal texts.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import text

from chat_app.audit import differences
from chat_app.clock import from_micros, rfc3339, to_micros
from chat_app.credits import paper
from chat_app.credits.statements import safe
from chat_app.db import Database
from chat_app.errors import Invalid
from chat_app.flows import revenue_figures
from chat_app.money import format_credits
from chat_app.monitor import faults
from chat_app.revenue.months import roll_forward

Kind = Literal[
    "usage", "financial", "revenue", "tax", "receivables", "reconciliation", "monitoring"
]
Format = Literal["json", "csv", "pdf"]
MEDIA = {"json": "application/json", "csv": "text/csv; charset=utf-8", "pdf": "application/pdf"}
PAGE = 1000
PDF_ROWS = 2000
LONGEST_DAYS = 3660
Row = tuple[Any, ...]
_USAGE = """SELECT d.starts_at, d.user_id, u.username, d.model, d.messages, d.answers,
  d.prompt_tokens, d.completion_tokens, d.cost
 FROM usage_day d LEFT JOIN "user" u ON u.id = d.user_id
 WHERE d.starts_at >= :since AND d.starts_at < :until
  AND (d.starts_at, d.user_id, d.model) > (:at, :user, :model)
 ORDER BY d.starts_at, d.user_id, d.model LIMIT :limit"""
_POSTINGS = """SELECT j.id, p.line, j.day, j.kind, j.key, p.account, p.currency, p.amount_minor,
  p.payment_id
 FROM journal j JOIN posting p ON p.journal_id = j.id
 WHERE j.day >= :first AND j.day <= :last AND (j.id, p.line) > (:journal, :line)
 ORDER BY j.id, p.line LIMIT :limit"""


class BadReport(Invalid):
    """The kind, the format or the time of a report is wrong."""

    code = "invalid_report"
    message = "This report cannot be made. Choose a kind that exists and at most ten years."


@dataclass(frozen=True)
class Report:
    """Columns and rows from `since` to `until` (days, included). `summed` columns have totals."""

    kind: str
    since: date
    until: date
    columns: tuple[str, ...]
    summed: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]

    @property
    def name(self) -> str:
        """The name of a file with it, without its ending."""
        return f"{self.kind}-{self.since}-{self.until}"


def make(
    db: Database,
    *,
    kind: str,
    today: date,
    since: date | None = None,
    until: date | None = None,
) -> Report:
    """A report of the days from `since` to `until`; the 30 up to `today` when nothing is said.

    Nothing is read before its rows are. Raises BadReport.
    """
    last = until or today
    first = since or last - timedelta(days=29)
    if first > last or (last - first).days > LONGEST_DAYS:
        raise BadReport(param="from")
    made = _KINDS.get(kind)
    if made is None:
        raise BadReport(param="kind", kinds=sorted(_KINDS))
    columns, summed, rows = made
    return Report(kind, first, last, columns, summed, lambda: rows(db, first, last))


def as_json(report: Report) -> Iterator[str]:
    """The report as one JSON object, row by row."""
    head = {"kind": report.kind, "from": str(report.since), "to": str(report.until),
            "columns": list(report.columns)}  # fmt: skip
    yield json.dumps(head)[:-1] + ', "items": ['
    totals = _Totals(report)
    for number, row in enumerate(report.rows()):
        totals.add(row)
        shown = dict(zip(report.columns, totals.shown(row), strict=True))
        yield ("," if number else "") + json.dumps(shown, ensure_ascii=False)
    yield f'], "totals": {json.dumps(totals.named())}}}'


def as_csv(report: Report) -> Iterator[str]:
    """The report as CSV with totals in the last lines; no text in it is a formula."""
    yield _line(list(report.columns))
    totals = _Totals(report)
    for row in report.rows():
        totals.add(row)
        yield _line([_cell(value) for value in totals.shown(row)])
    for last in totals.lines():
        yield _line(last)


def as_pdf(report: Report, *, author: str, at: int) -> bytes:
    """The report on paper, its first 2,000 rows and the totals of all."""
    page = paper.sheet(
        title=report.name, author=author, at=at, foot=[f"{author}: {report.kind}, {report.name}"]
    )
    paper.write(page, f"{report.kind.capitalize()} report", size=16, bold=True)
    page.ln(8)
    paper.write(page, f"{report.since:%d %b %Y} to {report.until:%d %b %Y}, times in UTC", size=9)
    page.ln(8)
    wide = (paper.WIDTH - 4) // len(report.columns)
    columns = [
        (name.replace("_", " "), wide, "R" if name in report.summed else "L")
        for name in report.columns
    ]
    paper.heads(page, columns)
    totals, count = _Totals(report), 0
    for row in report.rows():
        totals.add(row)
        count += 1
        if count <= PDF_ROWS:
            cells = [str(value) for value in totals.shown(row)]
            paper.row(page, columns, cells, size=7, height=5)
    if count > PDF_ROWS:
        paper.write(page, f"{count - PDF_ROWS:,} more rows are in the CSV.", size=8)
        page.ln(6)
    for last in totals.lines():
        paper.row(page, columns, last, bold=True, size=7, height=6)
    return paper.content(page)


class _Totals:
    """Sums of the columns that have them, by currency where rows have one."""

    def __init__(self, report: Report) -> None:
        self._columns, self._summed = report.columns, report.summed
        self._money = report.columns.index("currency") if "currency" in report.columns else None
        self._sums: dict[str, dict[str, int]] = {}

    def add(self, row: Row) -> None:
        currency = "" if self._money is None else str(row[self._money])
        sums = self._sums.setdefault(currency, dict.fromkeys(self._summed, 0))
        for name, value in zip(self._columns, row, strict=True):
            if name in sums:
                sums[name] += int(value)

    def shown(self, row: Row) -> list[Any]:
        return [_shown(name, value) for name, value in zip(self._columns, row, strict=True)]

    def named(self) -> dict[str, dict[str, Any]]:
        """Currency (empty without) → column → sum."""
        nothing = {} if self._money is not None else {"": dict.fromkeys(self._summed, 0)}
        found = self._sums or nothing
        return {
            currency: {name: _shown(name, value) for name, value in sums.items()}
            for currency, sums in sorted(found.items())
        }

    def lines(self) -> list[list[str]]:
        """A line for each currency, as wide as the report."""
        found = []
        for currency, sums in self.named().items():
            cells = {**sums, "currency": currency}
            found.append(["total", *(str(cells.get(name, "")) for name in self._columns[1:])])
        return found if self._summed else []


def _usage(db: Database, since: date, until: date) -> Iterator[Row]:
    """A row for each day, person and model."""
    after: dict[str, Any] = {"at": -1, "user": 0, "model": ""}
    span = {"since": _micros(since), "until": _micros(until + timedelta(days=1)), "limit": PAGE}
    while True:
        with db.read() as session:
            found = session.execute(text(_USAGE), span | after).all()
        for row in found:
            yield (from_micros(row[0]).date().isoformat(), row[1], row[2] or "", *row[3:])
        if len(found) < PAGE:
            return
        after = {"at": found[-1][0], "user": found[-1][1], "model": found[-1][3]}


def _financial(db: Database, since: date, until: date) -> Iterator[Row]:
    """A row for each posting of the money ledger."""
    after = {"journal": 0, "line": 0}
    span = {"first": since.isoformat(), "last": until.isoformat(), "limit": PAGE}
    while True:
        with db.read() as session:
            found = session.execute(text(_POSTINGS), span | after).all()
        for row in found:
            minor = row[7]
            yield (*row[2:7], max(minor, 0), max(-minor, 0), row[8] or "")
        if len(found) < PAGE:
            return
        after = {"journal": found[-1][0], "line": found[-1][1]}


def _revenue(db: Database, since: date, until: date) -> Iterator[Row]:
    """A row for each month and currency of the money ledger."""
    with db.read() as session:
        months = roll_forward(session, since=since.isoformat(), until=until.isoformat())
    for row in months:
        yield (
                row.period, row.currency, row.opening, row.billed, row.usage, row.subscription,
                row.breakage, row.adjustment, row.refunded, row.other, row.recognized, row.closing,
                row.cost,
            )  # fmt: skip


def _tax(db: Database, since: date, until: date) -> Iterator[Row]:
    for row in revenue_figures.taxes(db, since=since, until=until):
        yield (
            row.jurisdiction, row.category, row.treatment, row.rate_bp, row.currency,
            row.documents, row.base_minor, row.tax_minor,
        )  # fmt: skip


def _receivables(db: Database, _since: date, until: date) -> Iterator[Row]:
    from chat_app.revenue.receivables import bucket

    end = datetime.combine(until + timedelta(days=1), datetime.min.time(), UTC)
    for row in revenue_figures.open_invoices(db, before=to_micros(end)):
        late = (until - date.fromisoformat(row.due_on)).days
        yield (
            row.number, row.user_id, row.due_on, max(late, 0), bucket(late), row.currency,
            row.open_minor,
        )  # fmt: skip


def _reconciliation(db: Database, since: date, until: date) -> Iterator[Row]:
    """Differences that were seen in this time."""
    first, end, cursor = _micros(since), _micros(until + timedelta(days=1)), None
    while True:
        with db.read() as session:
            found, cursor = differences.find(session, state="all", limit=100, cursor=cursor)
        for row in found:
            if row.last_seen_at >= first and row.first_seen_at < end:
                yield (
                    row.check, row.left.kind, row.left.id or "", row.right.kind,
                    row.right.id or "", "open" if row.open else "gone",
                    rfc3339(row.first_seen_at), rfc3339(row.last_seen_at),
                )  # fmt: skip
        if cursor is None:
            return


def _monitoring(db: Database, since: date, until: date) -> Iterator[Row]:
    """Faults of the machine that lasted in this time."""
    with db.read() as session:
        found = faults.between(
            session, since=_micros(since), until=_micros(until + timedelta(days=1))
        )
    for row in found:
        yield (
            row.rule, row.place, row.value, row.threshold, rfc3339(row.raised_at),
            "" if row.cleared_at is None else rfc3339(row.cleared_at),
        )  # fmt: skip


_KINDS: dict[
    str,
    tuple[tuple[str, ...], tuple[str, ...], Callable[[Database, date, date], Iterator[Row]]],
] = {
    "usage": (
        ("day", "user_id", "username", "model", "messages", "answers", "prompt_tokens",
         "completion_tokens", "credits"),
        ("messages", "answers", "prompt_tokens", "completion_tokens", "credits"),
        _usage,
    ),
    "financial": (
        ("day", "kind", "entry", "account", "currency", "debit_minor", "credit_minor",
         "payment_id"),
        ("debit_minor", "credit_minor"),
        _financial,
    ),
    "revenue": (
        ("period", "currency", "opening_minor", "billed_minor", "usage_minor",
         "subscription_minor", "breakage_minor", "adjustment_minor", "refunded_minor",
         "other_minor", "recognized_minor", "closing_minor", "cost_minor"),
        ("billed_minor", "usage_minor", "subscription_minor", "breakage_minor",
         "adjustment_minor", "refunded_minor", "other_minor", "recognized_minor", "cost_minor"),
        _revenue,
    ),
    "tax": (
        ("jurisdiction", "category", "treatment", "rate_bp", "currency", "documents",
         "base_minor", "tax_minor"),
        ("documents", "base_minor", "tax_minor"),
        _tax,
    ),
    "receivables": (
        ("invoice", "user_id", "due_on", "days_late", "bucket", "currency", "open_minor"),
        ("open_minor",),
        _receivables,
    ),
    "reconciliation": (
        ("check", "left", "left_id", "right", "right_id", "state", "first_seen_at",
         "last_seen_at"),
        (),
        _reconciliation,
    ),
    "monitoring": (
        ("rule", "place", "value", "threshold", "raised_at", "cleared_at"),
        (),
        _monitoring,
    ),
}  # fmt: skip
KINDS = tuple(sorted(_KINDS))


def _shown(name: str, value: Any) -> Any:
    return format_credits(int(value)) if name == "credits" else value


def _cell(value: Any) -> str:
    return safe(value) if isinstance(value, str) and not _plain(value) else str(value)


def _plain(value: str) -> bool:
    """Whether it is a number, which may begin with a minus."""
    return value.removeprefix("-").replace(".", "", 1).isdigit()


def _line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()


def _micros(day: date) -> int:
    return to_micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
