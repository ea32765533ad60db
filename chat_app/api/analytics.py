"""REST: the caller's own use over time, the outlook for their credits, and both as CSV."""

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Shown, UsageLineOut
from chat_app.clock import rfc3339
from chat_app.credits import ledger
from chat_app.credits.statements import safe
from chat_app.flows import analytics, outlook
from chat_app.flows.analytics import Sums, View
from chat_app.flows.outlook import Outlook
from chat_app.money import format_credits

router = APIRouter(tags=["analytics"])

Minutes = Annotated[
    int, Query(ge=-840, le=840, description="Minutes from UTC, for the hours of the day.")
]
_DAYS = ("day", "model", "messages", "prompt_tokens", "completion_tokens", "credits")
_MOVES = ("id", "time", "type", "credits", "balance_after", "model", "description", "reference")
_DAY, _PAGE = 10, 200


class SumsOut(Shown):
    """What a period came to."""

    messages: int
    answers: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    active_days: int
    credits: str
    credits_per_answer: str | None

    @classmethod
    def of(cls, sums: Sums) -> "SumsOut":
        return cls(
            messages=sums.messages,
            answers=sums.answers,
            cached=sums.cached,
            prompt_tokens=sums.prompt_tokens,
            completion_tokens=sums.completion_tokens,
            active_days=sums.active_days,
            credits=format_credits(sums.credits),
            credits_per_answer=None if sums.each is None else format_credits(sums.each),
        )


class ModelUseOut(Shown):
    """The answers of one model; `stopped` are those that the caller cut off."""

    model: str
    messages: int
    answers: int
    prompt_tokens: int
    completion_tokens: int
    stopped: int
    credits: str


class ScoreOut(Shown):
    """From 0 to 100. `basis`: `ranks` among `people`, or `scale` while they are too few."""

    score: float
    parts: dict[str, float]
    basis: str
    people: int


class AdviceOut(Shown):
    """What could be done better, with the number behind it."""

    advice: str
    value: float
    figure: str
    sentence: str


class AnalyticsOut(Shown):
    """The caller's use from `since` to before `until`, whole UTC days, and in the time before."""

    since: str
    until: str
    now: SumsOut
    before: SumsOut
    days: list[UsageLineOut]
    models: list[ModelUseOut]
    hours: list[list[int]]
    score: ScoreOut | None
    advices: list[AdviceOut]

    @classmethod
    def of(cls, view: View) -> "AnalyticsOut":
        score = view.score
        return cls(
            since=rfc3339(view.since),
            until=rfc3339(view.until),
            now=SumsOut.of(view.now),
            before=SumsOut.of(view.before),
            days=[UsageLineOut.of(rfc3339(row.at)[:_DAY], row) for row in view.lines],
            models=[
                ModelUseOut(
                    model=row.model,
                    messages=row.messages,
                    answers=row.answers,
                    prompt_tokens=row.prompt_tokens,
                    completion_tokens=row.completion_tokens,
                    stopped=row.stopped,
                    credits=format_credits(row.cost),
                )
                for row in view.models
            ],
            hours=view.hours,
            score=None
            if score is None
            else ScoreOut(
                score=score.score, parts=score.parts, basis=score.basis, people=score.people
            ),
            advices=[
                AdviceOut(
                    advice=item.code, value=item.value, figure=item.figure, sentence=item.sentence
                )
                for item in view.advice
            ],
        )


class BalanceDayOut(Shown):
    """The balance at the end of a day: one in ten, half and nine in ten futures stay below."""

    day: str
    p10: str
    p50: str
    p90: str


