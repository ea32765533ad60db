"""Doors: strangers run out of attempts, owners do not; nothing is forgotten over a restart."""

import asyncio
from pathlib import Path

import pytest
from pyotp import TOTP

from chat_app.accounts import devices, totp
from chat_app.accounts.passwords import Passwords
from chat_app.app import App
from chat_app.clock import ManualClock
from chat_app.errors import AppError
from chat_app.flows import doors, signin
from chat_app.notify import inbox
from tests.apps import PASSWORD, in_loop, person, running_app
from tests.house import tree

HOME, OFFICE = "198.51.100.9", "192.0.2.4"


async def guess(app: App, ip: str, *, name: str = "alice", device: str = "") -> str:
    """A wrong password; the code of the refusal."""
    return await sign_in(app, ip, name=name, password="wrong horse battery", device=device)


async def sign_in(
    app: App, ip: str, *, name: str = "alice", password: str = PASSWORD, device: str = ""
) -> str:
    """The code of the refusal, or `ok`."""
    try:
        await signin.login(app, login=name, password=password, ip=ip, device=device)
    except AppError as error:
        return error.code
    return "ok"


def quick(app: App) -> App:
    """Passwords that cost nothing."""
    app.passwords = Passwords(app.secrets.pepper, cost=4, max_waiting=1000)
    return app


@in_loop
async def test_many_addresses_cannot_lock_the_owner_out(tmp_path: Path) -> None:
    """Bar 14: each address has its ten; the owner gets in from anywhere else at any time."""
    async with running_app(tmp_path, limits={"login_failures_per_15_minutes": 10}) as app:
        await person(quick(app))
        for number in range(1, 11):
            codes = await asyncio.gather(*(guess(app, f"203.0.113.{number}") for _ in range(12)))
            assert sorted(codes) == ["too_many_sign_ins"] * 2 + ["wrong_password"] * 10
            assert await sign_in(app, f"203.0.113.{number}") == "too_many_sign_ins"
        assert await sign_in(app, HOME) == "ok"


@in_loop
async def test_an_address_has_a_limit_over_all_accounts(tmp_path: Path) -> None:
    """One password tried on every account is as many guesses as many on one."""
    clock = ManualClock()
    limits = {"login_failures_per_15_minutes": 1}
    async with running_app(tmp_path, limits=limits, clock=clock) as app:
        await person(quick(app))
        await signin.login(app, login="alice", password=PASSWORD, ip=OFFICE)
        for number in range(20):
            assert await guess(app, HOME, name=f"nobody{number}") == "wrong_password"
        assert await guess(app, HOME, name="nobody20") == "too_many_sign_ins"
        assert await guess(app, OFFICE, name="nobody20") == "wrong_password"
        # The right password is no failure, but a stranger to this address has to wait as well.
        assert await sign_in(app, HOME) == "too_many_sign_ins"
        clock.advance(seconds=45)
        assert await sign_in(app, HOME) == "ok"
        assert await guess(app, HOME, name="nobody21") == "wrong_password"
        # Somebody who signed in from here before is not kept out by the others' failures.
        assert await guess(app, HOME, name="nobody22") == "too_many_sign_ins"
        assert await sign_in(app, HOME) == "ok"


@in_loop
async def test_a_known_device_gets_in_where_its_address_is_used_up(tmp_path: Path) -> None:
    async with running_app(tmp_path, limits={"login_failures_per_15_minutes": 3}) as app:
        alice = await person(quick(app))
        device = devices.issue(app.secrets.link_key, user_id=alice)
        stranger = devices.issue(app.secrets.link_key, user_id=alice + 1)
        for _ in range(3):
            assert await guess(app, HOME) == "wrong_password"
        assert await sign_in(app, HOME) == "too_many_sign_ins"
        assert await sign_in(app, HOME, device=stranger) == "too_many_sign_ins"
        assert await sign_in(app, HOME, device=device) == "ok"
        # A stolen device has no more guesses than anybody.
        codes = [await guess(app, HOME, device=device) for _ in range(4)]
        assert codes == ["wrong_password"] * 3 + ["too_many_sign_ins"]


