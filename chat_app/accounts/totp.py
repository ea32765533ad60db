"""One-time codes: the second factor of a sign-in, from an authenticator (RFC 6238).

The secret is sealed at rest under a key outside the database, backup codes are stored as keyed
hashes. A time step is accepted once, so a code that somebody looked over a shoulder is worth
nothing. Knows nothing of passwords, throttles or what the factor is asked for.
"""

import base64
import hashlib
import hmac
import io
import logging
import os
import secrets

from sqlmodel import Session, col, delete, func, select, update

from chat_app.accounts.tables import SignInSession, User
from chat_app.accounts.totp_tables import BackupCode, Totp
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import Conflict, Invalid
from chat_app.secrets import subkey

log = logging.getLogger(__name__)

ISSUER = "ML Chat Billing"
STEP_SECONDS = 30
DIGITS = 6
# Clocks of telephones are a little off: one step earlier and one later count too.
DRIFT_STEPS = 1
BACKUP_CODES = 10
MAX_CODE = 64
# A secret that was shown and never confirmed is of no more use after this.
UNCONFIRMED = 3600 * MICROS_PER_SECOND
_SEALED = "1:"
# Without letters and digits that look alike; 10 of 31 are 49 bits.
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ2345679"


class WrongSecondFactor(Invalid):
    """The code of somebody who is signed in is wrong, out of date or used."""

    code = "wrong_second_factor"
    message = "This code is wrong or was used before. Wait for the next one and enter it."


class TotpEnabled(Conflict):
    """Two-factor sign-in is on and was asked for again."""

    code = "totp_enabled"
    message = "Two-factor sign-in is on already. Turn it off first to set it up anew."


class TotpNotEnrolled(Conflict):
    """There is no secret to confirm, or two-factor sign-in is off."""

    code = "totp_not_enrolled"
    message = "Two-factor sign-in is not set up. Start under Account › Two-factor."


def begin(session: Session, *, user_id: int, key: bytes, now: int) -> str:
    """A new secret in base32, in place of one that was never confirmed. Raises TotpEnabled."""
    from pyotp import random_base32

    # PostgreSQL: of two beginnings at once the second waits, and replaces the first.
    session.exec(select(User.id).where(User.id == user_id).with_for_update())
    if enabled(session, user_id=user_id):
        raise TotpEnabled
    secret = random_base32()
    session.exec(delete(Totp).where(col(Totp.user_id) == user_id))
    session.add(Totp(user_id=user_id, sealed=_seal(key, user_id, secret), created_at=now))
    session.flush()
    return secret


def uri(secret: str, *, username: str) -> str:
    """What an authenticator reads: `otpauth://totp/…`."""
    from pyotp import TOTP

    return TOTP(secret).provisioning_uri(name=username, issuer_name=ISSUER)


def qr_svg(text: str) -> str:
    """The text as a QR code: an SVG element, dark on white in every theme."""
    import segno

    page = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        page, kind="svg", scale=4, border=4, dark="#000", light="#fff",
        xmldecl=False, svgns=True, omitsize=True, title="QR code for an authenticator",
    )  # fmt: skip
    return page.getvalue().decode().strip()


def confirm(session: Session, *, user_id: int, code: str, key: bytes, now: int) -> list[str]:
    """Turn it on with a first code; returns the backup codes, which are shown this once.

    Raises TotpNotEnrolled, TotpEnabled or WrongSecondFactor.
    """
    row = session.get(Totp, user_id)
    if row is None or (row.confirmed_at is None and now - row.created_at > UNCONFIRMED):
        raise TotpNotEnrolled
    if row.confirmed_at is not None:
        raise TotpEnabled
    if not _accept(session, row, code, key=key, now=now):
        raise WrongSecondFactor(param="code")
    session.exec(update(Totp).where(col(Totp.user_id) == user_id).values(confirmed_at=now))
    return new_backup_codes(session, user_id=user_id, key=key, now=now)


def enabled(session: Session, *, user_id: int) -> bool:
    """Whether a sign-in of the user needs a code."""
    query = select(Totp.user_id).where(Totp.user_id == user_id, col(Totp.confirmed_at).is_not(None))
    return session.exec(query).first() is not None


def enabled_of(session: Session, user_ids: list[int]) -> set[int]:
    """Those of the users whose sign-in needs a code."""
    query = select(Totp.user_id).where(
        col(Totp.user_id).in_(user_ids), col(Totp.confirmed_at).is_not(None)
    )
    return set(session.exec(query))


def is_single(code: str) -> bool:
    """Whether this is one code of an authenticator: neither two in a row nor a backup code."""
    return len(_digits(code)) == DIGITS


