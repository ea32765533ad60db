"""Alembic's entry: one connection, which the caller gives and whose transaction it owns."""

from typing import Any, Literal

from alembic import context
from sqlmodel.sql.sqltypes import AutoString

from chat_app import migrations
from chat_app.migrations import full_text, triggers


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """SQLModel's string type is a plain one."""
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.String(length={item.length})" if item.length else "sa.String()"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=migrations.metadata(),
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=render_item,
    compare_type=True,
    include_object=full_text.include,
)
with context.begin_transaction():
    full_text.pause(connection)
    context.run_migrations()
triggers.create(connection)
full_text.resume(connection)
