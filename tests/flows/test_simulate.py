"""A made-up history in the real books: right by every proof, the same each time, and marked."""

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from chat_app import db as database_room
from chat_app import migrations
from chat_app import settings as settings_room
from chat_app.accounts import users
from chat_app.credits import verify
from chat_app.db import Database
from chat_app.flows import reconcile, simulate
from chat_app.ml import world
from chat_app.settings import Settings
from tests.effort import effort

NOW = 1_795_000_000_000_000  # November 2026
PACKS = [world.Pack("small", 500, 500), world.Pack("large", 5000, 6000)]


def settings(folder: Path) -> Settings:
    return settings_room.load(data_dir=folder, llm={"engine": "script"})


def run(db: Database, folder: Path, **more: Any) -> dict[str, int]:
    wanted = {"users": 36, "months": 5, "seed": 4, "now": NOW, "fraud": True, **more}
    return simulate.run(db, settings(folder), **wanted)


def count(db: Database, query: str) -> int:
    with db.engine.connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


def test_the_books_are_right_and_everybody_is_marked(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deferred credits, invoices, refunds and disputes prove themselves as real ones do."""
    draw = world.draw

    def busy(**given: Any) -> world.World:
        """The outage falls on a time when somebody asks."""
        found = draw(**given)
        asked = [deed.at for deed in found.deeds if deed.kind == "say"]
        found.outage = (asked[len(asked) // 3], asked[len(asked) // 3] + 5 * world.HOUR)
        return found

    monkeypatch.setattr(world, "draw", busy)
    counts = run(sqlite_database, tmp_path)
    with sqlite_database.read() as session:
        assert verify.run(session) == []
        assert simulate.present(session)
    assert reconcile.compare(sqlite_database, now=NOW) == []
    never = {
        "messages", "purchases", "failed_payments", "cheats", "disputes", "transfers", "refunds",
        "organisations", "failed_messages", "refused_messages", "price_changes",
    } - counts.keys()  # fmt: skip
    assert never == set()
    people = count(sqlite_database, """SELECT COUNT(*) FROM "user" """)
    assert people == counts["people"] == count(sqlite_database, "SELECT COUNT(*) FROM demo_user")
    assert count(sqlite_database, """SELECT COUNT(*) FROM "user" WHERE password_hash <> ''""") == 0
    scenarios = "SELECT COUNT(*) FROM demo_user WHERE scenario <> ''"
    assert count(sqlite_database, scenarios) == counts["cheats"]
    # Nobody is written to about balances of the past.
    assert count(sqlite_database, "SELECT COUNT(*) FROM wallet_change") == 0
    with pytest.raises(simulate.AlreadySimulated):
        run(sqlite_database, tmp_path)
    newest = count(sqlite_database, "SELECT MAX(created_at) FROM transfer")
    assert NOW - 30 * world.DAY < newest <= NOW
    _down_and_up(sqlite_database)


def _down_and_up(db: Database) -> None:
    """The tables of the models leave and come back; the books do not notice."""
    with db.engine.connect() as connection, connection.begin():
        command.downgrade(migrations.config(connection), "0025")
    database_room.migrate(db)
    assert database_room.schema_is_current(db)
    with db.read() as session:
        assert verify.run(session) == []
        assert not simulate.present(session)


@pytest.mark.postgres
def test_on_postgres_too(postgres_url: str, tmp_path: Path) -> None:
    db = Database(postgres_url)
    try:
        small = run(db, tmp_path, users=effort(36, 8), months=effort(5, 2))
        assert small["people"] == effort(36, 8)
        with db.read() as session:
            assert verify.run(session) == []
        assert reconcile.compare(db, now=NOW) == []
        _down_and_up(db)
    finally:
        db.close()


def test_where_real_people_buy_nothing_on_sale_changes(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """No price is published and no plan offered by a history that was made up."""
    simulate.stock(sqlite_database, settings(tmp_path), now=1)
    sqlite_database.write(
        lambda s: users.create(s, username="ann", email="a@example.org", password_hash="x", now=1)
    )
    before = count(sqlite_database, "SELECT COUNT(*) FROM price")
    counts = run(sqlite_database, tmp_path, users=10, months=3)
    assert count(sqlite_database, "SELECT COUNT(*) FROM price") == before
    assert count(sqlite_database, "SELECT COUNT(*) FROM plan") == 0
    assert not {"price_changes", "plans"} & counts.keys()
    assert count(sqlite_database, "SELECT COUNT(*) FROM demo_user") == 10


@pytest.mark.parametrize("wrong", [{"users": 0}, {"months": 0}, {"seed": -1}, {"users": 10**6}])
def test_numbers_that_are_not_simulated(
    sqlite_database: Database, tmp_path: Path, wrong: dict[str, int]
) -> None:
    with pytest.raises(simulate.BadSimulation):
        run(sqlite_database, tmp_path, **wrong)


def test_one_seed_is_one_world() -> None:
    """And another seed another; deeds are in order and within the time."""
    drawn = [
        world.draw(users=300, end=NOW, months=12, seed=seed, packs=PACKS, fraud=True)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0].deeds != drawn[2].deeds
    times = [deed.at for deed in drawn[0].deeds]
    assert times == sorted(times)
    assert drawn[0].start <= times[0]
    assert times[-1] < NOW
    assert len(drawn[0].people) == 300


def test_the_world_has_the_shape_that_the_page_promises() -> None:
    """Growth, quiet weekends, buyers who drop out, one cheat in six of every scenario."""
    drawn = world.draw(users=1500, end=NOW, months=12, seed=3, packs=PACKS, fraud=True)
    joined = [person.joined_at for person in drawn.people]
    half = (drawn.start + drawn.end) // 2
    assert sum(at > half for at in joined) > 1.2 * sum(at <= half for at in joined)
    weekend = sum((at // world.DAY + 3) % 7 >= 5 for at in joined)
    assert 0.15 < weekend / 1500 < 0.27
    cheats = [person for person in drawn.people if person.scenario]
    assert len(cheats) == round(1500 / 6)
    assert {person.scenario for person in cheats} == set(world.SCENARIOS)
    bought: dict[int, int] = {}
    seen: set[int] = set()
    for deed in drawn.deeds:
        person = drawn.people[deed.who]
        assert deed.who in seen or deed.kind == "join"
        seen.add(deed.who)
        if deed.kind == "buy" and not person.scenario and not person.founder:
            bought[deed.who] = bought.get(deed.who, 0) + 1
    assert 0.15 < len(bought) / 1500 < 0.30
    again = sum(times > 1 for times in bought.values())
    assert 0.15 < again / len(bought) < 0.5
    events = list(world.events(drawn))
    assert {scenario for _, scenario in events} == {"", *world.SCENARIOS}
    stolen = [event for event, scenario in events if scenario == "token_burn"]
    assert {event["ip"] for event in stolen} == {"203.0.113.77"}
    rings = {e["device_id"] for e, scenario in events if scenario == "sybil"}
    assert len(rings) <= len(cheats) // 2 // 8 + 1
