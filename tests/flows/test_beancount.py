"""The export passes Beancount's own check, and a planted imbalance does not."""

import asyncio
import subprocess
import sys
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest
from beancount import loader
from beancount.ops import validation
from sqlalchemy import text
from sqlmodel import Session

from chat_app.app import App
from chat_app.credits import debts, holds, ledger, lots, verify
from chat_app.credits.payments import orders, returns
from chat_app.credits.payments.orders import Payment
from chat_app.credits.payments.provider import DisputeStanding, RefundStanding
from chat_app.db import Database
from chat_app.flows import beancount
from chat_app.money import MICRO
from tests.apps import running_app
from tests.credits.books import HOUR, NOON, grant, place
from tests.credits.test_verify import history as ledger_history
from tests.flows.test_reconcile import history, plant

DAY = 24 * HOUR


def bean_check(path: Path) -> str:
    """What the program says; empty when all is right."""
    ended = subprocess.run(
        [sys.executable, "-m", "beancount.scripts.check", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ended.returncode == 0) == (ended.stderr.strip() == ""), ended.stderr
    return ended.stderr


def errors(path: Path) -> list[str]:
    """What bean-check looks for, without a process of its own."""
    found = loader.load_file(str(path), extra_validations=validation.HARDCORE_VALIDATIONS)[1]
    return [error.message for error in found]


def exported(database: Database, path: Path) -> str:
    beancount.write(database, path)
    return path.read_text()


def two_months(database: Database) -> None:
    """A history whose wallets live past the end of a month, with a lot that expired."""
    ledger_history(database)
    database.write(
        lambda s: grant(s, 7, source="promo", now=NOON + 40 * DAY, expires_at=NOON + 41 * DAY)
    )
    database.write(lambda s: lots.expire_due(s, now=NOON + 70 * DAY))
    database.write(lambda s: holds.sweep(s, now=NOON + 70 * DAY))
    with database.read() as session:
        assert verify.run(session) == []


def test_the_export_of_the_app_passes(database_url: str, tmp_path: Path) -> None:
    """I20, with a purchase, answers, a correction and the welcome credits."""

    async def story() -> None:
        async with running_app(tmp_path / "data", url=database_url) as app:
            await history(app)
            await asyncio.to_thread(check, app)

    def check(app: App) -> None:
        words = exported(app.db, tmp_path / "books.beancount")
        assert bean_check(tmp_path / "books.beancount") == ""
        assert "Assets:Payments:Offline" in words
        assert "alice" not in words
        assert words.count(" balance Liabilities:Deferred") == 1

    asyncio.run(story())


def test_balances_of_every_wallet_are_asserted(sqlite_database: Database, tmp_path: Path) -> None:
    """Each month's end by the transfers, the last by the wallets."""
    two_months(sqlite_database)
    words = exported(sqlite_database, tmp_path / "books.beancount")
    assert bean_check(tmp_path / "books.beancount") == ""
    wallets = {line.split()[2] for line in words.splitlines() if " balance " in line}
    assert {f"Liabilities:Wallets:User-{user}" for user in (1, 2, 3)} <= wallets
    assert "2026-02-01 balance Liabilities:Wallets:User-1" in words
    assert (tmp_path / "books.beancount").stat().st_mode & 0o777 == 0o600


def test_money_goes_back_to_where_it_came_from(sqlite_database: Database, tmp_path: Path) -> None:
    """Refunds and disputes: what the account at the provider has is what is left of the money."""
    write, number = sqlite_database.write, count()

    def bought(session: Session) -> Payment:
        made = orders.create(
            session, user_id=1, micro=500 * MICRO, now=NOON, scope="o", key=f"k{next(number)}"
        )
        return orders.fulfil(session, payment_id=made.id, now=NOON)

    def spend(session: Session) -> None:
        hold = place(session, 100)
        holds.settle(session, hold_id=hold.id, micro=hold.micro, now=NOON)

    def refund(session: Session, order: Payment, minor: int, state: str) -> None:
        made = returns.start(
            session,
            payment_id=order.id,
            minor=minor,
            reason="test",
            now=NOON,
            key=f"k{next(number)}",
            actor="test",
        )
        about = RefundStanding(made.id, made.id, state)  # type: ignore[arg-type]
        returns.stand(session, about, now=NOON)

    def dispute(session: Session, order: Payment, *states: str) -> None:
        for state in states:
            about = DisputeStanding(f"dp_{order.id}", "", state, 500, "USD", "test")  # type: ignore[arg-type]
            returns.dispute(session, order, about, now=NOON)

    def till(name: str) -> Decimal:
        exported(sqlite_database, tmp_path / name)
        entries, found, _ = loader.load_file(str(tmp_path / name))
        assert found == []
        postings = [p for entry in entries for p in getattr(entry, "postings", ())]
        return sum(
            (p.units.number for p in postings if p.account == "Assets:Payments:Offline"),
            Decimal(),
        )

    one = write(bought)
    write(spend)
    write(lambda s: refund(s, one, 100, "failed"))
    write(lambda s: refund(s, one, 50, "succeeded"))
    assert till("1") == Decimal("4.50")
    write(lambda s: dispute(s, one, "open"))
    assert till("2") == Decimal("-0.50")
    write(lambda s: dispute(s, one, "won"))
    assert till("3") == Decimal("4.50")
    two = write(bought)
    write(lambda s: dispute(s, two, "open", "lost"))
    assert till("4") == Decimal("4.50")
    three = write(bought)
    write(lambda s: dispute(s, three, "open", "won"))
    assert till("5") == Decimal("9.50")
    # All of it spent, taken back, and the debt forgiven: nothing returns but the money.
    with sqlite_database.read() as session:
        rest = ledger.balance(session, user_id=1).available
    write(lambda s: ledger.adjust(
        s, user_id=1, micro=-rest, reason="x", actor="t", now=NOON, scope="t", key="t"
    ))  # fmt: skip
    four = write(bought)
    for _ in range(5):
        write(spend)
    write(lambda s: dispute(s, four, "open"))
    assert till("6") == Decimal("9.50")
    for micro in (MICRO, None):
        write(lambda s, micro=micro: debts.forgive(
            s, user_id=1, micro=micro, reason="mercy", now=NOON, scope="f", key=f"{micro}",
            actor="t",
        ))  # fmt: skip
    assert till("7") == Decimal("9.50")
    write(lambda s: dispute(s, four, "won"))
    assert till("8") == Decimal("14.50")
    with sqlite_database.read() as session:
        assert ledger.balance(session, user_id=1).total == 0
        assert verify.run(session) == []


def test_an_empty_book_passes(sqlite_database: Database, tmp_path: Path) -> None:
    exported(sqlite_database, tmp_path / "books.beancount")
    assert errors(tmp_path / "books.beancount") == []


IMBALANCES = {
    "a wallet is richer": "UPDATE account SET posted = posted + 1 WHERE user_id = 1",
    "a use is smaller": "UPDATE lot_use SET amount = amount - 1 WHERE transfer_id = 4",
    "a use is gone": "DELETE FROM lot_use WHERE transfer_id = 4 AND lot_id = 1",
    "a lot is larger": "UPDATE lot SET granted = granted + 1 WHERE id = 1",
    "a transfer is larger": "UPDATE transfer SET amount = amount + 1 WHERE id = 4",
    "paid a cent less": "UPDATE payment SET amount_minor = amount_minor - 1",
    "earned a cent more": "UPDATE lot_use SET revenue_minor = revenue_minor + 1 WHERE lot_id = 1",
    "earned is forgotten": "UPDATE lot SET recognized_minor = recognized_minor - 1 WHERE id = 1",
    "another balance at a month's end": """UPDATE transfer SET debit_after = debit_after + 1
        WHERE id = (SELECT MAX(id) FROM transfer WHERE debit_after IS NOT NULL
         AND debit_id = (SELECT id FROM account WHERE user_id = 1)
         AND kind IN ('direct', 'post') AND created_at < 1769904000000000)""",
}


@pytest.mark.parametrize("name", sorted(IMBALANCES))
def test_a_planted_imbalance_is_caught(
    sqlite_database: Database, tmp_path: Path, name: str
) -> None:
    """One microcredit or one cent is enough."""
    two_months(sqlite_database)
    exported(sqlite_database, tmp_path / "before.beancount")
    assert errors(tmp_path / "before.beancount") == []
    plant(Path(str(sqlite_database.engine.url.database)), IMBALANCES[name])
    exported(sqlite_database, tmp_path / "after.beancount")
    assert errors(tmp_path / "after.beancount") != []


def test_text_of_people_cannot_break_out(sqlite_database: Database, tmp_path: Path) -> None:
    sqlite_database.write(
        lambda s: grant(s, 1, source="adjust", description='a "quote\\" \n2026-01-01 open Assets:X')
    )
    words = exported(sqlite_database, tmp_path / "books.beancount")
    assert errors(tmp_path / "books.beancount") == []
    assert "\n2026-01-01 open Assets:X" not in words
    with sqlite_database.read() as session:
        assert session.execute(text("SELECT COUNT(*) FROM transfer")).scalar_one() == 1
