"""Organisations: members, their limits, and the pool of credits that they spend from.

Messages are charged to the pool itself and counted in the member's month; nothing is handed
out beforehand. Only credits that may be given away go into a pool.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from chat_app.accounts import orgs, users
from chat_app.accounts.orgs import RUNNING
from chat_app.accounts.tables import Org, OrgMember
from chat_app.app import App
from chat_app.audit import log
from chat_app.credits import budgets, ledger, moves, operations, usage, words
from chat_app.credits.accounts import Owner
from chat_app.credits.ledger import Balance
from chat_app.credits.moves import Moved
from chat_app.credits.usage import PoolUsage
from chat_app.flows import doors, transfer
from chat_app.money import MICRO, format_credits


@dataclass(frozen=True)
class MemberView:
    """A member and their month, in microcredits; `joined_at` in µs."""

    user_id: int
    username: str
    role: str
    monthly_limit: int | None
    used: int
    held: int
    joined_at: int


@dataclass(frozen=True)
class OrgView:
    """An organisation as a member sees it: members see their own line, who runs it sees all."""

    id: int
    name: str
    role: str
    balance: Balance
    created_at: int
    members: list[MemberView]


@dataclass(frozen=True)
class UsedLine:
    """What a member used of one model on one UTC day, at the pool's cost (microcredits)."""

    username: str
    line: PoolUsage


async def create(app: App, *, user_id: int, name: str, key: str) -> OrgView:
    """A new organisation that the user owns. The same key makes one."""
    name = orgs.clean_name(name)

    def do(session: Session, now: int) -> dict[str, Any]:
        most = app.settings.orgs.max_per_user
        made = orgs.create(session, user_id=user_id, name=name, now=now, most=most)
        assert made.id is not None
        _record(session, made, user_id, "org_created", now, name=name)
        return {"id": made.id}

    def story(session: Session) -> OrgView:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"org:{user_id}",
            key=key,
            request={"name": name},
            now=now,
            actor=f"user:{user_id}",
            run=lambda: do(session, now),
        )
        return _view(session, *orgs.member(session, org_id=outcome["id"], user_id=user_id), now)

    return await app.db.awrite(story)


def mine(app: App, *, user_id: int) -> list[OrgView]:
    """The user's organisations with their own line in each."""
    now = app.clock.micros()
    with app.db.read() as session:
        rows = orgs.of_user(session, user_id=user_id)
        return [_view(session, org, own, now, everybody=False) for org, own in rows]


def view(app: App, *, user_id: int, org_id: int) -> OrgView:
    """An organisation of the user; raises OrgNotFound."""
    with app.db.read() as session:
        org, own = orgs.member(session, org_id=org_id, user_id=user_id)
        return _view(session, org, own, app.clock.micros())


async def rename(app: App, *, user_id: int, org_id: int, name: str) -> OrgView:
    """Another name. Raises OrgNotFound, OrgRole or BadOrgName."""
    name = orgs.clean_name(name)

    def story(session: Session, org: Org, _by: OrgMember, now: int) -> None:
        before, org.name = org.name, name
        session.add(org)
        _record(session, org, user_id, "org_renamed", now, before=before, after=name)

    return await _change(app, user_id, org_id, story)


async def add_member(
    app: App,
    *,
    user_id: int,
    org_id: int,
    username: str,
    role: str = "member",
    monthly_limit: int | None = None,
) -> OrgView:
    """Let somebody spend from the pool. Raises UnknownRecipient, AlreadyMember, OrgRole, …"""

    def story(session: Session, org: Org, by: OrgMember, now: int) -> None:
        found = transfer.recipient(session, username)
        assert found.id is not None
        orgs.add(
            session,
            org=org,
            by=by,
            user_id=found.id,
            role=role,
            monthly_limit=monthly_limit,
            now=now,
            most=app.settings.orgs.max_members,
        )
        _record(session, org, user_id, "org_member_added", now, member=found.id, role=role)

    return await _change(app, user_id, org_id, story)


