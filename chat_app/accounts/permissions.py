"""Permissions: which role may do what. The one table that REST, page and flows ask.

A role is a set of permissions and nothing else; what a user does with their own things needs
none. Knows nothing of requests, pages or what the permissions are for. docs/security.md shows
the same table, and a test holds the two together.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from sqlmodel import Session, col, select

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.errors import NotAllowed

Role = Literal["user", "support", "finance", "admin"]
Permission = Literal[
    "users.read",
    "users.suspend",
    "users.logout",
    "users.role",
    "credits.adjust",
    "payments.read",
    "payments.refund",
    "invoices.read",
    "invoices.write",
    "prices.read",
    "prices.write",
    "models.write",
    "shelves.read",
    "shelves.write",
    "books.read",
    "books.write",
    "audit.read",
    "messages.read",
    "messages.write",
    "fraud.read",
    "fraud.write",
    "machine.read",
    "machine.write",
    "backups.make",
    "backups.read",
]
STAFF: frozenset[str] = frozenset({"support", "finance", "admin"})

_SUPPORT = frozenset({"support", "admin"})
_FINANCE = frozenset({"finance", "admin"})
_ADMIN = frozenset({"admin"})

# Who has each permission. `user` stands nowhere: ordinary accounts have none.
ALLOWED: Mapping[Permission, frozenset[str]] = MappingProxyType(
    {
        "users.read": STAFF,
        "users.suspend": _SUPPORT,
        "users.logout": _SUPPORT,
        "users.role": _ADMIN,
        "credits.adjust": _FINANCE,
        "payments.read": STAFF,
        "payments.refund": _FINANCE,
        "invoices.read": STAFF,
        "invoices.write": _FINANCE,
        "prices.read": _FINANCE,
        "prices.write": _FINANCE,
        "models.write": _ADMIN,
        "shelves.read": _FINANCE,
        "shelves.write": _FINANCE,
        "books.read": _FINANCE,
        "books.write": _FINANCE,
        "audit.read": _FINANCE,
        "messages.read": _SUPPORT,
        "messages.write": _SUPPORT,
        "fraud.read": STAFF,
        "fraud.write": STAFF,
        "machine.read": STAFF,
        "machine.write": _ADMIN,
        "backups.make": _ADMIN,
        "backups.read": _ADMIN,
    }
)

# One sentence each, for docs/security.md.
MEANING: Mapping[Permission, str] = MappingProxyType(
    {
        "users.read": "find accounts, see their balances",
        "users.suspend": "suspend an account and let it back in",
        "users.logout": "end all sign-ins of an account",
        "users.role": "change roles; suspend or sign out staff; take two-factor sign-in off",
        "credits.adjust": "add or take credits with a reason, one by one or in bulk; forgive debts",
        "payments.read": "see orders and what the payment provider reported",
        "payments.refund": "refund what is unused of an order",
        "invoices.read": "find and open invoices and credit notes",
        "invoices.write": "issue, void and write off invoices, their public links, tax rates",
        "prices.read": "see all versions of the prices and what a new one would do",
        "prices.write": "publish a price",
        "models.write": "offer a model or take it off the shelf",
        "shelves.read": "see packages, plans and codes, withdrawn ones too",
        "shelves.write": "change packages and plans, make and revoke codes",
        "books.read": "see reconciliations and prove the books",
        "books.write": "reconcile now",
        "audit.read": "read the audit log",
        "messages.read": "see mails and webhooks that wait or were given up",
        "messages.write": "send them again, announce something to everybody",
        "fraud.read": "see what looks like fraud, and the judged events of an account",
        "fraud.write": "label a judged event as fraud or legitimate",
        "machine.read": "dashboard, figures, alerts, the state of the models",
        "machine.write": "free memory, train models, roll versions out",
        "backups.make": "see and make backups, try a restore",
        "backups.read": "download a backup",
    }
)

# What moves money, decides who may, or takes everybody's data away: a second factor comes first.
MONEY: frozenset[Permission] = frozenset(
    {
        "users.role",
        "credits.adjust",
        "payments.refund",
        "prices.write",
        "shelves.write",
        "backups.read",
    }
)


class AdminsOnly(NotAllowed):
    """An ordinary account asks for what is for staff."""

    code = "admins_only"
    message = "Only administrators may do this. Ask one of them."


class NotPermitted(NotAllowed):
    """Somebody of the staff whose role does not include this; `permission` says what."""

    code = "not_permitted"
    message = "Your role does not include this. Ask an administrator to do it or to change it."


def may(role: str, permission: Permission) -> bool:
    """Whether the role includes the permission. A role that nobody knows includes none."""
    return role in ALLOWED[permission]


def is_staff(role: str) -> bool:
    """Whether the role includes anything at all."""
    return role in STAFF


def check(role: str, permission: Permission) -> None:
    """Raises AdminsOnly for ordinary accounts, NotPermitted for staff without the permission."""
    if may(role, permission):
        return
    if not is_staff(role):
        raise AdminsOnly
    raise NotPermitted(permission=permission)


def require(session: Session, *, user_id: int, permission: Permission) -> User:
    """`check` by the role as it is in this transaction; a suspended account has no permission."""
    user = users.get(session, user_id)
    if user.suspended:
        raise AdminsOnly
    check(user.role, permission)
    return user


def holders(session: Session, permission: Permission) -> list[int]:
    """Ids of the working accounts that have the permission, oldest first."""
    query = select(User.id).where(
        col(User.role).in_(ALLOWED[permission]),
        col(User.suspended).is_(False),
        col(User.erased_at).is_(None),
    )
    return [id for id in session.exec(query.order_by(col(User.id))) if id is not None]
