"""Organisations: who belongs to one, in which role, with which monthly limit.

Owners run it, admins look after members and credits, members spend. There is always an owner.
Whoever changes members locks the organisation first; whoever spends shares a lock on their own
membership, so that nobody spends after they were removed. Knows nothing of credits.
"""

from sqlmodel import Session, col, func, select

from chat_app.accounts.tables import Org, OrgMember, User
from chat_app.errors import Conflict, Invalid, NotAllowed, NotFound

ROLES = ("owner", "admin", "member")
RUNNING = ("owner", "admin")
NAME_LENGTH = 64


class OrgNotFound(NotFound):
    """There is no such organisation, it was closed, or the user is not a member."""

    code = "org_not_found"
    message = "This organisation does not exist, or you are not a member. Check its number."


class NotAMember(NotFound):
    """The person named is not a member of the organisation."""

    code = "not_a_member"
    message = "This person is not a member of the organisation. Add them first."


class OrgRole(NotAllowed):
    """The user's role in the organisation is not enough."""

    code = "org_role"
    message = "Your role in this organisation does not allow this. Ask one of its owners."


class BadOrgName(Invalid):
    """The name is empty or too long."""

    code = "invalid_org_name"
    message = f"An organisation's name has 1 to {NAME_LENGTH} characters. Choose another."


class BadOrgRole(Invalid):
    """The role does not exist."""

    code = "invalid_org_role"
    message = "A role in an organisation is owner, admin or member. Choose one of them."


class AlreadyMember(Conflict):
    """The person is a member already."""

    code = "already_member"
    message = "This person is a member already. Change their role or limit instead."


class LastOwner(Conflict):
    """The change would leave the organisation without an owner."""

    code = "last_owner"
    message = "This is the only owner. Hand the organisation over to another member first."


class OrgFull(Conflict):
    """The organisation has as many members, or the user as many organisations, as may be."""

    code = "org_limit"
    message = "There is no room for one more. Remove one first, or ask an administrator."


def clean_name(text: str) -> str:
    """The name on one line; raises BadOrgName."""
    name = " ".join(text.split())
    if not 1 <= len(name) <= NAME_LENGTH or not name.isprintable():
        raise BadOrgName(param="name")
    return name


def create(session: Session, *, user_id: int, name: str, now: int, most: int) -> Org:
    """A new organisation, owned by the user, who may be in at most `most`."""
    if len(of_user(session, user_id=user_id)) >= most:
        raise OrgFull(limit=most)
    org = Org(name=clean_name(name), created_by=user_id, created_at=now)
    session.add(org)
    session.flush()
    assert org.id is not None
    session.add(OrgMember(org_id=org.id, user_id=user_id, role="owner", joined_at=now))
    session.flush()
    return org


def of_user(session: Session, *, user_id: int) -> list[tuple[Org, OrgMember]]:
    """The open organisations that the user belongs to, oldest first."""
    rows = session.exec(
        select(Org, OrgMember)
        .join(OrgMember, col(OrgMember.org_id) == col(Org.id))
        .where(col(OrgMember.user_id) == user_id, col(Org.closed_at).is_(None))
        .order_by(col(Org.id))
    )
    return list(rows)


