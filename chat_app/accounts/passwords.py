"""Passwords: judged, hashed and compared, away from the event loop.

The stored form is `scheme:id$bcrypt`, where bcrypt gets base64(HMAC-SHA-384(pepper,
NFC(password))) with the pepper of that id: 64 bytes, so that every character of a long
password counts and a stolen database alone cannot be guessed at. bcrypt at cost 12 takes
about a quarter of a second, so one thread does it and a short queue waits; more than that is
refused at once.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import bcrypt

from chat_app.clock import Clock
from chat_app.errors import Invalid, TooMany
from chat_app.secrets import FIRST, Ring

T = TypeVar("T")

SCHEME = "hs384-bcrypt-1"
COST = 12
# So much of a stored form holds scheme and pepper.
PEPPER_PART = len(SCHEME) + 12
MAX_BYTES = 1024
MAX_WAITING = 20
PRODUCT = "mlchatbilling"
# What is left of a password after the guessable parts must be at least this long.
OWN_PART = 4
_LONGEST_JUDGED_PATTERN = 24
# One word a line would be a long page; the split happens once.
_GUESSABLE = frozenset(
    """
    password passwort passphrase passw0rd administrator admin welcome letmein iloveyou sunshine
    princess football baseball basketball superman batman starwars trustno changeme secret
    default master shadow monkey dragon michael jordan jessica charlie computer internet
    samsung google facebook pokemon chocolate butterfly liverpool chelsea arsenal whatever
    freedom killer hunter ranger summer winter spring autumn january february monday sunday
    qwertyuiop qwertzuiop azertyuiop asdfghjkl yxcvbnm zxcvbnm qwerty qwertz azerty asdfgh
    zxcvbn qazwsxedc qazwsx wsxedc abcdefghijklmnopqrstuvwxyz abcdefgh abcdef abcd chat billing
    credits login guest
    """.split()  # noqa: SIM905
)
# What people put before and behind a word to meet some rule, and how much of it.
_AROUND = "0123456789 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_MOST_AROUND = 8
_LEET = str.maketrans("013457@$", "oieastas")


class WeakPassword(Invalid):
    """The password is too short, too long or easy to guess."""

    code = "weak_password"
    message = "This password is easy to guess. Use some unrelated words or a password manager."


class PasswordsBusy(TooMany):
    """Too many passwords are being checked at once."""

    code = "passwords_busy"
    message = "Many people are signing in right now. Try again in a moment."


def check(password: str, *, minimum: int, context: Iterable[str] = ()) -> None:
    """Accept a new password or raise WeakPassword with what to do about it.

    `minimum` counts characters. `context` holds what an attacker tries first: the user name,
    the address. No rule asks for kinds of characters; any character is welcome. Thirty thousand
    passwords that people are known to use are refused, also with something put around them.
    """
    if len(unicodedata.normalize("NFC", password)) < minimum:
        raise WeakPassword(
            f"A password needs at least {minimum} characters. Three unrelated words do it.",
            param="password",
        )
    if _too_long(password):
        raise WeakPassword(
            f"A password can have at most {MAX_BYTES} bytes. Choose a shorter one.",
            param="password",
        )
    if _is_pattern(password) or _is_known(password) or _is_guessable(password, context):
        raise WeakPassword(param="password")


class Passwords:
    """Hashes and compares passwords on a thread of its own."""

    def __init__(
        self,
        pepper: Ring,
        *,
        cost: int = COST,
        max_waiting: int = MAX_WAITING,
        micros: Callable[[], int] | None = None,
    ) -> None:
        self.pepper = pepper
        self._micros = micros or Clock().micros
        self._cost = cost
        self._max_waiting = max_waiting
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._lock = threading.Lock()
        self._inside = 0
        # Somebody without an account is compared with this, and so waits as long as others.
        self._nobody = f"{SCHEME}$" + bcrypt.hashpw(b"nobody", bcrypt.gensalt(cost)).decode()

    async def hash(self, password: str) -> str:
        """The form to store. Raises PasswordsBusy."""
        return await self._do(lambda: self.hash_now(password))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password is the stored one; takes as long when there is none.

        Raises PasswordsBusy. Never raises for what the password contains.
        """
        return await self._do(lambda: self.verify_now(password, stored))

    def hash_now(self, password: str) -> str:
        """`hash` on the calling thread, for commands and the first start."""
        salt = bcrypt.gensalt(self._cost)
        key = self.pepper.active(self._micros())
        return f"{SCHEME}:{key.id}${bcrypt.hashpw(_digest(key.secret, password), salt).decode()}"

    def verify_now(self, password: str, stored: str | None) -> bool:
        """`verify` on the calling thread."""
        head, _, form = (stored or self._nobody).partition("$")
        scheme, _, id = head.partition(":")
        # The forms of the time before there was a ring do not name their key.
        key = self.pepper.get(id or FIRST)
        possible = scheme == SCHEME and key is not None and stored is not None
        if scheme != SCHEME:
            form = self._nobody.partition("$")[2]
        secret = (key or self.pepper.keys[0]).secret
        same = bcrypt.checkpw(_digest(secret, password), form.encode())
        return same and possible and not _too_long(password)

    def is_old(self, stored: str) -> bool:
        """Whether the stored form is by an earlier pepper and should be made anew."""
        return pepper_of(stored) != self.pepper.active(self._micros()).id

    def close(self) -> None:
        """Wait for what is being hashed and end the thread."""
        self._pool.shutdown()

    async def _do(self, work: Callable[[], T]) -> T:
        with self._lock:
            if self._inside > self._max_waiting:
                raise PasswordsBusy(retry_after_seconds=5)
            self._inside += 1
        future = self._pool.submit(work)
        # Counted down by the thread, because a caller that gave up frees nothing.
        future.add_done_callback(lambda _: self._leave())
        return await asyncio.wrap_future(future)

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1


