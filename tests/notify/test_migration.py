"""The notify tables leave and come back with rows in them, on both databases."""

from alembic import command
from alembic.script import ScriptDirectory

from chat_app import db as database_room
from chat_app import migrations
from chat_app.db import Database
from chat_app.notify import alerts, announcements, inbox, kinds, outbox, preferences
from chat_app.notify.alerts import Rule
from chat_app.notify.announcements import Bar


def fill(database: Database) -> None:
    """Something in the tables."""
    bar = Bar("warning", 1, 3)
    made = database.write(
        lambda s: announcements.add(
            s, kind="announcement", title="A", text="b.", actor="x", now=1, bar=bar
        )
    )
    database.write(lambda s: announcements.dismiss(s, user_id=1, public_id=made.id, now=2))
    letter = kinds.letter("announcement", {"title": "A", "text": "b."})
    database.write(
        lambda s: (
            outbox.put(s, kind="mail_test", channel="mail", target="a@b.cd", dedupe_key="k",
                       data={}, now=1),
            inbox.put(s, user_id=1, kind="announcement", letter=letter, dedupe_key="k", now=1),
            alerts.set_rule(s, user_id=1, rule=Rule(1, 1, 1), now=1),
            preferences.choose(s, user_id=1, wanted={"news": {"mail": False}}, now=1),
        )
    )  # fmt: skip


def test_down_and_up_with_rows(database: Database) -> None:
    fill(database)
    scripts = ScriptDirectory.from_config(migrations.config())
    before = scripts.get_revision("0009").down_revision
    assert isinstance(before, str)
    with database.engine.connect() as connection, connection.begin():
        command.downgrade(migrations.config(connection), before)
    with database.engine.connect() as connection, connection.begin():
        command.upgrade(migrations.config(connection), "head")
    assert database_room.schema_is_current(database)
    fill(database)
    with database.read() as session:
        assert inbox.unread(session, user_id=1) == 1
        assert announcements.shown_to(session, user_id=1, now=2) == []
        (left,) = announcements.shown_to(session, user_id=2, now=2)
        assert left.bar == Bar("warning", 1, 3)
        assert announcements.shown_to(session, user_id=2, now=3) == []
    assert database.write(lambda s: announcements.forget(s, before=4)) == 1
