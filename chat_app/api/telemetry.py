"""REST: the time series of the machine, the engine and the books, and the rules for alerts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StrictBool

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, errors_in
from chat_app.api.performance import RequestsOut, TallyOut
from chat_app.api.views import Page, Shown
from chat_app.clock import MICROS_PER_SECOND, rfc3339
from chat_app.flows import advice, monitoring
from chat_app.monitor import faults, rules, series
from chat_app.monitor.rules import Change, Rule
from chat_app.monitor.tables import MachineAlert

router = APIRouter(prefix="/monitoring", tags=["monitoring"])

Reading = Annotated[SignedIn, Depends(deps.allowed("machine.read"))]
Operating = Annotated[SignedIn, Depends(deps.allowed("machine.write"))]
Names = Annotated[
    str, Query(max_length=2000, description="Only these figures, separated by commas.")
]
MOST_DAYS = 730


class AnalyticsOut(Shown):
    """What was measured from `from` to `to` by one process."""

    source: str
    since: Annotated[str, Field(serialization_alias="from")]
    until: Annotated[str, Field(serialization_alias="to")]
    minutes_seen: int
    requests: dict[str, RequestsOut]
    answers: dict[str, int]
    tokens: dict[str, int]
    figures: dict[str, TallyOut]


class SeriesOut(Shown):
    """Rows of `step_seconds` from `start`; of each figure its means, a null where nothing was seen.

    Figures that are counted, such as requests, have sums in place of means.
    """

    source: str
    start: str
    step_seconds: int
    figures: dict[str, list[float | None]]


class RuleOut(Shown):
    """A rule. `above`: at fault above the threshold, else below it. `usual` are its defaults."""

    name: str
    title: str
    metric: str
    level: str
    above: bool
    unit: str
    threshold: float
    for_seconds: int
    channels: list[str]
    enabled: bool
    advice: str
    value: float | None
    raised: bool
    usual: dict[str, float | int | bool]

    @classmethod
    def of(cls, rule: Rule, *, value: float | None, raised: bool) -> "RuleOut":
        plain = rules.USUAL[rule.name]
        return cls(
            name=rule.name,
            title=rule.title,
            metric=rule.metric,
            level=rule.level,
            above=rule.above,
            unit=rule.unit,
            threshold=rule.threshold,
            for_seconds=rule.for_seconds,
            channels=list(rule.channels),
            enabled=rule.enabled,
            advice=rule.advice,
            value=value,
            raised=raised,
            usual={
                "threshold": plain.threshold,
                "for_seconds": plain.for_seconds,
                "enabled": plain.enabled,
            },
        )


class RuleChange(Body):
    """What is to be changed of a rule; what is left out stays."""

    enabled: StrictBool | None = None
    threshold: Annotated[float | int | None, Field(ge=0, le=1e15)] = None
    for_seconds: Annotated[int | None, Field(ge=0, le=86_400)] = None
    channels: Annotated[list[Annotated[str, Field(max_length=10)]] | None, Field(max_length=3)] = (
        None
    )


class FaultOut(Shown):
    """A fault: which rule, where (empty: the whole installation), from when until when."""

    id: str
    rule: str
    title: str
    place: str
    value: float
    threshold: float
    raised_at: str
    cleared_at: str | None

    @classmethod
    def of(cls, row: MachineAlert) -> "FaultOut":
        known = rules.USUAL.get(row.rule)
        return cls(
            id=str(row.id),
            rule=row.rule,
            title=known.title if known else row.rule,
            place=row.place,
            value=row.value,
            threshold=row.threshold,
            raised_at=rfc3339(row.raised_at),
            cleared_at=None if row.cleared_at is None else rfc3339(row.cleared_at),
        )


@router.get("/analytics", responses=errors_in(401, 403, 422))
def analytics(
    app: deps.App, who: Reading, since: deps.Since = None, until: deps.Until = None
) -> AnalyticsOut:
    """Requests, answers, tokens and figures of a time; the last day when nothing is said."""
    now = app.clock.micros()
    end = now if until is None else min(until, now)
    start = end - 86_400 * MICROS_PER_SECOND if since is None else since
    if start > end or end - start > MOST_DAYS * 86_400 * MICROS_PER_SECOND:
        raise deps.BadTime(param="from")
    first, last = start // MICROS_PER_SECOND, end // MICROS_PER_SECOND + 1
    width = _width(last - first)
    slots = [
        slot for slot in advice.between(app, since=first, until=last, width=width) if slot.tallies
    ]
    whole = series.total(slots)

    def count(name: str) -> int:
        return int(whole[name].total) if name in whole else 0

    return AnalyticsOut(
        source=app.telemetry.source,
        since=rfc3339(start),
        until=rfc3339(end),
        minutes_seen=len(slots) * width // 60,
        requests={name: RequestsOut.of(row) for name, row in advice.requests_of(whole).items()},
        answers={end: count(f"engine.answers_{end}") for end in ("done", "failed", "cancelled")},
        tokens={
            kind: count(f"engine.{kind}_tokens") for kind in ("prompt", "cached", "completion")
        },
        figures={
            name: TallyOut.of(tally) for name, tally in sorted(whole.items()) if ".b" not in name
        },
    )


@router.get("/series", responses=errors_in(401, 403, 422))
def time_series(
    app: deps.App, who: Reading, range: advice.Range = "1h", names: Names = ""
) -> SeriesOut:
    """The figures of this process over a time, for graphs."""
    seconds, width = advice.RANGES[range]
    bins = advice.look_back(app, seconds=seconds, width=width)
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    seen = {name for slot in bins for name in slot.tallies if ".b" not in name}
    return SeriesOut(
        source=app.telemetry.source,
        start=rfc3339(bins[0].at * MICROS_PER_SECOND),
        step_seconds=width,
        figures={
            name: [_point(slot, name) for slot in bins] for name in sorted(seen & (wanted or seen))
        },
    )


@router.get("/rules", responses=errors_in(401, 403))
def list_rules(app: deps.App, who: Reading) -> Page[RuleOut]:
    """The rules for alerts, with what each sees now."""
    with app.db.read() as session:
        known = faults.rules_of(session)
        raised = {row.rule for row in faults.open_ones(session, place=app.telemetry.source)}
    latest = app.telemetry.latest
    return Page(
        items=[
            RuleOut.of(rule, value=latest.get(rule.metric), raised=rule.name in raised)
            for rule in known.values()
        ]
    )


@router.put("/rules/{id}", responses=errors_in(401, 403, 404, 422))
async def change_rule(app: deps.App, who: Operating, id: deps.Id, body: RuleChange) -> RuleOut:
    """Change when a rule is at fault, for how long, and on which channels it is told."""
    channels = None if body.channels is None else tuple(dict.fromkeys(body.channels))
    threshold = None if body.threshold is None else float(body.threshold)
    rule = await monitoring.change_rule(
        app,
        admin_id=deps.user_id(who),
        name=id,
        change=Change(body.enabled, threshold, body.for_seconds, channels),
    )
    return _rule_out(app.telemetry.latest, rule)


@router.delete("/rules/{id}", responses=errors_in(401, 403, 404))
async def reset_rule(app: deps.App, who: Operating, id: deps.Id) -> RuleOut:
    """Make a rule what it usually is."""
    rule = await monitoring.reset_rule(app, admin_id=deps.user_id(who), name=id)
    return _rule_out(app.telemetry.latest, rule)


@router.get("/faults", responses=errors_in(401, 403, 422))
def list_faults(app: deps.App, who: Reading, limit: deps.Limit = 50) -> Page[FaultOut]:
    """Faults that alerts were raised for, the newest first; without `cleared_at` it is open."""
    with app.db.read() as session:
        rows = faults.newest(session, limit=limit)
    return Page(items=[FaultOut.of(row) for row in rows])


def _rule_out(latest: dict[str, float], rule: Rule) -> RuleOut:
    return RuleOut.of(rule, value=latest.get(rule.metric), raised=False)


def _width(seconds: int) -> int:
    if seconds <= 6 * 3600:
        return series.MINUTE
    return series.QUARTER if seconds <= 30 * 86_400 else series.DAY


def _point(slot: series.Slot, name: str) -> float | None:
    tally = slot.tallies.get(name)
    if tally is None or not tally.count:
        return None
    return round(tally.total if series.counts(name) else tally.mean, 3)
