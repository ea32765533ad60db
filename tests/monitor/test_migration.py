"""The tables of the machine's faults leave and come back with rows in them, on both databases."""

from alembic import command
from alembic.script import ScriptDirectory

from chat_app import db as database_room
from chat_app import migrations
from chat_app.db import Database
from chat_app.monitor import faults
from chat_app.monitor.rules import USUAL, Change


def fill(database: Database) -> int | None:
    """A changed rule, a fact and a fault."""
    database.write(
        lambda s: faults.change_rule(
            s, name="disk_low", change=Change(threshold=7), actor="user:1", now=1
        )
    )
    database.write(lambda s: faults.learn(s, name="proof", value={"problems": 0}, now=1))
    rule = USUAL["disk_low"]
    return database.write(lambda s: faults.begin(s, rule=rule, place="here", value=1.5, now=2))


def test_down_and_up_with_rows(database: Database) -> None:
    assert fill(database) is not None
    assert fill(database) is None, "it is open already"
    scripts = ScriptDirectory.from_config(migrations.config())
    before = scripts.get_revision("0032").down_revision
    assert isinstance(before, str)
    with database.engine.connect() as connection, connection.begin():
        command.downgrade(migrations.config(connection), before)
    with database.engine.connect() as connection, connection.begin():
        command.upgrade(migrations.config(connection), "head")
    assert database_room.schema_is_current(database)
    assert fill(database) is not None
    with database.read() as session:
        assert faults.rules_of(session)["disk_low"].threshold == 7
        assert faults.known(session, "proof") == ({"problems": 0}, 1)
    ended = database.write(lambda s: faults.end(s, rule="disk_low", place="here", now=1))
    assert ended is not None
    assert ended.cleared_at == 2, "a clock that was set back ends it when it began"
    assert database.write(lambda s: faults.end(s, rule="disk_low", place="here", now=3)) is None
    assert fill(database) is not None
