"""Devices: a browser that has signed in once is known again, and others' failures do not stop it.

The cookie says nothing but "the holder has signed in to this account before". It opens nothing:
it only gives its holder attempts of their own, which a stranger cannot use up.
"""

import hashlib
import hmac
import secrets

from chat_app.secrets import subkey

MAX_AGE_SECONDS = 365 * 24 * 3600
MAX_LENGTH = 200
_COOKIE = "chat_device"


def cookie_name(https: bool) -> str:
    """The cookie's name; with https it is bound to this host by the browser."""
    return f"__Host-{_COOKIE}" if https else _COOKIE


def issue(secret: bytes, *, user_id: int) -> str:
    """A cookie for a device that has just signed in."""
    nonce = secrets.token_urlsafe(16)
    return f"{nonce}.{_mark(secret, user_id, nonce)}"


def known(secret: bytes, cookie: str, *, user_id: int) -> str | None:
    """The device's name if the cookie was given to it for this user; else None."""
    nonce, _, mark = cookie.partition(".")
    if len(cookie) > MAX_LENGTH or not cookie.isascii():
        return None
    return nonce if hmac.compare_digest(mark, _mark(secret, user_id, nonce)) else None


def _mark(secret: bytes, user_id: int, nonce: str) -> str:
    key = subkey(secret, "device")
    return hmac.new(key, f"{user_id}\n{nonce}".encode(), hashlib.sha256).hexdigest()
