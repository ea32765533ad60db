"""The schema's history: equal to the tables of the program, safe at a crowded start."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlmodel import Session, SQLModel

from chat_app import db as database_room
from chat_app import migrations
from chat_app.accounts import users
from chat_app.chat import conversations
from chat_app.credits import guards, holds, pricing, verify
from chat_app.credits.guards import Limits
from chat_app.db import Database
from chat_app.migrations import triggers
from tests.credits.books import ALICE, BOB, NOON, credits, facts, fresh, grant, place
from tests.credits.test_walk import move


def test_the_history_leads_to_the_tables_of_the_program(database: Database) -> None:
    with database.engine.connect() as connection:
        assert migrations.difference(connection) == []
    assert database_room.schema_is_current(database)


def test_checks_are_the_same_migrated_and_created(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """Alembic does not compare CHECKs, so this does."""
    created = Database(f"sqlite:///{tmp_path / 'created.db'}")
    metadata = migrations.metadata()
    SQLModel.metadata.create_all(created.engine)

    def checks(database: Database) -> dict[str, set[tuple[str, str]]]:
        look = inspect(database.engine)
        return {
            table: {
                (str(check["name"]), re.sub(r"\s+", " ", check["sqltext"]))
                for check in look.get_check_constraints(table)
            }
            for table in metadata.tables
        }

    try:
        assert checks(sqlite_database) == checks(created)
        assert sum(map(len, checks(created).values())) > 40
    finally:
        created.close()


def test_every_constraint_has_a_name() -> None:
    unnamed = [
        (table.name, str(constraint))
        for table in migrations.metadata().tables.values()
        for constraint in table.constraints
        if constraint.name is None and type(constraint).__name__ == "CheckConstraint"
    ]
    assert unnamed == []


@pytest.mark.parametrize(
    "backend",
    ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.full])],
)
def test_several_processes_start_at_once(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'crowd.db'}"
    if backend == "postgres":
        url = request.getfixturevalue("empty_postgres_url")
    program = (
        "import sys; from chat_app.db import Database, migrate; migrate(Database(sys.argv[1]))"
    )
    crowd = [
        subprocess.Popen([sys.executable, "-c", program, url], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in crowd:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    database = Database(url)
    try:
        assert database_room.schema_is_current(database)
    finally:
        database.close()


def test_a_missing_trigger_is_noticed_and_put_back(database: Database) -> None:
    with database.engine.begin() as connection:
        place = "" if database.sqlite else " ON transfer"
        connection.execute(text(f"DROP TRIGGER transfer_no_update{place}"))
        assert triggers.missing(connection) == ["transfer_no_update"]
        with pytest.raises(triggers.TriggersMissing, match="transfer_no_update"):
            triggers.assert_triggers(connection)
    assert not database_room.schema_is_current(database)
    database_room.migrate(database)
    assert database_room.schema_is_current(database)


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_rows_of_the_first_release_live_on(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A database with conversations in it is brought to the newest schema."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    if backend == "postgres":
        url = request.getfixturevalue("empty_postgres_url")
    database = Database(url)
    try:
        with database.engine.connect() as connection, connection.begin():
            command.upgrade(migrations.config(connection), "0001")
        with database.engine.begin() as connection:
            for row in (
                "INSERT INTO conversation (id, user_id, title, model, created_at, updated_at) "
                "VALUES ('con', 1, 'old', 'm', 1, 1)",
                "INSERT INTO message (id, conversation_id, role, content, model, created_at) "
                "VALUES ('q', 'con', 'user', 'hello', 'm', 1)",
                "INSERT INTO message (id, conversation_id, parent_id, role, content, model, "
                "created_at) VALUES ('a', 'con', 'q', 'assistant', 'hi', 'm', 2)",
                "INSERT INTO reply (id, user_id, conversation_id, question_id, message_id, model, "
                "hold_id, price_version, maximum, state, lease_until, pieces, prompt_tokens, "
                "completion_tokens, cached_tokens, dropped_messages, charged, created_at, "
                "ended_at) VALUES ('rep', 1, 'con', 'q', 'a', 'm', 1, 1, 5, 'done', 1, '2', 1, 1, "
                "0, 2, 5, 1, 2)",
            ):
                connection.execute(text(row))
        database_room.migrate(database)
        assert database_room.schema_is_current(database)
        with database.read() as session:
            found = conversations.messages(session, user_id=1, conversation_id="con")
            assert [(row.content, row.cached) for row in found] == [("hello", False), ("hi", False)]
            assert found[1].dropped_messages == 2
            assert not conversations.get(session, user_id=1, conversation_id="con").renamed
    finally:
        database.close()


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_sums_of_usage_are_made_from_what_was_used_before(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Down with what newer tables hold, and up again: the sums are as they were."""
    url = f"sqlite:///{tmp_path / 'used.db'}"
    if backend == "postgres":
        url = request.getfixturevalue("empty_postgres_url")
    database = Database(url)
    database_room.migrate(database)
    sums = text("SELECT * FROM usage_month ORDER BY user_id, starts_at, model")
    try:
        for user in (ALICE, BOB):
            database.write(lambda session, user=user: grant(session, 90, user=user))
            for day in (0, 20, 40, 41):
                settled(database, user=user, now=NOON + day * 86_400_000_000)
        database.write(
            lambda session: pricing.publish(
                session,
                model_id="m",
                kind="per_message",
                per_message=2,
                tiers=[pricing.Tier("messages", 5, 1)],
                now=NOON,
            )
        )
        database.write(
            lambda session: guards.put(session, user_id=1, limits=Limits(per_day=5), now=NOON)
        )
        with database.read() as session:
            before = session.execute(sums).all()
            assert verify.run(session) == []
        assert len(before) == 4
        move(database, "0002", down=True)
        with database.engine.connect() as connection:
            assert connection.execute(text('SELECT COUNT(*) FROM "usage"')).scalar_one() == 8
        database_room.migrate(database)
        assert database_room.schema_is_current(database)
        with database.read() as session:
            assert session.execute(sums).all() == before
            assert verify.run(session) == []
    finally:
        database.close()


