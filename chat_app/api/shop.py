"""REST: what a customer buys and is given: lots, plans, codes, automatic top-ups."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from chat_app.api import deps
from chat_app.api.deps import Body, Credits, errors_in
from chat_app.api.spending import OutlookOut
from chat_app.api.views import BalanceOut, MoneyOut, Page, PaymentOut, Shown
from chat_app.clock import rfc3339
from chat_app.credits import codes, ledger, lots, plans, topups, usage
from chat_app.credits.plans import Plan, Subscription
from chat_app.credits.topups import Rule
from chat_app.errors import NotFound
from chat_app.flows import free, topup
from chat_app.flows import plans as plan_flow
from chat_app.money import format_credits

router = APIRouter(prefix="/billing", tags=["billing"])


class NoRule(NotFound):
    """There is no automatic top-up."""

    code = "no_auto_topup"
    message = "There is no automatic top-up. Set one with PUT."


class Choice(Body):
    plan_id: Annotated[str, Field(max_length=64), deps.Clean]


class CodeIn(Body):
    code: Annotated[str, Field(max_length=200), deps.Clean]


class TopupIn(Body):
    threshold: Annotated[Credits, Field(gt=0)]
    package_id: Annotated[str, Field(max_length=64), deps.Clean]
    per_day: Annotated[int, Field(ge=1, le=topups.MAX_PER_DAY)] = 1


class EndingOut(Shown):
    """Credits that end unless they are used before."""

    credits: str
    expires_at: str

    @classmethod
    def of(cls, ending: lots.Ending) -> "EndingOut":
        return cls(credits=format_credits(ending.micro), expires_at=rfc3339(ending.at))


class NextGrantOut(Shown):
    """Credits that come by themselves: of a `plan`, or `periodic` ones."""

    credits: str
    at: str
    kind: str

    @classmethod
    def of(cls, coming: free.NextGrant) -> "NextGrantOut":
        return cls(credits=format_credits(coming.micro), at=rfc3339(coming.at), kind=coming.kind)


class WalletOut(OutlookOut):
    """A balance: when it is used up, what ends next and what comes next, where known."""

    next_to_expire: EndingOut | None
    next_grant: NextGrantOut | None


class LotOut(Shown):
    """Credits of one origin, in the order in which they are used."""

    id: str
    source: str
    granted: str
    remaining: str
    held: str
    expires_at: str | None
    created_at: str

    @classmethod
    def of(cls, lot: lots.LotView) -> "LotOut":
        return cls(
            id=str(lot.id),
            source=lot.source,
            granted=format_credits(lot.granted),
            remaining=format_credits(lot.remaining),
            held=format_credits(lot.held),
            expires_at=_time(lot.expires_at),
            created_at=rfc3339(lot.created_at),
        )


class PlanOut(Shown):
    """Credits for each month. `keep_periods`: how many periods later they end; null: never."""

    id: str
    name: str
    price: MoneyOut
    credits: str
    keep_periods: int | None
    position: int
    active: bool

    @classmethod
    def of(cls, plan: Plan) -> "PlanOut":
        return cls(
            id=plan.code,
            name=plan.name,
            price=MoneyOut(amount=plan.price.amount, currency=plan.price.currency),
            credits=format_credits(plan.credits),
            keep_periods=plan.keep_periods,
            position=plan.position,
            active=plan.active,
        )


class SubscriptionOut(Shown):
    """The caller's plan with the terms that were agreed on. `payment_id` pays this period."""

    id: str
    status: str
    plan_id: str
    name: str
    price: MoneyOut
    credits: str
    period: int
    period_start: str
    period_end: str
    renews_at: str | None
    next_plan_id: str | None
    cancel_at_period_end: bool
    payment_id: str | None

    @classmethod
    def of(cls, held: Subscription) -> "SubscriptionOut":
        period = held.period
        return cls(
            id=held.id,
            status=held.status,
            plan_id=period.plan_code,
            name=period.plan_name,
            price=MoneyOut(amount=period.price.amount, currency=period.price.currency),
            credits=format_credits(period.credits),
            period=period.number,
            period_start=rfc3339(period.starts_at),
            period_end=rfc3339(period.ends_at),
            renews_at=_time(held.renews_at),
            next_plan_id=held.next_plan,
            cancel_at_period_end=held.cancel_at_end,
            payment_id=period.payment_id,
        )


class HeldPlan(Shown):
    """The caller's plan; null when there is none. `waiting` is its order that is to be paid."""

    subscription: SubscriptionOut | None
    waiting: PaymentOut | None


class RedeemedOut(Shown):
    """What a code gave."""

    credits: str
    expires_at: str | None
    balance: BalanceOut


class TopupOut(Shown):
    """Buy the package when less than `threshold` is available, at most so often in 24 hours."""

    threshold: str
    package_id: str
    per_day: int
    active: bool
    blocked_until: str | None

    @classmethod
    def of(cls, rule: Rule) -> "TopupOut":
        return cls(
            threshold=format_credits(rule.threshold),
            package_id=rule.package_code,
            per_day=rule.per_day,
            active=rule.active,
            blocked_until=_time(rule.blocked_until),
        )


