"""The step of the schema that brought the tree, up and down, with conversations in it."""

from itertools import groupby
from random import Random

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import Session

from chat_app import db as database_room
from chat_app import migrations
from chat_app.chat import branches, conversations
from chat_app.db import Database
from tests.credits.test_walk import move

STEP = "0020"
TALK = (
    "INSERT INTO conversation (id, user_id, title, renamed, model, created_at, updated_at) "
    "VALUES (:id, 1, 'old', false, 'm', 1, 1)"
)
SAID = (
    "INSERT INTO message (id, conversation_id, parent_id, role, content, model, created_at) "
    "VALUES (:id, :talk, :parent, :role, 'hm', 'm', :at)"
)


def old_talks(dice: Random) -> list[dict[str, object]]:
    """Messages as the earlier program stored them: lists of questions with several answers."""
    rows: list[dict[str, object]] = []
    for talk in range(6):
        at = 10
        for number in range(dice.randrange(1, 6)):
            question = f"q{talk}{number}"
            rows.append({"id": question, "parent": None, "role": "user", "talk": f"c{talk}",
                         "at": at})  # fmt: skip
            for again in range(dice.choice([0, 1, 1, 3])):
                rows.append({"id": f"a{talk}{number}{again}", "parent": question,
                             "role": "assistant", "talk": f"c{talk}",
                             "at": at + dice.randrange(1, 3)})  # fmt: skip
            at += dice.choice([0, 5])  # two in the same microsecond too
    return rows


def shown_before(rows: list[dict[str, object]]) -> dict[object, list[object]]:
    """What the earlier program showed: each question in its turn with its newest answer."""
    rows = sorted(rows, key=lambda row: (row["talk"], row["at"], row["id"]))
    shown: dict[object, list[object]] = {}
    for talk, said in groupby(rows, key=lambda row: row["talk"]):
        told = list(said)
        newest = {row["parent"]: row["id"] for row in told if row["parent"]}
        shown[talk] = [
            id
            for row in told
            if row["role"] == "user"
            for id in (row["id"], newest.get(row["id"]))
            if id
        ]
    return shown


def shown_now(database: Database) -> dict[object, list[object]]:
    with database.read() as session:
        return {
            talk: [
                row.id for row in conversations.messages(session, user_id=1, conversation_id=talk)
            ]
            for (talk,) in session.execute(text("SELECT id FROM conversation ORDER BY id"))
        }


def back(database: Database) -> None:
    before = ScriptDirectory.from_config(migrations.config()).get_revision(STEP).down_revision
    assert isinstance(before, str)
    move(database, before, down=True)


def test_old_talks_become_chains_and_come_back(database: Database) -> None:
    """Every old conversation shows what it showed, and branches are laid flat on the way back."""
    rows = old_talks(Random(7))
    expected = shown_before(rows)
    back(database)
    with database.engine.begin() as connection:
        for talk in expected:
            connection.execute(text(TALK), {"id": talk})
        for row in sorted(rows, key=lambda row: row["parent"] is not None):
            connection.execute(text(SAID), row)
    for _ in range(2):
        database_room.migrate(database)
        assert database_room.schema_is_current(database)
        assert shown_now(database) == expected
        with database.read() as session:
            for talk, shown in expected.items():
                whole = conversations.messages(
                    session, user_id=1, conversation_id=str(talk), whole=True
                )
                assert len(whole) == sum(row["talk"] == talk for row in rows)
                assert [row.parent_id for row in whole].count(None) == 1
                assert shown
        back(database)
    database_room.migrate(database)
    database.write(branch)
    back(database)
    with database.engine.connect() as connection:
        found = connection.execute(text("SELECT id, parent_id FROM message")).all()
    flat = {id: parent for id, parent in found}  # noqa: C416 - rows are no pairs to mypy
    assert {flat[id] for id in flat if id.startswith("q") or id == "edited"} == {None}
    assert flat["more"] == flat["most"] == flat["said"] == "edited"
    assert set(flat) >= {row["id"] for row in rows}
    with database.engine.connect() as connection:
        gone = connection.execute(
            text("SELECT title, content FROM conversation JOIN message ON "
                 "conversation_id = conversation.id WHERE message.id = 'secret'")
        ).one()  # fmt: skip
    assert tuple(gone) == ("", "")
    database_room.migrate(database)
    assert database_room.schema_is_current(database)


def branch(session: Session) -> None:
    """An edited first question with an answer that was continued twice; a temporary talk."""
    for id, parent, role, at in (
        ("edited", None, "user", 90),
        ("said", "edited", "assistant", 91),
        ("more", "said", "assistant", 92),
        ("most", "more", "assistant", 93),
    ):
        said = {"id": id, "parent": parent, "role": role, "talk": "c0", "at": at}
        session.execute(text(SAID), said)
    branches.pick(session, user_id=1, conversation_id="c0", message_id="edited")
    shown = conversations.messages(session, user_id=1, conversation_id="c0")
    assert [row.id for row in shown] == ["edited", "said", "more", "most"]
    session.execute(text(TALK), {"id": "temporary"})
    session.execute(text("UPDATE conversation SET temporary_until = 5 WHERE id = 'temporary'"))
    secret = {"id": "secret", "parent": None, "role": "user", "talk": "temporary", "at": 5}
    session.execute(text(SAID), secret)
