"""Statements: equal to the ledger for any period, safe in a spreadsheet, bounded on paper."""

import csv
import io

import pytest

from chat_app.credits import holds, ledger, lots, statements
from chat_app.db import Database
from chat_app.money import MICRO, format_credits
from tests.credits.books import ALICE, HOUR, NOON, credits, facts, grant, place


def history(database: Database) -> None:
    """An hour each: a grant, an answer, a fine, an expiry, and a hold that is still open."""
    write = database.write
    write(lambda s: grant(s, 10, description="=HYPERLINK(1)"))
    hold = write(lambda s: place(s, 4, now=NOON + HOUR, ttl_seconds=60, reference="rep_1"))
    write(
        lambda s: holds.settle(
            s, hold_id=hold.id, micro=credits(1.5), now=NOON + HOUR, usage=facts("rep_1")
        )
    )
    write(
        lambda s: ledger.adjust(
            s, user_id=ALICE, micro=-credits(2), reason="-1+1", actor="t", now=NOON + 2 * HOUR,
            scope="t", key="fine",
        )
    )  # fmt: skip
    write(lambda s: grant(s, 3, source="promo", now=NOON + 2 * HOUR, expires_at=NOON + 3 * HOUR))
    write(lambda s: lots.expire_due(s, now=NOON + 3 * HOUR))
    write(lambda s: place(s, 1, now=NOON + 4 * HOUR))
    write(lambda s: grant(s, 99, user=2))


def frame(database: Database, since: int | None, until: int) -> statements.Head:
    with database.read() as session:
        return statements.begin(session, user_id=ALICE, since=since, until=until)


def test_any_period_equals_the_ledger(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening + movements = closing for every pair of edges, also at ±1 µs, in small pages."""
    monkeypatch.setattr(statements, "PAGE", 2)
    history(database)
    edges = [NOON + hour * HOUR + step for hour in range(5) for step in (-1, 0, 1)]
    with database.read() as session:
        rows, _ = ledger.transactions(session, user_id=ALICE)
    for since in [None, *edges]:
        for until in [edge for edge in edges if since is None or edge >= since]:
            head = frame(database, since, until)
            shown = list(statements.movements(database, head))
            expected = [row for row in rows if (since or 0) <= row.created_at < until]
            assert shown == expected[::-1]
            assert head.opening == sum(r.credits for r in rows if r.created_at < (since or 0))
            assert head.closing == head.opening + sum(row.credits for row in shown)
            assert head.count == len(shown)
    with database.read() as session:
        total = ledger.balance(session, user_id=ALICE).total
    assert frame(database, None, NOON + 9 * HOUR).closing == total == credits(6.5)


def test_what_happens_meanwhile_does_not_get_in(database: Database) -> None:
    history(database)
    head = frame(database, None, NOON + 99 * HOUR)
    rows = statements.movements(database, head)
    first = next(rows)
    database.write(lambda s: grant(s, 5, now=NOON + 9 * HOUR))
    assert len([first, *rows]) == head.count


def test_csv_is_exact_and_no_formula(database: Database) -> None:
    history(database)
    head = frame(database, NOON, NOON + 9 * HOUR)
    lines = list(csv.DictReader(io.StringIO("".join(statements.as_csv(database, head)))))
    assert [line["type"] for line in lines] == [
        "opening_balance", "purchase", "message", "adjustment", "promo", "expiry",
        "closing_balance",
    ]  # fmt: skip
    assert lines[1]["description"] == "'=HYPERLINK(1)"
    assert lines[3]["description"] == "'-1+1"
    assert lines[3]["credits"] == "-2"
    assert lines[-1]["balance_after"] == format_credits(head.closing)
    assert lines[2]["model"] == "m"


@pytest.mark.parametrize(
    ("text", "kept"),
    [("", ""), ("plain", "plain"), ("=1", "'=1"), (" @x", "' @x"), ("\tx", "'\tx"), ("a-b", "a-b")],
)
def test_safe_text(text: str, kept: str) -> None:
    assert statements.safe(text) == kept


def test_paper_has_the_same_bytes_and_a_limit(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(sqlite_database)
    head = frame(sqlite_database, None, NOON + 9 * HOUR)
    one, two = (
        statements.as_pdf(sqlite_database, head, owner="alice", seller="Shop") for _ in "12"
    )
    assert one == two
    assert one.startswith(b"%PDF-")
    monkeypatch.setattr(statements, "MAX_PDF_ROWS", 3)
    with pytest.raises(statements.StatementTooLong):
        statements.as_pdf(sqlite_database, head, owner="alice", seller="Shop")


def test_nobody_and_no_time(database: Database) -> None:
    head = frame(database, None, NOON)
    assert (head.opening, head.closing, list(statements.movements(database, head))) == (0, 0, [])
    with pytest.raises(statements.BadPeriod):
        frame(database, NOON, NOON - 1)
    assert MICRO == 1_000_000