def settled(database: Database, *, user: int, now: int) -> None:
    """One answer for a credit."""

    def story(session: Session) -> None:
        hold = place(session, 1, user=user, now=now)
        usage = facts(fresh())
        holds.settle(session, hold_id=hold.id, micro=credits(1), now=now, usage=usage)

    database.write(story)


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_plans_and_codes_can_be_taken_back(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Down and up again with an order, a package and a plan in the tables."""
    url = f"sqlite:///{tmp_path / 'back.db'}"
    if backend == "postgres":
        url = request.getfixturevalue("empty_postgres_url")
    database = Database(url)

    def to(revision: str, *, down: bool = False) -> None:
        with database.engine.connect() as connection, connection.begin():
            go = command.downgrade if down else command.upgrade
            go(migrations.config(connection), revision)

    try:
        to("0004")
        with database.engine.begin() as connection:
            for row in (
                "INSERT INTO package (code, name, price_minor, currency, credits, active, "
                "valid_days, created_at) VALUES ('p', 'P', 1, 'USD', 1, true, 30, 1)",
                "INSERT INTO payment (id, provider, provider_ref, status, user_id, package_code, "
                "credits, amount_minor, currency, priority, created_at) "
                "VALUES ('pay', 'offline', 'pay', 'pending', 1, 'p', 1, 1, 'USD', 7, 1)",
                "INSERT INTO plan (code, name, price_minor, currency, credits, active, created_at)"
                " VALUES ('m', 'M', 1, 'USD', 1, true, 1)",
                "INSERT INTO subscription (id, user_id, status, cancel_at_end, due_at, created_at)"
                " VALUES ('sub', 1, 'active', false, 1, 1)",
            ):
                connection.execute(text(row))
        to("0002", down=True)
        to("0004")
        with database.engine.connect() as connection:
            found = connection.execute(text("SELECT source, priority, status FROM payment"))
            assert [tuple(row) for row in found] == [("paid", 0, "pending")]
            checks = inspect(connection).get_check_constraints("package")
            names = {check["name"] for check in checks}
            assert {"ck_package_valid_days", "ck_package_credits"} <= names
        database_room.migrate(database)
        assert database_room.schema_is_current(database)
    finally:
        database.close()


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_nobody_gains_rights_by_going_back(backend: str, request: pytest.FixtureRequest) -> None:
    """Roles that the earlier program does not know become ordinary ones, and stay so."""
    found = request.getfixturevalue("sqlite_database" if backend == "sqlite" else "postgres_url")
    database = found if isinstance(found, Database) else Database(found)

    def roles() -> list[str]:
        with database.read() as session:
            rows = session.connection().execute(text('SELECT role FROM "user" ORDER BY id'))
            return [str(row[0]) for row in rows]

    for name in ("user", "support", "finance", "admin"):
        database.write(
            lambda session, name=name: users.create(
                session,
                username=name,
                email=f"{name}@example.org",
                password_hash="x",
                now=1,
                role=name,
            )
        )
    move(database, "0010", down=True)
    assert roles() == ["user", "user", "user", "admin"]
    database_room.migrate(database)
    assert database_room.schema_is_current(database)
    assert roles() == ["user", "user", "user", "admin"]
    database.close()
