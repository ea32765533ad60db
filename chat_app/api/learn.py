"""REST: what the models say, their versions and who gets which, for staff.

Everything is read from what the last training left; nothing is trained in a request.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlmodel import Session, col, select

from chat_app.accounts.sessions import SignedIn
from chat_app.accounts.tables import User
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import MoneyOut, Page, Shown
from chat_app.clock import rfc3339, to_micros
from chat_app.flows import drift, learn, predictions, rollouts
from chat_app.flows.predictions import Prediction, Run
from chat_app.ml.registry import ModelVersion
from chat_app.ml.rollout import Rollout

router = APIRouter(prefix="/admin", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("books.read"))]
Looking = Annotated[SignedIn, Depends(deps.allowed("machine.read"))]
Changing = Annotated[SignedIn, Depends(deps.allowed("machine.write"))]
Kind = Literal["ltv", "churn", "forecast", "fraud"]
_Version = Annotated[str, Field(min_length=1, max_length=32), deps.Clean]
_Tenant = Annotated[str, Field(min_length=1, max_length=64), deps.Clean]


class BasedOn(Shown):
    """What predictions rest on: the training, its version, and up to when it knew. Null before
    the first training. `is_demo`: learnt from made-up people.
    """

    run_id: str
    version: str
    algorithm: str
    basis: str
    as_of: str
    is_demo: bool
    metrics: dict[str, Any]

    @classmethod
    def of(cls, run: Run | None) -> "BasedOn | None":
        """A training for the API."""
        if run is None:
            return None
        return cls(
            run_id=str(run.id),
            version=run.version or "",
            algorithm=run.report.get("algorithm", ""),
            basis=run.report.get("basis", ""),
            as_of=rfc3339(run.as_of),
            is_demo=run.is_demo,
            metrics=run.report.get("metrics", {}),
        )


class LtvOut(Shown):
    """What a customer will bring: the mean, a band that 80 of 100 fall into, and why."""

    user_id: str
    username: str
    ltv: MoneyOut
    lo80: MoneyOut
    hi80: MoneyOut
    expected_purchases: float
    p_active: float
    horizon_days: int
    basis: str
    reasons: list[str]


class ChurnOut(Shown):
    """How likely a customer will not come back in time, how sure that is, and why."""

    user_id: str
    username: str
    probability: float
    confidence: str
    risk_factors: list[str]
    protective_factors: list[str]
    seen_days_ago: int | None
    horizon_days: int
    basis: str


class LtvPage(Page[LtvOut]):
    """A page of customers, the most valuable first."""

    based_on: BasedOn | None


class ChurnPage(Page[ChurnOut]):
    """A page of customers, the likeliest to leave first."""

    based_on: BasedOn | None


class DayOut(Shown):
    """A day ahead with its 80 and 95 % bands and what the seasonal-naive line says."""

    ds: str
    yhat: float
    lo80: float
    hi80: float
    lo95: float
    hi95: float
    naive: float


class ForecastOut(Shown):
    """The days ahead: `revenue` in minor units of `currency`, or `credits`."""

    series: str
    currency: str
    items: list[DayOut]
    backtest: list[dict[str, Any]]
    based_on: BasedOn | None


class VersionOut(Shown):
    """A saved version. `problem` says why it cannot be used, if it cannot."""

    kind: str
    version: str
    champion: bool
    created_at: str
    as_of: str | None
    bytes: int
    meta: dict[str, Any]
    problem: str | None

    @classmethod
    def of(cls, one: ModelVersion) -> "VersionOut":
        """A version for the API."""
        return cls(
            kind=one.kind,
            version=one.version,
            champion=one.champion,
            created_at=rfc3339(to_micros(one.created_at)),
            as_of=one.as_of,
            bytes=one.size,
            meta=one.meta,
            problem=one.problem,
        )


class TrainingOut(Shown):
    """A training: running, done or failed."""

    id: str
    kind: str
    state: str
    actor: str
    version: str | None
    champion: bool
    is_demo: bool
    rows: int
    error: str | None
    started_at: str
    ended_at: str | None

    @classmethod
    def of(cls, run: Run) -> "TrainingOut":
        """A training for the API."""
        return cls(
            id=str(run.id),
            kind=run.kind,
            state=run.state,
            actor=run.actor,
            version=run.version,
            champion=run.champion,
            is_demo=run.is_demo,
            rows=run.rows,
            error=run.error,
            started_at=rfc3339(run.started_at),
            ended_at=rfc3339(run.ended_at) if run.ended_at else None,
        )


class MovedOut(Shown):
    """A column's population stability index beside the level that is more than chance."""

    feature: str
    psi: float | None
    threshold: float
    alarm: bool
    version: str
    looked_at: str


