"""Seals: whatever is done to sealed rows without the key shows, and the first bad row is named."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from chat_app.audit import anchors, log, seal
from chat_app.audit.seal import Problem
from chat_app.audit.tables import SealRow
from chat_app.db import Database
from chat_app.secrets import subkey

KEY, OTHER = b"a" * 32, b"b" * 32
NOON = 1_767_268_800_000_000


def events(database: Database, count: int) -> None:
    for number in range(count):
        database.write(
            lambda session, some=number: log.record(
                session, type="test", actor="user:1", now=NOON, number=some, text="é\n"
            )
        )


def sealed(database: Database, key: bytes = KEY) -> int:
    return database.write(lambda session: seal.seal(session, key=key, now=NOON))


def found(database: Database, key: bytes = KEY, published: Sequence[str] = ()) -> list[Problem]:
    with database.read() as session:
        return seal.verify(session, key=key, published=published)


def problems(database: Database, key: bytes = KEY, published: Sequence[str] = ()) -> list[str]:
    return [item.invariant for item in found(database, key, published)]


def head(database: Database) -> str:
    with database.read() as session:
        return seal.head(session)


def around_the_triggers(database: Database, *statements: str) -> None:
    with database.engine.begin() as connection:
        for table in ("event_log", "event_seal"):
            for deed in ("update", "delete"):
                where = "" if database.sqlite else f" ON {table}"
                connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_no_{deed}{where}"))
        for statement in statements:
            connection.execute(text(statement))


def test_what_is_sealed_is_sealed_once(database: Database) -> None:
    events(database, 3)
    assert sealed(database) == 3
    assert sealed(database) == 0
    events(database, 2)
    assert sealed(database) == 2
    assert problems(database) == []
    with database.read() as session:
        state = seal.state(session)["event"]
    assert (state.seals, state.marked, state.sealed, state.unsealed) == (2, 2, 5, 0)


def test_blocks_of_a_long_log_are_chained(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "BLOCK", 4)
    events(sqlite_database, 10)
    assert sealed(sqlite_database) == 10
    with sqlite_database.read() as session:
        blocks = session.execute(text("SELECT first_id, last_id, count FROM event_seal")).all()
    assert [tuple(block) for block in blocks] == [(1, 4, 4), (5, 8, 4), (9, 10, 2)]
    assert problems(sqlite_database) == []


BEFORE = "INSERT INTO event_log (seq, at, type, actor, payload) "
ATTACKS = {
    "edit": (["UPDATE event_log SET actor = 'user:2' WHERE seq = 5"], 5, "changed"),
    "delete": (["DELETE FROM event_log WHERE seq = 5"], 5, "removed"),
    "insert": ([BEFORE + "SELECT 105, at, type, actor, payload FROM event_log WHERE seq = 1"],
               105, "slipped in"),
    "reorder": (
        [
            "UPDATE event_log SET seq = -1 WHERE seq = 5",
            "UPDATE event_log SET seq = 5 WHERE seq = 6",
            "UPDATE event_log SET seq = 6 WHERE seq = -1",
        ],
        5,
        "changed",
    ),
    "moved away": (["UPDATE event_log SET seq = 500 WHERE seq = 5"], 5, "removed"),
    "the tail without its seal": (["DELETE FROM event_log WHERE seq >= 8"], 8, "removed"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_the_first_bad_row_is_named(database: Database, name: str) -> None:
    """I13: edit, delete, insert, reorder and a cut tail, each with the row where it begins."""
    statements, row, how = ATTACKS[name]
    events(database, 4)
    sealed(database)
    events(database, 4)
    # A gap among the ids, as PostgreSQL leaves them: a row could be put in there.
    with database.engine.begin() as connection:
        connection.execute(
            text(BEFORE + "VALUES (100, 1, 't', 'a', '{}'), (110, 1, 't', 'a', '{}')")
        )
    sealed(database)
    around_the_triggers(database, *statements)
    assert [(bad.invariant, bad.facts["row"]) for bad in found(database)] == [("I13", row)]
    assert how in found(database)[0].sentence


def test_a_plain_chain_built_anew_shows(database: Database) -> None:
    """Who has the database but not the key rewrites a row, its mark, its seal and all later ones.

    The seals are not of this key, and the row is named all the same.
    """
    for _ in range(3):
        events(database, 3)
        sealed(database)
    around_the_triggers(database, "UPDATE event_log SET actor = 'user:2' WHERE seq = 5")
    forger = b"no idea of the key" * 2

    def forge(session: object) -> None:
        previous = ""
        for row in list(seal._all_seals(session, "event")):  # type: ignore[arg-type]
            rows = [
                item
                for item in seal._rows(session, "event", after=row.first_id - 1)  # type: ignore[arg-type]
                if item[0] <= row.last_id
            ]
            made = SealRow(**{**row.model_dump(), "previous_mac": previous})
            if row.last_id >= 5:
                forged = seal._marks(subkey(forger, "audit row event"), rows)
                honest = row.marks or b""
                made.marks = b"".join(
                    forged[at : at + 16] if rows[at // 16][0] == 5 else honest[at : at + 16]
                    for at in range(0, len(honest), 16)
                )
                made.mac = seal._mac(subkey(forger, "audit seal"), made)
            previous = made.mac
            session.execute(  # type: ignore[attr-defined]
                text(
                    "UPDATE event_seal SET previous_mac = :previous, mac = :mac, marks = :marks"
                    " WHERE id = :id"
                ),
                {
                    "previous": made.previous_mac,
                    "mac": made.mac,
                    "marks": made.marks,
                    "id": row.id,
                },
            )

    database.write(forge)
    seen = found(database)
    assert [(bad.invariant, bad.facts.get("row")) for bad in seen] == [
        ("I14", None),
        ("I13", 5),
        ("I14", None),
    ]


def test_a_changed_seal_shows(database: Database) -> None:
    """I14: its code, its bounds, its marks, or the seal as a whole."""
    events(database, 3)
    sealed(database)
    events(database, 3)
    sealed(database)
    around_the_triggers(database, "UPDATE event_seal SET sealed_at = 1 WHERE id = 2")
    assert problems(database) == ["I14"]
    around_the_triggers(database, "UPDATE event_seal SET marks = NULL WHERE id = 2")
    assert problems(database) == ["I13"]
    around_the_triggers(database, "DELETE FROM event_seal WHERE id = 1")
    assert problems(database) == ["I14", "I13"]


def test_seals_of_the_first_release_verify(database: Database) -> None:
    """They have no marks: the block is right or it is not."""
    events(database, 3)
    with database.read() as session:
        rows = seal._rows(session, "event", after=0)
    row = SealRow(
        stream="event", first_id=1, last_id=3, count=3, previous_mac="", mac="",
        key_id=seal.key_id(KEY), sealed_at=NOON,
    )  # fmt: skip
    row.mac = seal._old_mac(KEY, row, rows)
    database.write(lambda session: session.add(row))
    events(database, 1)
    assert sealed(database) == 1
    assert problems(database) == []
    around_the_triggers(database, "UPDATE event_log SET actor = 'x' WHERE seq = 2")
    assert problems(database) == ["I13"]


def test_the_log_refuses_changes(database: Database) -> None:
    events(database, 1)
    sealed(database)
    for statement in ("UPDATE event_log SET at = 0", "DELETE FROM event_seal"):
        with pytest.raises(DatabaseError, match="append-only"):
            database.write(lambda session, words=statement: session.execute(text(words)))


def test_another_key_does_not_verify(database: Database) -> None:
    events(database, 1)
    sealed(database)
    assert problems(database, OTHER) == ["I14"]


def test_a_cut_tail_shows_against_an_anchor(database: Database, tmp_path: Path) -> None:
    """A chain alone cannot show that its end is gone: that takes a head kept elsewhere."""
    path = tmp_path / anchors.FILE
    for number in range(2):
        events(database, 2)
        sealed(database)
        assert anchors.append(path, head=head(database), key=KEY, now=NOON + number, every=0)
    heads, wrong = anchors.read(path, key=KEY)
    assert (len(heads), wrong, problems(database, published=heads)) == (2, [], [])
    around_the_triggers(
        database, "DELETE FROM event_seal WHERE first_id = 3", "DELETE FROM event_log WHERE seq > 2"
    )
    assert problems(database) == []
    [lost] = found(database, published=heads)
    assert (lost.invariant, lost.facts["row"]) == ("I14", 3)


def test_anchors_are_added_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / anchors.FILE
    assert not anchors.append(path, head="", key=KEY, now=NOON)
    assert anchors.append(path, head="event:1:a", key=KEY, now=NOON)
    assert not anchors.append(path, head="event:2:b", key=KEY, now=NOON + anchors.EVERY - 1)
    assert anchors.append(path, head="event:2:b", key=KEY, now=NOON + anchors.EVERY)
    assert not anchors.append(path, head="event:2:b", key=KEY, now=NOON + 9 * anchors.EVERY)
    # The clock was set back: a time in the future does not stop the anchors.
    assert anchors.append(path, head="event:3:c", key=KEY, now=NOON)
    assert anchors.last(path) == anchors.Anchor(NOON, "event:3:c")
    assert path.stat().st_mode & 0o777 == 0o600


def test_half_a_line_of_a_power_cut_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / anchors.FILE
    anchors.append(path, head="event:1:a", key=KEY, now=NOON)
    with path.open("ab") as file:
        file.write(b'{"at":17')
    assert anchors.read(path, key=KEY) == (["event:1:a"], [])
    anchors.append(path, head="event:2:b", key=KEY, now=NOON + anchors.EVERY)
    assert anchors.read(path, key=KEY) == (["event:1:a", "event:2:b"], [])


def test_a_changed_file_of_anchors_shows(tmp_path: Path) -> None:
    """Edited, forged and removed lines, by their number."""
    path = tmp_path / anchors.FILE
    for number in range(4):
        anchors.append(path, head=f"event:{number}:x", key=KEY, now=NOON + number, every=0)
    lines = path.read_text().splitlines(keepends=True)

    def wrong(*changed: str) -> list[tuple[str, int]]:
        path.write_text("".join(changed))
        return [
            (item.sentence.split()[-1], item.facts["line"])
            for item in anchors.read(path, key=KEY)[1]
        ]

    assert wrong(*lines) == []
    assert wrong(lines[0], lines[1].replace("event:1", "event:9"), *lines[2:]) == [
        ("key.", 2),
        ("missing.", 3),
    ]
    assert wrong(lines[0], *lines[2:]) == [("missing.", 2)]
    assert wrong(lines[0], "nonsense\n") == [("read.", 2)]
    entry = json.loads(lines[3])
    assert entry["time"].endswith("Z")


def test_events_are_found_by_type_actor_and_time(database: Database) -> None:
    for number in range(5):
        database.write(
            lambda session, n=number: log.record(
                session, type="even" if n % 2 == 0 else "odd", actor=f"user:{n}", now=NOON + n, n=n
            )
        )
    with database.read() as session:
        page, more = log.find(session, limit=2)
        assert [event.facts["n"] for event in page] == [4, 3]
        page, more = log.find(session, limit=2, cursor=more)
        assert [event.facts["n"] for event in page] == [2, 1]
        page, more = log.find(session, limit=2, cursor=more)
        assert ([event.facts["n"] for event in page], more) == ([0], None)
        assert [event.facts["n"] for event in log.find(session, type="odd")[0]] == [3, 1]
        assert [event.facts["n"] for event in log.find(session, actor="user:2")[0]] == [2]
        between = log.find(session, since=NOON + 1, until=NOON + 3)[0]
        assert [event.facts["n"] for event in between] == [2, 1]
        assert log.types(session) == ["even", "odd"]
        with pytest.raises(log.BadPage):
            log.find(session, cursor="-1")
