"""One-time codes: the RFC's numbers, each step once, nothing readable in the database."""

import threading

import pytest
from pyotp import TOTP
from sqlmodel import select

from chat_app.accounts import totp, users
from chat_app.accounts.tables import User
from chat_app.accounts.totp import TotpEnabled, TotpNotEnrolled, WrongSecondFactor
from chat_app.accounts.totp_tables import BackupCode, Totp
from chat_app.db import Database

KEY = b"k" * 32
SECOND = 1_000_000
STEP = totp.STEP_SECONDS * SECOND
NOON = 1_800_000_000 * SECOND  # the beginning of a step


@pytest.fixture
def ann(db: Database) -> int:
    return person(db, "ann")


def person(db: Database, name: str) -> int:
    def story(session) -> User:  # type: ignore[no-untyped-def]
        return users.create(
            session, username=name, email=f"{name}@example.org", password_hash="x", now=1
        )

    user = db.write(story)
    assert user.id is not None
    return user.id


def enrolled(db: Database, user_id: int, *, now: int = NOON) -> tuple[str, list[str]]:
    """Two-factor sign-in on, one step before `now`: the secret and the backup codes."""
    at = now - STEP
    secret = db.write(lambda s: totp.begin(s, user_id=user_id, key=KEY, now=at))
    code = TOTP(secret).at(at // SECOND)
    return secret, db.write(lambda s: totp.confirm(s, user_id=user_id, code=code, key=KEY, now=at))


def use(db: Database, user_id: int, code: str, *, now: int = NOON) -> bool:
    return db.write(lambda s: totp.use(s, user_id=user_id, code=code, key=KEY, now=now))


def test_the_codes_are_those_of_the_rfc() -> None:
    """RFC 6238, appendix B, SHA-1: the last six of its eight digits."""
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # 12345678901234567890
    for seconds, code in [(59, "287082"), (1111111109, "081804"), (20000000000, "353130")]:
        assert totp._step_of(secret, code, now=seconds * SECOND) == seconds // 30


def test_a_secret_counts_only_once_it_is_confirmed(db: Database, ann: int) -> None:
    secret = db.write(lambda s: totp.begin(s, user_id=ann, key=KEY, now=NOON))
    good = TOTP(secret).at(NOON // SECOND)
    assert not use(db, ann, good)
    again = db.write(lambda s: totp.begin(s, user_id=ann, key=KEY, now=NOON))
    assert again != secret
    with pytest.raises(WrongSecondFactor):
        db.write(lambda s: totp.confirm(s, user_id=ann, code="000000x", key=KEY, now=NOON))
    late = NOON + totp.UNCONFIRMED + 1
    with pytest.raises(TotpNotEnrolled):
        db.write(
            lambda s: totp.confirm(
                s, user_id=ann, code=TOTP(again).at(late // SECOND), key=KEY, now=late
            )
        )
    with db.read() as session:
        assert not totp.enabled(session, user_id=ann)
    enrolled(db, ann)
    with db.read() as session:
        assert totp.enabled(session, user_id=ann)
        assert totp.enabled_of(session, [ann, ann + 1]) == {ann}
    with pytest.raises(TotpEnabled):
        db.write(lambda s: totp.begin(s, user_id=ann, key=KEY, now=NOON))


@pytest.mark.parametrize(
    ("drift", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)]
)
def test_a_telephone_may_be_a_step_off(db: Database, ann: int, drift: int, good: bool) -> None:
    secret, _ = enrolled(db, ann, now=NOON - 10 * STEP)
    assert use(db, ann, TOTP(secret).at(NOON // SECOND + drift * 30)) is good


def test_a_step_is_accepted_once_and_none_before_it(db: Database, ann: int) -> None:
    secret, _ = enrolled(db, ann)
    code = TOTP(secret).at(NOON // SECOND)
    assert not use(db, ann, TOTP(secret).at(NOON // SECOND - 30)), "it confirmed the secret"
    assert use(db, ann, f" {code[:3]} {code[3:]} ")
    assert not use(db, ann, code)
    assert use(db, ann, TOTP(secret).at(NOON // SECOND + 30))
    assert not use(db, ann, code, now=NOON + STEP)


def test_of_many_requests_with_one_code_one_wins(db: Database, ann: int) -> None:
    secret, backup = enrolled(db, ann)
    for code in (TOTP(secret).at(NOON // SECOND), backup[0]):
        won: list[bool] = []

        def try_it(code: str = code, won: list[bool] = won) -> None:
            won.append(use(db, ann, code))

        threads = [threading.Thread(target=try_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == [False] * 7 + [True]


def test_backup_codes_are_their_owners_and_good_once(db: Database, ann: int) -> None:
    bob = person(db, "bob")
    _, codes = enrolled(db, ann)
    enrolled(db, bob)
    assert len({*codes}) == totp.BACKUP_CODES
    assert not use(db, bob, codes[0])
    assert use(db, ann, codes[0].lower().replace("-", " "))
    assert not use(db, ann, codes[0])
    with db.read() as session:
        assert totp.backup_codes_left(session, user_id=ann) == 9
        assert totp.backup_codes_left(session, user_id=bob) == 10
    fresh = db.write(lambda s: totp.new_backup_codes(s, user_id=ann, key=KEY, now=NOON))
    assert not use(db, ann, codes[1])
    assert use(db, ann, fresh[0])


@pytest.mark.parametrize("code", ["", "12345", "1234567", "٣٣٣٣٣٣", "\ud800", "x" * 65, "-" * 10])
def test_nonsense_is_wrong_and_no_error(db: Database, ann: int, code: str) -> None:
    enrolled(db, ann)
    assert not use(db, ann, code)


def test_nothing_of_it_can_be_read_in_the_database(db: Database, ann: int) -> None:
    """Bar 20: sealed under a key elsewhere, bound to the user; backup codes as keyed hashes."""
    secret, codes = enrolled(db, ann)
    with db.read() as session:
        row = session.exec(select(Totp)).one()
        hashes = {item.code_hash for item in session.exec(select(BackupCode))}
    assert secret not in repr(row)
    assert not any(code.replace("-", "") in repr(hashes) for code in codes)
    bob = person(db, "bob")
    moved = Totp(user_id=bob, sealed=row.sealed, created_at=1, confirmed_at=1)
    db.write(lambda s: s.add(moved))
    assert not use(db, bob, TOTP(secret).at(NOON // SECOND)), "a row of another user opens"
    db.write(
        lambda s: totp.use(
            s, user_id=ann, code=TOTP(secret).at(NOON // SECOND), key=b"other" * 8, now=NOON
        )
    )
    assert use(db, ann, TOTP(secret).at(NOON // SECOND)), "another key used it up"


def test_forgetting_leaves_nothing(db: Database, ann: int) -> None:
    enrolled(db, ann)
    assert db.write(lambda s: totp.forget(s, user_id=ann))
    assert not db.write(lambda s: totp.forget(s, user_id=ann))
    with db.read() as session:
        assert session.exec(select(Totp)).all() == []
        assert session.exec(select(BackupCode)).all() == []


def test_the_picture_is_an_svg_without_script() -> None:
    picture = totp.qr_svg(totp.uri("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", username="ann <b>&amp;"))
    assert picture.startswith("<svg ")
    assert picture.endswith("</svg>")
    assert "script" not in picture
    assert len(picture) < 12_000
