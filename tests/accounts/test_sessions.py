"""Sessions: a row is a sign-in; when it ends, so does everything that names it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlmodel import select

from chat_app import secrets
from chat_app.accounts import sessions, tokens, users
from chat_app.accounts.sessions import DAY, HOUR, Rotation
from chat_app.accounts.tables import RefreshToken, SignInSession, User
from chat_app.db import Database
from chat_app.errors import NotFound
from chat_app.settings import Accounts

ROOT = Path(__file__).resolve().parents[2]
RING = secrets.ring(b"k" * 32)
SETTINGS = Accounts()
NOON = 1_800_000_000_000_000
SECOND = 1_000_000


@pytest.fixture
def ann(db: Database) -> User:
    return db.write(
        lambda s: users.create(s, username="ann", email="ann@example.org", password_hash="x", now=1)
    )


def sign_in(db: Database, user: User, *, now: int = NOON, refresh: str = "") -> tuple[str, str]:
    def story(session):  # type: ignore[no-untyped-def]
        opened = sessions.open_session(
            session, user=user, now=now, settings=SETTINGS, ip="10.0.0.1", agent="a\nb" + "x" * 999
        )
        if refresh:
            sessions.add_refresh_token(
                session, session_id=opened[0], token=refresh, now=now, settings=SETTINGS
            )
        return opened

    return db.write(story)


def rotate(db: Database, token: str, *, now: int = NOON) -> Rotation:
    return db.write(
        lambda s: sessions.rotate(s, token=token, ring=RING, now=now, settings=SETTINGS)
    )


def stands(db: Database, cookie: str, *, now: int = NOON) -> bool:
    with db.read() as session:
        return sessions.resolve(session, token=cookie, now=now) is not None


def test_a_cookie_is_stored_as_a_hash(db: Database, ann: User) -> None:
    """Bar 20: a dump of the database signs nobody in."""
    _, cookie = sign_in(db, ann, refresh="refresh-me")
    assert len(cookie) >= 43
    with db.read() as session:
        row = session.exec(select(SignInSession)).one()
        stored = session.exec(select(RefreshToken)).one()
    assert cookie not in repr(row)
    assert row.token_hash == tokens.token_hash(cookie)
    assert "refresh-me" not in repr(stored)
    assert "\n" not in row.agent
    assert len(row.agent) == 256


def test_a_session_ends_by_age_and_by_idleness(db: Database, ann: User) -> None:
    session_id, cookie = sign_in(db, ann)
    idle = NOON + SETTINGS.session_idle_hours * HOUR
    assert stands(db, cookie, now=idle - 1)
    assert not stands(db, cookie, now=idle)

    def touch(now: int) -> None:
        db.write(lambda s: sessions.touch(s, session_id=session_id, now=now, settings=SETTINGS))

    touch(idle - 1)
    assert stands(db, cookie, now=idle + HOUR)
    touch(NOON)  # a clock that jumps back does not shorten it
    assert stands(db, cookie, now=idle + HOUR)
    touch(idle + 70 * HOUR)
    assert stands(db, cookie, now=NOON + SETTINGS.session_hours * HOUR - 1)
    assert not stands(db, cookie, now=NOON + SETTINGS.session_hours * HOUR)


def test_last_use_is_noted_now_and_then(db: Database, ann: User) -> None:
    _, cookie = sign_in(db, ann)
    with db.read() as session:
        soon = sessions.resolve(session, token=cookie, now=NOON + 60 * SECOND)
        later = sessions.resolve(session, token=cookie, now=NOON + 301 * SECOND)
    assert soon is not None
    assert later is not None
    assert (soon.due, later.due) == (False, True)


def test_suspension_and_epoch_end_a_session_at_once(db: Database, ann: User) -> None:
    """Bar 7."""
    session_id, cookie = sign_in(db, ann, refresh="r")
    db.write(lambda s: users.set_suspended(s, user_id=ann.id or 0, suspended=True))
    assert not stands(db, cookie)
    assert rotate(db, "r").outcome == "refused"
    db.write(lambda s: users.set_suspended(s, user_id=ann.id or 0, suspended=False))
    assert stands(db, cookie)
    db.write(lambda s: users.bump_epoch(s, user_id=ann.id or 0))
    assert not stands(db, cookie)
    assert rotate(db, "r").outcome == "refused"
    with db.read() as session:
        assert sessions.resolve_id(session, session_id=session_id, now=NOON) is None


def test_revoking_by_cookie_or_refresh_token_ends_both(db: Database, ann: User) -> None:
    for which in ("cookie", "refresh"):
        session_id, cookie = sign_in(db, ann, refresh=f"r-{which}")
        other_id, other = sign_in(db, ann)
        token = cookie if which == "cookie" else "r-refresh"
        db.write(lambda s, token=token: sessions.revoke_token(s, token=token))
        assert not stands(db, cookie)
        assert stands(db, other)
        assert rotate(db, f"r-{which}").outcome == "refused"
        with db.read() as session:
            assert sessions.resolve_id(session, session_id=session_id, now=NOON) is None
        db.write(lambda s, id=other_id: sessions.revoke(s, session_id=id))
    db.write(lambda s: sessions.revoke_token(s, token="never heard of"))


def test_nobody_ends_another_persons_session(db: Database, ann: User) -> None:
    session_id, cookie = sign_in(db, ann)
    with pytest.raises(NotFound):
        db.write(lambda s: sessions.revoke(s, session_id=session_id, user_id=999))
    assert stands(db, cookie)
    db.write(lambda s: sessions.revoke(s, session_id=session_id, user_id=ann.id))
    assert not stands(db, cookie)


def test_refresh_tokens_rotate_and_the_grace_gives_the_same_successor(
    db: Database, ann: User
) -> None:
    """Bar 18: five tabs that refresh at once all stay in."""
    sign_in(db, ann, refresh="first")
    tabs = [rotate(db, "first", now=NOON + step * SECOND) for step in (0, 1, 5, 19, 20)]
    assert {tab.outcome for tab in tabs} == {"rotated"}
    assert len({tab.refresh_token for tab in tabs}) == 1
    following = rotate(db, tabs[0].refresh_token, now=NOON + 30 * SECOND)
    assert following.outcome == "rotated"
    assert following.refresh_token not in ("first", tabs[0].refresh_token)


def test_a_refresh_token_used_again_ends_the_whole_sign_in(db: Database, ann: User) -> None:
    """Bar 18: after the grace a second use is theft; the newest token and the cookie die too."""
    _, cookie = sign_in(db, ann, refresh="first")
    _, elsewhere = sign_in(db, ann, refresh="other")
    newest = rotate(db, "first").refresh_token
    assert rotate(db, "first", now=NOON + 21 * SECOND).outcome == "reused"
    assert rotate(db, newest, now=NOON + 22 * SECOND).outcome == "refused"
    assert not stands(db, cookie)
    assert stands(db, elsewhere)
    assert rotate(db, "other").outcome == "rotated"


def test_racing_refreshes_agree_on_one_successor(db: Database, ann: User) -> None:
    sign_in(db, ann, refresh="first")
    results: list[Rotation] = []
    barrier = threading.Barrier(8)

    def go() -> None:
        barrier.wait()
        results.append(rotate(db, "first"))

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.refresh_token for result in results}) == 1
    assert all(result.outcome == "rotated" for result in results)
    with db.read() as session:
        assert len(session.exec(select(RefreshToken)).all()) == 2


TAB = """
import sys, time
from pathlib import Path
from chat_app import secrets
from chat_app.accounts import sessions
from chat_app.accounts.tables import User
from chat_app.db import Database
from chat_app.settings import Accounts
db, ring = Database(sys.argv[1]), secrets.ring(b"k" * 32)
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.005)
turned = db.write(lambda s: sessions.rotate(
    s, token="first", ring=ring, now=1_800_000_000_000_000, settings=Accounts()))
