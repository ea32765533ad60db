"""Secrets are made once, for the owner alone, and turned without losing what is in use."""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from chat_app import secrets
from chat_app.accounts import passwords
from chat_app.flows import keyring
from tests.apps import PASSWORD, in_loop, person, running_app

NOW = 1_800_000_000_000_000


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    made: list[secrets.Secrets] = []
    threads = [
        threading.Thread(target=lambda: made.append(secrets.load_or_create(tmp_path / "data")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert len(keys_of(made[0])) == 4
    assert {len(key) for key in keys_of(made[0])} == {32}
    assert mode(tmp_path / "data") == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [secrets.FILE]


def keys_of(known: secrets.Secrets) -> set[bytes]:
    rings = {key.secret for ring in (known.tokens, known.pepper) for key in ring.keys}
    return rings | {known.audit_key, known.link_key}


def mode(data_dir: Path) -> int:
    return stat.S_IMODE(os.stat(data_dir / secrets.FILE).st_mode)


def test_no_key_is_shown_with_the_object(tmp_path: Path) -> None:
    known = secrets.load_or_create(tmp_path)
    shown = repr(known)
    assert not [key for key in keys_of(known) if repr(key)[2:-1] in shown or key.hex() in shown]


@pytest.mark.parametrize("place", ["audit_key", "link_key", "tokens", "pepper", "old"])
def test_a_short_key_stops_the_start(tmp_path: Path, place: str) -> None:
    """Bar 17: nothing is signed by a key that could be guessed."""
    secrets.load_or_create(tmp_path)
    path = tmp_path / secrets.FILE
    content = json.loads(path.read_text())
    if place == "old":
        content = dict.fromkeys(("token_key", "pepper", "audit_key"), "00" * 31)
    elif place in {"tokens", "pepper"}:
        content[place].append({"id": "2", "key": "00" * 31, "since": 5})
    else:
        content[place] = "00" * 31
    path.write_text(json.dumps(content))
    with pytest.raises(secrets.BadSecrets, match="shorter"):
        secrets.load_or_create(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tokens": []}', '{"token_key": "zz"}', "\x00"])
def test_a_damaged_file_is_refused_and_never_replaced(tmp_path: Path, text: str) -> None:
    """New keys beside an old database would make every password unusable."""
    path = tmp_path / secrets.FILE
    path.write_text(text)
    with pytest.raises(secrets.BadSecrets, match="backup"):
        secrets.load_or_create(tmp_path)
    assert path.read_text() == text


def test_a_file_without_rings_loads_as_it_is_and_grows_with_the_first_rotation(
    tmp_path: Path,
) -> None:
    old = {"token_key": "aa" * 32, "pepper": "bb" * 32, "audit_key": "cc" * 32}
    path = tmp_path / secrets.FILE
    path.write_text(json.dumps(old))
    path.chmod(0o600)
    known = secrets.load_or_create(tmp_path)
    assert known.tokens == secrets.ring(b"\xaa" * 32)
    assert known.pepper == secrets.ring(b"\xbb" * 32)
    # What was handed out by the old key keeps its worth for good: codes, links, webhook secrets.
    assert (known.audit_key, known.link_key) == (b"\xcc" * 32, b"\xaa" * 32)
    assert json.loads(path.read_text()) == old

    fresh = secrets.rotate(tmp_path, "tokens", since=NOW)
    grown = secrets.load_or_create(tmp_path)
    assert grown.tokens.keys == (*known.tokens.keys, fresh)
    assert (grown.pepper, grown.audit_key) == (known.pepper, known.audit_key)
    assert grown.link_key == known.link_key
    assert mode(tmp_path) == 0o600


def test_two_rotations_at_once_lose_no_key(tmp_path: Path) -> None:
    secrets.load_or_create(tmp_path)
    made: list[object] = []

    def turn() -> None:
        try:
            made.append(secrets.rotate(tmp_path, "pepper", since=NOW))
        except secrets.BadSecrets:
            made.append(None)

    threads = [threading.Thread(target=turn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [key for key in made if key is not None]
    assert done
    assert set(secrets.load_or_create(tmp_path).pepper.keys) >= set(done)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_last_key_stays(tmp_path: Path) -> None:
    secrets.load_or_create(tmp_path)
    with pytest.raises(secrets.BadSecrets):
        secrets.drop(tmp_path, "tokens", {"1"})
    assert len(secrets.load_or_create(tmp_path).tokens.keys) == 1


def test_token_keys_live_as_long_as_their_tokens(tmp_path: Path) -> None:
    secrets.load_or_create(tmp_path)
    second = keyring.rotate_tokens(tmp_path, now=NOW)
    ring = secrets.load_or_create(tmp_path).tokens
    assert ring.active(NOW).id == "1", "other processes do not know the new key yet"
    assert ring.active(NOW + keyring.LEAD) == second
    keyring.rotate_tokens(tmp_path, now=NOW + keyring.OUT_OF_DATE)
    assert ids(tmp_path) == ["1", "2", "3"]
    keyring.rotate_tokens(tmp_path, now=NOW + keyring.LEAD + keyring.OUT_OF_DATE)
    assert ids(tmp_path) == ["2", "3", "4"]
    at_once = keyring.rotate_tokens(tmp_path, now=NOW, at_once=True)
    assert secrets.load_or_create(tmp_path).tokens.keys == (at_once,)


def ids(data_dir: Path) -> list[str]:
    return [key.id for key in secrets.load_or_create(data_dir).tokens.keys]


@in_loop
async def test_a_running_app_takes_new_keys_over(tmp_path: Path) -> None:
    """Tokens and passwords of before stay good; a sign-in moves a password to the new pepper."""
    from chat_app.flows import signin

    async with running_app(tmp_path) as app:
        app.passwords = passwords.Passwords(app.secrets.pepper, cost=4, micros=app.clock.micros)
        await person(app)

        async def sign_in() -> signin.SignIn:
            return await signin.login(app, login="alice", password=PASSWORD, ip="10.0.0.1")

        def stored() -> Any:
            with app.db.read() as session:
                return passwords.pepper_of(signin.users.find(session, "alice").password_hash)

        before = await sign_in()
        now = app.clock.micros()
        keyring.rotate_tokens(tmp_path, now=now - keyring.LEAD)
        keyring.rotate_pepper(tmp_path, app.db, now=now - keyring.LEAD)
        app.reread_secrets()
        assert (await signin.identify(app, bearer=before.access_token)).user.username == "alice"
        assert stored() == "1"
        after = await sign_in()
        assert stored() == "2"
        assert (await sign_in()).user.id == after.user.id
        kept = {(key.ring, key.id): key for key in keyring.overview(tmp_path, app.db, now=now)}
        assert kept["pepper", "2"].active
        assert (kept["pepper", "1"].passwords, kept["pepper", "2"].passwords) == (0, 1)
        # No password needs the first pepper, so the next rotation leaves it out, when it is old.
        keyring.rotate_pepper(tmp_path, app.db, now=now + keyring.OUT_OF_DATE)
        assert [key.id for key in secrets.reread(tmp_path).pepper.keys] == ["2", "3"]

        keyring.rotate_tokens(tmp_path, now=now, at_once=True)
        app.reread_secrets()
        for token in (before.access_token, after.access_token):
            with pytest.raises(signin.tokens.BadToken):
                await signin.identify(app, bearer=token)
        fresh = await signin.refresh(app, refresh_token=after.refresh_token)
        assert (await signin.identify(app, bearer=fresh.access_token)).user.username == "alice"


@in_loop
async def test_a_password_that_is_in_use_keeps_its_pepper(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        app.passwords = passwords.Passwords(app.secrets.pepper, cost=4)
        await person(app)
        for step in range(3):
            keyring.rotate_pepper(tmp_path, app.db, now=NOW + step * 2 * keyring.OUT_OF_DATE)
        assert "1" in {key.id for key in secrets.reread(tmp_path).pepper.keys}
        (tmp_path / secrets.FILE).rename(tmp_path / "away")
        with pytest.raises(secrets.BadSecrets):
            app.reread_secrets()
        assert not (tmp_path / secrets.FILE).exists(), "lost keys are not replaced by new ones"
        (tmp_path / "away").rename(tmp_path / secrets.FILE)