def pepper_of(stored: str) -> str:
    """The id of the pepper in a stored form."""
    return stored.partition("$")[0].partition(":")[2] or FIRST


def _digest(pepper: bytes, password: str) -> bytes:
    text = unicodedata.normalize("NFC", password)
    encoded = text.encode("utf-8", "surrogatepass")[: MAX_BYTES + 1]
    return base64.b64encode(hmac.new(pepper, encoded, hashlib.sha384).digest())


def _too_long(password: str) -> bool:
    return len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES


def _is_pattern(password: str) -> bool:
    """One short unit again and again, or a run of neighbours such as 123456789012."""
    if len(password) > _LONGEST_JUDGED_PATTERN:
        return False
    if len(set(password)) < OWN_PART:
        return True
    for size in range(1, 5):
        unit = password[:size]
        if (unit * (len(password) // size + 1))[: len(password)] == password:
            return True
    steps = {ord(b) - ord(a) for a, b in pairwise(password)}
    return steps <= {1, -9} or steps <= {-1, 9}


def _is_known(password: str) -> bool:
    """Whether many people use it: as it is, without what stands around its letters, or doubled."""
    plain = unicodedata.normalize("NFC", password).casefold()
    known = _known()
    for text in (plain, plain.translate(_LEET)):
        core = text.strip(_AROUND)
        half = text[: len(text) // 2]
        if text in known or (half * 2 == text and half in known):
            return True
        if core in known and len(core) >= len(text) - _MOST_AROUND:
            return True
    return False


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    """The passwords most often found in leaks, read when the first one is judged."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])


def _is_guessable(password: str, context: Iterable[str]) -> bool:
    """Whether little is left without common words, the person's own names and digits."""
    if not password.isascii() or len(password) > _LONGEST_JUDGED_PATTERN:
        return False
    words = sorted({*_GUESSABLE, PRODUCT, *_words(context)}, key=len, reverse=True)
    plain = password.casefold()
    return any(_own_part(text, words) < OWN_PART for text in (plain, plain.translate(_LEET)))


def _own_part(text: str, words: list[str]) -> int:
    """How much is left without the words: each letter, and half of the different digits."""
    for word in words:
        text = text.replace(word, " ")
    digits = {mark for mark in text if mark.isdigit()}
    return sum(mark.isalpha() for mark in text) + len(digits) // 2


def _words(context: Iterable[str]) -> set[str]:
    words = set()
    for text in context:
        folded = text.casefold()
        words |= {folded, *re.split(r"[^a-z0-9]+", folded)}
    return {word for word in words if len(word) >= 3}
