"""What the composer knows of a price: enough to say it for any text without asking again.

The page computes with it what a message would cost at most while it is typed; `bound` is that
rule, and `ui/static/price.js` is the same one. The binding quote is `message.quote`.
"""

import asyncio
from dataclasses import dataclass, replace

from sqlmodel import Session

from chat_app.accounts.key_tables import ApiKey
from chat_app.app import App
from chat_app.chat import conversations, parameters
from chat_app.chat.parameters import Parameters
from chat_app.credits import ledger, pricing, usage
from chat_app.credits.pricing import Price
from chat_app.errors import AppError
from chat_app.flows import orgs, shelf
from chat_app.flows.order import checked
from chat_app.flows.terms import TOKENS_PER_MESSAGE, Terms, agree, count_prompt
from chat_app.llm.engine import IMAGE_TOKENS

# What stands for the question when its prompt is counted: each template takes it.
_QUESTION = "?"


@dataclass(frozen=True)
class Other:
    """Another model that could answer now, no demo, with the user's price."""

    model: str
    name: str
    price: Price


@dataclass(frozen=True)
class Rule:
    """What the next message of a conversation costs, apart from its own words and images.

    `prompt_tokens` are those of everything before the words, `history_tokens` the part of the
    conversation in them. An answer has at most `max_tokens`, fewer where `per_answer`
    (microcredits) ends it; `usual_tokens` is how long this user's answers are. `spent`
    microcredits were paid in this conversation, holds included; `available` may be spent.
    `settings` are those of the conversation.
    """

    model: str
    name: str
    price: Price
    prompt_tokens: int
    history_tokens: int
    max_tokens: int
    usual_tokens: int | None
    per_answer: int | None
    spent: int
    available: int
    others: tuple[Other, ...]
    settings: Parameters
    tokens_per_message: int = TOKENS_PER_MESSAGE
    tokens_per_image: int = IMAGE_TOKENS


async def rule(
    app: App,
    *,
    user_id: int,
    model: str,
    conversation_id: str | None = None,
    parent_id: str | None = None,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Rule:
    """The rule of a model for the next message, or for one that follows `parent_id`.

    Refuses what `message.quote` refuses.
    """
    order = checked(
        app,
        user_id=user_id,
        text=_QUESTION,
        model=model,
        conversation_id=conversation_id,
        api_key=api_key,
        parent_id=parent_id,
    )
    order = replace(order, org_id=org_id)
    await app.limits.count_quote(user_id)
    now = app.clock.micros()

    def look() -> tuple[Terms, Terms, Rule]:
        with app.db.read() as session:
            terms = agree(app, session, order, now)
            # The same without what was said before, but with the same system prompt.
            alone = replace(terms.order, conversation_id=None, parent_id=None)
            if org_id is None:
                available = ledger.balance(session, user_id=user_id).available
            else:
                available = orgs.available(session, org_id=org_id, user_id=user_id, now=now)
            found = Rule(
                model=model,
                name=order.entry.name,
                price=terms.price,
                prompt_tokens=0,
                history_tokens=0,
                max_tokens=terms.order.max_tokens,
                usual_tokens=usage.usual_length(session, user_id=user_id, model=model),
                per_answer=terms.per_answer,
                spent=0
                if conversation_id is None
                else conversations.spent(session, conversation_id=conversation_id),
                available=available,
                settings=_settings(session, user_id=user_id, conversation_id=conversation_id),
                others=_others(app, session, user_id=user_id, model=model, now=now),
            )
            return terms, agree(app, session, alone, now), found

    terms, alone, found = await asyncio.to_thread(look)
    tokens = await count_prompt(app, model, terms.price, terms.told)
    first = tokens
    if len(terms.told) > len(alone.told):
        first = await count_prompt(app, model, alone.price, alone.told)
    return replace(found, prompt_tokens=tokens, history_tokens=max(0, tokens - first))


def bound(rule: Rule, *, size: int, images: int = 0, price: Price | None = None) -> int:
    """The most microcredits that a message of `size` bytes in UTF-8 can cost, and never less.

    Each byte counts as a token, which no vocabulary exceeds. `price`: as if that model, for the
    same prompt, had it.
    """
    price = price or rule.price
    prompt = rule.prompt_tokens + size + rule.tokens_per_message + images * rule.tokens_per_image
    whole = pricing.maximum(price, prompt_tokens=prompt, max_tokens=rule.max_tokens, images=images)
    if rule.per_answer is None or whole <= rule.per_answer:
        return whole
    # The guard ends the answer, but not before its first token.
    first = pricing.maximum(price, prompt_tokens=prompt, max_tokens=1, images=images)
    return max(rule.per_answer, first)


def _settings(session: Session, *, user_id: int, conversation_id: str | None) -> Parameters:
    if conversation_id is None:
        return Parameters()
    found = conversations.get(session, user_id=user_id, conversation_id=conversation_id)
    return parameters.load(found.settings)


def _others(app: App, session: Session, *, user_id: int, model: str, now: int) -> tuple[Other, ...]:
    found = []
    for view in shelf.models(app, session=session):
        if view.id == model or view.demo or not view.available:
            continue
        try:
            price = pricing.for_user(session, view.id, user_id=user_id, now=now)
        except AppError:  # it was taken off the shelf a moment ago
            continue
        found.append(Other(view.id, view.name, price))
    return tuple(found)