@router.get("/balance", responses=errors_in(401))
def balance(app: deps.App, who: deps.CurrentUser) -> WalletOut:
    """The caller's credits, with what ends next and what comes next."""
    owner, now = deps.user_id(who), app.clock.micros()
    with app.db.read() as session:
        held = ledger.balance(session, user_id=owner)
        end = usage.runout(session, user_id=owner, available=held.available, now=now)
        ending = lots.next_end(session, user_id=owner, now=now)
        coming = free.next_grant(app, session, user=who.user, now=now)
    return WalletOut(
        **OutlookOut.seen(held, end).model_dump(),
        next_to_expire=None if ending is None else EndingOut.of(ending),
        next_grant=None if coming is None else NextGrantOut.of(coming),
    )


@router.get("/lots", responses=errors_in(401))
def list_lots(app: deps.App, who: deps.CurrentUser) -> Page[LotOut]:
    """The caller's credits by their origin, those first that are used first."""
    with app.db.read() as session:
        found = lots.list_open(session, user_id=deps.user_id(who), now=app.clock.micros())
    return Page(items=[LotOut.of(lot) for lot in found])


@router.get("/plans", responses=errors_in(401))
def list_plans(app: deps.App, who: deps.CurrentUser) -> Page[PlanOut]:
    """Plans on offer."""
    with app.db.read() as session:
        return Page(items=[PlanOut.of(plan) for plan in plans.list_plans(session)])


@router.get("/subscription", responses=errors_in(401))
def show_subscription(app: deps.App, who: deps.CurrentUser) -> HeldPlan:
    """The caller's plan."""
    held = plan_flow.current(app, user_id=deps.user_id(who))
    order = plan_flow.waiting(app, user_id=deps.user_id(who))
    return HeldPlan(
        subscription=None if held is None else SubscriptionOut.of(held),
        waiting=None if order is None else PaymentOut.of(order),
    )


@router.post("/subscription", responses=errors_in(401, 403, 404, 409, 422))
async def choose_plan(
    app: deps.App, who: deps.CurrentUser, key: deps.IdempotencyKey, body: Choice
) -> SubscriptionOut:
    """Begin a plan or change it: a dearer one when it is paid, any other with the next period.

    The kept card is charged at once. Without one, `GET billing/subscription` shows the order that
    waits, and `POST billing/payments/{id}/checkout` opens the page to pay it on.
    """
    held = await plan_flow.choose(app, user_id=deps.user_id(who), plan_code=body.plan_id, key=key)
    return SubscriptionOut.of(held)


@router.post("/subscription/cancel", responses=errors_in(401, 403, 404, 409))
async def cancel_plan(
    app: deps.App, who: deps.CurrentUser, key: deps.IdempotencyKey
) -> SubscriptionOut:
    """End the plan with its period. The credits stay until their end."""
    return SubscriptionOut.of(await plan_flow.cancel(app, user_id=deps.user_id(who), key=key))


@router.post("/subscription/pause", responses=errors_in(401, 403, 404, 409))
async def pause_plan(
    app: deps.App, who: deps.CurrentUser, key: deps.IdempotencyKey
) -> SubscriptionOut:
    """Let no further period begin until the plan is resumed."""
    return SubscriptionOut.of(await plan_flow.pause(app, user_id=deps.user_id(who), key=key))


@router.post("/subscription/resume", responses=errors_in(401, 403, 404, 409))
async def resume_plan(
    app: deps.App, who: deps.CurrentUser, key: deps.IdempotencyKey
) -> SubscriptionOut:
    """Go on after a pause, or take a cancellation back."""
    return SubscriptionOut.of(await plan_flow.resume(app, user_id=deps.user_id(who), key=key))


@router.post("/redeem", responses=errors_in(401, 403, 404, 409, 422, 429))
async def redeem(
    app: deps.App,
    who: deps.CurrentUser,
    ip: deps.ClientIp,
    key: deps.IdempotencyKey,
    body: CodeIn,
) -> RedeemedOut:
    """Redeem a code for credits. Wrong codes are counted for the user and for the address."""
    owner = deps.user_id(who)
    given = await free.redeem(app, user_id=owner, text=codes.clean(body.code), ip=ip, key=key)
    with app.db.read() as session:
        after = ledger.balance(session, user_id=owner)
    return RedeemedOut(
        credits=format_credits(given.micro),
        expires_at=_time(given.expires_at),
        balance=BalanceOut.of(after),
    )


@router.get("/auto-topup", responses=errors_in(401, 404))
def show_topup(app: deps.App, who: deps.CurrentUser) -> TopupOut:
    """The caller's rule to buy by itself."""
    with app.db.read() as session:
        rule = topups.get(session, user_id=deps.user_id(who))
    if rule is None:
        raise NoRule
    return TopupOut.of(rule)


@router.put("/auto-topup", responses=errors_in(401, 403, 404, 422))
async def set_topup(app: deps.App, who: deps.CurrentUser, body: TopupIn) -> TopupOut:
    """Set the rule and switch it on. It is looked at after each answer, and now."""
    rule = await topup.set_rule(
        app,
        user_id=deps.user_id(who),
        threshold=body.threshold,
        package_code=body.package_id,
        per_day=body.per_day,
    )
    return TopupOut.of(rule)


@router.delete("/auto-topup", status_code=204, responses=errors_in(401, 403))
async def stop_topup(app: deps.App, who: deps.CurrentUser) -> None:
    """Switch the rule off."""
    await topup.stop(app, user_id=deps.user_id(who))


def _time(micros: int | None) -> str | None:
    return None if micros is None else rfc3339(micros)
