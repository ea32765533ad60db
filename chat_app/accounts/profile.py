"""Profiles: what a person says of themselves, and what is left of one who was erased.

Nothing of it decides what somebody may do.
"""

import re
import zoneinfo
from collections.abc import Iterator

from sqlalchemy import Table
from sqlalchemy import delete as delete_rows
from sqlmodel import Session, SQLModel, col, select

from chat_app.accounts import users
from chat_app.accounts.link_tables import ResetWish
from chat_app.accounts.tables import Org, OrgMember, User
from chat_app.errors import Conflict, Invalid

NAME_LENGTH = 64
# Rows that stay: they have a keyed hash in place of a mailbox, or free credits could be farmed.
_KEPT = {"free_gift"}
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}")


class BadProfile(Invalid):
    """A display name, language or time zone that is none. `param` says which."""

    code = "invalid_profile"
    message = (
        "A display name has at most 64 characters, a language is a tag such as en or de-AT, and "
        "a time zone a name such as Europe/Berlin. Correct it, or leave it empty."
    )


class OwnsOrganisation(Conflict):
    """Somebody who is to be erased owns an organisation alone. Facts: `organisations`."""

    code = "owns_organisation"
    message = (
        "This account is the only owner of an organisation. Hand it over or end it first, under "
        "Credits, Organisation."
    )


class AlreadyErased(Conflict):
    """The account was erased: nothing of it can come back."""

    code = "account_erased"
    message = "This account was erased and cannot be changed. Choose another one."


def change(
    session: Session,
    *,
    user_id: int,
    display_name: str | None = None,
    language: str | None = None,
    timezone: str | None = None,
) -> User:
    """Change what is given; empty texts take it back. Raises BadProfile."""
    user = users.get(session, user_id)
    if display_name is not None:
        user.display_name = _name(display_name)
    if language is not None:
        user.language = _language(language)
    if timezone is not None:
        user.timezone = _timezone(timezone)
    session.add(user)
    session.flush()
    return user


def refuse_owner(session: Session, *, user_id: int) -> None:
    """Raise OwnsOrganisation where nobody else could run an organisation of the user's."""
    alone = []
    owned = session.exec(
        select(Org)
        .join(OrgMember, col(OrgMember.org_id) == Org.id)
        .where(
            OrgMember.user_id == user_id, OrgMember.role == "owner", col(Org.closed_at).is_(None)
        )
        .with_for_update()
    ).all()
    for org in owned:
        others = session.exec(
            select(OrgMember.user_id).where(
                OrgMember.org_id == org.id, OrgMember.role == "owner", OrgMember.user_id != user_id
            )
        ).first()
        if others is None:
            alone.append(org.name)
    if alone:
        raise OwnsOrganisation(organisations=alone)


def erase(session: Session, *, user_id: int, now: int) -> User:
    """Replace the person by a number and delete all rows of this room about them.

    Raises LastAdmin, OwnsOrganisation or AlreadyErased.
    """
    user = users.get(session, user_id)
    if user.erased_at is not None:
        raise AlreadyErased
    refuse_owner(session, user_id=user_id)
    users.set_suspended(session, user_id=user_id, suspended=True)  # keeps one administrator
    for table in tables_about_people("chat_app.accounts."):
        session.execute(delete_rows(table).where(table.c.user_id == user_id))
    key = user.pending_email_key or user.email_key
    session.exec(delete_rows(ResetWish).where(col(ResetWish.address_key) == key))
    user.username = f"{users.ERASED}{user_id}"
    user.username_key = user.email_key = user.username
    user.email = user.password_hash = ""
    user.email_verified_at = user.pending_email_key = None
    user.display_name = user.language = user.timezone = ""
    user.role, user.last_login_at, user.erased_at = "user", None, now
    user.token_epoch += 1
    session.add(user)
    session.flush()
    return user


def tables_about_people(module: str) -> Iterator[Table]:
    """The tables of a room that have a column `user_id`, those that others refer to last."""
    owners = {
        mapper.local_table: mapper.class_.__module__ for mapper in SQLModel._sa_registry.mappers
    }
    for table in reversed(SQLModel.metadata.sorted_tables):
        mine = "user_id" in table.c and table.name not in _KEPT
        if mine and owners.get(table, "").startswith(module):
            yield table


def _name(text: str) -> str:
    name = " ".join(text.split())
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise BadProfile(param="display_name")
    return name


def _language(text: str) -> str:
    if text and not _LANGUAGE.fullmatch(text):
        raise BadProfile(param="language")
    return text


def _timezone(text: str) -> str:
    if text and text not in zoneinfo.available_timezones():
        raise BadProfile(param="timezone")
    return text
