"""Doors: how often somebody may try a password, a code, a new account or a transfer.

An attempt counts as failed before it is judged, so that parallel guesses do not slip through,
and is forgiven when it was right. Nobody is locked out by others: failures are counted for the
account and the address together, and whoever is known from before has attempts of their own.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session

from chat_app.accounts import throttles
from chat_app.accounts.throttles import Bucket
from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import TooMany

Name = Literal["sign_in", "second_factor", "codes_of_a_day", "reset", "sign_up", "code", "transfer"]
QUARTER, HOUR, DAY = 15 * 60, 3600, 24 * 3600


class TooManySignUps(TooMany):
    """Too many new accounts from one address."""

    code = "too_many_sign_ups"
    message = "Too many accounts were created from this address. Try again later."


class TooManySignIns(TooMany):
    """Too many failed sign-ins of one account from one address, or from the address at all."""

    code = "too_many_sign_ins"
    message = "Too many failed sign-ins. Wait some minutes and try again."


class TooManySecondFactors(TooMany):
    """Too many wrong second factors of one account from one address."""

    code = "too_many_second_factors"
    message = "Too many wrong codes for the second step. Wait some minutes and try again."


class TooManyCodesOfADay(TooMany):
    """Too many wrong codes of one account within a day, from all addresses together.

    A sign-in is not refused for it: it asks for two codes in a row (`totp_pair_required`).
    """

    code = "too_many_codes_of_a_day"
    message = "Too many wrong codes of this account today. Enter two codes in a row."


class TooManyResets(TooMany):
    """Too many mails asked for, to one account or from one address."""

    code = "too_many_resets"
    message = "Too many mails were asked for. Use the newest one or try again later."


class TooManyCodes(TooMany):
    """Too many wrong redemption codes of one user or from one address."""

    code = "too_many_codes"
    message = "Too many wrong codes. Wait some minutes and try again."


class TooManyTransfers(TooMany):
    """Too many movements of credits by one user in an hour."""

    code = "too_many_transfers"
    message = "You have moved credits very often in the last hour. Try again later."


@dataclass(frozen=True)
class _Door:
    """`at_address`: how often as many one address may have for everybody behind it; 0: any.

    `own` is whether attempts of one account or user are counted, with the address or alone.
    """

    setting: str
    seconds: int
    error: type[TooMany]
    at_address: int
    own: Literal["no", "with address", "alone"]


DOORS: dict[Name, _Door] = {
    "sign_in": _Door("login_failures_per_15_minutes", QUARTER, TooManySignIns, 20, "with address"),
    "second_factor": _Door(
        "login_failures_per_15_minutes", QUARTER, TooManySecondFactors, 20, "with address"
    ),
    "codes_of_a_day": _Door("login_failures_per_15_minutes", DAY, TooManyCodesOfADay, 0, "alone"),
    "reset": _Door("reset_mails_per_hour", HOUR, TooManyResets, 4, "alone"),
    "sign_up": _Door("registrations_per_hour_per_ip", HOUR, TooManySignUps, 1, "no"),
    "code": _Door("code_failures_per_15_minutes", QUARTER, TooManyCodes, 5, "alone"),
    "transfer": _Door("transfers_per_hour", HOUR, TooManyTransfers, 0, "alone"),
}


@dataclass(frozen=True)
class Attempt:
    """An attempt that was let through and counts as a failure until it is forgiven."""

    own: Bucket | None
    all: tuple[Bucket, ...]

    async def forgive(self, app: App, *, earlier: bool = False) -> None:
        """It was right, or never judged; with `earlier` the account's failures are forgotten."""
        if not self.all:
            return

        def story(session: Session) -> None:
            throttles.give_back(session, self.all)
            if earlier and self.own is not None:
                throttles.clear(session, self.own)

        await app.db.awrite(story)


async def attempt(
    app: App, door: Name, *, subject: str = "", ip: str = "", known: str | None = None
) -> Attempt:
    """Count an attempt at a door; raises its error, with the time to wait, when it is too many.

    `subject` is the account or user, `ip` the address. Who is `known` by something that strangers
    do not have (a device, a session) has attempts under that name, apart from all others.
    """
    own, at_address = _buckets(app, door, subject=subject, ip=ip, known=known)
    buckets = tuple(item for item in (own, at_address) if item is not None and item.limit)
    if not buckets:
        return Attempt(None, ())
    now = app.clock.micros()

    def look() -> int:
        with app.db.read() as session:
            return throttles.wait(session, buckets, now=now)

    def story(session: Session) -> None:
        _refuse(door, throttles.take(session, buckets, now=now))

    # Refused without a write: a flood of guesses does not keep the writer from others.
    _refuse(door, look() if app.db.sqlite else await asyncio.to_thread(look))
    await app.db.awrite(story)
    return Attempt(own, buckets)


def calm(app: App, session: Session, *, user_id: int) -> None:
    """Count codes anew: there is a new password, and who guessed before does not know it."""
    own, _ = _buckets(app, "codes_of_a_day", subject=str(user_id), ip="", known=None)
    if own is not None:
        throttles.clear(session, own)


def _buckets(
    app: App, door: Name, *, subject: str, ip: str, known: str | None
) -> tuple[Bucket | None, Bucket | None]:
    rule, secret = DOORS[door], app.secrets.link_key
    limit: int = getattr(app.settings.limits, rule.setting)
    block = throttles.block(ip)
    own: Bucket | None = None
    at_address: Bucket | None = None
    if rule.own != "no":
        whose = known or (f"from {block}" if rule.own == "with address" else "")
        own = throttles.bucket(secret, door, subject, whose, limit=limit, seconds=rule.seconds)
    if rule.at_address and known is None:
        most = limit * rule.at_address
        at_address = throttles.bucket(
            secret, door, "everybody", block, limit=most, seconds=rule.seconds
        )
    return own, at_address


def _refuse(door: Name, micros: int) -> None:
    if micros:
        raise DOORS[door].error(retry_after_seconds=math.ceil(micros / MICROS_PER_SECOND))