@in_loop
async def test_throttles_outlast_a_restart_and_are_shared(tmp_path: Path) -> None:
    limits = {"login_failures_per_15_minutes": 3, "registrations_per_hour_per_ip": 2}
    async with running_app(tmp_path, limits=limits) as app:
        await person(quick(app))
        for _ in range(2):
            await guess(app, HOME)
        async with running_app(tmp_path, limits=limits) as other:  # another process's App
            assert await guess(quick(other), HOME) == "wrong_password"
            assert await guess(app, HOME) == "too_many_sign_ins"
    async with running_app(tmp_path, limits=limits) as app:
        assert await sign_in(quick(app), HOME) == "too_many_sign_ins"
        assert await sign_in(app, OFFICE) == "ok"
        await person(app, "bob")
        with pytest.raises(doors.TooManySignUps) as refused:
            await person(app, "carol")
        assert 1700 < refused.value.retry_after_seconds <= 1800


@in_loop
async def test_a_signed_in_owner_can_change_the_password_under_attack(tmp_path: Path) -> None:
    async with running_app(tmp_path, limits={"login_failures_per_15_minutes": 2}) as app:
        alice = await person(quick(app))
        for _ in range(3):
            await guess(app, HOME)
        done = await signin.change_password(
            app, user_id=alice, current=PASSWORD, new="another horse battery", ip=HOME
        )
        assert done.access_token


@in_loop
async def test_a_botnet_guesses_no_code_and_keeps_no_owner_out(tmp_path: Path) -> None:
    """ASVS 6.1.1: whoever knows the password and has an address for each guess runs out of them.

    The owner then gives two codes in a row, or a backup code, from wherever they are; a browser
    that signed in before needs one code as ever. A new password ends it.
    """
    limits = {"login_failures_per_15_minutes": 5}
    clock = ManualClock()
    async with running_app(tmp_path, limits=limits, clock=clock) as app:
        alice = await person(quick(app))
        key = app.secrets.link_key
        secret = app.db.write(lambda s: totp.begin(s, user_id=alice, key=key, now=clock.micros()))

        def code(*, ahead: int = 0) -> str:
            return TOTP(secret).at(clock.micros() // 1_000_000 + 30 * ahead)

        backup = app.db.write(
            lambda s: totp.confirm(s, user_id=alice, code=code(), key=key, now=clock.micros())
        )
        device = devices.issue(key, user_id=alice)

        async def attempt(number: int, given: str, **more: str) -> str:
            try:
                ip = f"203.0.113.{number}"
                await signin.login(app, login="alice", password=PASSWORD, ip=ip, code=given, **more)
            except AppError as error:
                return error.code
            return "ok"

        codes = [await attempt(number, "000000") for number in range(1, 8)]
        assert codes == ["wrong_totp"] * 5 + ["totp_pair_required"] * 2
        clock.advance(seconds=90)
        # From now on the right code alone says no more than a wrong one, so guessing is useless.
        assert await attempt(20, code()) == "totp_pair_required"
        assert await attempt(21, f"{code()} {code()}") == "wrong_totp"
        assert await attempt(22, f"{code()} {code(ahead=1)}") == "ok"
        assert await attempt(23, f"{code()} {code(ahead=1)}") == "wrong_totp", "used twice"
        assert await attempt(24, backup[0]) == "ok"
        clock.advance(seconds=90)
        assert await attempt(25, code(), device=device) == "ok", "a browser that is known"
        # It drains slowly: a fifth of a day for each guess.
        clock.advance(hours=4)
        assert await attempt(26, "000000") == "totp_pair_required"
        clock.advance(hours=1)
        assert await attempt(27, "000000") == "wrong_totp"
        assert await attempt(28, "000000") == "totp_pair_required"
        await signin.change_password(
            app, user_id=alice, current=PASSWORD, new="another horse battery", ip=HOME
        )
        done = await signin.login(
            app, login="alice", password="another horse battery", ip="203.0.113.30", code=code()
        )
        assert done.access_token
        with app.db.read() as session:
            told, _ = inbox.page(session, user_id=alice, limit=20)
        assert sum("tries codes" in row.title for row in told) == 1


@in_loop
async def test_every_door_refuses_with_a_time(tmp_path: Path) -> None:
    limits = dict.fromkeys({door.setting for door in doors.DOORS.values()}, 1)
    async with running_app(tmp_path, limits=limits) as app:
        for name, door in doors.DOORS.items():
            attempt = await doors.attempt(app, name, subject="7", ip=HOME)
            await attempt.forgive(app)
            await doors.attempt(app, name, subject="7", ip=HOME)
            with pytest.raises(door.error) as refused:
                await doors.attempt(app, name, subject="7", ip=HOME)
            assert 0 < refused.value.retry_after_seconds <= door.seconds


def test_every_door_is_documented() -> None:
    page = tree.read("docs/limits.md")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for door in doors.DOORS.values():
        (row,) = [row for row in rows if f"`{door.error.code}`" in row]
        assert f"`{door.setting}`" in row
