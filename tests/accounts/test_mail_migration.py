"""Links and gifts leave and come back with people in the tables, on both databases."""

from alembic import command
from sqlalchemy import text

from chat_app import db as database_room
from chat_app import migrations
from chat_app.accounts import links, users, velocity
from chat_app.accounts.velocity import Rules
from chat_app.db import Database
from tests.accounts.test_users import add


def fill(db: Database, user_id: int) -> None:
    """Something in the tables."""
    rules = Rules(0, 0, False)
    db.write(
        lambda s: (
            links.make(s, user_id=user_id, purpose="reset", address="a@b.cd", key=b"k" * 32,
                       now=1, minutes=30),
            links.wish(s, email="a@b.cd", now=1),
            velocity.decide(s, user_id=user_id, email=f"a{user_id}@b.cd", ip="8.8.8.8",
                            key=b"k" * 32, rules=rules, now=1),
        )
    )  # fmt: skip


def test_down_and_up_with_people(db: Database) -> None:
    """Keys of the first release, which folded tags and dots, become the addresses' own."""
    ann, bea = add(db, "ann", "Ann.Lee+shop@gmail.com"), add(db, "bea", "bea@bücher.example")
    assert ann.id
    fill(db, ann.id)
    with db.engine.connect() as connection, connection.begin():
        command.downgrade(migrations.config(connection), "0010")
        connection.execute(
            text("""UPDATE "user" SET email_key = 'annlee@gmail.com' WHERE username = 'ann'""")
        )
    with db.engine.connect() as connection, connection.begin():
        command.upgrade(migrations.config(connection), "head")
    assert database_room.schema_is_current(db)
    with db.read() as session:
        assert users.get(session, ann.id).email_key == "ann.lee+shop@gmail.com"
        found = users.find(session, "BEA@bücher.example")
        assert found is not None
        assert found.id == bea.id
        assert users.find(session, "annlee@gmail.com") is None
    fill(db, ann.id)
