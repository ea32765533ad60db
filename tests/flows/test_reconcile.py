"""Reconciliation finds one planted fault of each kind, names both sides, and repairs nothing."""

import asyncio
import sqlite3
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import differences
from chat_app.credits.payments import events, returns
from chat_app.credits.payments.orders import Payment
from chat_app.credits.payments.provider import DisputeStanding
from chat_app.db import Database
from chat_app.flows import adjust, purchase, reconcile, refund, revenue
from chat_app.flows.reconcile import CHECKS
from chat_app.money import MICRO
from tests.apps import answer, ask, person, running_app, script_settings

NOW = 1_900_000_000_000_000


async def history(app: App) -> None:
    """A purchase, three answers of which one was cached, a correction, an order nobody paid,
    a refund of a part, and an order that a bank took back when some of it was used.
    """
    alice = await person(app)
    order = await purchase.buy(app, user_id=alice, package_code="standard", key="k")
    await purchase.confirm(app, user_id=alice, payment_id=order.id, key="c")
    await purchase.buy(app, user_id=alice, micro=100 * MICRO, key="other")
    for _ in range(2):
        await answer(app, alice, await ask(app, alice, "the same", temperature=0))
    await answer(app, alice, await ask(app, alice, "another"))
    await adjust.adjust(
        app, admin_id=9, user_id=alice, micro=-5 * MICRO, reason="a good reason", key="a"
    )
    await refund.refund(
        app, admin_id=9, payment_id=order.id, minor=100, reason="a good reason", key="r"
    )
    bruno = await person(app, "bruno")
    taken = await purchase.buy(app, user_id=bruno, package_code="standard", key="k")
    await purchase.confirm(app, user_id=bruno, payment_id=taken.id, key="c")
    await answer(app, bruno, await ask(app, bruno, "something else"))
    await asyncio.to_thread(app.db.write, partial(bank, app, taken))
    later = app.clock.micros() + 2 * 86_400 * 1_000_000
    write = partial(revenue.write_next, rules=revenue.rules_of(app), now=later)
    while await asyncio.to_thread(app.db.write, write):
        pass


def bank(app: App, order: Payment, session: Session) -> None:
    """The bank takes a payment back for good, and the provider says so."""
    now = app.clock.micros()
    about = DisputeStanding(
        ref="dp_1",
        intent_ref="",
        state="lost",
        reason="fraudulent",
        amount_minor=order.amount_minor,
        currency=order.currency,
    )
    returns.dispute(session, order, about, now=now)
    number = events.store(
        session,
        provider=order.provider,
        event_id="evt_1",
        type="checkout.session.async_payment_succeeded",
        payload="{}",
        announced_at=now,
        now=now,
    )
    events.settle(session, number, state="done", now=now, payment_id=order.id)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a history, to be copied for each fault."""
    folder = tmp_path_factory.mktemp("history")

    async def story() -> None:
        async with running_app(folder) as app:
            await history(app)

    asyncio.run(story())
    return folder / "chat.db"


def plant(path: Path, script: str) -> None:
    """Write around every rule, as somebody with the file could."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("PRAGMA foreign_keys = OFF")
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    before = connection.total_changes
    connection.executescript(script)
    assert connection.total_changes > before, "the fault was planted"
    connection.close()


_ANY_REPLY = "(SELECT id FROM reply ORDER BY id LIMIT 1)"
_MESSAGE = "SELECT id FROM transfer WHERE code = 'message' AND kind = 'post' LIMIT 1"
_PURCHASE = "SELECT id FROM transfer WHERE code = 'purchase'"
_PAID = "(SELECT id FROM payment WHERE status = 'paid' ORDER BY created_at LIMIT 1)"
FAULTS = {
    "answer_without_usage": f"DELETE FROM usage WHERE reply_id = {_ANY_REPLY}",
    "usage_without_answer": f"DELETE FROM reply WHERE id = {_ANY_REPLY}",
    "answer_and_usage": f"UPDATE reply SET charged = charged - 1 WHERE id = {_ANY_REPLY}",
    "answer_and_hold": f"""UPDATE hold SET state = 'open', resolved_at = NULL
        WHERE id = (SELECT hold_id FROM reply WHERE id = {_ANY_REPLY})""",
    "answer_never_ended": f"""UPDATE reply SET state = 'running', ended_at = NULL
        WHERE id = {_ANY_REPLY}""",
    "usage_and_transfer": f"UPDATE usage SET cost = cost + 1 WHERE reply_id = {_ANY_REPLY}",
    "charge_without_usage": f"DELETE FROM usage WHERE transfer_id = ({_MESSAGE})",
    "credits_without_lot": f"DELETE FROM lot WHERE transfer_id = ({_PURCHASE})",
    "lot_without_credits": f"DELETE FROM transfer WHERE id = ({_PURCHASE})",
    "spent_and_lots": f"UPDATE lot_use SET amount = amount - 1 WHERE transfer_id = ({_MESSAGE})",
    "payment_without_credits": f"UPDATE payment SET credits = credits + 1 WHERE id = {_PAID}",
    "credits_without_payment": f"DELETE FROM payment WHERE id = {_PAID}",
    "payment_and_lot": f"UPDATE payment SET amount_minor = amount_minor + 1 WHERE id = {_PAID}",
    "payment_and_invoice": f"""UPDATE invoice SET total_minor = total_minor + 1
        WHERE kind = 'invoice' AND payment_id = {_PAID}""",
    "money_back_and_credit_notes": f"""UPDATE invoice SET total_minor = total_minor - 1
        WHERE kind = 'credit_note' AND payment_id = {_PAID}""",
    "refund_and_credits": "UPDATE refund SET amount_minor = amount_minor + 1",
    "credits_without_refund": "DELETE FROM refund",
    "dispute_and_credits": "UPDATE dispute SET owed = owed + 1",
    "refund_never_sent": "UPDATE refund SET state = 'pending'",
    "event_never_acted_on": "UPDATE webhook_event SET state = 'new', processed_at = NULL",
    "paid_event_and_payment": """UPDATE payment SET status = 'pending'
        WHERE id = (SELECT payment_id FROM webhook_event)""",
    "journal_balanced": """UPDATE posting SET amount_minor = amount_minor + 1
        WHERE line = 1 AND journal_id = (SELECT MIN(journal_id) FROM posting)""",
    "deferred_and_postings": """UPDATE lot_revenue SET earned = earned - 1
        WHERE lot_id = (SELECT MIN(lot_id) FROM lot_revenue)""",
    "lot_and_its_revenue": """UPDATE lot_revenue SET used = used - 1
        WHERE lot_id = (SELECT MIN(lot_id) FROM lot_revenue)""",
    "order_without_sale": """DELETE FROM journal
        WHERE id = (SELECT MIN(id) FROM journal WHERE kind = 'sale')""",
    "key_and_transfer": f"DELETE FROM transfer WHERE id = ({_PURCHASE})",
}


