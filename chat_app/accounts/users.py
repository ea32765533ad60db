"""Users: names, addresses, roles. Knows nothing of how they sign in or what they own."""

import re
import unicodedata
from collections import Counter
from secrets import token_urlsafe

from sqlalchemy import func, or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select, update

from chat_app.accounts.passwords import PEPPER_PART, SCHEME, pepper_of
from chat_app.accounts.tables import User
from chat_app.errors import Conflict, Invalid, NotFound

ROLES = ("user", "support", "finance", "admin")
MAX_EMAIL = 254
MAX_USER_ID = 2**63 - 1
PAGE = 50
# What the name of an erased account begins with; nobody can sign up with such a name.
ERASED = "erased-"
_USERNAME = re.compile(r"[A-Za-z0-9_.-]{3,32}")
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# Stands before what fills `email_key` until the address is confirmed: no address begins so.
_PENDING = "pending "
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class BadUsername(Invalid):
    """The user name is too short, too long or has other characters."""

    code = "invalid_username"
    message = "A user name has 3 to 32 letters, digits, dots, dashes or underscores."


class BadEmail(Invalid):
    """The text is not an e-mail address."""

    code = "invalid_email"
    message = "This is not an e-mail address. Check it and try again."


class BadRole(Invalid):
    """The role does not exist."""

    code = "invalid_role"
    message = "A role is user, support, finance or admin. Choose one of them."


class NameTaken(Conflict):
    """The user name or the address belongs to an account. Which of them is not said."""

    code = "name_taken"
    message = "This user name or e-mail address is already in use. Choose another or sign in."


class LastAdmin(Conflict):
    """The change would leave nobody to administer the program."""

    code = "last_admin"
    message = "This is the only administrator left. Make another one first."


def clean_username(text: str) -> str:
    """The user name without spaces around it; raises BadUsername."""
    name = text.strip()
    if not _USERNAME.fullmatch(name) or name.casefold().startswith(ERASED):
        raise BadUsername(param="username")
    return name


def clean_email(text: str) -> str:
    """The address as the person writes it, without spaces around it; raises BadEmail."""
    address = unicodedata.normalize("NFC", text).strip()
    local, at, host = address.rpartition("@")
    if not at or len(address) > MAX_EMAIL or len(local) > 64:
        raise BadEmail(param="email")
    labels = _ascii_host(host).split(".")
    if not _LOCAL.fullmatch(local) or len(labels) < 2:
        raise BadEmail(param="email")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise BadEmail(param="email")
    return address


def username_key(username: str) -> str:
    """What two spellings of one user name have in common."""
    return username.strip().casefold()


def email_key(email: str) -> str:
    """What the spellings of one address have in common: case, and how its host is written."""
    local, _, host = unicodedata.normalize("NFC", email).strip().casefold().rpartition("@")
    return f"{local}@{_ascii_host(host)}"


def create(
    session: Session,
    *,
    username: str,
    email: str,
    password_hash: str,
    now: int,
    role: str = "user",
    pending: bool = False,
) -> User:
    """A new user. `now` in microseconds. Raises BadUsername, BadEmail or NameTaken.

    With `pending` the address is not the account's before it is confirmed, so that it may be
    another's, or several people's who ask for it.
    """
    _check_role(role)
    username, email = clean_username(username), clean_email(email)
    key = email_key(email)
    user = User(
        username=username,
        username_key=username_key(username),
        email=email,
        email_key=f"{_PENDING}{token_urlsafe(24)}" if pending else key,
        pending_email_key=key if pending else None,
        password_hash=password_hash,
        role=role,
        created_at=now,
    )
    session.add(user)
    try:
        session.flush()
    except IntegrityError as error:
        raise NameTaken from error
    return user


def get(session: Session, id: int) -> User:
    """The user with this id; raises NotFound."""
    user = session.get(User, id) if 0 < id <= MAX_USER_ID else None
    if user is None:
        raise NotFound("There is no such user. Check the number.")
    return user


def find(session: Session, login: str) -> User | None:
    """The user with this user name or e-mail address, in any spelling; None for any other text."""
    if len(login) > MAX_EMAIL or not login.isprintable():
        return None
    if "@" in login:
        return session.exec(select(User).where(User.email_key == email_key(login))).first()
    return session.exec(select(User).where(User.username_key == username_key(login))).first()


