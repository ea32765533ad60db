"""Statements: every movement of a wallet in a period, between its opening and closing balance.

The closing balance is the opening balance and all movements, and both are the balances that the
ledger kept with its transfers. A statement is cut off at the newest movement of the moment when
it was begun, so what happens while it is read does not get in.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.clock import from_micros, rfc3339
from chat_app.credits import accounts, paper, words
from chat_app.credits.ledger import Transaction
from chat_app.credits.sql import Books, Statement
from chat_app.db import Database
from chat_app.errors import Invalid
from chat_app.money import format_credits, show_credits

PAGE = 500
MAX_PDF_ROWS = 2_000
HEADS = ("id", "time", "type", "credits", "balance_after", "model", "description", "reference")
_FIRST, _LAST = 0, 2**63 - 1
_MOVED = "kind IN ('direct', 'post') AND amount > 0"
_SIDE = f"""SELECT id, code, {{sign}}amount AS amount, {{after}} AS after, description, reference,
    created_at FROM transfer WHERE {{account}} = :account_id AND {_MOVED}
    AND id > :above AND id <= :upto AND created_at >= :since AND created_at < :until"""  # noqa: S608
_OUT = _SIDE.format(sign="-", after="debit_after", account="debit_id")
_IN = _SIDE.format(sign="", after="credit_after", account="credit_id")
_ROWS = Statement(
    f"""SELECT m.id, m.code, m.amount, m.after, m.description, u.model, u.reply_id, m.reference,
     m.created_at
    FROM ({_OUT} UNION ALL {_IN}) m LEFT JOIN usage u ON u.transfer_id = m.id
    ORDER BY m.id LIMIT :limit"""  # noqa: S608 - constants
)
_SUMS = Statement(
    f"""SELECT code, COUNT(*), SUM(amount) FROM ({_OUT} UNION ALL {_IN}) m
    GROUP BY code ORDER BY code"""  # noqa: S608 - constants
)
_LAST_SIDE = f"""SELECT * FROM (
      SELECT id, {{after}} AS after FROM transfer WHERE {{account}} = :account_id
       AND {_MOVED} AND created_at < :before ORDER BY id DESC LIMIT 1) {{account}}_side"""  # noqa: S608
# The newest movement before a time, and the balance after it.
_NEWEST = Statement(
    f"""{_LAST_SIDE.format(after="debit_after", account="debit_id")} UNION ALL
    {_LAST_SIDE.format(after="credit_after", account="credit_id")} ORDER BY 1 DESC LIMIT 1"""
)


class BadPeriod(Invalid):
    """The end is not after the beginning."""

    code = "bad_period"
    message = "The period ends before it begins. Give `from` and a later `to`."


class StatementTooLong(Invalid):
    """More movements than a PDF should have."""

    code = "statement_too_long"
    message = (
        f"A PDF has room for {MAX_PDF_ROWS:,} movements. Ask for a shorter period, or for CSV."
    )


@dataclass(frozen=True)
class Sum:
    """All movements of one type; `credits` in microcredits, signed."""

    type: str
    count: int
    credits: int


@dataclass(frozen=True)
class Head:
    """A statement without its movements. Times in µs, balances in microcredits.

    `since` is None for "from the beginning"; `until` is not included.
    """

    since: int | None
    until: int
    opening: int
    closing: int
    sums: list[Sum]
    account_id: int | None
    upto: int

    @property
    def count(self) -> int:
        """How many movements there are."""
        return sum(item.count for item in self.sums)


def begin(session: Session, *, user_id: int, since: int | None, until: int) -> Head:
    """The frame of a user's statement from `since` to before `until`; raises BadPeriod."""
    if since is not None and since > until:
        raise BadPeriod
    books = Books(session)
    owner = accounts.find(books, user_id=user_id)
    if owner is None:
        return Head(since, until, 0, 0, [], None, 0)
    first = _FIRST if since is None else since
    opening = books.one(_NEWEST, account_id=owner.id, before=first)
    # A wallet's transfers come one after the other, so none that is older is still to be seen.
    newest = books.one(_NEWEST, account_id=owner.id, before=_LAST)
    upto = newest[0] if newest else 0
    window = {"account_id": owner.id, "upto": upto, "since": first, "until": until}
    sums = [
        Sum(type, int(count), int(total))
        for type, count, total in books.rows(_SUMS, above=0, **window)
    ]
    start = int(opening[1]) if opening else 0
    end = start + sum(item.credits for item in sums)
    return Head(since, until, start, end, sums, owner.id, upto)


