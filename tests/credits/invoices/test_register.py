"""The register: gapless numbers whatever fails, frozen documents, states and credit notes."""

import json
import threading
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session, select

from chat_app.clock import to_micros
from chat_app.credits import verify
from chat_app.credits.invoices import details, documents, files, pdf, register, sellers, tax
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.register import Invoice
from chat_app.credits.invoices.sellers import Seller
from chat_app.credits.invoices.tables import InvoiceRow
from chat_app.credits.operations import IdempotencyConflict
from chat_app.credits.payments import orders
from chat_app.db import Database
from chat_app.money import MICRO
from tests.credits.books import ALICE, NOON, SECOND
from tests.credits.test_verify import plant

ESTONIA = Seller(name="Seller OÜ", country="EE", tax="seller", payment_days=10)
DAY = 24 * 3600 * SECOND
_orders = count(1)


class PowerCut(Exception):
    """Something breaks after the number was taken."""


def order(session: Session, *, user: int = ALICE, cents: int = 500, now: int = NOON) -> str:
    micro = cents * MICRO
    made = orders.create(
        session, user_id=user, micro=micro, now=now, scope="o", key=f"k{next(_orders)}"
    )
    return made.id


def sell(database: Database, *, now: int = NOON, **more: int) -> Invoice:
    """A paid order's invoice."""

    def story(session: Session) -> Invoice:
        payment_id = order(session, now=now, **more)
        orders.fulfil(session, payment_id=payment_id, now=now)
        found = register.of_payment(session, payment_id=payment_id)
        assert found is not None
        return found

    return database.write(story)


def seller(database: Database, given: Seller = ESTONIA, now: int = NOON) -> None:
    database.write(lambda session: tax.seed(session, now=now))
    database.write(lambda session: sellers.keep(session, seller=given, now=now))


def problems(database: Database) -> list[str]:
    with database.read() as session:
        return [problem.sentence for problem in verify.run(session)]


def test_a_paid_order_has_one_invoice_however_often_it_is_announced(database: Database) -> None:
    seller(database)
    invoice = sell(database, cents=2000)
    assert (invoice.number, invoice.status) == ("INV-2026-000001", "paid")
    assert (invoice.net_minor, invoice.tax_minor, invoice.total_minor) == (1613, 387, 2000)
    assert invoice.payment_id is not None
    payment_id = invoice.payment_id
    database.write(lambda s: orders.fulfil(s, payment_id=payment_id, now=NOON + 5))
    again = database.write(lambda s: register.for_payment(s, payment_id=payment_id, now=NOON + 9))
    assert again == invoice
    assert problems(database) == []


