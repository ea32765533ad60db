"""REST: organisations, their members, their pool, and credits sent to other people."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import Field

from chat_app.accounts.orgs import OrgNotFound
from chat_app.api import deps
from chat_app.api.deps import Body, Credits, Name, errors_in
from chat_app.api.views import BalanceOut, Page, Shown
from chat_app.clock import MICROS_PER_SECOND, rfc3339
from chat_app.errors import Invalid
from chat_app.flows import orgs, transfer
from chat_app.flows.orgs import MemberView, OrgView, UsedLine
from chat_app.flows.transfer import Sent
from chat_app.money import format_credits

router = APIRouter(prefix="/orgs", tags=["orgs"])
billing = APIRouter(prefix="/billing", tags=["billing"])

_DAY = 24 * 3600 * MICROS_PER_SECOND
USUAL_DAYS, MOST_DAYS = 31, 366


class TooManyDays(Invalid):
    """More lines than one answer should have."""

    code = "too_many_days"
    message = f"An organisation's usage is shown for at most {MOST_DAYS} days. Ask for less."


class Transfer(Body):
    to_username: Name
    credits: Credits
    note: Annotated[str, Field(max_length=1000), deps.Clean] | None = None


class TransferOut(Shown):
    """Credits that were sent; `balance_after` is the sender's."""

    id: str
    to_username: str
    credits: str
    note: str | None
    balance_after: str
    created_at: str

    @classmethod
    def of(cls, sent: Sent) -> "TransferOut":
        return cls(
            id=str(sent.id),
            to_username=sent.to_username,
            credits=format_credits(sent.micro),
            note=sent.note,
            balance_after=format_credits(sent.balance_after),
            created_at=rfc3339(sent.created_at),
        )


class MemberOut(Shown):
    """A member and what they used this month. `monthly_limit` null: only the pool limits."""

    user_id: str
    username: str
    role: str
    monthly_limit: str | None
    used: str
    held: str
    joined_at: str

    @classmethod
    def of(cls, member: MemberView) -> "MemberOut":
        limit = member.monthly_limit
        return cls(
            user_id=str(member.user_id),
            username=member.username,
            role=member.role,
            monthly_limit=None if limit is None else format_credits(limit),
            used=format_credits(member.used),
            held=format_credits(member.held),
            joined_at=rfc3339(member.joined_at),
        )


class OrgOut(Shown):
    """An organisation as the caller sees it. `payer` is what a message names to be paid by it.

    Members find themselves alone in `members`; owners and admins find everybody.
    """

    id: str
    name: str
    role: str
    payer: str
    balance: BalanceOut
    members: list[MemberOut]
    created_at: str

    @classmethod
    def of(cls, org: OrgView) -> "OrgOut":
        return cls(
            id=str(org.id),
            name=org.name,
            role=org.role,
            payer=f"org:{org.id}",
            balance=BalanceOut.of(org.balance),
            members=[MemberOut.of(member) for member in org.members],
            created_at=rfc3339(org.created_at),
        )


class OrgUsageOut(Shown):
    """What the pool paid for one member and model on one day (UTC)."""

    day: str
    username: str
    model: str
    messages: int
    prompt_tokens: int
    completion_tokens: int
    credits: str

    @classmethod
    def of(cls, used: UsedLine) -> "OrgUsageOut":
        line = used.line
        return cls(
            day=line.day.isoformat(),
            username=used.username,
            model=line.model,
            messages=line.messages,
            prompt_tokens=line.prompt_tokens,
            completion_tokens=line.completion_tokens,
            credits=format_credits(line.credits),
        )


class NewOrg(Body):
    name: Name


class NewMember(Body):
    username: Name
    role: Literal["owner", "admin", "member"] = "member"
    monthly_limit: Annotated[Credits, Field(ge=0)] | None = None


class MemberChange(Body):
    role: Literal["owner", "admin", "member"] | None = None
    monthly_limit: Annotated[Credits, Field(ge=0)] | None = None


class Fund(Body):
    credits: Credits


class Allocation(Body):
    username: Name
    credits: Credits


class Heir(Body):
    username: Name


def _org_id(id: Annotated[str, Path(description="The organisation's id.")]) -> int:
    if not (id.isascii() and id.isdigit() and len(id) < 19):
        raise OrgNotFound
    return int(id)


OrgId = Annotated[int, Depends(_org_id)]
Member = Annotated[str, Path(alias="user", description="User name or id of a member.")]


@billing.post(
    "/transfer", status_code=201, responses=errors_in(401, 402, 403, 404, 409, 422, 429, 503)
)
async def send(
    app: deps.App, who: deps.CurrentUser, key: deps.IdempotencyKey, body: Transfer
) -> TransferOut:
    """Send credits to another user. Welcome and promotional credits cannot be sent."""
    sent = await transfer.send(
        app,
        user_id=deps.user_id(who),
        to_username=body.to_username,
        micro=body.credits,
        note=body.note,
        key=key,
    )
    return TransferOut.of(sent)


@router.post("", status_code=201, responses=errors_in(401, 403, 409, 422, 503))
async def create(
    app: deps.App, who: deps.CurrentUser, key: deps.IdempotencyKey, body: NewOrg
) -> OrgOut:
    """A new organisation, owned by the caller."""
    return OrgOut.of(await orgs.create(app, user_id=deps.user_id(who), name=body.name, key=key))


