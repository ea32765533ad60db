"""REST: what the composer needs (the rule of a price, presets), messages and what people think."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StrictInt

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps, payer
from chat_app.api.deps import Body, PublicId, Text, errors_in
from chat_app.api.payer import PayerHeader
from chat_app.api.views import (
    FeedbackOut,
    OneMessageOut,
    Page,
    PriceOut,
    SettingsOut,
    Shown,
)
from chat_app.chat import conversations, feedback, parameters, presets
from chat_app.chat.feedback import Tally
from chat_app.chat.parameters import Parameters
from chat_app.chat.presets import PresetRow
from chat_app.credits.pricing import Price
from chat_app.flows import composer
from chat_app.flows.composer import Rule
from chat_app.money import format_credits

router = APIRouter(prefix="/chat", tags=["chat"])
admin = APIRouter(prefix="/admin", tags=["admin"])

Operating = Annotated[SignedIn, Depends(deps.allowed("machine.read"))]

Temperature = Annotated[float, Field(ge=0, le=parameters.MAX_TEMPERATURE)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[StrictInt, Field(ge=0, le=parameters.MAX_NUMBER)]
MaxTokens = Annotated[StrictInt, Field(ge=1, le=parameters.MAX_NUMBER)]
System = Annotated[Text, Field(max_length=parameters.MAX_SYSTEM_CHARACTERS)]


class SettingsIn(Body):
    """How answers are written. What is left out or null is the model's own."""

    system: System | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    max_tokens: MaxTokens | None = None

    def parameters(self) -> Parameters:
        """The same for the program."""
        return Parameters(**self.model_dump())


class PresetIn(Body):
    name: Annotated[Text, Field(min_length=1, max_length=presets.MAX_NAME)]
    settings: SettingsIn


class PresetOut(Shown):
    """Parameters under a name; built-in ones cannot be deleted."""

    id: str
    name: str
    settings: SettingsOut
    built_in: bool

    @classmethod
    def of(cls, row: PresetRow) -> "PresetOut":
        return cls(
            id=row.id, name=row.name, settings=SettingsOut.of(row.settings), built_in=row.built_in
        )


class FeedbackIn(Body):
    """`reasons` are codes from the list of the vote, see docs/api.md."""

    vote: Literal["up", "down"]
    reasons: Annotated[
        list[Annotated[str, Field(max_length=20)]], Field(max_length=8, default_factory=list)
    ]
    note: Annotated[Text, Field(max_length=feedback.MAX_NOTE)] = ""


class TallyOut(Shown):
    """The votes on the answers of a model, and how often each reason was given."""

    model: str
    up: int
    down: int
    reasons: dict[str, int]

    @classmethod
    def of(cls, tally: Tally) -> "TallyOut":
        return cls(model=tally.model, up=tally.up, down=tally.down, reasons=dict(tally.reasons))


class OtherOut(Shown):
    """Another model that could answer now."""

    model: str
    name: str
    price: PriceOut


class RuleOut(Shown):
    """What the next message costs, apart from its own words.

    Add to `prompt_tokens` a token for each byte of the message in UTF-8, `tokens_per_message`,
    and `tokens_per_image` for each image; with the price and `max_tokens` that is the most it
    can cost. An answer ends at `per_answer` credits where that is not null.
    """

    model: str
    name: str
    price: PriceOut
    prompt_tokens: int
    history_tokens: int
    max_tokens: int
    usual_tokens: int | None
    per_answer: str | None
    spent: str
    available: str
    tokens_per_message: int
    tokens_per_image: int
    others: list[OtherOut]
    settings: SettingsOut

    @classmethod
    def of(cls, rule: Rule) -> "RuleOut":
        return cls(
            model=rule.model,
            name=rule.name,
            price=_price(rule.price),
            prompt_tokens=rule.prompt_tokens,
            history_tokens=rule.history_tokens,
            max_tokens=rule.max_tokens,
            usual_tokens=rule.usual_tokens,
            per_answer=None if rule.per_answer is None else format_credits(rule.per_answer),
            spent=format_credits(rule.spent),
            available=format_credits(rule.available),
            tokens_per_message=rule.tokens_per_message,
            tokens_per_image=rule.tokens_per_image,
            others=[
                OtherOut(model=other.model, name=other.name, price=_price(other.price))
                for other in rule.others
            ],
            settings=SettingsOut.of(rule.settings),
        )


