"""API keys: what opens a door, and everything that does not."""

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.accounts import keys, users
from chat_app.accounts.key_tables import ApiKey
from chat_app.accounts.keys import BadKey, Limits
from chat_app.db import Database
from chat_app.errors import AppError
from tests.credits.test_races import at_once

NOON = 1_767_268_800_000_000
MINUTE = 60_000_000


def person(database: Database, name: str = "alice", role: str = "user") -> int:
    def story(session: Session) -> int:
        made = users.create(
            session, username=name, email=f"{name}@example.org", password_hash="x", now=NOON,
            role=role,
        )  # fmt: skip
        assert made.id is not None
        return made.id

    return database.write(story)


def made(database: Database, user_id: int, **more: object) -> tuple[ApiKey, str]:
    values: dict[str, object] = {"name": "robot", "now": NOON, "most": 100, **more}
    return database.write(
        lambda s: keys.create(s, user=users.get(s, user_id), **values)  # type: ignore[arg-type]
    )


def opens(database: Database, token: str, *, now: int = NOON) -> bool:
    with database.read() as session:
        found = keys.resolve(session, token=token, now=now)
        if found is not None:
            assert found.key is not None
            assert keys.standing(session, found.key.id, now=now)
        return found is not None


def test_a_key_is_shown_once_and_kept_as_a_hash(database: Database) -> None:
    """Bar 20: what the database holds opens nothing."""
    alice = person(database)
    key, token = made(database, alice)
    assert token.startswith(f"mcb_{key.id}_")
    assert len(token) == 4 + 8 + 1 + 43
    with database.read() as session:
        row = session.execute(text("SELECT * FROM api_key")).one()
        found = keys.resolve(session, token=token, now=NOON)
    assert token not in str(row)
    assert token[13:] not in str(row)
    assert found is not None
    assert found.user.id == alice
    assert found.session_id == ""
    assert keys.scopes_of(key) == ["chat", "billing:read"]
    for stored in row:
        assert not opens(database, str(stored))


def test_what_is_nearly_a_key_opens_nothing(database: Database) -> None:
    """Bound parameters and one form: no text in place of a key reaches the query as SQL."""
    alice = person(database)
    key, token = made(database, alice)
    other = made(database, alice)[1]
    last = "A" if token[-1] != "A" else "B"
    for wrong in (
        "", "mcb_", token[:-1], token + "A", token[:-1] + last, token.upper(), f" {token}",
        f"{token}\n", f"mcb_{key.id}_{other[13:]}", f"mcb_{'0' * 8}_{token[13:]}",
        f"mcb_' OR '1'='1_{token[13:]}", f"mcb_{key.id}_' OR 1=1 --", f"mcb_{key.id}_{'é' * 43}",
        f"mcb_________{token[13:]}", "mcb_" + "x" * 100_000, key.secret_hash,
    ):  # fmt: skip
        assert not opens(database, wrong), wrong
    assert opens(database, token)


def test_each_end_of_a_key(database: Database) -> None:
    """Expiry to the microsecond, revocation, suspension, and the end of all sign-ins."""
    alice = person(database)
    key, token = made(database, alice, expires_at=NOON + MINUTE)
    assert opens(database, token, now=NOON + MINUTE - 1)
    assert not opens(database, token, now=NOON + MINUTE)
    with database.read() as session:
        user = users.get(session, alice)
        assert keys.state_of(key, user, now=NOON) == "active"
        assert keys.state_of(key, user, now=NOON + MINUTE) == "expired"
        assert not keys.standing(session, key.id, now=NOON + MINUTE)
        with pytest.raises(BadKey):
            keys.spending(session, key.id, now=NOON + MINUTE)
    _, token = made(database, alice)
    for suspended in (True, False):
        database.write(lambda s, to=suspended: users.set_suspended(s, user_id=alice, suspended=to))
        assert opens(database, token) is not suspended
    revoked, again = made(database, alice)
    database.write(lambda s: keys.revoke(s, user_id=alice, key_id=revoked.id, now=NOON + 1))
    assert not opens(database, again)
    with pytest.raises(keys.KeyNotFound):
        database.write(lambda s: keys.revoke(s, user_id=alice, key_id=revoked.id, now=NOON + 2))
    database.write(lambda s: users.bump_epoch(s, user_id=alice))
    assert not opens(database, token)
    with database.read() as session:
        kept = keys.list_for(session, user_id=alice)
        assert revoked.id not in [key.id for key in kept]
        states = {keys.state_of(key, users.get(session, alice), now=NOON) for key in kept}
    assert states == {"ended"}


