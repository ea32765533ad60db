"""Which account of Hugging Face signs in to which of ours, on both databases."""

import pytest
from alembic import command
from sqlmodel import Session

from chat_app import db as database_room
from chat_app import migrations
from chat_app.accounts import hub, users
from chat_app.db import Database


def _user(session: Session, name: str) -> int:
    made = users.create(
        session, username=name, email=f"{name}@example.org", password_hash="", now=1
    )
    assert made.id is not None
    return made.id


def test_one_account_there_is_one_here(db: Database) -> None:
    """And a refusal leaves the rest of the transaction alone."""

    def story(session: Session) -> None:
        ann, bob = _user(session, "ann"), _user(session, "bob")
        hub.link(session, subject="s1", user_id=ann, name="ann\x00-hf" + "x" * 99, now=5)
        hub.link(session, subject="s1", user_id=ann, name="ann-hf", now=6)
        with pytest.raises(hub.HubTaken):
            hub.link(session, subject="s1", user_id=bob, name="ann-hf", now=7)
        with pytest.raises(hub.HubLinked):
            hub.link(session, subject="s2", user_id=ann, name="ann-hf", now=7)
        row = hub.of_user(session, user_id=ann)
        assert row is not None
        assert (row.subject, row.linked_at, len(row.name)) == ("s1", 5, hub.MAX_NAME)
        hub.note(session, subject="s1", name="renamed", now=9)
        session.refresh(row)
        assert (row.name, row.used_at) == ("renamed", 9)
        assert hub.unlink(session, user_id=ann)
        assert not hub.unlink(session, user_id=ann)
        hub.link(session, subject="s1", user_id=bob, name="bob", now=10)

    db.write(story)
    with db.read() as session:
        found = hub.find(session, subject="s1")
        assert found is not None
        assert found.name == "bob"


def test_an_answer_is_used_once(db: Database) -> None:
    def use(state: str) -> bool:
        return db.write(lambda s: hub.use_answer(s, state_hash=state, expires_at=100))

    assert [use("a"), use("a"), use("b"), use("a")] == [True, False, True, False]
    assert db.write(lambda session: hub.purge(session, now=99)) == 0
    assert db.write(lambda session: hub.purge(session, now=100)) == 2


def test_going_back_and_forth_loses_links_alone(db: Database) -> None:
    """Down and up again with rows in the tables: the account stays."""

    def story(session: Session) -> int:
        ann = _user(session, "ann")
        hub.link(session, subject="s1", user_id=ann, name="ann", now=5)
        hub.use_answer(session, state_hash="a", expires_at=1)
        return ann

    ann = db.write(story)
    with db.engine.connect() as connection, connection.begin():
        command.downgrade(migrations.config(connection), "0032")
    database_room.migrate(db)
    assert database_room.schema_is_current(db)
    with db.read() as session:
        assert users.get(session, ann).username == "ann"
        assert hub.of_user(session, user_id=ann) is None
