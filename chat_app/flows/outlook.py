"""The outlook: when somebody's credits run out, from their own use, computed once a day.

The forecast takes some seconds of a processor, so it is made when somebody asks for it, one at a
time, and kept until the day is over or the balance has become another one.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import ledger, rollups, usage
from chat_app.flows import free
from chat_app.money import MICRO

DAY = 24 * 3600 * MICROS_PER_SECOND
PAST_DAYS = 180
HORIZON_DAYS = 120
LEAST_SHOWN, AFTER = 28, 7
PLAN_DAYS = 30
KEPT = 1_000
LOW, HIGH = 0.7, 1.02  # shares of the balance of then between which an outlook still holds


@dataclass(frozen=True)
class Coming:
    """Credits that are known to come; `at` in µs."""

    at: int
    micro: int
    kind: str


@dataclass(frozen=True)
class Outlook:
    """The balance at the end of each day to come, in microcredits, and when it is used up.

    `low`, `middle` and `high` are what one in ten, half and nine in ten futures stay below;
    `runout` has the days (their beginning in µs) under `p10`, `p50`, `p90`, None beyond the
    horizon. `basis`: `history`, `profile` or `insufficient`. `as_of` is the cut-off of the use.
    """

    as_of: int
    balance: int
    days: list[int]
    low: list[int]
    middle: list[int]
    high: list[int]
    runout: dict[str, int | None]
    basis: str
    used_days: int
    coming: list[Coming]
    p_week: float


async def ask(app: App, *, user_id: int) -> Outlook:
    """The outlook of today, made on a thread of its own: one at a time, others wait in line."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(app.outlook_thread, partial(of, app, user_id=user_id))


def ready(app: App, *, user_id: int) -> bool:
    """Whether the outlook of today is there already."""
    with app.db.read() as session:
        balance = ledger.balance(session, user_id=user_id).available
    return _kept(app, user_id, balance, app.clock.micros()) is not None


def of(app: App, *, user_id: int) -> Outlook:
    """The outlook of today. Blocking, up to some seconds the first time."""
    now = app.clock.micros()
    with app.db.read() as session:
        balance = ledger.balance(session, user_id=user_id).available
        kept = _kept(app, user_id, balance, now)
        if kept is not None:
            return kept
        burnt = usage.burnt(session, user_id=user_id, since=now - PAST_DAYS * DAY)
        coming = _coming(app, session, user_id, now)
    made = project(burnt, balance=balance, coming=coming, now=now)
    if len(app.outlooks) >= KEPT:
        app.outlooks.clear()
    app.outlooks[user_id] = made
    return made


def _kept(app: App, user_id: int, balance: int, now: int) -> Outlook | None:
    kept = app.outlooks.get(user_id)
    if not isinstance(kept, Outlook):
        return None
    same_day = rollups.start_of("day", kept.as_of) == rollups.start_of("day", now)
    near = LOW * kept.balance <= balance <= max(HIGH * kept.balance, 1)
    return kept if same_day and near else None


def _coming(app: App, session: Session, user_id: int, now: int) -> list[Coming]:
    """The renewals of a plan within the horizon, or the next periodic credits."""
    user = users.get(session, user_id)
    following = free.next_grant(app, session, user=user, now=now)
    if following is None:
        return []
    until = now + HORIZON_DAYS * DAY
    step = PLAN_DAYS * DAY if following.kind == "plan" else HORIZON_DAYS * DAY
    moments = range(max(following.at, now + 1), until, step)
    return [Coming(at, following.micro, following.kind) for at in moments]


def project(burnt: Mapping[int, int], *, balance: int, coming: list[Coming], now: int) -> Outlook:
    """The outlook from what was used on each day, `balance` and what is known to come."""
    import pandas as pd

    from chat_app.ml import runway

    def table(rows: list[tuple[int, int]]) -> Any:
        moments = pd.to_datetime([at for at, _ in rows], unit="us", utc=True)
        return pd.DataFrame({"ds": moments, "y": [micro / MICRO for _, micro in rows]})

    as_of = pd.Timestamp(now, unit="us", tz="UTC")
    future = runway.project(
        table(sorted(burnt.items())),
        max(balance, 0) / MICRO,
        table([(item.at, item.micro) for item in coming]) if coming else None,
        as_of,
        horizon_days=HORIZON_DAYS,
    )
    days = [int(moment.timestamp()) * MICROS_PER_SECOND for moment in future.fan["ds"]]
    rows = {name: [round(value * MICRO) for value in future.fan[name]] for name in
            ("p10", "p50", "p90")}  # fmt: skip
    ends = {
        name: None if moment is None else int(moment.timestamp()) * MICROS_PER_SECOND
        for name, moment in future.runout.items()
    }
    last = ends["p90"]
    shown = len(days) if last is None else max(LEAST_SHOWN, days.index(last) + 1 + AFTER)
    return Outlook(
        as_of=now,
        balance=balance,
        days=days[:shown],
        low=rows["p10"][:shown],
        middle=rows["p50"][:shown],
        high=rows["p90"][:shown],
        runout=ends,
        basis=future.basis,
        used_days=len(burnt),
        coming=coming,
        p_week=future.p_week,
    )
