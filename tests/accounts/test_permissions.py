"""The permission table: whole, frozen, and the one that is written in docs/security.md."""

import re
from typing import get_args

import pytest

from chat_app.accounts import permissions, users
from chat_app.accounts.permissions import AdminsOnly, NotPermitted, Permission, Role, check, may
from chat_app.accounts.tables import User
from chat_app.db import Database
from chat_app.errors import NotFound
from tests.house import tree

ALL = get_args(Permission)


def test_every_permission_has_its_roles_and_its_sentence() -> None:
    assert set(permissions.ALLOWED) == set(permissions.MEANING) == set(ALL)
    assert get_args(Role) == users.ROLES
    for permission, roles in permissions.ALLOWED.items():
        assert "admin" in roles, permission
        assert roles <= permissions.STAFF, f"{permission} is open to ordinary accounts"
    assert set(permissions.MONEY) <= set(ALL)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        permissions.ALLOWED["users.role"] = frozenset({"user"})  # type: ignore[index]


def test_support_moves_no_money_and_gives_no_rights() -> None:
    """What the roles are for, apart from the table."""
    assert not [name for name in permissions.MONEY if may("support", name)]
    assert not may("finance", "users.role")
    assert not may("finance", "users.suspend")
    assert not may("nonsense", "users.read")


def test_refusals_say_whom_they_refuse() -> None:
    check("admin", "users.role")
    with pytest.raises(AdminsOnly):
        check("user", "users.read")
    with pytest.raises(NotPermitted) as refused:
        check("support", "payments.refund")
    assert refused.value.facts == {"permission": "payments.refund"}


def test_the_role_is_read_in_the_transaction(db: Database) -> None:
    def make(session) -> User:  # type: ignore[no-untyped-def]
        return users.create(
            session, username="ann", email="a@b.cd", password_hash="x", now=1, role="support"
        )

    ann = db.write(make)
    assert ann.id is not None
    number = ann.id

    def require(permission: Permission, user_id: int = number) -> None:
        with db.read() as session:
            permissions.require(session, user_id=user_id, permission=permission)

    require("users.suspend")
    with pytest.raises(NotPermitted):
        require("users.role")
    db.write(lambda s: users.set_suspended(s, user_id=number, suspended=True))
    with pytest.raises(AdminsOnly):
        require("users.suspend")
    with pytest.raises(NotFound):
        require("users.suspend", 10**6)


def test_the_documented_table_is_the_programs() -> None:
    written = re.findall(
        r"^\| `([a-z]+\.[a-z]+)` \| (.+?) \|(.+)\|$", tree.read("docs/security.md"), re.M
    )
    roles = ("support", "finance", "admin")
    assert written == [
        (
            name,
            permissions.MEANING[name] + (" (second factor)" if name in permissions.MONEY else ""),
            "|".join(" ✓ " if may(role, name) else " – " for role in roles),
        )
        for name in ALL
    ]