def compare(path: Path) -> list[differences.Found]:
    database = Database(f"sqlite:///{path}")
    try:
        return reconcile.compare(database, now=NOW)
    finally:
        database.close()


def test_there_is_a_fault_for_each_check() -> None:
    assert sorted(FAULTS) == sorted(check.name for check in CHECKS)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_planted_fault_is_found_and_named(template: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "copy.db"
    path.write_bytes(template.read_bytes())
    assert compare(path) == []
    plant(path, FAULTS[name])
    found = [item for item in compare(path) if item.check == name]
    assert len(found) == 1
    item, check = found[0], reconcile.check_named(name)
    assert check is not None
    assert (item.left.kind, item.right.kind) == (check.left, check.right)
    missing = {check.left} if item.left.id is None else set()
    missing |= {check.right} if item.right.id is None else set()
    expected = {
        "answer_without_usage": {"usage"},
        "usage_without_answer": {"reply"},
        "charge_without_usage": {"usage"},
        "credits_without_lot": {"lot"},
        "lot_without_credits": {"transfer"},
        "credits_without_payment": {"payment"},
        "credits_without_refund": {"refund"},
        "key_and_transfer": {"transfer"},
        "journal_balanced": {"posting"},
        "deferred_and_postings": {"posting"},
        "order_without_sale": {"journal"},
    }
    assert missing == expected.get(name, set())


def test_a_real_history_agrees_on_both_databases(database_url: str, tmp_path: Path) -> None:
    """Every query runs on PostgreSQL too, and finds what was changed there."""

    async def story() -> None:
        async with running_app(tmp_path, url=database_url) as app:
            await history(app)
            run = await asyncio.to_thread(reconcile.run, app)
            assert (run.found, run.fresh, run.checks) == (0, 0, len(CHECKS))
            statement = f"UPDATE reply SET charged = charged - 1 WHERE id = {_ANY_REPLY}"
            app.db.write(lambda session: session.execute(text(statement)))
            run = await asyncio.to_thread(partial(reconcile.run, app, actor="user:1"))
            assert (run.found, run.actor) == (1, "user:1")
            app.db.write(
                lambda session: session.execute(text(statement.replace("charged - 1", "charged+1")))
            )

    asyncio.run(story())


def test_a_difference_is_one_row_until_it_is_gone(template: Path, tmp_path: Path) -> None:
    """Seen again it is not new; repaired it is gone; nothing is repaired by the run."""
    path = tmp_path / "chat.db"
    path.write_bytes(template.read_bytes())
    app_settings = script_settings(tmp_path)
    assert app_settings.data_dir == tmp_path
    plant(path, FAULTS["answer_and_usage"])
    database = Database(f"sqlite:///{path}")

    def run(at: int) -> differences.Run:
        found = reconcile.compare(database, now=NOW)
        return reconcile.keep(database, found=found, actor="t", started_at=at, now=at)

    try:
        assert (run(1).fresh, run(2).fresh) == (1, 0)
        with database.read() as session:
            [row], more = differences.find(session)
            assert (row.open, row.first_seen_at, row.last_seen_at, more) == (True, 1, 2, None)
            assert row.facts["charged"] == row.facts["cost"] - 1
            assert differences.get(session, row.id) == row
            assert differences.counts(session) == {"answer_and_usage": 1}
            with pytest.raises(differences.UnknownDifference):
                differences.get(session, 99)
        mend = f"UPDATE reply SET charged = charged + 1 WHERE id = {_ANY_REPLY}"
        database.write(lambda session: session.execute(text(mend)))
        assert run(3).found == 0
        with database.read() as session:
            assert differences.find(session) == ([], None)
            [gone], _ = differences.find(session, state="gone")
            assert (gone.id, gone.open, gone.last_seen_at) == (row.id, False, 2)
        plant(path, FAULTS["answer_and_usage"])
        assert run(4).fresh == 1
    finally:
        database.close()


def test_a_check_without_its_tables_is_left_out(sqlite_database: Database) -> None:
    """The seam for what other rooms add."""
    later = reconcile.Check(
        "later", "invoice", "payment", "A.", "B.", "SELECT * FROM nothing", tables=("nothing",)
    )
    assert reconcile.compare(sqlite_database, now=NOW, checks=[later]) == []