async def change_member(
    app: App,
    *,
    user_id: int,
    org_id: int,
    member: str,
    role: str | None = None,
    monthly_limit: int | None = None,
    limited: bool = False,
) -> OrgView:
    """Another role; with `limited` another monthly limit, None for no limit."""

    def story(session: Session, org: Org, by: OrgMember, now: int) -> None:
        who = orgs.resolve(session, org_id=org_id, name=member)
        before = {"role": who.role, "monthly_limit": who.monthly_limit}
        orgs.change(
            session, by=by, who=who, role=role, monthly_limit=monthly_limit, limited=limited
        )
        after = {"role": who.role, "monthly_limit": who.monthly_limit}
        facts = {"member": who.user_id, "before": before, "after": after}
        _record(session, org, user_id, "org_member_changed", now, **facts)

    return await _change(app, user_id, org_id, story)


async def remove_member(app: App, *, user_id: int, org_id: int, member: str) -> None:
    """Take somebody out, or leave. Their running answers end and are paid as they began."""

    def story(session: Session) -> None:
        now = app.clock.micros()
        org = orgs.locked(session, org_id=org_id, user_id=user_id)
        _, by = orgs.member(session, org_id=org_id, user_id=user_id)
        who = orgs.resolve(session, org_id=org_id, name=member)
        orgs.remove(session, by=by, who=who)
        _record(session, org, user_id, "org_member_removed", now, member=who.user_id)

    await app.db.awrite(story)


async def hand_over(app: App, *, user_id: int, org_id: int, member: str) -> OrgView:
    """Make another member the owner; who hands over stays as admin."""

    def story(session: Session, org: Org, by: OrgMember, now: int) -> None:
        who = orgs.resolve(session, org_id=org_id, name=member)
        orgs.hand_over(session, by=by, to=who)
        _record(session, org, user_id, "org_handed_over", now, member=who.user_id)

    return await _change(app, user_id, org_id, story, roles=("owner",))


async def close(app: App, *, user_id: int, org_id: int) -> int:
    """End the organisation; what its pool has goes to the owner who ends it.

    Price and end go along. Returns the microcredits. Raises NotEmpty while answers run on it.
    """

    def story(session: Session) -> int:
        now = app.clock.micros()
        org = orgs.locked(session, org_id=org_id, user_id=user_id, roles=("owner",))
        rest = moves.empty_pool(
            session,
            org_id=org_id,
            to_user_id=user_id,
            now=now,
            key=str(org_id),
            actor=f"user:{user_id}",
        )
        orgs.close(session, org=org, now=now)
        _record(session, org, user_id, "org_closed", now, credits=format_credits(rest))
        return rest

    return await app.db.awrite(story)


async def fund(app: App, *, user_id: int, org_id: int, micro: int, key: str) -> Balance:
    """Move the member's own credits into the pool, once for each key; the pool after it."""
    await doors.attempt(app, "transfer", subject=str(user_id))

    def do(session: Session, org: Org, _by: OrgMember, now: int) -> Moved:
        return moves.move(
            session,
            source=Owner("user", user_id),
            target=Owner("org", org_id),
            micro=micro,
            code="fund",
            now=now,
            scope=f"fund:{user_id}",
            key=key,
            actor=f"user:{user_id}",
            kinds=transfer.kinds(app),
            description=words.of(Owner("user", user_id), Owner("org", org_id)),
        )

    request = {"org": org_id, "micro": micro}
    return await _moved(app, do, user_id=user_id, type="org_funded", request=request, key=key)


async def allocate(
    app: App, *, user_id: int, org_id: int, username: str, micro: int, key: str
) -> Balance:
    """Move credits of the pool to a member's own wallet, once for each key; the pool after it."""
    transfer.check_size(app, micro)
    await doors.attempt(app, "transfer", subject=str(user_id))

    def do(session: Session, org: Org, _by: OrgMember, now: int) -> Moved:
        who = orgs.resolve(session, org_id=org_id, name=username)
        return moves.move(
            session,
            source=Owner("org", org_id),
            target=Owner("user", who.user_id),
            micro=micro,
            code="allocation",
            now=now,
            scope=f"allocate:{user_id}",
            key=key,
            actor=f"user:{user_id}",
            description=words.of(Owner("org", org_id), Owner("user", who.user_id)),
        )

    request = {"org": org_id, "micro": micro, "to": users.username_key(username)}
    return await _moved(
        app,
        do,
        user_id=user_id,
        type="org_allocated",
        request=request,
        key=key,
        roles=RUNNING,
    )


