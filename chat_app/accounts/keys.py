"""API keys: what a program shows in place of a person's sign-in.

`mcb_` + 8 characters that name the key + 32 random bytes. The secret is shown once and kept as
a hash. A key acts for its user within its scopes and models; whether it still stands is asked
at every request. What it may spend is counted in credits/key_budgets.py.
"""

import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, func, or_, select, update

from chat_app.accounts import tokens
from chat_app.accounts.key_tables import ApiKey
from chat_app.accounts.sessions import SignedIn
from chat_app.accounts.tables import User
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import Conflict, Invalid, NotAllowed, NotFound, NotSignedIn

PREFIX = "mcb_"
SCOPES = {
    "chat": "Ask models and read, rename and delete the account's conversations.",
    "billing:read": "Read balance, usage, transactions, payments and invoices.",
    "billing:write": "Buy, redeem and send credits, change plan and limits.",
    "account:read": "Read profile, notifications and webhooks.",
    "account:write": "Change notifications and webhooks; never password, e-mail or keys.",
    "orgs:read": "Read the account's organisations.",
    "orgs:write": "Change the account's organisations and move their credits.",
    "admin": "Read what the owner's role may read; only for staff.",
}
DEFAULT_SCOPES = ("chat", "billing:read")
# A key's last use is noted at most this often: a write for each request would be dear.
TOUCH = 60 * MICROS_PER_SECOND
MAX_NAME = 64
MAX_MODELS = 50
_ID_LENGTH = 8
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_FORM = re.compile(rf"{PREFIX}([{_ALPHABET}]{{{_ID_LENGTH}}})_([A-Za-z0-9_-]{{43}})", re.ASCII)


class BadKey(NotSignedIn):
    """The key is unknown, expired or revoked, or its user may not be here. Which is not said."""

    code = "invalid_api_key"
    message = (
        "This API key is not valid: it is unknown, has expired or was revoked. "
        "Make a new one under Account, API keys."
    )


class KeyNotAllowed(NotAllowed):
    """The key lacks the scope of the route, or no key may come here."""

    code = "key_not_allowed"
    message = "No API key may do this. Sign in as a person to do it."


class KeyModel(NotAllowed):
    """The key is for other models."""

    code = "key_model_not_allowed"
    message = "This API key may not use this model. Choose another model, or use another key."


class TooManyKeys(Conflict):
    """The user has as many keys as `accounts.keys_per_user` allows."""

    code = "too_many_keys"
    message = "You have as many API keys as you may have. Revoke one that you do not need."


class BadScope(Invalid):
    """No such scope, or none at all."""

    code = "invalid_scope"
    message = f"The scopes of API keys are {', '.join(SCOPES)}. Name one or more of them."


class BadKeyName(Invalid):
    """The name is empty, longer than 64 characters, or has some that cannot be seen."""

    code = "invalid_key_name"
    message = "A key's name has 1 to 64 visible characters. Say what you will use it for."


class BadExpiry(Invalid):
    """The key would end before it begins."""

    code = "invalid_expiry"
    message = "The end of the key is in the past. Give a time to come, or leave it out."


class StaffScope(NotAllowed):
    """Somebody who is no member of staff asks for the scope `admin`."""

    code = "staff_scope"
    message = "The scope admin is for staff. Leave it out."


class KeyNotFound(NotFound):
    """There is no such key of this user."""

    code = "key_not_found"
    message = "There is no such API key. It may have been revoked already."


@dataclass(frozen=True)
class Limits:
    """The most a key may spend in microcredits, by UTC day, month and ever; None: no limit."""

    day: int | None = None
    month: int | None = None
    total: int | None = None


def looks_like(token: str) -> bool:
    """Whether the text wants to be an API key; access tokens never do."""
    return token.startswith(PREFIX)