def test_numbers_have_no_gap_when_32_sell_at_once_and_every_third_fails(
    database: Database,
) -> None:
    """I18: a number is taken if and only if its document is there."""
    ids = [database.write(lambda s, user=user: order(s, user=user)) for user in range(1, 33)]
    start = threading.Barrier(len(ids))

    def pay(number: int, payment_id: str) -> None:
        def story(session: Session) -> None:
            orders.fulfil(session, payment_id=payment_id, now=NOON + number)
            if number % 3 == 0:
                raise PowerCut

        start.wait()
        try:
            database.write(story)
        except PowerCut:
            database.write(lambda s: orders.fulfil(s, payment_id=payment_id, now=NOON + 99))

    crowd = [threading.Thread(target=pay, args=item) for item in enumerate(ids)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    with database.read() as session:
        found = session.exec(select(InvoiceRow).order_by(InvoiceRow.sequence)).all()  # type: ignore[arg-type]
    assert [row.sequence for row in found] == list(range(1, 33))
    assert {row.payment_id for row in found} == set(ids)
    dates = [row.issued_at for row in found]
    assert dates == sorted(dates)  # type: ignore[type-var]
    assert problems(database) == []


def test_each_year_begins_with_one_and_time_never_goes_back(database: Database) -> None:
    """A clock that goes back over New Year opens no old year again."""
    from datetime import UTC, datetime

    eve = to_micros(datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
    made = [sell(database, now=now, user=n) for n, now in enumerate((eve, eve + 1, eve))]
    assert [invoice.issued_at for invoice in made] == [eve, eve + 1, eve + 1]
    assert [invoice.number for invoice in made] == [
        "INV-2026-000001",
        "INV-2027-000001",
        "INV-2027-000002",
    ]
    assert problems(database) == []


def test_what_was_issued_stays_as_it_was(database: Database) -> None:
    """New details, another seller and another rate are for the next invoice."""
    seller(database)
    before = sell(database)
    german = BillingDetails("Ada GmbH", "Weg 1\n10117 Berlin", "DE", "DE136695976")
    database.write(lambda s: details.put(s, user_id=ALICE, given=german, now=NOON))
    seller(database, Seller(name="Other OÜ", country="EE", tax="seller"), NOON + 1)
    after = sell(database)
    with database.read() as session:
        assert register.get(session, invoice_id=before.id).document == before.document
    assert before.document["seller"]["name"] == "Seller OÜ"
    assert after.document["seller"]["name"] == "Other OÜ"
    assert after.document["taxes"][0]["treatment"] == "reverse_charge"
    assert (after.net_minor, after.tax_minor) == (500, 0)
    assert "Reverse charge" in after.document["notes"][0]
    assert problems(database) == []


def test_a_draft_is_opened_written_off_and_paid_after_all(database: Database) -> None:
    seller(database)
    payment_id = database.write(order)
    draft = database.write(lambda s: register.draft(s, payment_id=payment_id, now=NOON))
    assert (draft.status, draft.number) == ("draft", None)
    assert database.write(lambda s: register.draft(s, payment_id=payment_id, now=NOON)) == draft

    def step(deed: str, **more: str) -> Invoice:
        done: Invoice = database.write(
            lambda s: getattr(register, deed)(
                s, invoice_id=draft.id, actor="user:9", now=NOON + 1, **more
            )
        )
        return done

    for deed in ("void", "write_off"):
        with pytest.raises(register.InvoiceState):
            step(deed, reason="too early")
    opened = step("open_draft")
    assert (opened.status, opened.number) == ("open", "INV-2026-000001")
    assert opened.due_on == "2026-01-11"
    with pytest.raises(register.InvoiceState):
        step("open_draft")
    with pytest.raises(register.InvoiceReasonMissing):
        step("write_off", reason=" x ")
    assert step("write_off", reason="no answer for a year").status == "uncollectible"
    database.write(lambda s: orders.fulfil(s, payment_id=payment_id, now=NOON + DAY))
    with database.read() as session:
        paid = register.get(session, invoice_id=draft.id)
    assert (paid.status, paid.reason) == ("paid", None)
    assert paid.document == opened.document
    with pytest.raises(register.InvoiceState):
        step("void", reason="paid ones take credit notes")
    assert problems(database) == []


def test_a_void_invoice_keeps_its_number_and_the_order_gets_another(database: Database) -> None:
    payment_id = database.write(order)
    draft = database.write(lambda s: register.draft(s, payment_id=payment_id, now=NOON))
    for deed, more in (("open_draft", {}), ("void", {"reason": "wrong address"})):
        database.write(
            lambda s, deed=deed, more=more: getattr(register, deed)(
                s, invoice_id=draft.id, actor="user:9", now=NOON, **more
            )
        )
    database.write(lambda s: orders.fulfil(s, payment_id=payment_id, now=NOON))
    with database.read() as session:
        found, _ = register.listed(session, user_id=ALICE)
    assert {(item.number, item.status) for item in found} == {
        ("INV-2026-000001", "void"),
        ("INV-2026-000002", "paid"),
    }
    assert problems(database) == []


def credit(database: Database, invoice: Invoice, amount: int, key: str) -> Invoice:
    assert invoice.payment_id is not None
    payment_id = invoice.payment_id
    return database.write(
        lambda s: register.credit_note(
            s,
            payment_id=payment_id,
            amount_minor=amount,
            reason="unused credits",
            now=NOON,
            key=key,
        )
    )


def test_credit_notes_take_off_exactly_what_the_invoice_says(database: Database) -> None:
    """Thirds of 5.00 at 24 %: 0.97 of tax in three notes, to the cent, and no more than 5.00."""
    seller(database)
    invoice = sell(database)
    notes = [credit(database, invoice, amount, f"k{amount}") for amount in (166, 167, 1)]
    assert credit(database, invoice, 166, "k166") == notes[0]
    with pytest.raises(IdempotencyConflict):
        credit(database, invoice, 165, "k166")
    for amount in (0, -1, 167):
        with pytest.raises(register.CreditNoteTooLarge):
            credit(database, invoice, amount, f"bad{amount}")
    notes.append(credit(database, invoice, 166, "rest"))
    assert [note.number for note in notes] == [f"CN-2026-{n:06d}" for n in range(1, 5)]
    assert sum(note.tax_minor for note in notes) == invoice.tax_minor == 97
    assert sum(note.net_minor for note in notes) == invoice.net_minor
    assert notes[0].document["corrects"]["number"] == invoice.number
    with database.read() as session:
        assert register.get(session, invoice_id=invoice.id).credited_minor == 500
    assert problems(database) == []


def test_parallel_credit_notes_never_exceed_the_invoice(database: Database) -> None:
    invoice = sell(database)
    done: list[bool] = []

    def take(number: int) -> None:
        try:
            credit(database, invoice, 100, f"k{number}")
        except register.CreditNoteTooLarge:
            done.append(False)
        else:
            done.append(True)

    crowd = [threading.Thread(target=take, args=(number,)) for number in range(12)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert (done.count(True), done.count(False)) == (5, 7)
    assert problems(database) == []


def test_a_pdf_has_the_same_bytes_twice_and_is_kept(database: Database) -> None:
    seller(database)
    invoice = sell(database)
    one, two = (pdf.render(invoice.document, sha256=invoice.document_sha256) for _ in "12")
    assert one == two
    assert one.startswith(b"%PDF-")
    kept = database.write(lambda s: files.keep(s, invoice_id=invoice.id, content=one, now=NOON))
    other = database.write(
        lambda s: files.keep(s, invoice_id=invoice.id, content=b"another", now=NOON)
    )
    assert kept == other == one
    with database.read() as session:
        assert files.load(session, invoice_id=invoice.id) == one
    assert problems(database) == []


def test_strange_letters_make_a_pdf_too(sqlite_database: Database) -> None:
    """What the font lacks is left blank; nothing a buyer types breaks the file."""
    hostile = BillingDetails("<b>=1+1 龍 😀 \u202eabc", "{nb} %s\n" + "W" * 300, "EE")
    sqlite_database.write(lambda s: details.put(s, user_id=ALICE, given=hostile, now=NOON))
    invoice = sell(sqlite_database)
    assert pdf.render(invoice.document, sha256=invoice.document_sha256).startswith(b"%PDF-")


INVOICE, NOTE = "WHERE sequence = 1 AND kind = 'invoice'", "WHERE kind = 'credit_note'"
TAMPERINGS = {
    "gapless": "UPDATE invoice SET sequence = 9, number = 'INV-2026-000009' WHERE sequence = 2",
    "issued is gone": "PRAGMA foreign_keys=OFF; DELETE FROM invoice WHERE sequence = 3",
    "given out last": "UPDATE invoice_series SET last = last + 1",
    "document of an invoice was changed": "UPDATE invoice SET document = "
    f"replace(document, '\"quantity\":1', '\"quantity\":2') {INVOICE}",
    "different stories": f"UPDATE invoice SET net_minor = 1, total_minor = 1 + tax_minor {INVOICE}",
    "state of an invoice": f"UPDATE invoice SET status = 'void' {INVOICE}",
    "no paid invoice over": f"UPDATE invoice SET status = 'uncollectible' {INVOICE}",
    "lines of an invoice": "UPDATE invoice_line SET amount_minor = 1",
    "taxes of an invoice": "UPDATE invoice_tax SET rate_bp = 2000",
    "PDF of an invoice was changed": "UPDATE invoice_file SET content = x'25', size = 1",
    "PDF of an invoice is gone": "DELETE FROM invoice_file",
    "more than its total": f"UPDATE invoice SET total_minor = 501, net_minor = 404 {NOTE}",
}


@pytest.mark.parametrize("named", sorted(TAMPERINGS))
def test_tampering_is_named(sqlite_database: Database, named: str) -> None:
    """I18: edit, delete, renumber, another state, another file."""
    seller(sqlite_database)
    first, *_ = [sell(sqlite_database, user=user) for user in (1, 2, 3)]
    sqlite_database.write(lambda s: files.keep(s, invoice_id=first.id, content=b"%PDF-", now=NOON))
    credit(sqlite_database, first, 500, "all")
    assert problems(sqlite_database) == []
    plant(Path(str(sqlite_database.engine.url.database)), TAMPERINGS[named])
    assert any(named in sentence for sentence in problems(sqlite_database))


def test_a_changed_document_with_a_new_hash_is_named(sqlite_database: Database) -> None:
    """Somebody with the file makes everything agree but the sealed log."""
    invoice = sell(sqlite_database)
    document = {**invoice.document, "buyer": {**invoice.document["buyer"], "name": "Nobody"}}
    changed = documents.text_of(document)
    plant(
        Path(str(sqlite_database.engine.url.database)),
        f"UPDATE invoice SET document = '{changed}', "
        f"document_sha256 = '{documents.hash_of(changed)}'",
    )
    assert problems(sqlite_database) == [
        "An invoice is not the one that the audit log says was issued."
    ]


def test_issued_rows_cannot_be_changed_by_the_program(database: Database) -> None:
    """T24: append-only by trigger."""
    seller(database)
    sell(database)
    for table in ("invoice_line", "invoice_tax", "seller"):
        with pytest.raises(Exception, match="append-only"):
            database.write(lambda s, t=table: s.execute(text(f"DELETE FROM {t}")))


def test_an_order_from_before_invoices_gets_one_when_it_is_asked_for(
    sqlite_database: Database,
) -> None:
    """The books of an earlier version verify, and a refund of such an order has a credit note."""
    invoice = sell(sqlite_database)
    path = Path(str(sqlite_database.engine.url.database))
    plant(
        path,
        "PRAGMA foreign_keys=OFF; DELETE FROM invoice; DELETE FROM invoice_line;"
        "DELETE FROM invoice_tax; DELETE FROM invoice_series; DELETE FROM event_log;"
        "DELETE FROM seller; DELETE FROM sqlite_sequence WHERE name = 'event_log'",
    )
    assert problems(sqlite_database) == []
    note = credit(sqlite_database, invoice, 200, "k")
    assert note.document["corrects"]["number"] == "INV-2026-000001"
    assert problems(sqlite_database) == []


def test_the_search_finds_by_number_and_order(database: Database) -> None:
    made = [sell(database, user=user, now=NOON + user) for user in range(1, 6)]
    with database.read() as session:
        page, cursor = register.listed(session, limit=2)
        rest, end = register.listed(session, limit=3, cursor=cursor)
        assert [item.id for item in page + rest] == [item.id for item in reversed(made)]
        assert end is None
        for wanted in ("inv-2026-000002", made[1].payment_id or ""):
            assert [item.id for item in register.listed(session, q=wanted)[0]] == [made[1].id]
        assert register.listed(session, q="%")[0] == []
        assert register.listed(session, status="open")[0] == []
        with pytest.raises(register.UnknownInvoice):
            register.get(session, invoice_id=made[0].id, user_id=2)


def test_no_fraction_comes_near_money() -> None:
    """Decimal, float and true division do not occur where amounts are made."""
    import ast

    folder = Path(register.__file__).parent
    for path in (path for path in folder.glob("*.py") if path.name != "pdf.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Div), path
            if isinstance(node, ast.Constant):
                assert not isinstance(node.value, float), path
            if isinstance(node, ast.Name):
                assert node.id not in {"Decimal", "float", "round"}, path


def test_the_document_says_what_the_table_says(database: Database) -> None:
    invoice = sell(database)
    with database.read() as session:
        row = session.get_one(InvoiceRow, invoice.id)
    assert json.loads(row.document) == invoice.document
    assert documents.problems(invoice.document) == []
    broken = {**invoice.document, "total_minor": 501}
    assert len(documents.problems(broken)) == 2