def test_anothers_key_is_not_there(database: Database) -> None:
    """Nobody learns of, changes or ends another's key."""
    alice, bob = person(database), person(database, "bob")
    key, token = made(database, alice)
    for deed in (
        lambda s: keys.get(s, user_id=bob, key_id=key.id),
        lambda s: keys.revoke(s, user_id=bob, key_id=key.id, now=NOON),
    ):
        with pytest.raises(keys.KeyNotFound):
            database.write(deed)
    assert opens(database, token)
    with database.read() as session:
        assert keys.list_for(session, user_id=bob) == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"name": "  "}, keys.BadKeyName),
        ({"name": "x" * 65}, keys.BadKeyName),
        ({"name": "a\x1b[2Jb"}, keys.BadKeyName),
        ({"scopes": []}, keys.BadScope),
        ({"scopes": ["chat", "everything"]}, keys.BadScope),
        ({"scopes": ["chat admin"]}, keys.BadScope),
        ({"scopes": ["admin"]}, keys.StaffScope),
        ({"expires_at": NOON}, keys.BadExpiry),
        ({"most": 0}, keys.TooManyKeys),
    ],
)
def test_keys_that_cannot_be_made(
    sqlite_database: Database, wrong: dict[str, object], error: type[AppError]
) -> None:
    alice = person(sqlite_database)
    with pytest.raises(error):
        made(sqlite_database, alice, **wrong)


def test_staff_may_have_the_scope_of_staff(sqlite_database: Database) -> None:
    root = person(sqlite_database, role="admin")
    key, _ = made(sqlite_database, root, scopes=["admin", "chat", "chat"])
    assert keys.scopes_of(key) == ["chat", "admin"]
    keys.require(key, "admin")
    for scope in ("billing:read", None):
        with pytest.raises(keys.KeyNotAllowed):
            keys.require(key, scope)


def test_twenty_at_once_make_five(database: Database) -> None:
    """The limit of keys holds against a crowd."""
    alice = person(database)
    results = at_once(20, lambda _: made(database, alice, most=5))
    assert sum(isinstance(result, keys.TooManyKeys) for result in results) == 15


def test_models_and_limits_change_as_a_whole(sqlite_database: Database) -> None:
    alice = person(sqlite_database)
    key, _ = made(sqlite_database, alice, models=["a", "b", "a"], limits=Limits(day=5))
    assert keys.models_of(key) == ["a", "b"]
    assert [keys.allows(key, model) for model in "abc"] == [True, True, False]
    assert keys.allows(None, "c")

    def change(session: Session) -> ApiKey:
        found = keys.get(session, user_id=alice, key_id=key.id)
        keys.limit(session, found, models=None, limits=Limits(total=7))
        return found

    changed = sqlite_database.write(change)
    assert keys.models_of(changed) is None
    assert keys.limits_of(changed) == Limits(None, None, 7)


def test_the_last_use_is_noted_once_a_minute(sqlite_database: Database) -> None:
    alice = person(sqlite_database)
    key, token = made(sqlite_database, alice)

    def due(now: int) -> bool:
        with sqlite_database.read() as session:
            found = keys.resolve(session, token=token, now=now)
            assert found is not None
            return found.due

    assert due(NOON)
    for now in (NOON, NOON - MINUTE):  # never back
        sqlite_database.write(lambda s, at=now: keys.touch(s, key_id=key.id, now=at))
    assert (due(NOON + MINUTE), due(NOON + MINUTE + 1)) == (False, True)
