"""REST: the fraud desk, for staff: what wants a look, the events of an account, labels."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, errors_in
from chat_app.api.views import Page, Shown
from chat_app.clock import rfc3339
from chat_app.errors import Malformed
from chat_app.flows import fraud
from chat_app.ml.fraud.watch import Case, UnknownAssessment
from chat_app.money import format_credits

router = APIRouter(prefix="/admin/fraud", tags=["admin"])
Looking = Annotated[SignedIn, Depends(deps.allowed("fraud.read"))]
Labelling = Annotated[SignedIn, Depends(deps.allowed("fraud.write"))]


class CaseOut(Shown):
    """A judged event. `score` is from 0 to 100; `refused` when it was stopped."""

    id: str
    user_id: str
    type: str
    credits: str
    score: float
    action: Literal["allow", "review", "hold"]
    reasons: list[str]
    refused: bool
    label: Literal["fraud", "legit"] | None
    model_version: str
    fallback_reason: str | None
    created_at: str

    @classmethod
    def of(cls, case: Case) -> "CaseOut":
        """A case for the API."""
        return cls.model_validate({
            "id": str(case.id),
            "user_id": str(case.user_id),
            "type": case.type,
            "credits": format_credits(case.credits),
            "score": case.score,
            "action": case.action,
            "reasons": case.reasons,
            "refused": case.refused,
            "label": case.label,
            "model_version": case.model_version,
            "fallback_reason": case.fallback_reason,
            "created_at": rfc3339(case.created_at),
        })  # fmt: skip


class LabelIn(Body):
    """What the event was found to be."""

    label: Literal["fraud", "legit"] = Field(description="fraud or legit")


@router.get("/queue", responses=errors_in(400, 401, 403, 404))
async def fraud_queue(
    app: deps.App,
    _who: Looking,
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
    labelled: Annotated[bool, Query(description="Those that have a label instead.")] = False,
    user_id: Annotated[
        int | None, Query(ge=1, le=2**62, description="All events of this account instead.")
    ] = None,
) -> Page[CaseOut]:
    """Judged events that want a look and have no label yet, newest first."""
    before = _number(cursor)
    if user_id is not None:
        found = await fraud.story(app, user_id=user_id, limit=limit, cursor=before)
    else:
        found = await fraud.queue(app, limit=limit, cursor=before, labelled=labelled)
    more = str(found[-1].id) if len(found) == limit else None
    return Page[CaseOut](items=[CaseOut.of(case) for case in found], next_cursor=more)


@router.post("/{id}/label", responses=errors_in(400, 401, 403, 404, 409, 413, 422))
async def label_fraud(app: deps.App, who: Labelling, id: deps.Id, body: LabelIn) -> CaseOut:
    """Say what a judged event was. It raises or lowers the risk of all that it touched."""
    number = int(id) if id.isdecimal() and len(id) < 19 else 0
    if not number:
        raise UnknownAssessment
    found = await fraud.label(app, id=number, label=body.label, by=deps.user_id(who))
    return CaseOut.of(found)


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isdecimal() or len(cursor) > 18:
        raise Malformed
    return int(cursor)