class DriftOut(Shown):
    """The newest look; `train_again` when something moved since the newest training."""

    items: list[MovedOut]
    train_again: bool


class RolloutOut(Shown):
    """Who gets which version, the newcomer first."""

    kind: str
    weights: dict[str, float]
    pins: dict[str, str]
    shadow: str | None
    killed: list[str]
    reason: str

    @classmethod
    def of(cls, state: Rollout) -> "RolloutOut":
        """A rollout for the API."""
        return cls(
            kind=state.experiment,
            weights=dict(state.weights),
            pins=dict(state.pins),
            shadow=state.shadow,
            killed=sorted(state.killed),
            reason=state.reason,
        )


class VersionsOut(Shown):
    """Every version, newest first, the rollouts and the newest trainings."""

    items: list[VersionOut]
    rollouts: list[RolloutOut]
    trainings: list[TrainingOut]


class TrainIn(deps.Body):
    """What to train; nothing given: every kind that can be trained here."""

    kinds: list[Kind] = Field(default=[], max_length=4)


class RolloutIn(deps.Body):
    """Shares that sum to 1, the newcomer first; the last version becomes the champion.

    `pins` map tenants to versions, `shadow` scores and decides nothing, `killed` versions answer
    nobody.
    """

    kind: Kind
    weights: dict[_Version, float] = Field(min_length=1, max_length=8)
    pins: dict[_Tenant, _Version] = Field(default={}, max_length=1000)
    shadow: _Version | None = None
    killed: list[_Version] = Field(default=[], max_length=100)
    reason: Annotated[str, Field(max_length=300), deps.Clean] = ""


class TrainingsOut(Shown):
    """The trainings that were begun."""

    items: list[TrainingOut]


@router.get("/predictions/ltv", responses=errors_in(401, 403, 422))
def predict_ltv(
    app: deps.App, who: Reading, limit: deps.Limit = 50, cursor: deps.Cursor = None
) -> LtvPage:
    """What each customer will bring, as the last training saw it, the most valuable first."""
    with app.db.read() as session:
        found, following = predictions.page(session, kind="ltv", limit=limit, cursor=cursor)
        run, names = predictions.current(session, "ltv"), _names(session, found)
        currency = predictions.currency(run)
    items = [
        LtvOut(
            user_id=one.subject,
            username=names.get(one.subject, ""),
            ltv=MoneyOut(amount=round(one.value), currency=currency),
            lo80=MoneyOut(amount=round(one.lo or 0), currency=currency),
            hi80=MoneyOut(amount=round(one.hi or 0), currency=currency),
            basis=one.basis,
            reasons=one.reasons,
            **one.facts,
        )
        for one in found
    ]
    return LtvPage(items=items, next_cursor=following, based_on=BasedOn.of(run))