class OutlookOut(Shown):
    """When the credits run out: the days by which one in ten, half and nine in ten futures have.

    `basis`: `history`, `profile` or `insufficient`; use after `as_of` is not in it.
    """

    as_of: str
    balance: str
    basis: str
    used_days: int
    runs_out: dict[str, str | None]
    days: list[BalanceDayOut]

    @classmethod
    def of(cls, seen: Outlook) -> "OutlookOut":
        rows = zip(seen.days, seen.low, seen.middle, seen.high, strict=True)
        return cls(
            as_of=rfc3339(seen.as_of),
            balance=format_credits(seen.balance),
            basis=seen.basis,
            used_days=seen.used_days,
            runs_out={
                name: None if at is None else rfc3339(at)[:_DAY] for name, at in seen.runout.items()
            },
            days=[
                BalanceDayOut(
                    day=rfc3339(at)[:_DAY],
                    p10=format_credits(low),
                    p50=format_credits(middle),
                    p90=format_credits(high),
                )
                for at, low, middle, high in rows
            ],
        )


@router.get(
    "/analytics/me",
    response_model=AnalyticsOut,
    responses={200: {"content": {"text/csv": {}}}, **errors_in(401, 422)},
)
def analytics_of_me(
    *,
    app: deps.App,
    who: deps.CurrentUser,
    since: deps.Since,
    until: deps.Until,
    offset_minutes: Minutes = 0,
    format: Annotated[Literal["json", "csv"], Query(description="The form.")] = "json",
) -> Response | AnalyticsOut:
    """The caller's own use: sums beside the period before, days, models, hours, a score, advice.

    Whole UTC days, the last thirty when `from` and `to` are not given and at most 366. As CSV
    the days by model.
    """
    view = analytics.of(
        app, user_id=deps.user_id(who), since=since, until=until, shift=offset_minutes
    )
    if format == "json":
        return AnalyticsOut.of(view)
    lines = [_csv(_DAYS)]
    for row in view.lines:
        shown = UsageLineOut.of(rfc3339(row.at)[:_DAY], row)
        lines.append(
            _csv(
                [
                    shown.period,
                    safe(shown.model),
                    shown.messages,
                    shown.prompt_tokens,
                    shown.completion_tokens,
                    shown.credits,
                ]
            )
        )
    return _file("".join(lines), "usage.csv")


@router.get("/billing/forecast", responses=errors_in(401))
async def forecast(app: deps.App, who: deps.CurrentUser) -> OutlookOut:
    """When the caller's credits run out, from their own use. Made once a day; may take seconds."""
    return OutlookOut.of(await outlook.ask(app, user_id=deps.user_id(who)))


@router.get(
    "/billing/transactions.csv",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}}, **errors_in(401, 422)},
)
def transactions_file(
    app: deps.App,
    who: deps.CurrentUser,
    since: deps.Since,
    until: deps.Until,
    type: Annotated[
        str | None, Query(pattern=r"^[a-z_]{1,16}$", description="One type only.")
    ] = None,
) -> Response:
    """The caller's movements of credits as CSV, newest first, by the filters of the list."""
    owner = deps.user_id(who)
    with app.db.read() as session:  # an unknown type is refused before the file begins
        ledger.transactions(session, user_id=owner, type=type, limit=1)

    def pages() -> Iterator[str]:
        yield _csv(_MOVES)
        cursor: str | None = None
        while True:
            with app.db.read() as session:
                rows, cursor = ledger.transactions(
                    session,
                    user_id=owner,
                    type=type,
                    since=since,
                    until=until,
                    limit=_PAGE,
                    cursor=cursor,
                )
            for row in rows:
                yield _csv(
                    [
                        row.id,
                        rfc3339(row.created_at),
                        row.type,
                        format_credits(row.credits),
                        format_credits(row.balance_after),
                        safe(row.model or ""),
                        safe(row.description or ""),
                        safe(row.reference or ""),
                    ]
                )
            if cursor is None:
                return

    return StreamingResponse(
        pages(), media_type="text/csv; charset=utf-8", headers=_named("transactions.csv")
    )


def _file(content: str, name: str) -> Response:
    return Response(content, media_type="text/csv; charset=utf-8", headers=_named(name))


def _named(name: str) -> dict[str, str]:
    return {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }


def _csv(cells: "list[object] | tuple[str, ...]") -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()
