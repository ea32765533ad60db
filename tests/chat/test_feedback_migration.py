"""The step of the schema that brought parameters and feedback, down and up, with rows in it."""

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from chat_app import db as database_room
from chat_app import migrations
from chat_app.db import Database

STEP = "0028"
ROWS = (
    "INSERT INTO conversation (id, user_id, title, model, created_at, updated_at, settings) "
    "VALUES ('con', 1, 'old', 'm', 1, 1, '{\"seed\": 1}')",
    "INSERT INTO message (id, conversation_id, role, content, model, created_at) "
    "VALUES ('q', 'con', 'user', 'hello', 'm', 1)",
    "INSERT INTO message (id, conversation_id, parent_id, role, content, model, created_at) "
    "VALUES ('a', 'con', 'q', 'assistant', 'hi', 'm', 2)",
    "INSERT INTO message_feedback (message_id, user_id, model, vote, reasons, note, created_at, "
    "changed_at) VALUES ('a', 1, 'm', 1, 'clear', '', 3, 3)",
    "INSERT INTO preset (id, user_id, name, settings, created_at) VALUES ('p', 1, 'n', '', 3)",
)


def test_down_and_up_with_rows(database: Database) -> None:
    """Conversations and answers stay; what the older program does not know goes."""
    with database.engine.begin() as connection:
        for row in ROWS:
            connection.execute(text(row))
    with database.engine.connect() as connection, connection.begin():
        config = migrations.config(connection)
        before = ScriptDirectory.from_config(config).get_revision(STEP).down_revision
        assert isinstance(before, str)
        command.downgrade(config, before)
    assert not {"preset", "message_feedback"} & set(inspect(database.engine).get_table_names())
    database_room.migrate(database)
    assert database_room.schema_is_current(database)
    with database.engine.connect() as connection:
        kept = connection.execute(text("SELECT title, settings FROM conversation")).one()
        assert tuple(kept) == ("old", "")
        assert connection.execute(text("SELECT COUNT(*) FROM message")).scalar_one() == 2
