"""Passwords: every character counts, nothing crashes, guessable ones are refused."""

import asyncio
import threading
import unicodedata

import pytest

from chat_app import secrets
from chat_app.accounts import passwords
from chat_app.accounts.passwords import Passwords, PasswordsBusy, WeakPassword

PEPPER = secrets.ring(b"p" * 32)


@pytest.fixture
def quick() -> Passwords:
    """A hasher at bcrypt's lowest cost."""
    return Passwords(PEPPER, cost=4)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "🔒" * 64,
        "é" * 64,
        "x" * 71,
        "x" * 72,
        "x" * 73,
        "x" * 1024,
        "pass\x00word and more",
        "lone \ud800 surrogate",
        "  spaces around  ",
    ],
)
def test_every_character_counts(quick: Passwords, password: str) -> None:
    """Bar 16: the last character matters at any length, and nothing raises."""
    stored = quick.hash_now(password)
    assert quick.verify_now(password, stored)
    assert not quick.verify_now(password[:-1], stored)
    assert not quick.verify_now(password[:-1] + "#", stored)
    assert not quick.verify_now(password + "#", stored)
    assert not quick.verify_now(password.swapcase() + " ", stored)


def test_more_than_1024_bytes_is_refused_and_never_matches(quick: Passwords) -> None:
    with pytest.raises(WeakPassword):
        passwords.check("x" * 1025, minimum=12)
    assert not quick.verify_now("x" * 5000, quick.hash_now("x" * 1025))


def test_two_ways_to_write_an_accent_are_one_password(quick: Passwords) -> None:
    stored = quick.hash_now(unicodedata.normalize("NFD", "café crème brûlée"))
    assert quick.verify_now(unicodedata.normalize("NFC", "café crème brûlée"), stored)


def test_the_pepper_is_needed(quick: Passwords) -> None:
    stored = quick.hash_now("correct horse battery")
    assert not Passwords(secrets.ring(b"q" * 32), cost=4).verify_now(
        "correct horse battery", stored
    )


def test_the_stored_form_has_a_scheme_and_is_bcrypt_12() -> None:
    assert passwords.COST == 12
    stored = Passwords(PEPPER).hash_now("correct horse battery")
    assert stored.startswith("hs384-bcrypt-1:1$$2b$12$")


def test_a_new_pepper_leaves_old_passwords_valid_and_marks_them() -> None:
    """What was stored before there was a ring, too, until its pepper is removed."""
    stored = Passwords(PEPPER, cost=4).hash_now("correct horse battery")
    bare = stored.replace(":1$", "$", 1)
    ring = secrets.Ring((*PEPPER.keys, secrets.Key("2", b"q" * 32, since=1000)))
    later = Passwords(ring, cost=4, micros=lambda: 1000)
    for form in (stored, bare):
        assert later.verify_now("correct horse battery", form)
        assert not later.verify_now("correct horse batterx", form)
        assert later.is_old(form)
        assert passwords.pepper_of(form) == "1"
    fresh = later.hash_now("correct horse battery")
    assert fresh.startswith("hs384-bcrypt-1:2$")
    assert not later.is_old(fresh)
    assert later.verify_now("correct horse battery", fresh)
    # Not yet: other processes may not know the new pepper.
    assert not Passwords(ring, cost=4, micros=lambda: 999).is_old(stored)
    without = Passwords(secrets.Ring(ring.keys[1:]), cost=4)
    assert not without.verify_now("correct horse battery", stored)


@pytest.mark.parametrize("stored", [None, "", "plain", "md5$abc", "hs384-bcrypt-0$abc"])
def test_no_hash_and_foreign_hashes_match_nothing(quick: Passwords, stored: str | None) -> None:
    assert not quick.verify_now("nobody", stored)
    assert not quick.verify_now("", stored)


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "eleven char",
        "aaaaaaaaaaaa",
        "abababababab",
        "123456789012",
        "987654321098",
        "Password1234",
        "P@ssw0rd2024!",
        "Admin123!Admin123!",
        "qwertyuiop12",
        "alice-1234567",
        "Wonder.land99",
        "MLChatBilling1",
        "welcome-2026!!",
        "letmein letmein",
    ],
)
def test_guessable_passwords_are_refused(password: str) -> None:
    with pytest.raises(WeakPassword) as refused:
        passwords.check(password, minimum=12, context=["alice", "wonder.land"])
    assert refused.value.facts["param"] == "password"


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "Tr0ub4dor&3 zebra",
        "🔒" * 64,
        "a" * 64,
        "8462957301846",
        "пароль длинный",
    ],
)
def test_long_passwords_of_any_characters_are_welcome(password: str) -> None:
    passwords.check(password, minimum=12, context=["alice", "alice"])


def test_what_many_people_use_is_refused() -> None:
    """Bar 16: the three thousand most used, whole, and with what is put around one of them."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    for password in FREQUENCY_LISTS["passwords"][:3000]:
        with pytest.raises(WeakPassword):
            passwords.check(password, minimum=8)
    for password in ("Liverpool1892!", "1qaz2wsx3edc", "2024!dragonball", "Scoobydooscoobydoo"):
        with pytest.raises(WeakPassword):
            passwords.check(password, minimum=12)


def test_the_least_length_counts_composed_characters() -> None:
    """An accent of its own is no character more."""
    with pytest.raises(WeakPassword):
        passwords.check(unicodedata.normalize("NFD", "éèêëàâäîïôö"), minimum=12)


def test_hashing_waits_in_a_short_line_and_not_on_the_loop() -> None:
    """Bar 13: twenty wait, the next is refused, and the loop runs on meanwhile."""

    async def story() -> None:
        hasher = Passwords(PEPPER, cost=4, max_waiting=20)
        gate = threading.Event()
        hasher._pool.submit(gate.wait)
        tasks = [asyncio.create_task(hasher.hash("correct horse battery")) for _ in range(25)]
        await asyncio.sleep(0)
        refused = [task for task in tasks if task.done()]
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        busy = [result for result in results if isinstance(result, PasswordsBusy)]
        assert len(busy) == len(refused) == 4
        assert busy[0].retry_after_seconds >= 1
        assert await hasher.verify("correct horse battery", await hasher.hash("x")) is False
        hasher.close()

    asyncio.run(story())


def test_a_caller_that_gives_up_does_not_free_a_place() -> None:
    async def story() -> None:
        hasher = Passwords(PEPPER, cost=4, max_waiting=1)
        gate = threading.Event()
        blocker = asyncio.create_task(hasher._do(gate.wait))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(hasher.hash("correct horse battery"))
        await asyncio.sleep(0.01)
        with pytest.raises(PasswordsBusy):
            await hasher.hash("correct horse battery")
        gate.set()
        await blocker
        await waiting
        assert hasher._inside == 0
        hasher.close()

    asyncio.run(story())