@router.get("/predictions/churn", responses=errors_in(401, 403, 422))
def predict_churn(
    app: deps.App, who: Reading, limit: deps.Limit = 50, cursor: deps.Cursor = None
) -> ChurnPage:
    """Who will probably not come back, as the last training saw it, the likeliest first."""
    with app.db.read() as session:
        found, following = predictions.page(session, kind="churn", limit=limit, cursor=cursor)
        run, names = predictions.current(session, "churn"), _names(session, found)
    items = [
        ChurnOut(
            user_id=one.subject,
            username=names.get(one.subject, ""),
            probability=one.value,
            confidence=one.facts["confidence"],
            risk_factors=one.reasons,
            protective_factors=one.facts["protective"],
            seen_days_ago=one.facts.get("seen_days_ago"),
            horizon_days=one.facts["horizon_days"],
            basis=one.basis,
        )
        for one in found
    ]
    return ChurnPage(items=items, next_cursor=following, based_on=BasedOn.of(run))


@router.get("/revenue/forecast", responses=errors_in(401, 403, 422))
def show_forecast(
    app: deps.App,
    who: Reading,
    series: Annotated[
        Literal["revenue", "credits"], Query(description="Money in, or credits used.")
    ] = "revenue",
) -> ForecastOut:
    """The next four weeks by day, with bands, the naive line and the backtest of every method."""
    with app.db.read() as session:
        found = predictions.path(session, kind="forecast", subject=series)
        run = predictions.current(session, "forecast")
        rows = predictions.backtest(session, run.id) if run else []
        currency = predictions.currency(run)
    items = [
        DayOut(ds=one.ds, yhat=one.value, lo80=one.lo or 0, hi80=one.hi or 0, **one.facts)
        for one in found
    ]
    return ForecastOut(
        series=series,
        currency=currency,
        items=items,
        backtest=rows,
        based_on=BasedOn.of(run),
    )


@router.get("/ml/versions", responses=errors_in(401, 403, 422))
def list_versions(app: deps.App, who: Looking, kind: Kind | None = None) -> VersionsOut:
    """Every version with its metrics beside the baselines; each file is checked on the way."""
    found = rollouts.versions(app, kind)
    models = rollouts.of(app)
    with app.db.read() as session:
        kinds = [kind] if kind else list(rollouts.KINDS)
        states = [rollouts.rollout(session, models, one) for one in kinds]
        trainings = predictions.runs(session, kind=kind)
    return VersionsOut(
        items=[VersionOut.of(one) for one in found],
        rollouts=[RolloutOut.of(state) for state in states if state is not None],
        trainings=[TrainingOut.of(run) for run in trainings],
    )


@router.get("/ml/drift", responses=errors_in(401, 403, 422))
def show_drift(app: deps.App, who: Looking, kind: Kind) -> DriftOut:
    """How far a model's figures have moved in four weeks, the furthest first."""
    with app.db.read() as session:
        rows, again = drift.newest(session, kind), drift.moved_since(session, kind)
    items = [
        MovedOut(
            feature=row.feature,
            psi=row.psi,
            threshold=row.threshold,
            alarm=row.alarm,
            version=row.version,
            looked_at=rfc3339(row.looked_at),
        )
        for row in rows
    ]
    return DriftOut(items=items, train_again=again)


@router.post("/ml/versions", status_code=202, responses=errors_in(401, 403, 409, 422, 503))
def train_versions(app: deps.App, who: Changing, body: TrainIn) -> TrainingsOut:
    """Begin a training in a process of its own; see how it went by `GET admin/ml/versions`."""
    runs = learn.begin(app, kinds=body.kinds, actor=f"user:{deps.user_id(who)}")
    return TrainingsOut(items=[TrainingOut.of(run) for run in runs])


@router.put("/ml/rollout", responses=errors_in(401, 403, 404, 422, 503))
def change_rollout(app: deps.App, who: Changing, body: RolloutIn) -> RolloutOut:
    """Share a model's subjects among its versions; one version with all is a promotion."""
    state = rollouts.set_rollout(app, **body.model_dump(), actor=f"user:{deps.user_id(who)}")
    return RolloutOut.of(state)


def _names(session: Session, found: list[Prediction]) -> dict[str, str]:
    ids = [int(one.subject) for one in found]
    rows = session.exec(select(User.id, User.username).where(col(User.id).in_(ids)))
    return {str(id): name for id, name in rows}
