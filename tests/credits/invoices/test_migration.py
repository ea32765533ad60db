"""The migration of invoices, with invoices in it, down and up on both databases."""

from alembic import command
from sqlalchemy import inspect, text

from chat_app import db as database_room
from chat_app import migrations
from chat_app.credits.invoices import files
from chat_app.db import Database
from tests.credits.books import NOON
from tests.credits.invoices.test_register import credit, problems, sell, seller


def test_down_and_up_with_invoices_in_it(database: Database) -> None:
    """Wallets and orders survive; an order without its invoice gets one when it is asked for."""
    seller(database)
    invoice = sell(database)
    credit(database, invoice, 100, "k")
    database.write(lambda s: files.keep(s, invoice_id=invoice.id, content=b"%PDF", now=NOON))
    with database.engine.connect() as connection, connection.begin():
        command.downgrade(migrations.config(connection), "0007-1")
    assert not {"invoice", "receipt", "seller"} & set(inspect(database.engine).get_table_names())
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM payment")).scalar_one() == 1
    database_room.migrate(database)
    assert database_room.schema_is_current(database)
    # The sealed log still knows what was there.
    assert set(problems(database)) == {
        "An invoice that was issued is gone.",
        "The PDF of an invoice is gone.",
    }
