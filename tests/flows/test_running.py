"""The price of running: by hand from the rows, with power as it was measured or as it is set."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from chat_app.app import App
from chat_app.clock import ManualClock
from chat_app.flows import monitoring, running
from chat_app.llm.meter import Span
from tests.apps import MODEL, answer, ask, in_loop, person, running_app

DAY = date(2026, 1, 1)
COSTS = {"watts": 100, "cents_per_kwh": 30, "cents_per_hour": 91}


@pytest.fixture(autouse=True)
def _long_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer has its model for an hour and a half."""
    ended = Span.ended

    def long(span: Span, *end: Any) -> float:
        ended(span, *end)
        return 5_400_000

    monkeypatch.setattr(Span, "ended", long)


async def worked(app: App) -> None:
    """Two answers of 8 tokens."""
    ann = await person(app)
    for number in range(2):
        await answer(app, ann, await ask(app, ann, f"question {number}"))


@in_loop
async def test_power_and_hours_are_shared_out_by_tokens(tmp_path: Path, database_url: str) -> None:
    """3 hours at 100 W are 300 Wh, 9 cents; with the machine's 91 cents an hour 282 cents."""
    async with running_app(tmp_path, url=database_url, clock=ManualClock(), costs=COSTS) as app:
        assert running.runs(app, since=DAY, until=DAY) == []
        await worked(app)
        (run,) = running.runs(app, since=DAY, until=DAY)
        assert (run.model, run.answers, run.tokens) == (MODEL, 2, 16)
        assert run.power == running.Power(100, measured=False)
        assert run.watt_hours == 300
        assert run.cost == 282
        assert run.per_thousand == 282 * 1000 / 16
        assert run.tokens_per_second == 16 / 10800
        assert running.runs(app, since=date(2026, 1, 2), until=date(2026, 1, 3)) == []


@in_loop
async def test_what_the_gpus_say_counts_before_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only looks at which a model writes: two GPUs, 300 W and 100 W, that idle at 30 W."""

    async with running_app(tmp_path, clock=ManualClock(), costs=COSTS) as app:
        await worked(app)
        monitor = monitoring.Monitor(app)
        machine = app.telemetry.machine
        seen = {"gpu.count": 2.0, "gpu.0.watts": 30.0, "gpu.1.watts": 30.0}
        monkeypatch.setattr(machine, "look", lambda _workers: dict(seen))
        monitor.tick(wait=True)
        assert not running.runs(app, since=DAY, until=DAY)[0].power.measured
        seen |= {"gpu.0.watts": 300.0, "gpu.1.watts": 100.0}
        busy = {"running": 1, "waiting": 0, "models": {}, "recent": {}}
        with monkeypatch.context() as here:
            here.setattr(app.engine, "stats", lambda: busy)
            monitor.tick(wait=True)
        monitor.stop()
        (run,) = running.runs(app, since=DAY, until=DAY)
        assert run.power == running.Power(400, measured=True)
        assert run.watt_hours == 1200
        assert run.cost == 36 + 273


@in_loop
async def test_a_model_that_wrote_nothing_has_no_price(tmp_path: Path) -> None:
    async with running_app(tmp_path, clock=ManualClock(), script={"fault": "empty"}) as app:
        ann = await person(app)
        await answer(app, ann, await ask(app, ann))
        (run,) = running.runs(app, since=DAY, until=DAY)
        assert (run.tokens, run.per_thousand) == (0, None)