def used(
    app: App, *, user_id: int, org_id: int, since: int, until: int
) -> tuple[OrgView, list[UsedLine]]:
    """What the pool paid for from `since` to before `until` (µs), by day, member and model.

    Members see their own lines, who runs it sees all.
    """
    with app.db.read() as session:
        org, own = orgs.member(session, org_id=org_id, user_id=user_id)
        shown = _view(session, org, own, app.clock.micros())
        only = None if own.role in RUNNING else user_id
        lines = usage.of_pool(session, org_id=org_id, since=since, until=until, user_id=only)
        names = {id: users.get(session, id).username for id in {line.user_id for line in lines}}
    return shown, [UsedLine(names[line.user_id], line) for line in lines]


def spender(session: Session, *, org_id: int, user_id: int) -> int | None:
    """The monthly limit of a member who is about to spend, fixed to the commit.

    None: no limit of their own. Raises OrgNotFound.
    """
    _, own = orgs.member(session, org_id=org_id, user_id=user_id, share=True)
    return own.monthly_limit


def available(session: Session, *, org_id: int, user_id: int, now: int) -> int:
    """What the member can spend of the pool now, in microcredits; raises OrgNotFound."""
    _, own = orgs.member(session, org_id=org_id, user_id=user_id)
    has = ledger.pool(session, org_id=org_id).available
    if own.monthly_limit is None:
        return has
    month = budgets.of_members(session, org_id=org_id, now=now).get(user_id)
    return min(has, month.left(own.monthly_limit) if month else own.monthly_limit)


_Change = Callable[[Session, Org, OrgMember, int], None]
_Move = Callable[[Session, Org, OrgMember, int], Moved]


async def _change(
    app: App,
    user_id: int,
    org_id: int,
    change: _Change,
    *,
    roles: tuple[str, ...] = RUNNING,
) -> OrgView:
    def story(session: Session) -> OrgView:
        now = app.clock.micros()
        org = orgs.locked(session, org_id=org_id, user_id=user_id, roles=roles)
        _, by = orgs.member(session, org_id=org_id, user_id=user_id)
        change(session, org, by, now)
        session.flush()
        return _view(session, org, by, now)

    return await app.db.awrite(story)


async def _moved(
    app: App,
    move: _Move,
    *,
    user_id: int,
    type: str,
    request: Mapping[str, Any],
    key: str,
    roles: tuple[str, ...] = orgs.ROLES,
) -> Balance:
    org_id: int = request["org"]
    if request["micro"] < app.settings.transfers.min_credits * MICRO:
        raise transfer.TransferSize(param="credits", least=str(app.settings.transfers.min_credits))

    def do(session: Session, now: int) -> dict[str, int]:
        org, by = orgs.member(session, org_id=org_id, user_id=user_id, roles=roles, share=True)
        moved = move(session, org, by, now)
        credits = format_credits(moved.micro)
        _record(session, org, user_id, type, now, credits=credits, transfer=moved.transfer_id)
        has = ledger.pool(session, org_id=org_id)
        return {"total": has.total, "held": has.held, "available": has.available}

    def story(session: Session) -> Balance:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"{type}:{user_id}",
            key=key,
            request=dict(request),
            now=now,
            actor=f"user:{user_id}",
            run=lambda: do(session, now),
        )
        return Balance(**outcome)

    return await app.db.awrite(story)


def _record(session: Session, org: Org, user_id: int, type: str, now: int, **facts: object) -> None:
    log.record(session, type=type, actor=f"user:{user_id}", now=now, org=org.id, **facts)


def _view(
    session: Session, org: Org, own: OrgMember, now: int, *, everybody: bool = True
) -> OrgView:
    assert org.id is not None
    month = budgets.of_members(session, org_id=org.id, now=now)
    rows = [
        (found, user)
        for found, user in orgs.members(session, org_id=org.id)
        if found.user_id == own.user_id or (everybody and own.role in RUNNING)
    ]
    return OrgView(
        id=org.id,
        name=org.name,
        role=own.role,
        balance=ledger.pool(session, org_id=org.id),
        created_at=org.created_at,
        members=[
            MemberView(
                user_id=found.user_id,
                username=user.username,
                role=found.role,
                monthly_limit=found.monthly_limit,
                used=month[found.user_id].used if found.user_id in month else 0,
                held=month[found.user_id].held if found.user_id in month else 0,
                joined_at=found.joined_at,
            )
            for found, user in rows
        ],
    )
