"""The step of the schema that brought images, down and up again, with rows in it."""

from collections.abc import Sequence

from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from chat_app import db as database_room
from chat_app import migrations
from chat_app.db import Database
from tests.credits.test_walk import move

STEP = "0010"
ROWS = (
    "INSERT INTO conversation (id, user_id, title, model, created_at, updated_at) "
    "VALUES ('con', 1, 'old', 'm', 1, 1)",
    "INSERT INTO message (id, conversation_id, role, content, model, created_at) "
    "VALUES ('q', 'con', 'user', 'hello', 'm', 1)",
    "INSERT INTO message (id, conversation_id, parent_id, role, content, model, created_at) "
    "VALUES ('a', 'con', 'q', 'assistant', 'hi', 'm', 2)",
    "INSERT INTO reply (id, user_id, conversation_id, question_id, message_id, model, hold_id, "
    "price_version, maximum, state, lease_until, pieces, prompt_tokens, completion_tokens, "
    "cached_tokens, dropped_messages, charged, created_at, ended_at, images) VALUES ('rep', 1, "
    "'con', 'q', 'a', 'm', 1, 1, 5, 'done', 1, '2', 1, 1, 0, 2, 5, 1, 2, 1)",
    "INSERT INTO message_image (id, message_id, user_id, position, digest, kind, width, height, "
    "bytes) VALUES ('img', 'q', 1, 0, 'ab', 'png', 3, 4, 5)",
)


def test_down_and_up_with_rows(database: Database) -> None:
    """Answers and questions stay; what the older program does not know goes."""
    with database.engine.begin() as connection:
        for row in ROWS:
            connection.execute(text(row))
    before = ScriptDirectory.from_config(migrations.config()).get_revision(STEP).down_revision
    assert isinstance(before, str)
    move(database, before, down=True)
    assert "message_image" not in inspect(database.engine).get_table_names()
    assert "images" not in columns(database)
    database_room.migrate(database)
    assert database_room.schema_is_current(database)
    with database.engine.connect() as connection:
        row = connection.execute(text("SELECT charged, images FROM reply WHERE id = 'rep'")).one()
    assert tuple(row) == (5, 0)


def columns(database: Database) -> Sequence[str]:
    return [column["name"] for column in inspect(database.engine).get_columns("reply")]