def locked(session: Session, *, org_id: int, user_id: int, roles: tuple[str, ...] = ROLES) -> Org:
    """The organisation, locked for a change by a member with one of these roles.

    Raises OrgNotFound or OrgRole.
    """
    org = session.exec(
        select(Org)
        .where(col(Org.id) == org_id, col(Org.closed_at).is_(None))
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if org is None:
        raise OrgNotFound
    member(session, org_id=org_id, user_id=user_id, roles=roles)
    return org


def member(
    session: Session,
    *,
    org_id: int,
    user_id: int,
    roles: tuple[str, ...] = ROLES,
    share: bool = False,
) -> tuple[Org, OrgMember]:
    """The organisation and the user's membership; with `share` it stays so to the commit.

    Raises OrgNotFound for strangers, OrgRole when the role is none of `roles`.
    """
    query = (
        select(OrgMember)
        .where(col(OrgMember.org_id) == org_id, col(OrgMember.user_id) == user_id)
        .execution_options(populate_existing=True)
    )
    found = session.exec(query.with_for_update(read=True) if share else query).first()
    org = session.get(Org, org_id)
    if found is None or org is None or org.closed_at is not None:
        raise OrgNotFound
    if found.role not in roles:
        raise OrgRole(role=found.role, needed=list(roles))
    return org, found


def members(session: Session, *, org_id: int) -> list[tuple[OrgMember, User]]:
    """Everybody in it: owners, admins, members, each by name."""
    rows = session.exec(
        select(OrgMember, User)
        .join(User, col(User.id) == col(OrgMember.user_id))
        .where(col(OrgMember.org_id) == org_id)
        .order_by(col(User.username_key))
    )
    return sorted(rows, key=lambda row: ROLES.index(row[0].role))


def resolve(session: Session, *, org_id: int, name: str) -> OrgMember:
    """A member by user name or number; raises NotAMember."""
    rows = members(session, org_id=org_id)
    key = name.strip().casefold()
    for found, user in rows:
        if user.username_key == key:
            return found
    for found, _ in rows:
        if str(found.user_id) == name:
            return found
    raise NotAMember(param="user")


def add(
    session: Session,
    *,
    org: Org,
    by: OrgMember,
    user_id: int,
    role: str,
    monthly_limit: int | None,
    now: int,
    most: int,
) -> OrgMember:
    """One member more, of at most `most`; only owners make owners and admins."""
    _check_role(by, role)
    assert org.id is not None
    if session.get(OrgMember, (org.id, user_id)) is not None:
        raise AlreadyMember
    count = session.exec(
        select(func.count()).select_from(OrgMember).where(col(OrgMember.org_id) == org.id)
    ).one()
    if count >= most:
        raise OrgFull(limit=most)
    made = OrgMember(
        org_id=org.id, user_id=user_id, role=role, monthly_limit=monthly_limit, joined_at=now
    )
    session.add(made)
    session.flush()
    return made


def change(
    session: Session,
    *,
    by: OrgMember,
    who: OrgMember,
    role: str | None = None,
    monthly_limit: int | None = None,
    limited: bool = False,
) -> OrgMember:
    """Another role or, if `limited`, another limit. The organisation is locked by the caller.

    Owners and admins are changed by owners alone. Raises OrgRole, BadOrgRole or LastOwner.
    """
    if who.role != "member" and by.role != "owner":
        raise OrgRole(role=by.role, needed=["owner"])
    if role is not None and role != who.role:
        _check_role(by, role)
        _keep_an_owner(session, who)
        who.role = role
    if limited:
        who.monthly_limit = monthly_limit
    session.add(who)
    session.flush()
    return who


def remove(session: Session, *, by: OrgMember, who: OrgMember) -> None:
    """Take somebody out, or leave. Raises OrgRole or LastOwner."""
    may = by.role == "owner" or (by.role == "admin" and who.role == "member")
    if by.user_id != who.user_id and not may:
        raise OrgRole(role=by.role, needed=["owner"])
    _keep_an_owner(session, who)
    session.delete(who)
    session.flush()


def hand_over(session: Session, *, by: OrgMember, to: OrgMember) -> None:
    """Another member becomes owner; the one who hands over stays as admin."""
    if by.role != "owner":
        raise OrgRole(role=by.role, needed=["owner"])
    if to.user_id == by.user_id:
        return
    to.role, by.role = "owner", "admin"
    session.add_all([to, by])
    session.flush()


def close(session: Session, *, org: Org, now: int) -> None:
    """End it. Members and what they used stay on record; nobody finds it any more."""
    org.closed_at = now
    session.add(org)
    session.flush()


def _check_role(by: OrgMember, role: str) -> None:
    if role not in ROLES:
        raise BadOrgRole(param="role")
    if by.role not in RUNNING or (role != "member" and by.role != "owner"):
        raise OrgRole(role=by.role, needed=["owner"])


def _keep_an_owner(session: Session, who: OrgMember) -> None:
    if who.role != "owner":
        return
    owners = session.exec(
        select(func.count())
        .select_from(OrgMember)
        .where(col(OrgMember.org_id) == who.org_id, col(OrgMember.role) == "owner")
    ).one()
    if owners <= 1:
        raise LastOwner