def _price(price: Price) -> PriceOut:
    return PriceOut.model_validate(price.as_json())


@router.get("/rule", responses=errors_in(401, 403, 404, 422, 429, 503))
async def show_rule(
    *,
    app: deps.App,
    who: deps.CurrentUser,
    header: PayerHeader,
    model: Annotated[str, Query(max_length=128), deps.Clean],
    conversation_id: Annotated[PublicId | None, Query()] = None,
    parent_id: Annotated[
        PublicId | None, Query(description="Where it would be, as `parent_id` of a message.")
    ] = None,
    payer_name: Annotated[
        str | None, Query(alias="payer", max_length=64, description="As `payer` in a message.")
    ] = None,
) -> RuleOut:
    """What the next message costs, for pages that show a price while somebody types.

    `POST /chat/quote` gives the quote that binds.
    """
    found = await composer.rule(
        app,
        user_id=deps.user_id(who),
        model=model,
        conversation_id=conversation_id,
        parent_id=parent_id,
        org_id=payer.chosen(payer_name, header),
        api_key=who.key,
    )
    return RuleOut.of(found)


@router.get("/presets", responses=errors_in(401))
def list_presets(app: deps.App, who: deps.CurrentUser) -> Page[PresetOut]:
    """The built-in presets, then the caller's own."""
    with app.db.read() as session:
        rows = presets.list_for(session, user_id=deps.user_id(who))
    return Page(items=[PresetOut.of(row) for row in rows])


@router.post("/presets", status_code=201, responses=errors_in(401, 403, 409, 422))
async def save_preset(app: deps.App, who: deps.CurrentUser, body: PresetIn) -> PresetOut:
    """Keep parameters under a name. The caller's preset of that name is replaced."""
    owner, now = deps.user_id(who), app.clock.micros()
    row = await app.db.awrite(
        lambda session: presets.save(
            session,
            user_id=owner,
            name=body.name,
            settings=body.settings.parameters(),
            now=now,
        )
    )
    return PresetOut.of(row)


@router.delete("/presets/{id}", status_code=204, responses=errors_in(401, 403, 404))
async def delete_preset(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Delete a preset. Conversations that were set with it stay as they are."""
    owner = deps.user_id(who)
    await app.db.awrite(lambda session: presets.drop(session, user_id=owner, preset_id=id))


@router.get("/messages/{id}", responses=errors_in(401, 404))
def show_message(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> OneMessageOut:
    """A message with its text as it was written, and where it belongs."""
    owner = deps.user_id(who)
    with app.db.read() as session:
        found = conversations.message(session, user_id=owner, message_id=id)
        row = conversations.message_row(session, user_id=owner, message_id=id)
        return OneMessageOut.alone(row, found.conversation_id)


@router.put("/messages/{id}/feedback", responses=errors_in(401, 403, 404, 422))
async def give_feedback(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, body: FeedbackIn
) -> FeedbackOut:
    """Say whether an answer was good, and why. A second vote takes the place of the first."""
    owner, now = deps.user_id(who), app.clock.micros()
    given = await app.db.awrite(
        lambda session: feedback.put(
            session,
            user_id=owner,
            message_id=id,
            vote=body.vote,
            reasons=body.reasons,
            note=body.note,
            now=now,
        )
    )
    return FeedbackOut.of(given)


@router.delete("/messages/{id}/feedback", status_code=204, responses=errors_in(401, 403, 404))
async def take_feedback_back(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Take a vote back."""
    owner = deps.user_id(who)
    await app.db.awrite(lambda session: feedback.drop(session, user_id=owner, message_id=id))


@admin.get("/feedback", responses=errors_in(401, 403))
def show_tallies(app: deps.App, _who: Operating) -> Page[TallyOut]:
    """What people think of each model's answers."""
    with app.db.read() as session:
        found = feedback.tallies(session)
    return Page(items=[TallyOut.of(tally) for tally in found])