def create(
    session: Session,
    *,
    user: User,
    name: str,
    now: int,
    most: int,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    models: Sequence[str] | None = None,
    limits: Limits | None = None,
    expires_at: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text, which nobody can ask for again.

    Raises BadKeyName, BadScope, StaffScope, BadExpiry, or TooManyKeys above `most`.
    """
    assert user.id is not None
    wanted = clean_scopes(scopes)
    if "admin" in wanted and user.role == "user":
        raise StaffScope(param="scopes")
    if expires_at is not None and expires_at <= now:
        raise BadExpiry(param="expires_at")
    # PostgreSQL: two that are made at once are counted one after the other.
    session.exec(select(User.id).where(User.id == user.id).with_for_update()).one()
    if count(session, user_id=user.id) >= most:
        raise TooManyKeys(limit=most)
    id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    text = f"{PREFIX}{id}_{tokens.random_token()}"
    row = ApiKey(
        id=id,
        user_id=user.id,
        name=clean_name(name),
        secret_hash=tokens.token_hash(text),
        scopes=" ".join(wanted),
        token_epoch=user.token_epoch,
        created_at=now,
        expires_at=expires_at,
    )
    _limit(row, models=models, limits=limits or Limits())
    session.add(row)
    session.flush()
    return row, text


def resolve(session: Session, *, token: str, now: int) -> SignedIn | None:
    """Whose key this is, if it stands and its user may be here."""
    form = _FORM.fullmatch(token)
    if form is None:
        return None
    found = session.exec(
        select(ApiKey, User).join(User, col(User.id) == ApiKey.user_id).where(ApiKey.id == form[1])
    ).first()
    stored = found[0].secret_hash if found else ""
    if not hmac.compare_digest(stored, tokens.token_hash(token)) or found is None:
        return None
    key, user = found
    if not _stands(key, user, now=now):
        return None
    due = key.last_used_at is None or now - key.last_used_at > TOUCH
    return SignedIn(user=user, session_id="", due=due, key=key)


def standing(session: Session, key_id: str, *, now: int) -> bool:
    """Whether the key and its user may still be here; for open streams and running answers."""
    return _find(session, key_id, now=now) is not None


def standing_of(session: Session, user_ids: Collection[int], *, now: int) -> list[ApiKey]:
    """The keys of these users that may be used now."""
    found = session.exec(
        select(ApiKey, User)
        .join(User, col(User.id) == ApiKey.user_id)
        .where(col(ApiKey.user_id).in_(user_ids))
    )
    return [key for key, user in found if _stands(key, user, now=now)]


def spending(session: Session, key_id: str, *, now: int) -> ApiKey:
    """The key as it is now, for the transaction that spends with it; raises BadKey."""
    key = _find(session, key_id, now=now)
    if key is None:
        raise BadKey
    return key


def touch(session: Session, *, key_id: str, now: int) -> None:
    """Note that the key is in use. Never moves back."""
    used = col(ApiKey.last_used_at)
    session.exec(
        update(ApiKey)
        .where(col(ApiKey.id) == key_id, or_(used.is_(None), used < now))
        .values(last_used_at=now)
    )


def list_for(session: Session, *, user_id: int) -> list[ApiKey]:
    """The user's keys that are not revoked, newest first."""
    return list(
        session.exec(
            select(ApiKey)
            .where(ApiKey.user_id == user_id, col(ApiKey.revoked_at).is_(None))
            .order_by(col(ApiKey.created_at).desc(), col(ApiKey.id))
        )
    )


def get(session: Session, *, user_id: int, key_id: str) -> ApiKey:
    """One key of the user's that is not revoked; raises KeyNotFound."""
    found = session.exec(
        select(ApiKey).where(
            ApiKey.id == key_id, ApiKey.user_id == user_id, col(ApiKey.revoked_at).is_(None)
        )
    ).first()
    if found is None:
        raise KeyNotFound
    return found


def count(session: Session, *, user_id: int) -> int:
    """How many keys the user has that are not revoked."""
    query = select(func.count()).where(ApiKey.user_id == user_id, col(ApiKey.revoked_at).is_(None))
    return int(session.exec(query).one())


def rename(session: Session, key: ApiKey, *, name: str) -> None:
    """Another name; raises BadKeyName."""
    key.name = clean_name(name)
    session.add(key)
    session.flush()


def limit(session: Session, key: ApiKey, *, models: Sequence[str] | None, limits: Limits) -> None:
    """Other models (None: all) and other limits, as a whole; from the next message on."""
    _limit(key, models=models, limits=limits)
    session.add(key)
    session.flush()


def revoke(session: Session, *, user_id: int, key_id: str, now: int) -> None:
    """End a key for ever, once; raises KeyNotFound."""
    mine = session.exec(
        update(ApiKey)
        .where(
            col(ApiKey.id) == key_id,
            col(ApiKey.user_id) == user_id,
            col(ApiKey.revoked_at).is_(None),
        )
        .values(revoked_at=now)
    )
    if mine.rowcount == 0:
        raise KeyNotFound


def scopes_of(key: ApiKey) -> list[str]:
    """What the key may do."""
    return key.scopes.split()


def models_of(key: ApiKey) -> list[str] | None:
    """Which models the key may use; None: all."""
    return None if key.models is None else key.models.split()


def limits_of(key: ApiKey) -> Limits:
    """What the key may spend."""
    return Limits(key.day_limit, key.month_limit, key.total_limit)


def state_of(key: ApiKey, user: User, *, now: int) -> str:
    """`active`, `expired`, or `ended` when all sign-ins of its user were."""
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "active" if _stands(key, user, now=now) else "ended"


def allows(key: ApiKey | None, model: str) -> bool:
    """Whether the model may be used; without a key each may."""
    models = None if key is None else models_of(key)
    return models is None or model in models


def refuse_model(key: ApiKey | None, model: str) -> None:
    """Raise KeyModel for a model that the key is not for."""
    if not allows(key, model):
        raise KeyModel(model=model)


def require(key: ApiKey, scope: str | None) -> None:
    """Raise KeyNotAllowed unless the key has the scope; None: no key has it."""
    if scope is None:
        raise KeyNotAllowed
    if scope not in scopes_of(key):
        raise KeyNotAllowed(
            f"This API key lacks the scope {scope}. Make a key that has it.", scope=scope
        )


def clean_name(text: str) -> str:
    """The name without spaces around it; raises BadKeyName."""
    name = " ".join(text.split())
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise BadKeyName(param="name")
    return name


def clean_scopes(scopes: Sequence[str]) -> list[str]:
    """The scopes in their order, each once; raises BadScope."""
    if not scopes or not set(scopes) <= set(SCOPES):
        raise BadScope(param="scopes")
    return [scope for scope in SCOPES if scope in scopes]


def _find(session: Session, key_id: str, *, now: int) -> ApiKey | None:
    found = session.exec(
        select(ApiKey, User)
        .join(User, col(User.id) == ApiKey.user_id)
        .where(ApiKey.id == key_id)
        .execution_options(populate_existing=True)
    ).first()
    return found[0] if found and _stands(*found, now=now) else None


def _stands(key: ApiKey, user: User, *, now: int) -> bool:
    return (
        key.revoked_at is None
        and (key.expires_at is None or now < key.expires_at)
        and not user.suspended
        and key.token_epoch == user.token_epoch
    )


def _limit(key: ApiKey, *, models: Sequence[str] | None, limits: Limits) -> None:
    key.models = None if models is None else " ".join(dict.fromkeys(models))
    key.day_limit, key.month_limit, key.total_limit = limits.day, limits.month, limits.total
