"""API keys: made, changed and revoked by their owner or an operator, and on the record.

A key never makes, changes or revokes a key. Revoking one gives nothing back: what it has spent
is spent, and what it holds is settled with its running answers, which stop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlmodel import Session

from chat_app.accounts import keys, users
from chat_app.accounts.key_tables import ApiKey
from chat_app.accounts.keys import Limits
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.credits import key_budgets
from chat_app.credits.key_budgets import KeySpent
from chat_app.errors import Invalid
from chat_app.flows import notices
from chat_app.llm import catalogue
from chat_app.llm.engine import UnknownModel
from chat_app.money import format_credits


class BadModels(Invalid):
    """The list names a model that is not there, or none, or very many."""

    code = "invalid_key_models"
    message = "Give the ids of models from GET /api/chat/models, or leave the list out for all."


@dataclass(frozen=True)
class KeyView:
    """A key as its owner sees it, with what it has spent in microcredits."""

    key: ApiKey
    state: str
    spent: KeySpent


def mine(app: App, *, user_id: int) -> list[KeyView]:
    """The user's keys that are not revoked, newest first."""
    with app.db.read() as session:
        return _views(app, session, user_id, keys.list_for(session, user_id=user_id))


def one(app: App, session: Session, key: ApiKey) -> KeyView:
    """A key with what it has spent."""
    return _views(app, session, key.user_id, [key])[0]


async def make(
    app: App,
    *,
    user_id: int,
    name: str,
    scopes: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    limits: Limits | None = None,
    expires_at: int | None = None,
) -> tuple[KeyView, str]:
    """A new key, and its text, which is shown this once. `expires_at` in µs.

    Raises what `keys.create` raises, and BadModels.
    """
    _check_models(models)

    def story(session: Session) -> tuple[KeyView, str]:
        now = app.clock.micros()
        key, text = keys.create(
            session,
            user=users.get(session, user_id),
            name=name,
            scopes=keys.DEFAULT_SCOPES if scopes is None else scopes,
            models=models,
            limits=limits,
            expires_at=expires_at,
            now=now,
            most=app.settings.accounts.keys_per_user,
        )
        _record(session, "api_key_created", key, f"user:{user_id}", now)
        notices.security(
            session,
            user_id=user_id,
            key=f"api_key:{key.id}",
            title="A new API key was made",
            text=f"It begins with {keys.PREFIX}{key.id}. If it was not you, revoke it under "
            "Account, API keys, and change your password.",
            now=now,
        )
        return one(app, session, key), text

    return await app.db.awrite(story)


async def change(
    app: App,
    *,
    user_id: int,
    key_id: str,
    name: str | None = None,
    models: Sequence[str] | None = None,
    limits: Limits | None = None,
    all_models: bool = False,
) -> KeyView:
    """Another name, other models, other limits as a whole; None leaves each as it is.

    With `all_models` the key is for all models again. Raises KeyNotFound, BadKeyName, BadModels.
    """
    _check_models(models)

    def story(session: Session) -> KeyView:
        key = keys.get(session, user_id=user_id, key_id=key_id)
        if name is not None:
            keys.rename(session, key, name=name)
        if models is not None or all_models or limits is not None:
            kept = None if all_models else keys.models_of(key)
            keys.limit(
                session,
                key,
                models=models if models is not None else kept,
                limits=limits or keys.limits_of(key),
            )
        _record(session, "api_key_changed", key, f"user:{user_id}", app.clock.micros())
        return one(app, session, key)

    return await app.db.awrite(story)


async def revoke(app: App, *, user_id: int, key_id: str, actor: str | None = None) -> None:
    """End a key for ever. Its answers that this process is writing stop. Raises KeyNotFound."""

    def story(session: Session) -> None:
        end(session, user_id=user_id, key_id=key_id, now=app.clock.micros(), actor=actor)

    await app.db.awrite(story)
    for item in app.replies:
        if item.key_id == key_id:
            item.stop_wanted.set()


def end(session: Session, *, user_id: int, key_id: str, now: int, actor: str | None = None) -> None:
    """`revoke` inside a write, for operators and for what ends many."""
    key = keys.get(session, user_id=user_id, key_id=key_id)
    keys.revoke(session, user_id=user_id, key_id=key_id, now=now)
    _record(session, "api_key_revoked", key, actor or f"user:{user_id}", now)


def _views(app: App, session: Session, user_id: int, found: Sequence[ApiKey]) -> list[KeyView]:
    now = app.clock.micros()
    user = users.get(session, user_id)
    spent = key_budgets.spent(session, key_ids=[key.id for key in found], now=now)
    return [KeyView(key, keys.state_of(key, user, now=now), spent[key.id]) for key in found]


def _check_models(models: Sequence[str] | None) -> None:
    if models is None:
        return
    if not 1 <= len(models) <= keys.MAX_MODELS:
        raise BadModels(param="models")
    for model in models:
        try:
            hidden = catalogue.get(model).hidden
        except UnknownModel as error:
            raise BadModels(param="models", model=model) from error
        if hidden:
            raise BadModels(param="models", model=model)


def _record(session: Session, type: str, key: ApiKey, actor: str, now: int) -> None:
    facts: Mapping[str, object] = {
        "user_id": key.user_id,
        "key": key.id,
        "scopes": key.scopes,
        "models": key.models,
        **{
            f"{period}_limit": format_credits(limit)
            for period, limit in asdict(keys.limits_of(key)).items()
            if limit is not None
        },
    }
    audit.record(session, type=type, actor=actor, now=now, **facts)