print(turned.outcome, turned.refresh_token)
db.close()
"""


def test_racing_refreshes_of_three_processes_agree(db: Database, ann: User, tmp_path: Path) -> None:
    """Bar 18: each process has its own connections and its own writer."""
    sign_in(db, ann, refresh="first")
    url = db.engine.url.render_as_string(hide_password=False)
    start = tmp_path / "start"
    ready = [tmp_path / f"ready{number}" for number in range(3)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TAB, url, str(mark), str(start)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for mark in ready
    ]  # fmt: skip
    while not all(mark.exists() for mark in ready):
        assert all(process.poll() is None for process in running)
        time.sleep(0.01)
    start.touch()
    printed = {process.communicate(timeout=60)[0].strip() for process in running}
    (same,) = printed
    outcome, successor = same.split()
    assert outcome == "rotated"
    assert rotate(db, successor, now=NOON + SECOND).outcome == "rotated"
    with db.read() as session:
        assert len(session.exec(select(RefreshToken)).all()) == 3


def test_a_key_that_came_meanwhile_changes_no_successor(db: Database, ann: User) -> None:
    """Bar 18: two tabs on both sides of a rotation still get one successor."""
    sign_in(db, ann, refresh="first")
    before = rotate(db, "first")
    two = secrets.Ring((*RING.keys, secrets.Key("2", b"m" * 32, NOON + SECOND)))
    after = db.write(
        lambda s: sessions.rotate(
            s, token="first", ring=two, now=NOON + 2 * SECOND, settings=SETTINGS
        )
    )
    assert after.refresh_token == before.refresh_token
    assert after.outcome == "rotated"


def test_refresh_tokens_grow_old(db: Database, ann: User) -> None:
    sign_in(db, ann, refresh="first")
    assert rotate(db, "first", now=NOON + SETTINGS.refresh_days * DAY).outcome == "refused"
    assert rotate(db, "x" * 10_000).outcome == "refused"
    assert rotate(db, "\ud800").outcome == "refused"


def test_the_list_shows_what_stands_and_purge_removes_the_rest(db: Database, ann: User) -> None:
    old = NOON - 40 * DAY
    sign_in(db, ann, now=old, refresh="old")
    quiet, _ = sign_in(db, ann, now=NOON - 10 * DAY, refresh="quiet")
    fresh, _ = sign_in(db, ann)
    with db.read() as session:
        listed = sessions.list_for(session, user_id=ann.id or 0, now=NOON)
    assert [row.id for row in listed] == [fresh, quiet]
    assert db.write(lambda s: sessions.purge(s, now=NOON)) == 2
    with db.read() as session:
        assert {row.id for row in session.exec(select(SignInSession))} == {fresh, quiet}


def test_cookie_names() -> None:
    assert sessions.cookie_name(True) == "__Host-chat_session"
    assert sessions.cookie_name(False) == "chat_session"
