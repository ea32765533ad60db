"""REST: the limits that users set for themselves, and what chatting would cost."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Credits, errors_in
from chat_app.api.keys import BudgetOut, SpentOut
from chat_app.api.views import BalanceOut, PackageOut, PriceOut, Shown
from chat_app.clock import rfc3339
from chat_app.credits import guards, rollups
from chat_app.credits.guards import Limits
from chat_app.credits.ledger import Balance
from chat_app.credits.usage import Runout
from chat_app.flows import estimate, keys, spending
from chat_app.flows.estimate import Estimate
from chat_app.money import format_credits, parse_credits

router = APIRouter(prefix="/billing", tags=["billing"])

Limit = Annotated[Credits, Field(ge=0)] | None


def _shown(micro: int | None) -> str | None:
    return None if micro is None else format_credits(micro)


class Guards(Body):
    """All three at once: one that is left out or null is no limit."""

    per_answer: Limit = None
    per_conversation: Limit = None
    per_day: Limit = None


class OutlookOut(BalanceOut):
    """A balance, and when it is used up: null while that is unknown, or never."""

    burn_per_day: str | None
    days_left: float | None
    runs_out_at: str | None

    @classmethod
    def seen(cls, balance: Balance, end: Runout) -> "OutlookOut":
        return cls(
            **BalanceOut.of(balance).model_dump(),
            burn_per_day=_shown(end.per_day),
            days_left=None if end.days is None else round(end.days, 2),
            runs_out_at=None if end.at is None else rfc3339(end.at),
        )


class QuotaOut(Shown):
    """What the user's plan allows in a calendar month; null is no limit."""

    credits_per_month: str | None
    messages_per_month: int | None


class KeyLimitsOut(Shown):
    """The budget of the API key that asks."""

    id: str
    budget: BudgetOut
    spent: SpentOut


class LimitsOut(Shown):
    """The guards in credits; null is no limit. What is held for running answers counts.

    `key` is there when an API key asks: its own budget, beside which all of these hold too.
    """

    per_answer: str | None
    per_conversation: str | None
    per_day: str | None
    spent_today: str
    spent_this_month: str
    messages_this_month: int
    day_ends_at: str
    month_ends_at: str
    plan: QuotaOut | None
    key: KeyLimitsOut | None


class EstimateOut(Shown):
    """What chatting costs: `per_month` is for 30 days, `package` what to buy for them."""

    price: PriceOut
    per_message: str
    per_day: str
    per_month: str
    available: str
    days_left: float | None
    package: PackageOut | None
    packages: int
    messages_per_day_for_budget: int | None

    @classmethod
    def of(cls, found: Estimate) -> "EstimateOut":
        return cls(
            price=PriceOut.model_validate(found.price.as_json()),
            per_message=format_credits(found.per_message),
            per_day=format_credits(found.per_day),
            per_month=format_credits(found.per_month),
            available=format_credits(found.available),
            days_left=None if found.days is None else round(found.days, 2),
            package=None if found.package is None else PackageOut.of(found.package),
            packages=found.packages,
            messages_per_day_for_budget=found.affordable,
        )


@router.get("/limits", responses=errors_in(401))
def show_limits(app: deps.App, who: deps.CurrentUser) -> LimitsOut:
    """The caller's limits on spending, and what counts towards them."""
    return _limits(app, who)


@router.put("/limits", responses=errors_in(401, 403, 422))
async def set_limits(app: deps.App, who: deps.CurrentUser, body: Guards) -> LimitsOut:
    """Limit what an answer, a conversation and a day (in UTC) may cost. Takes effect at once.

    An answer is cut where the limit for one is reached, and refused when not even one token of
    it fits; a message that could pass one of the others is refused with 402.
    """
    limits = Limits(**body.model_dump())
    await spending.limit(app, user_id=deps.user_id(who), limits=limits)
    return _limits(app, who)


@router.get("/estimate", responses=errors_in(401, 404, 422))
def show_estimate(
    *,
    app: deps.App,
    who: deps.CurrentUser,
    model: Annotated[str, Query(max_length=128), deps.Clean],
    messages_per_day: Annotated[int, Query(ge=0, le=estimate.MAX_MESSAGES_PER_DAY)] = 20,
    prompt_tokens: Annotated[int, Query(ge=0, le=estimate.MAX_TOKENS)] = 300,
    completion_tokens: Annotated[int, Query(ge=0, le=estimate.MAX_TOKENS)] = 400,
    budget: Annotated[str | None, Query(max_length=40, description="Credits a month.")] = None,
) -> EstimateOut:
    """What so many messages a day would cost, how long the credits last, and what to buy."""
    micro = None if budget is None else parse_credits(budget)
    with app.db.read() as session:
        found = estimate.of_chatting(
            app,
            session,
            user_id=deps.user_id(who),
            model=model,
            messages_per_day=messages_per_day,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            budget=micro,
        )
    return EstimateOut.of(found)


def _limits(app: deps.App, who: SignedIn) -> LimitsOut:
    now, user_id = app.clock.micros(), deps.user_id(who)
    with app.db.read() as session:
        own = guards.own(session, user_id=user_id)
        plan = guards.quota(session, user_id=user_id)
        spent = guards.spent(session, user_id=user_id, now=now)
        key = None if who.key is None else keys.one(app, session, who.key)
    return LimitsOut(
        per_answer=_shown(own.per_answer),
        per_conversation=_shown(own.per_conversation),
        per_day=_shown(own.per_day),
        spent_today=format_credits(spent.today),
        spent_this_month=format_credits(spent.this_month),
        messages_this_month=spent.messages_this_month,
        day_ends_at=rfc3339(rollups.start_of("day", now) + rollups.DAY),
        month_ends_at=rfc3339(rollups.next_month(now)),
        key=None
        if key is None
        else KeyLimitsOut(id=key.key.id, budget=BudgetOut.of(key), spent=SpentOut.of(key)),
        plan=None
        if plan is None
        else QuotaOut(
            credits_per_month=_shown(plan.per_month), messages_per_month=plan.messages_per_month
        ),
    )
