"""REST: how fast the program is, what would make it faster, and memory given back."""

from datetime import date, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StrictBool

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, errors_in
from chat_app.api.views import Shown
from chat_app.app import App
from chat_app.clock import rfc3339
from chat_app.flows import advice, running
from chat_app.monitor.series import Tally

router = APIRouter(prefix="/performance", tags=["performance"])

Reading = Annotated[SignedIn, Depends(deps.allowed("machine.read"))]
Operating = Annotated[SignedIn, Depends(deps.allowed("machine.write"))]
First = Annotated[date | None, Query(alias="from", description="The first day, in UTC.")]
Last = Annotated[date | None, Query(alias="to", description="The last day, included.")]
Hours = Annotated[int, Query(ge=1, le=720, description="Look back so many hours.")]


class TallyOut(Shown):
    """A figure over a time: how often it was seen, its least, most, mean, sum and last value."""

    count: int
    least: float
    most: float
    mean: float
    sum: float
    last: float

    @classmethod
    def of(cls, tally: Tally) -> "TallyOut":
        return cls(
            count=tally.count,
            least=round(tally.least, 4),
            most=round(tally.most, 4),
            mean=round(tally.mean, 4),
            sum=round(tally.total, 4),
            last=round(tally.last, 4),
        )


class RequestsOut(Shown):
    """Requests of a class. `p50_ms`, `p95_ms` are up to the head of the answer."""

    requests: int
    refused: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None

    @classmethod
    def of(cls, row: dict[str, float | None]) -> "RequestsOut":
        return cls(
            requests=int(row["requests"] or 0),
            refused=int(row["refused"] or 0),
            failed=int(row["failed"] or 0),
            p50_ms=_rounded(row["p50_ms"]),
            p95_ms=_rounded(row["p95_ms"]),
        )


class PerformanceOut(Shown):
    """This process now: its newest figures, and of each model what the engine measures."""

    source: str
    seen_at: str | None
    figures: dict[str, float]
    engine: dict[str, Any]
    requests: dict[str, RequestsOut]


class RunOut(Shown):
    """What a model wrote and took of the machine. `engine_seconds`: while its answers had the
    model, those of several at once shared out; `watts`: what all GPUs drew meanwhile, the setting
    where none says; `cost_minor` and `cost_per_1000_minor` (for tokens that were written) in minor
    units, not rounded to whole ones.
    """

    model: str
    answers: int
    prompt_tokens: int
    completion_tokens: int
    engine_seconds: float
    tokens_per_second: float
    watts: float
    watts_measured: bool
    watt_hours: float
    cost_minor: float
    cost_per_1000_minor: float | None

    @classmethod
    def of(cls, run: running.Run) -> "RunOut":
        price = run.per_thousand
        return cls(
            model=run.model,
            answers=run.answers,
            prompt_tokens=run.prompt_tokens,
            completion_tokens=run.tokens,
            engine_seconds=run.engine_ms / 1000,
            tokens_per_second=round(run.tokens_per_second, 2),
            watts=round(run.power.watts, 1),
            watts_measured=run.power.measured,
            watt_hours=round(run.watt_hours, 3),
            cost_minor=round(float(run.cost), 6),
            cost_per_1000_minor=None if price is None else round(float(price), 6),
        )


class RunningOut(Shown):
    """The price of running in a time; `currency` is that of `[costs]`."""

    since: date
    until: date
    currency: str
    items: list[RunOut]


class FindingOut(Shown):
    """A recommendation: what was seen, up to which `goal` it is well, and what to do."""

    area: str
    name: str
    level: str
    sentence: str
    action: str
    value: float
    goal: float
    unit: str


class AnalysisOut(Shown):
    """Findings, worst first, of `minutes_seen` minutes of the time looked at."""

    hours: int
    minutes_seen: int
    summary: str
    findings: list[FindingOut]
    requests: dict[str, RequestsOut]
    figures: dict[str, TallyOut]


class OptimizeIn(Body):
    """What may be given up: models unused for `idle_seconds`, cached answers."""

    models: StrictBool = True
    caches: StrictBool = True
    idle_seconds: Annotated[int, Field(ge=0, le=86_400)] = 60


class FreedOut(Shown):
    """A step, and the bytes that the processes have less after it."""

    step: str
    sentence: str
    freed_bytes: int


class OptimizedOut(Shown):
    """Resident memory of this process and of its models, before and after."""

    before_bytes: int
    after_bytes: int
    freed_bytes: int
    steps: list[FreedOut]


@router.get("/metrics", responses=errors_in(401, 403))
def performance_metrics(app: deps.App, who: Reading) -> PerformanceOut:
    """The newest figures of this process, and its requests of the last hour by class."""
    telemetry = app.telemetry
    lately = advice.analyse(app).figures
    return PerformanceOut(
        source=telemetry.source,
        seen_at=rfc3339(telemetry.seen_at) if telemetry.seen_at else None,
        figures={name: round(value, 4) for name, value in sorted(telemetry.latest.items())},
        engine=app.engine.stats(),
        requests={name: RequestsOut.of(row) for name, row in advice.requests_of(lately).items()},
    )


@router.get("/analysis", responses=errors_in(401, 403, 422))
def performance_analysis(app: deps.App, who: Reading, hours: Hours = 1) -> AnalysisOut:
    """What the last hours' figures say, each with its numbers and what to do about it."""
    return analysis_of(app, hours)


@router.get("/running", responses=errors_in(401, 403, 422))
def price_of_running(
    *, app: deps.App, who: Reading, since: First = None, until: Last = None
) -> RunningOut:
    """What each model took of machine and power, and what 1,000 tokens cost, the last 30 days."""
    last = until or app.clock.now().date()
    first = since or last - timedelta(days=29)
    return RunningOut(
        since=first,
        until=last,
        currency=app.settings.costs.currency,
        items=[RunOut.of(run) for run in running.runs(app, since=first, until=last)],
    )


@router.post("/optimize/memory", responses=errors_in(401, 403, 422))
async def optimize_memory(
    app: deps.App, who: Operating, body: OptimizeIn | None = None
) -> OptimizedOut:
    """Unload idle models, empty caches, give free pages back; says how many bytes that freed."""
    wanted = body or OptimizeIn()
    done = await advice.optimize(
        app, models=wanted.models, caches=wanted.caches, idle_seconds=wanted.idle_seconds
    )
    return OptimizedOut(
        before_bytes=done.before_bytes,
        after_bytes=done.after_bytes,
        freed_bytes=done.freed_bytes,
        steps=[
            FreedOut(step=one.step, sentence=one.sentence, freed_bytes=one.bytes)
            for one in done.steps
        ],
    )


def analysis_of(app: App, hours: int) -> AnalysisOut:
    """The analysis of the last hours."""
    found = advice.analyse(app, seconds=hours * 3600)
    if not found.minutes_seen:
        summary = "Nothing was measured in this time yet. Look again in a minute."
    elif not found.findings:
        summary = "Nothing needs a change."
    else:
        count = len(found.findings)
        summary = f"{count} {'thing' if count == 1 else 'things'} could be better."
    return AnalysisOut(
        hours=hours,
        minutes_seen=found.minutes_seen,
        summary=summary,
        findings=[FindingOut(**vars(one)) for one in found.findings],
        requests={
            name: RequestsOut.of(row) for name, row in advice.requests_of(found.figures).items()
        },
        figures={
            name: TallyOut.of(tally)
            for name, tally in sorted(found.figures.items())
            if ".b" not in name
        },
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