@router.get("", responses=errors_in(401))
def list_orgs(app: deps.App, who: deps.CurrentUser) -> Page[OrgOut]:
    """The caller's organisations, with their own line in each."""
    return Page(items=[OrgOut.of(org) for org in orgs.mine(app, user_id=deps.user_id(who))])


@router.get("/{id}", responses=errors_in(401, 404))
def show(app: deps.App, who: deps.CurrentUser, id: OrgId) -> OrgOut:
    """An organisation: its pool, and its members for whoever runs it."""
    return OrgOut.of(orgs.view(app, user_id=deps.user_id(who), org_id=id))


@router.patch("/{id}", responses=errors_in(401, 403, 404, 422))
async def rename(app: deps.App, who: deps.CurrentUser, id: OrgId, body: NewOrg) -> OrgOut:
    """Another name."""
    owner = deps.user_id(who)
    return OrgOut.of(await orgs.rename(app, user_id=owner, org_id=id, name=body.name))


@router.delete("/{id}", status_code=204, responses=errors_in(401, 403, 404, 409))
async def close(app: deps.App, who: deps.CurrentUser, id: OrgId) -> None:
    """Close it. What is left in the pool goes to the owner who closes it."""
    await orgs.close(app, user_id=deps.user_id(who), org_id=id)


@router.post("/{id}/members", status_code=201, responses=errors_in(401, 403, 404, 409, 422))
async def add_member(app: deps.App, who: deps.CurrentUser, id: OrgId, body: NewMember) -> OrgOut:
    """Let somebody spend from the pool, each calendar month (UTC) up to the limit if there is one.

    Only owners make admins and owners.
    """
    shown = await orgs.add_member(
        app,
        user_id=deps.user_id(who),
        org_id=id,
        username=body.username,
        role=body.role,
        monthly_limit=body.monthly_limit,
    )
    return OrgOut.of(shown)


@router.patch("/{id}/members/{user}", responses=errors_in(401, 403, 404, 409, 422))
async def change_member(
    app: deps.App, who: deps.CurrentUser, id: OrgId, user: Member, body: MemberChange
) -> OrgOut:
    """Another role or limit. `"monthly_limit": null` takes the limit away; left out, it stays."""
    shown = await orgs.change_member(
        app,
        user_id=deps.user_id(who),
        org_id=id,
        member=user,
        role=body.role,
        monthly_limit=body.monthly_limit,
        limited="monthly_limit" in body.model_fields_set,
    )
    return OrgOut.of(shown)


@router.delete("/{id}/members/{user}", status_code=204, responses=errors_in(401, 403, 404, 409))
async def remove_member(app: deps.App, who: deps.CurrentUser, id: OrgId, user: Member) -> None:
    """Take somebody out, or leave. Running answers end as they began; the history stays."""
    await orgs.remove_member(app, user_id=deps.user_id(who), org_id=id, member=user)


@router.post("/{id}/fund", responses=errors_in(401, 402, 403, 404, 409, 422, 429, 503))
async def fund(
    app: deps.App, who: deps.CurrentUser, id: OrgId, key: deps.IdempotencyKey, body: Fund
) -> BalanceOut:
    """Move own credits into the pool; answers with the pool."""
    return BalanceOut.of(
        await orgs.fund(app, user_id=deps.user_id(who), org_id=id, micro=body.credits, key=key)
    )


@router.post("/{id}/allocate", responses=errors_in(401, 402, 403, 404, 409, 422, 429, 503))
async def allocate(
    app: deps.App, who: deps.CurrentUser, id: OrgId, key: deps.IdempotencyKey, body: Allocation
) -> BalanceOut:
    """Move credits of the pool to a member's own wallet; answers with the pool."""
    left = await orgs.allocate(
        app,
        user_id=deps.user_id(who),
        org_id=id,
        username=body.username,
        micro=body.credits,
        key=key,
    )
    return BalanceOut.of(left)


@router.post("/{id}/transfer-ownership", responses=errors_in(401, 403, 404, 422))
async def hand_over(app: deps.App, who: deps.CurrentUser, id: OrgId, body: Heir) -> OrgOut:
    """Make another member the owner. The caller stays as admin."""
    owner = deps.user_id(who)
    return OrgOut.of(await orgs.hand_over(app, user_id=owner, org_id=id, member=body.username))


@router.get("/{id}/usage", responses=errors_in(401, 404, 422))
def usage(
    app: deps.App, who: deps.CurrentUser, since: deps.Since, until: deps.Until, id: OrgId
) -> Page[OrgUsageOut]:
    """What the pool paid for, by day, member and model: the last 31 days unless `from` says more.

    Members see their own lines.
    """
    until = app.clock.micros() + 1 if until is None else until
    since = until - USUAL_DAYS * _DAY if since is None else since
    if until - since > MOST_DAYS * _DAY:
        raise TooManyDays(days=MOST_DAYS)
    _, lines = orgs.used(app, user_id=deps.user_id(who), org_id=id, since=since, until=until)
    return Page(items=[OrgUsageOut.of(line) for line in lines])
