"""Tokens: what a program shows instead of a password.

Access tokens are short-lived JWTs that name their key, refresh tokens are random and used
once. Whether the sign-in behind a token still stands is decided by `sessions.py`, at every
request.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

import jwt

from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import NotSignedIn
from chat_app.secrets import FIRST, Ring

ALGORITHM = "HS256"
ISSUER = "ml-chat-billing"
AUDIENCE = "ml-chat-billing-api"
TYPE = "access"
CLAIMS = ("exp", "iat", "nbf", "sub", "aud", "iss", "jti", "typ", "epoch", "sid")
MIN_KEY_BYTES = 32
MAX_TOKEN_LENGTH = 2048
# Two machines may disagree this much about the time; nothing is valid for longer than an hour.
LEEWAY_SECONDS = 30
MAX_LIFE_SECONDS = 3600


class BadToken(NotSignedIn):
    """The access token is forged, damaged, out of date or meant for something else."""

    code = "invalid_token"
    message = "This access token is not valid any more. Sign in or refresh it."


@dataclass(frozen=True)
class Claims:
    """What a genuine access token says. Times in seconds since 1970."""

    user_id: int
    session_id: str
    epoch: int
    expires_at: int


def random_token() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """How a random token is stored. A fast hash is right: there is nothing to guess."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def derive(key: bytes, purpose: str, text: str) -> str:
    """A token that only the holder of the key can derive from `text`, the same every time."""
    message = f"{purpose}\n{text}".encode("utf-8", "surrogatepass")
    digest = hmac.new(_strong(key), message, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def issue(ring: Ring, *, user_id: int, session_id: str, epoch: int, now: int, minutes: int) -> str:
    """An access token for one sign-in, valid for `minutes` from `now` (microseconds)."""
    key = ring.active(now)
    seconds = now // MICROS_PER_SECOND
    claims = {
        "sub": str(user_id),
        "sid": session_id,
        "epoch": epoch,
        "typ": TYPE,
        "aud": AUDIENCE,
        "iss": ISSUER,
        "iat": seconds,
        "nbf": seconds,
        "exp": seconds + minutes * 60,
        "jti": secrets.token_urlsafe(12),
    }
    return jwt.encode(claims, _strong(key.secret), algorithm=ALGORITHM, headers={"kid": key.id})


def read(ring: Ring, token: str, *, now: int) -> Claims:
    """The claims of a genuine token that is valid at `now` (microseconds); raises BadToken."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise BadToken
    try:
        # The header only picks one of our own keys. Tokens had no kid before there were rings.
        key = ring.get(str(jwt.get_unverified_header(token).get("kid", FIRST)))
        if key is None:
            raise BadToken
        claims = jwt.decode(
            token,
            _strong(key.secret),
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            # Times are compared below, with the program's own clock.
            options={
                "require": list(CLAIMS),
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "strict_aud": True,
            },
        )
    except (jwt.PyJWTError, ValueError) as error:
        raise BadToken from error
    if claims["typ"] != TYPE or not _in_time(claims, now // MICROS_PER_SECOND):
        raise BadToken
    subject, session_id, epoch = claims["sub"], claims["sid"], claims["epoch"]
    if not (subject.isascii() and subject.isdigit() and len(subject) < 19):
        raise BadToken
    if not isinstance(session_id, str) or not _is_int(epoch):
        raise BadToken
    return Claims(int(subject), session_id, epoch, claims["exp"])


def _in_time(claims: dict[str, Any], now: int) -> bool:
    times = [claims[name] for name in ("iat", "nbf", "exp")]
    if not all(_is_int(time) for time in times):
        return False
    issued, valid_from, expires = (int(time) for time in times)
    return (
        issued <= now + LEEWAY_SECONDS
        and valid_from <= now + LEEWAY_SECONDS
        and now < expires <= issued + MAX_LIFE_SECONDS
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _strong(key: bytes) -> bytes:
    """PyJWT only warns about short keys; a guessable key lets anybody be anybody."""
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"the token key has fewer than {MIN_KEY_BYTES} bytes")
    return key
