"""REST: whether the program is alive, ready and how it is doing; for people and for scrapers."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import HealthOut, MetricsOut
from chat_app.app import App
from chat_app.credits import holds
from chat_app.flows import figures
from chat_app.monitor import prometheus
from chat_app.monitor.health import Probe

router = APIRouter(prefix="/monitoring", tags=["monitoring"])
ops = APIRouter(tags=["operations"])

Operating = Annotated[SignedIn, Depends(deps.allowed("machine.read"))]


async def health_of(request: Request, app: App) -> HealthOut:
    """The health now, from the probe of this web application."""
    probe = request.app.state.probe
    assert isinstance(probe, Probe)
    health = await probe.look(draining=app.draining, at=app.clock.micros())
    return HealthOut(
        status="ok" if health.ready else "unavailable",
        checks=health.checks,
        engine=health.engine,
        redis="off" if app.link is None else "ok" if app.link.up else "lost",
    )


def metrics_of(app: App) -> MetricsOut:
    """Counts for operators."""
    running, waiting = app.limits.counts()
    with app.db.read() as session:
        open_holds = holds.count_open(session)
    return MetricsOut(
        running=running,
        waiting=waiting,
        replies=len(app.replies),
        draining=app.draining,
        uptime_seconds=round(time.monotonic() - app.started_monotonic, 3),
        holds_open=open_holds,
        answer_cache=app.cache.stats(),
        engine=app.engine.stats(),
    )


@ops.get("/livez")
async def livez() -> dict[str, str]:
    """The event loop runs. Says nothing about anything else."""
    return {"status": "ok"}


@ops.get("/readyz", responses={503: {"model": HealthOut}})
async def readyz(request: Request, app: deps.App, response: Response) -> HealthOut:
    """The database can be written, the disk has room and the server is not going down."""
    return await _ready(request, app, response)


@ops.get("/health", responses={503: {"model": HealthOut}})
async def health(request: Request, app: deps.App, response: Response) -> HealthOut:
    """The same as /readyz."""
    return await _ready(request, app, response)


@ops.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[deps.Operator],
    responses=errors_in(401, 403),
)
def prometheus_metrics(app: deps.App) -> PlainTextResponse:
    """Figures for Prometheus. For administrators, and for programs on the same machine."""
    return PlainTextResponse(
        figures.page(app),
        media_type=prometheus.CONTENT_TYPE,
        headers={"Cache-Control": "no-store"},
    )


@router.get("/health", responses=errors_in(401))
async def monitoring_health(request: Request, app: deps.App, who: deps.CurrentUser) -> HealthOut:
    """The same as /readyz, always with status 200."""
    return await health_of(request, app)


@router.get("/metrics", responses=errors_in(401, 403))
def metrics(app: deps.App, who: Operating) -> MetricsOut:
    """Counts for operators: answers, holds, the engine."""
    return metrics_of(app)


async def _ready(request: Request, app: App, response: Response) -> HealthOut:
    shown = await health_of(request, app)
    response.headers["Cache-Control"] = "no-store"
    if shown.status != "ok":
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return shown