def login_key(login: str) -> str:
    """What the spellings of a login have in common, whether or not the account exists."""
    return email_key(login) if "@" in login else username_key(login)


def search(
    session: Session,
    *,
    q: str = "",
    status: str = "",
    limit: int = PAGE,
    cursor: str | None = None,
) -> tuple[list[User], str | None]:
    """Users whose name or address contains `q`, oldest first, a page at a time.

    `status` is empty, `active`, `suspended`, `staff` or the name of a role.
    """
    query = select(User).order_by(col(User.id)).limit(limit + 1)
    if cursor is not None:
        query = query.where(col(User.id) > _position(cursor))
    if q.strip():
        pattern = "%" + _escaped(q.strip().casefold()) + "%"
        query = query.where(
            or_(
                col(User.username_key).like(pattern, escape="\\"),
                func.lower(User.email).like(pattern, escape="\\"),
            )
        )
    if status == "staff":
        query = query.where(User.role != "user")
    elif status in ROLES:
        query = query.where(User.role == status)
    elif status:
        query = query.where(col(User.suspended).is_(status == "suspended"))
    found = list(session.exec(query))
    more = str(found[limit - 1].id) if len(found) > limit else None
    return found[:limit], more


def count(session: Session) -> dict[str, int]:
    """How many users there are: `total`, `admins`, `suspended`."""
    total, admins, suspended = session.exec(
        select(
            func.count(),
            func.count().filter(col(User.role) == "admin"),
            func.count().filter(col(User.suspended).is_(True)),
        ).select_from(User)
    ).one()
    return {"total": total, "admins": admins, "suspended": suspended}


def peppers(session: Session) -> Counter[str]:
    """How many stored passwords need which pepper, by its id."""
    head = func.substr(User.password_hash, 1, PEPPER_PART)
    rows = session.exec(
        select(head, func.count()).where(col(User.password_hash).startswith(SCHEME)).group_by(head)
    )
    found: Counter[str] = Counter()
    for form, number in rows:
        found[pepper_of(form)] += number
    return found


def has_admin(session: Session) -> bool:
    """Whether anybody administers the program, suspended or not."""
    return session.exec(select(User.id).where(User.role == "admin")).first() is not None


def set_role(session: Session, *, user_id: int, role: str) -> User:
    """Give the user another role, effective with their next request. Raises LastAdmin."""
    _check_role(role)
    user = get(session, user_id)
    if role != "admin":
        _keep_an_admin(session, user)
    user.role = role
    session.add(user)
    session.flush()
    return user


def set_suspended(session: Session, *, user_id: int, suspended: bool) -> User:
    """Suspend the user or let them back in. Ending their sign-ins is up to the caller."""
    user = get(session, user_id)
    if suspended:
        _keep_an_admin(session, user)
    user.suspended = suspended
    session.add(user)
    session.flush()
    return user


def set_password(session: Session, *, user_id: int, password_hash: str) -> User:
    """Store another password hash."""
    user = get(session, user_id)
    user.password_hash = password_hash
    session.add(user)
    session.flush()
    return user


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise BadRole(param="role")


def _keep_an_admin(session: Session, user: User) -> None:
    """Lock the working administrators, so that two cannot remove each other at once."""
    admins = session.exec(
        select(User.id)
        .where(User.role == "admin", col(User.suspended).is_(False))
        .order_by(col(User.id))
        .with_for_update()
    ).all()
    if list(admins) == [user.id]:
        raise LastAdmin


def bump_epoch(session: Session, *, user_id: int) -> None:
    """Make every token that was ever given to the user worthless."""
    session.exec(
        update(User)
        .where(col(User.id) == user_id)
        .values(token_epoch=User.token_epoch + 1)
        .execution_options(synchronize_session="fetch")
    )


def _ascii_host(host: str) -> str:
    if host.isascii():
        return host.casefold()
    try:
        return host.encode("idna").decode("ascii").casefold()
    except UnicodeError:
        return ""


def _escaped(text: str) -> str:
    for mark in ("\\", "%", "_"):
        text = text.replace(mark, "\\" + mark)
    return text


def _position(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise Invalid("This page marker is not valid. Start again from the first page.")
    return int(cursor)
