"""Free credits: codes that people redeem, and gifts for each week or month.

Nothing is free before the account is what it must be: not suspended, as old as the settings
ask, with a confirmed address where they ask for one, and the first of its mailbox (T34). Wrong
codes are counted for each user and for each address.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import accounts, codes, grants, operations, plans
from chat_app.credits.codes import Code, Redeemed
from chat_app.errors import NotAllowed
from chat_app.flows import doors, fraud, welcome
from chat_app.money import MICRO, format_credits

log = logging.getLogger(__name__)
_HOUR = 3600 * MICROS_PER_SECOND
_PAGE = 200
_BATCH = 20  # people in a transaction, which keeps all other writes waiting


class AccountTooNew(NotAllowed):
    """Free credits are for accounts that have been there for a while."""

    code = "account_too_new"
    message = "Your account is too new for free credits. Try again later."


async def make_codes(
    app: App,
    *,
    actor: str,
    micro: int,
    count: int = 1,
    uses: int = 1,
    per_user: int = 1,
    expires_at: int | None = None,
    valid_days: int | None = None,
    name: str = "",
    key: str,
) -> list[Code]:
    """Redemption codes with their text. Raises BadBatch or IdempotencyConflict."""

    def story(session: Session) -> list[Code]:
        now = app.clock.micros()
        made = codes.make(
            session,
            secret=app.secrets.link_key,
            micro=micro,
            count=count,
            uses=uses,
            per_user=per_user,
            expires_at=expires_at,
            valid_days=valid_days,
            name=name,
            now=now,
            scope=f"codes:{actor}",
            key=key,
            actor=actor,
        )
        audit.record(
            session,
            type="codes_made",
            actor=actor,
            now=now,
            batch=made[0].batch_id,
            count=count,
            uses=uses,
            credits=format_credits(micro),
        )
        return made

    return await app.db.awrite(story)


async def revoke_codes(app: App, *, admin_id: int, id: str) -> int:
    """Make a code or a batch worth nothing; returns how many ended by it. Raises UnknownCode."""

    def story(session: Session) -> int:
        now = app.clock.micros()
        ended = codes.revoke(session, id, now=now)
        audit.record(
            session, type="codes_revoked", actor=f"user:{admin_id}", now=now, id=id, count=ended
        )
        return ended

    return await app.db.awrite(story)


async def redeem(app: App, *, user_id: int, text: str, ip: str, key: str) -> Redeemed:
    """Redeem a code, once for each key.

    Raises TooManyCodes, AccountTooNew, EmailNotVerified, NoFreeCredits, HeldForReview, or what
    `codes.redeem` does.
    """
    attempt = await doors.attempt(app, "code", subject=str(user_id), ip=ip)
    actor = f"user:{user_id}"

    def run(session: Session, now: int) -> operations.Outcome:
        _entitled(app, session, users.get(session, user_id), now=now)
        given = codes.redeem(
            session,
            secret=app.secrets.link_key,
            text=text,
            user_id=user_id,
            now=now,
            rules=app.settings.credits,
        )
        fraud.check(
            app,
            session,
            type="voucher",
            user_id=user_id,
            key=f"{user_id}:{key}",
            now=now,
            credits=given.micro / MICRO,
            voucher_code=given.code_id,
            **fraud.address(ip),
        )
        audit.record(
            session,
            type="code_redeemed",
            actor=actor,
            now=now,
            code=given.code_id,
            credits=format_credits(given.micro),
        )
        return {
            "code_id": given.code_id,
            "micro": given.micro,
            "balance_after": given.balance_after,
            "expires_at": given.expires_at,
        }

    def story(session: Session) -> Redeemed:
        now = app.clock.micros()
        outcome, again = operations.once(
            session,
            scope=f"redeem:{user_id}",
            key=key,
            request={"code": operations.digest({"code": codes.clean(text)})},
            now=now,
            actor=actor,
            run=lambda: run(session, now),
        )
        return replace(Redeemed(**outcome), replayed=again)

    given = await app.db.awrite(story)
    await attempt.forgive(app)
    return given


def give_periodic(app: App) -> int:
    """The free credits of this week or month for everyone who has none yet; returns how many."""
    rules = app.settings.credits
    if not rules.periodic_credits:
        return 0
    given, cursor = 0, None
    while True:
        with app.db.read() as session:
            page, cursor = users.search(session, status="active", limit=_PAGE, cursor=cursor)
        for at in range(0, len(page), _BATCH):
            given += app.db.write(partial(_give, app, page[at : at + _BATCH]))
        if cursor is None:
            return given


@dataclass(frozen=True)
class NextGrant:
    """The next credits that come by themselves: microcredits, when, and `plan` or `periodic`."""

    micro: int
    at: int
    kind: str


def next_grant(app: App, session: Session, *, user: User, now: int) -> NextGrant | None:
    """What comes next for a user; None when nothing does."""
    assert user.id is not None
    coming = []
    held = plans.current(session, user_id=user.id, zone=app.settings.business.zone)
    if held is not None and held.renews_at is not None:
        credits = held.period.credits
        if held.next_plan is not None:
            credits = next(
                (plan.credits for plan in plans.list_plans(session) if plan.code == held.next_plan),
                credits,
            )
        coming.append(NextGrant(credits, held.renews_at, "plan"))
    rules = app.settings.credits
    if rules.periodic_credits and _meant(app, session, [user]):
        period = grants.window(now, rules.periodic_every, app.settings.business.zone)
        young = user.created_at + rules.free_after_hours * _HOUR
        at = period.ends_at
        if grants.without(session, [user.id], period=period.name):
            at = max(now, young)
        coming.append(NextGrant(rules.periodic_credits * 10**6, at, "periodic"))
    return min(coming, key=lambda one: one.at, default=None)


def _give(app: App, page: list[User], session: Session) -> int:
    now, rules = app.clock.micros(), app.settings.credits
    period = grants.window(now, rules.periodic_every, app.settings.business.zone)
    meant = {
        user.id
        for user in _meant(app, session, page)
        if user.created_at + rules.free_after_hours * _HOUR <= now
    }
    given = 0
    # In ascending order, as everybody locks several wallets.
    for user_id in grants.without(
        session, sorted(id for id in meant if id is not None), period=period.name
    ):
        try:
            with session.begin_nested():
                given += grants.give(session, user_id=user_id, period=period, now=now, rules=rules)
        except accounts.WalletClosed:
            continue
    return given


def _meant(app: App, session: Session, people: list[User]) -> list[User]:
    """Those of them whom the periodic credits are for."""
    whom = app.settings.credits.periodic_for
    unsure = app.settings.accounts.require_verified_email
    left_out = welcome.excluded(session, people)
    people = [
        user
        for user in people
        if not user.suspended
        and user.id not in left_out
        and not (unsure and user.email_verified_at is None)
    ]
    if whom == "everyone":
        return people
    if whom.startswith("plan:"):
        ids = [user.id for user in people if user.id is not None]
        subscribed = plans.subscribers(session, whom.removeprefix("plan:"), ids)
        return [user for user in people if user.id in subscribed]
    return [user for user in people if user.role == whom]


def _entitled(app: App, session: Session, user: User, *, now: int) -> None:
    welcome.require_verified(app, user)
    if welcome.excluded(session, [user]):
        raise welcome.NoFreeCredits
    wait = user.created_at + app.settings.credits.free_after_hours * _HOUR - now
    if wait > 0:
        raise AccountTooNew(retry_after_seconds=wait // MICROS_PER_SECOND + 1)
