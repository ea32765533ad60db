"""The price of running: what each model's work took of the machine and of power, and costs.

Busy seconds come from the books, watts from what the GPUs said while a model wrote, prices from
`[costs]`. Knows nothing of what was earned, see `revenue_detail.py` for that.
"""

import logging
import sqlite3
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

from sqlalchemy import text
from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.flows.monitoring import BUSY_WATTS
from chat_app.monitor.series import DAY, Tally, total
from chat_app.settings import Costs

log = logging.getLogger(__name__)

MS_PER_HOUR = 3_600_000
_RUN = """SELECT model, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(engine_ms)
 FROM "usage" WHERE at >= :first AND at < :end GROUP BY model ORDER BY model"""


@dataclass(frozen=True)
class Power:
    """What the machine draws while a model writes; `measured` by its GPUs, else the setting."""

    watts: float
    measured: bool


@dataclass(frozen=True)
class Run:
    """What a model wrote and took. `engine_ms`: while its answers had the model, see `meter.py`."""

    model: str
    answers: int
    prompt_tokens: int
    tokens: int
    engine_ms: int
    power: Power
    cost: Fraction
    """In minor units of the currency of `[costs]`, not rounded."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens written in a busy second."""
        return 1000 * self.tokens / self.engine_ms if self.engine_ms else 0.0

    @property
    def watt_hours(self) -> float:
        """The power that it took."""
        return self.power.watts * self.engine_ms / MS_PER_HOUR

    @property
    def per_thousand(self) -> Fraction | None:
        """Minor units for 1,000 tokens that were written; None when there were none."""
        return self.cost * 1000 / self.tokens if self.tokens else None


def runs(app: App, *, since: date, until: date) -> list[Run]:
    """What each model took from one day to another (included), by its name."""
    midnight = datetime.min.time()
    first = datetime.combine(since, midnight, UTC)
    end = datetime.combine(until + timedelta(days=1), midnight, UTC)
    drawn = power(app, since=first, until=end)
    with app.db.read() as session:
        return of(session, app.settings.costs, drawn, first=to_micros(first), end=to_micros(end))


def of(session: Session, costs: Costs, drawn: Power, *, first: int, end: int) -> list[Run]:
    """`runs` in a session, between two moments in µs."""
    rows = session.execute(text(_RUN), {"first": first, "end": end}).all()
    return [
        Run(
            model=model,
            answers=int(answers),
            prompt_tokens=int(read),
            tokens=int(written),
            engine_ms=int(ms),
            power=drawn,
            cost=exact(costs, engine_ms=int(ms), watts=drawn.watts),
        )
        for model, answers, read, written, ms in rows
    ]


def power(app: App, *, since: datetime, until: datetime) -> Power:
    """The mean of what all GPUs drew together when a model was writing, in whole days UTC.

    A machine without a GPU, or with one that does not say, has what `costs.watts` says.
    """
    seen = Tally()
    recorder = app.telemetry.recorder
    recorder.flush()
    try:
        for source in recorder.store.sources():
            slots = recorder.store.read(
                source,
                since=int(since.timestamp()),
                until=int(until.timestamp()),
                step=DAY,
                names={BUSY_WATTS},
            )
            seen.merge(total(slots).get(BUSY_WATTS, Tally()))
    except sqlite3.Error:
        log.warning("the power of the GPUs cannot be read", exc_info=True)
    return Power(seen.mean, measured=True) if seen.count else Power(app.settings.costs.watts, False)


def per_hour(costs: Costs) -> dict[str, Fraction]:
    """Minor units for a busy hour, by the account they are booked on."""
    power = Fraction(str(costs.watts)) / 1000 * Fraction(str(costs.cents_per_kwh))
    return {"cost:gpu": Fraction(str(costs.cents_per_hour)), "cost:power": power}


def exact(costs: Costs, *, engine_ms: int, watts: float) -> Fraction:
    """Minor units, not rounded, for so much busy time: power, and the machine's hours."""
    prices = per_hour(costs.model_copy(update={"watts": watts}))
    return Fraction(engine_ms, MS_PER_HOUR) * sum(prices.values(), Fraction())