def use(session: Session, *, user_id: int, code: str, key: bytes, now: int) -> bool:
    """Whether this is a good code, two good ones in a row, or a backup code; it is used up."""
    row = session.get(Totp, user_id)
    if row is None or row.confirmed_at is None or len(code) > MAX_CODE:
        return False
    return _accept(session, row, code, key=key, now=now) or _accept_backup(
        session, user_id, code, key=key, now=now
    )


def new_backup_codes(session: Session, *, user_id: int, key: bytes, now: int) -> list[str]:
    """Ten new backup codes; the earlier ones are worth nothing from now on."""
    session.exec(delete(BackupCode).where(col(BackupCode.user_id) == user_id))
    codes = ["".join(secrets.choice(_ALPHABET) for _ in range(10)) for _ in range(BACKUP_CODES)]
    for code in codes:
        hashed = _backup_hash(key, user_id, code)
        session.add(BackupCode(code_hash=hashed, user_id=user_id, created_at=now))
    session.flush()
    return [f"{code[:5]}-{code[5:]}" for code in codes]


def backup_codes_left(session: Session, *, user_id: int) -> int:
    """How many backup codes can still be used."""
    query = select(func.count()).where(
        col(BackupCode.user_id) == user_id, col(BackupCode.used_at).is_(None)
    )
    return session.exec(query).one()


def forget(session: Session, *, user_id: int) -> bool:
    """Turn it off and forget the secret, the codes and every proof; whether it was on."""
    was = enabled(session, user_id=user_id)
    session.exec(delete(Totp).where(col(Totp.user_id) == user_id))
    session.exec(delete(BackupCode).where(col(BackupCode.user_id) == user_id))
    session.exec(
        update(SignInSession)
        .where(col(SignInSession.user_id) == user_id)
        .values(second_factor_at=None)
    )
    session.expire_all()
    return was


def _accept(session: Session, row: Totp, code: str, *, key: bytes, now: int) -> bool:
    """One conditional UPDATE: of two requests with one code, one wins."""
    digits = _digits(code)
    if len(digits) not in {DIGITS, 2 * DIGITS}:
        return False
    secret = _unseal(key, row.user_id, row.sealed)
    step = _step_of(secret, digits, now=now) if secret else None
    if step is None:
        return False
    first = step - len(digits) // DIGITS + 1
    done = session.exec(
        update(Totp)
        .where(col(Totp.user_id) == row.user_id, col(Totp.last_step) < first)
        .values(last_step=step)
        .execution_options(synchronize_session=False)
    )
    return done.rowcount == 1


def _digits(code: str) -> str:
    """The digits of a code as people write it; nothing if there is anything else."""
    digits = "".join(code.split())
    return digits if digits.isascii() and digits.isdigit() else ""


def _step_of(secret: str, digits: str, *, now: int) -> int | None:
    """The time step of the last code in `digits`, if they are the codes up to it."""
    from pyotp import TOTP

    made = TOTP(secret, digits=DIGITS, interval=STEP_SECONDS)
    at = now // MICROS_PER_SECOND // STEP_SECONDS
    codes = len(digits) // DIGITS
    found = None
    for step in range(at - DRIFT_STEPS, at + DRIFT_STEPS + 1):
        right = "".join(made.generate_otp(each) for each in range(step - codes + 1, step + 1))
        if hmac.compare_digest(right, digits):
            found = step
    return found


def _accept_backup(session: Session, user_id: int, code: str, *, key: bytes, now: int) -> bool:
    plain = "".join(mark for mark in code.upper() if mark.isascii() and mark.isalnum())
    done = session.exec(
        update(BackupCode)
        .where(
            col(BackupCode.code_hash) == _backup_hash(key, user_id, plain),
            col(BackupCode.user_id) == user_id,
            col(BackupCode.used_at).is_(None),
        )
        .values(used_at=now)
        .execution_options(synchronize_session=False)
    )
    return done.rowcount == 1


def _backup_hash(key: bytes, user_id: int, code: str) -> str:
    """Keyed, because 49 bits alone could be tried out by whoever has the database."""
    message = f"{user_id}:{code}".encode()
    return hmac.digest(subkey(key, "backup codes"), message, hashlib.sha256).hex()


def _seal(key: bytes, user_id: int, secret: str) -> str:
    """Encrypted and bound to the user: moved to another row, it opens no more."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(12)
    box = AESGCM(subkey(key, "totp")).encrypt(nonce, secret.encode(), str(user_id).encode())
    return _SEALED + base64.b64encode(nonce + box).decode()


def _unseal(key: bytes, user_id: int, sealed: str) -> str | None:
    """The secret; None if it was sealed with another key or for somebody else."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    raw = base64.b64decode(sealed.removeprefix(_SEALED))
    try:
        box = AESGCM(subkey(key, "totp")).decrypt(raw[:12], raw[12:], str(user_id).encode())
    except InvalidTag:
        log.error("the second factor of user %s opens with another key only", user_id)
        return None
    return box.decode()
