"""Users: one account per name and mailbox, roles from a short list, never nobody in charge."""

import threading

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.accounts.users import BadEmail, BadRole, BadUsername, LastAdmin, NameTaken
from chat_app.db import Database
from chat_app.errors import Invalid, NotFound


def add(db: Database, username: str, email: str = "", role: str = "user") -> User:
    email = email or f"{username}@example.org"
    return db.write(
        lambda session: users.create(
            session, username=username, email=email, password_hash="x", now=1, role=role
        )
    )


@pytest.mark.parametrize(
    "name", ["ab", "a" * 33, "with space", "a/b", "naïve", "", "a\x00b", "x@y"]
)
def test_bad_user_names(name: str) -> None:
    with pytest.raises(BadUsername):
        users.clean_username(name)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ann",
        "@example.org",
        "ann@",
        "ann@localhost",
        "a b@example.org",
        "ann@exa mple.org",
        "ann@-x.org",
        "ann@x..org",
        ".ann@x.org",
        "ann..b@x.org",
        "a\x00b@x.org",
        "ann@x.org\nBcc: all@x.org",
        "x" * 65 + "@example.org",
        "ann@" + "x" * 64 + ".org",
        "ann@" + "abc." * 70 + "org",
        "\ud800@example.org",
        "ann@\ud800.org",
    ],
)
def test_bad_addresses(email: str) -> None:
    with pytest.raises(BadEmail):
        users.clean_email(email)


@pytest.mark.parametrize(
    "email", ["ann@example.org", "A.n+b@Sub.Example.ORG", "ann@bücher.example"]
)
def test_good_addresses_are_kept_as_written(email: str) -> None:
    assert users.clean_email(f" {email} ") == email


def test_spellings_of_one_name_or_address_are_one_account(db: Database) -> None:
    """Case and the way a host is written do not count; what the mail server reads does."""
    add(db, "Ann", "ann.lee@gmail.com")
    add(db, "Bea", "bea@bücher.example")
    for username, email in [
        ("ANN", "other@example.org"),
        ("ann2", "Ann.Lee@Gmail.com"),
        ("bea2", "bea@XN--bcher-kva.example"),
    ]:
        with pytest.raises(NameTaken):
            add(db, username, email)
    # The same mailbox, so no second gift (test_velocity.py), but a working account of its own.
    add(db, "ann3", "annlee@googlemail.com")
    add(db, "ann4", "ann.lee+credits@gmail.com")
    with db.read() as session:
        found = users.find(session, "ann.lee+credits@gmail.com")
        assert found is not None
        assert found.username == "ann4"


def test_people_sign_in_by_name_or_address_in_any_case(db: Database) -> None:
    ann = add(db, "Ann", "Ann@Example.org")
    with db.read() as session:
        for login in ("ann", " ANN ", "ann@example.org", "ANN@EXAMPLE.ORG"):
            found = users.find(session, login)
            assert found is not None
            assert found.id == ann.id
        for login in ("", "an", "ann@", "\x00", "\ud800", "a" * 10_000, "%", "ann@other.org"):
            assert users.find(session, login) is None


def test_racing_sign_ups_make_one_account(db: Database) -> None:
    """T1: sixteen at once, one account."""
    outcomes: list[str] = []
    barrier = threading.Barrier(16)

    def try_it() -> None:
        barrier.wait()
        try:
            add(db, "ann")
            outcomes.append("made")
        except NameTaken:
            outcomes.append("taken")

    threads = [threading.Thread(target=try_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["taken"] * 15


def test_search_finds_text_literally_and_in_pages(db: Database) -> None:
    for number in range(7):
        add(db, f"user_{number}")
    add(db, "userX9", "percent%sign@example.org")

    def names(q: str = "", **more: object) -> list[str]:
        with db.read() as session:
            return [user.username for user in users.search(session, q=q, **more)[0]]  # type: ignore[arg-type]

    assert names("user_") == [f"user_{number}" for number in range(7)]
    assert names("PERCENT%") == ["userX9"]
    assert names("\\") == []
    with db.read() as session:
        page, cursor = users.search(session, limit=5)
        rest, end = users.search(session, limit=5, cursor=cursor)
        assert len(page) == 5
        assert [user.username for user in rest] == ["user_5", "user_6", "userX9"]
        assert end is None
        for bad in ("x", "-1", "9" * 30, "٣"):
            with pytest.raises(Invalid):
                users.search(session, cursor=bad)


def test_ids_beyond_the_column_are_not_found(db: Database) -> None:
    with db.read() as session:
        for number in (0, -1, 2**63, 10**30):
            with pytest.raises(NotFound):
                users.get(session, number)


def test_somebody_always_administers(db: Database) -> None:
    ann, bob = add(db, "ann", role="admin"), add(db, "bob")
    assert ann.id
    assert bob.id

    def demote(user: User) -> User:
        return db.write(lambda s: users.set_role(s, user_id=user.id or 0, role="user"))

    with pytest.raises(LastAdmin):
        demote(ann)
    with pytest.raises(LastAdmin):
        db.write(lambda s: users.set_suspended(s, user_id=ann.id or 0, suspended=True))
    db.write(lambda s: users.set_role(s, user_id=bob.id or 0, role="admin"))
    demote(ann)
    with pytest.raises(LastAdmin):
        demote(bob)
    with pytest.raises(BadRole):
        db.write(lambda s: users.set_role(s, user_id=bob.id or 0, role="root"))
    with db.read() as session:
        assert users.count(session) == {"total": 2, "admins": 1, "suspended": 0}


def test_the_database_itself_refuses_other_roles(db: Database) -> None:
    def story(session: Session) -> None:
        user = session.exec(select(User)).one()
        user.role = "root"
        session.add(user)
        session.flush()

    add(db, "ann")
    with pytest.raises(IntegrityError):
        db.write(story)


def test_staff_is_found_by_role(db: Database) -> None:
    for name, role in [("ann", "user"), ("sue", "support"), ("fay", "finance"), ("ada", "admin")]:
        add(db, name, role=role)
    with db.read() as session:

        def found(status: str) -> list[str]:
            return [user.username for user in users.search(session, status=status)[0]]

        assert found("staff") == ["sue", "fay", "ada"]
        assert found("finance") == ["fay"]
        assert found("active") == ["ann", "sue", "fay", "ada"]
        assert found("suspended") == []