def movements(db: Database, head: Head) -> Iterator[Transaction]:
    """The movements of a statement, oldest first.

    Each page is a read of its own, so a slow reader keeps nothing open. Fails rather than show a
    statement whose balances do not follow from its movements.
    """
    above, balance, more = 0, head.opening, head.account_id is not None
    while more:
        with db.read() as session:
            found = Books(session).rows(
                _ROWS,
                account_id=head.account_id,
                upto=head.upto,
                since=_FIRST if head.since is None else head.since,
                until=head.until,
                above=above,
                limit=PAGE,
            )
            page = words.told(session, [Transaction(*row) for row in found])
        for row in page:
            balance += row.credits
            assert balance == row.balance_after, "a statement's balances are those of the ledger"
            yield row
        more = len(found) == PAGE
        above = found[-1][0] if found else above
    assert balance == head.closing, "a statement ends with its closing balance"


def as_csv(db: Database, head: Head) -> Iterator[str]:
    """The statement as CSV: a line for the opening balance, the movements, the closing balance.

    Texts that a spreadsheet would take for a formula begin with an apostrophe.
    """
    yield _csv(HEADS)
    began = rfc3339(head.since) if head.since is not None else ""
    yield _csv(["", began, "opening_balance", "", format_credits(head.opening), "", "", ""])
    for row in movements(db, head):
        yield _csv(
            [
                str(row.id),
                rfc3339(row.created_at),
                row.type,
                format_credits(row.credits),
                format_credits(row.balance_after),
                safe(row.model or ""),
                safe(row.description or ""),
                safe(row.reference or ""),
            ]
        )
    closing = format_credits(head.closing)
    yield _csv(["", rfc3339(head.until), "closing_balance", "", closing, "", "", ""])


def as_pdf(db: Database, head: Head, *, owner: str, seller: str) -> bytes:
    """The statement on paper, the same bytes for the same movements; raises StatementTooLong."""
    if head.count > MAX_PDF_ROWS:
        raise StatementTooLong(count=head.count)
    page = paper.sheet(title="Statement", author=seller, at=head.until, foot=[seller, owner])
    paper.mark(page, x=paper.LEFT, y=18)
    page.set_xy(paper.LEFT + 15, 18)
    paper.write(page, seller, size=13, bold=True, width=85, height=11)
    page.set_xy(120, 18)
    paper.write(page, "Statement", size=22, bold=True, width=70, align="R", height=11)
    page.set_y(38)
    began = _time(head.since) if head.since is not None else "the beginning"
    paper.write(page, owner, bold=True)
    page.ln(5.5)
    paper.write(page, f"{began} to before {_time(head.until)}", color=paper.MUTED)
    page.ln(10)
    box = {"x": float(paper.LEFT), "width": 90.0}
    paper.pair(page, "Opening balance", f"{show_credits(head.opening)} credits", **box)
    for item in head.sums:
        name = f"{item.type.replace('_', ' ').capitalize()}, {item.count:,}"
        paper.pair(page, name, f"{_signed(item.credits)} credits", **box)
    page.ln(1.5)
    paper.pair(page, "Closing balance", f"{show_credits(head.closing)} credits", bold=True, **box)
    page.ln(5)
    columns: list[paper.Column] = [
        ("Time (UTC)", 32, "L"), ("Type", 20, "L"), ("What", 64, "L"), ("Credits", 24, "R"),
        ("Balance", 26, "R"),
    ]  # fmt: skip
    paper.heads(page, columns)
    for row in movements(db, head):
        cells = [_time(row.created_at), row.type.capitalize(), row.description or row.model or ""]
        cells += [_signed(row.credits), show_credits(row.balance_after)]
        paper.row(page, columns, cells, size=8, height=6)
    return paper.content(page)


def safe(text: str) -> str:
    """Text that no spreadsheet runs as a formula."""
    text = text.replace("\x00", "")
    risky = text.lstrip().startswith(("=", "+", "-", "@")) or text.startswith(("\t", "\r", "\n"))
    return f"'{text}" if risky else text


def _csv(cells: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()


def _signed(micro: int) -> str:
    return f"{'+' if micro > 0 else ''}{show_credits(micro)}"


def _time(micros: int) -> str:
    return f"{from_micros(micros):%Y-%m-%d %H:%M}"
