"""REST: the caller's API keys. Only a person makes, changes and ends them, never a key."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field, StringConstraints

from chat_app.accounts import keys
from chat_app.accounts.keys import PREFIX, Limits
from chat_app.api import deps
from chat_app.api.deps import Body, Credits, Name, errors_in
from chat_app.api.views import Page, Shown
from chat_app.clock import rfc3339
from chat_app.flows import keys as flow
from chat_app.flows import presence
from chat_app.flows.keys import KeyView
from chat_app.money import format_credits

router = APIRouter(prefix="/auth/keys", tags=["auth"])

Limit = Annotated[Credits, Field(ge=0)] | None
Word = Annotated[str, StringConstraints(max_length=128), deps.Clean]
Password = Annotated[
    str,
    Field(
        max_length=4096,
        description="Needed when the sign-in is older than `accounts.fresh_minutes`.",
    ),
]


class Budget(Body):
    """The most that may be spent with the key; one that is left out or null is no limit."""

    day: Limit = None
    month: Limit = None
    total: Limit = None

    def limits(self) -> Limits:
        return Limits(self.day, self.month, self.total)


class NewKey(Body):
    name: Name
    scopes: Annotated[list[Word], Field(max_length=20)] | None = None
    models: Annotated[list[Word], Field(max_length=keys.MAX_MODELS)] | None = None
    expires_at: Annotated[str, Field(max_length=64)] | None = None
    budget: Budget | None = None
    password: Password | None = None


class KeyChange(Body):
    """What is left out stays. `models: null` is all models, `budget: null` no limit."""

    name: Name | None = None
    models: Annotated[list[Word], Field(max_length=keys.MAX_MODELS)] | None = None
    budget: Budget | None = None
    password: Password | None = None


class BudgetOut(Shown):
    """Credits of a UTC day, a UTC month and in all; null is no limit."""

    day: str | None
    month: str | None
    total: str | None

    @classmethod
    def of(cls, view: KeyView) -> "BudgetOut":
        limits = keys.limits_of(view.key)
        return cls(
            day=_amount(limits.day), month=_amount(limits.month), total=_amount(limits.total)
        )


class SpentOut(Shown):
    """What counts towards the budget now. What is held for running answers counts."""

    day: str
    month: str
    total: str

    @classmethod
    def of(cls, view: KeyView) -> "SpentOut":
        return cls(
            day=format_credits(view.spent.day),
            month=format_credits(view.spent.month),
            total=format_credits(view.spent.total),
        )


class KeyOut(Shown):
    """An API key without its secret. `models: null` are all; `state` active, expired or ended."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    models: list[str] | None
    budget: BudgetOut
    spent: SpentOut
    state: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None

    @classmethod
    def of(cls, view: KeyView) -> "KeyOut":
        return cls.model_validate(_shown(view))


class NewKeyOut(KeyOut):
    """A new key. `key` is the secret, and this is the only answer that has it."""

    key: str


@router.get("", responses=errors_in(401, 403))
def list_keys(app: deps.App, who: deps.CurrentUser) -> Page[KeyOut]:
    """The account's API keys that are not revoked, newest first, with what each has spent."""
    return Page(items=[KeyOut.of(view) for view in flow.mine(app, user_id=deps.user_id(who))])


@router.post("", status_code=201, responses=errors_in(401, 403, 409, 422, 429, 503))
async def make_key(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: NewKey, response: Response
) -> NewKeyOut:
    """Make an API key. Its secret is in this answer and nowhere else.

    Scopes: `chat billing:read` unless others are named. Signed in long ago, 403
    `password_needed` asks for the `password`.
    """
    await presence.require(app, who, password=body.password, ip=ip)
    view, text = await flow.make(
        app,
        user_id=deps.user_id(who),
        name=body.name,
        scopes=body.scopes,
        models=body.models,
        limits=body.budget.limits() if body.budget else None,
        expires_at=deps.read_time(body.expires_at, "expires_at"),
    )
    response.headers["Cache-Control"] = "no-store"
    return NewKeyOut.model_validate({**_shown(view), "key": text})


@router.patch("/{id}", responses=errors_in(401, 403, 404, 422, 429, 503))
async def change_key(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, id: deps.Id, body: KeyChange
) -> KeyOut:
    """Change name, models or budget, from the next message on. The last two ask for a fresh
    sign-in or the `password`, as making a key does.
    """
    given = body.model_fields_set
    if given & {"models", "budget"}:
        await presence.require(app, who, password=body.password, ip=ip)
    limits = None
    if "budget" in given:
        limits = body.budget.limits() if body.budget else Limits()
    view = await flow.change(
        app,
        user_id=deps.user_id(who),
        key_id=id,
        name=body.name,
        models=body.models,
        all_models="models" in given and body.models is None,
        limits=limits,
    )
    return KeyOut.of(view)


@router.delete("/{id}", status_code=204, responses=errors_in(401, 403, 404))
async def revoke_key(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Revoke a key at once and for ever. Its running answers stop and are settled."""
    await flow.revoke(app, user_id=deps.user_id(who), key_id=id)


def _amount(micro: int | None) -> str | None:
    return None if micro is None else format_credits(micro)


def _shown(view: KeyView) -> dict[str, object]:
    key = view.key
    return {
        "id": key.id,
        "name": key.name,
        "prefix": PREFIX + key.id,
        "scopes": keys.scopes_of(key),
        "models": keys.models_of(key),
        "budget": BudgetOut.of(view),
        "spent": SpentOut.of(view),
        "state": view.state,
        "created_at": rfc3339(key.created_at),
        "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
        "last_used_at": None if key.last_used_at is None else rfc3339(key.last_used_at),
    }
