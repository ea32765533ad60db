"""The ledger as tables for the models: one query each, with nothing later than `as_of`.

A table holds either real people or those whom the simulator made up, never both. Money is in
minor units of the currency that is used most, credits are credits.
"""

import json
from typing import Any, Literal, NamedTuple

import pandas as pd
from sqlalchemy import text
from sqlmodel import Session

from chat_app.clock import to_micros
from chat_app.money import MICRO
from chat_app.revenue import frames

People = Literal["real", "demo"]

# Whose: an organisation's founder stands for its pool.
_WHOSE = {
    "real": "{user} NOT IN (SELECT user_id FROM demo_user)",
    "demo": "{user} IN (SELECT user_id FROM demo_user)",
}
_CURRENCY = """SELECT currency FROM payment WHERE paid_at IS NOT NULL AND paid_at <= :as_of
 AND amount_minor > 0 GROUP BY currency ORDER BY COUNT(*) DESC, currency LIMIT 1"""
_PURCHASES = """SELECT user_id, paid_at AS ts, amount_minor AS amount FROM payment
 WHERE paid_at IS NOT NULL AND paid_at <= :as_of AND amount_minor > 0 AND currency = :currency
  AND {whose}
 UNION ALL
 SELECT p.user_id, r.ended_at, -r.amount_minor FROM refund r JOIN payment p ON p.id = r.payment_id
 WHERE r.state = 'succeeded' AND r.ended_at <= :as_of AND p.currency = :currency AND {whose}
 UNION ALL
 SELECT p.user_id, d.closed_at, -d.disputed_minor FROM dispute d
 JOIN payment p ON p.id = d.payment_id
 WHERE d.state = 'lost' AND d.closed_at <= :as_of AND p.currency = :currency AND {whose}
 ORDER BY 1, 2, 3"""
# One visit an hour is enough; the hour's beginning is never later than what happened in it.
_VISITS = """SELECT DISTINCT user_id, at / 3600000000 * 3600000000 AS ts FROM usage
 WHERE at <= :as_of AND {whose} ORDER BY 1, 2"""
_CREDITS = """SELECT at / 86400000000 * 86400000000 AS ds, SUM(cost) AS y FROM usage
 WHERE at <= :as_of AND {whose} GROUP BY 1 ORDER BY 1"""
_CUSTOMERS = """SELECT COUNT(DISTINCT user_id) FROM usage WHERE at <= :as_of AND {whose}"""
_JUDGED = """SELECT id, created_at, event, action, refused, score FROM fraud_assessment
 WHERE created_at <= :as_of AND {whose} ORDER BY created_at, id"""
_SAID = """SELECT l.id, l.created_at, l.assessment_id, l.label FROM fraud_label l
 JOIN fraud_assessment a ON a.id = l.assessment_id
 WHERE l.created_at <= :as_of AND {whose} ORDER BY l.id"""
# What the bank took back as fraud, unless it has been won by then.
_TAKEN_BACK = """SELECT payment_id FROM dispute WHERE reason = 'fraudulent'
 AND state <> 'inquiry' AND opened_at <= :as_of
 AND (state <> 'won' OR closed_at IS NULL OR closed_at > :as_of)"""


class JudgedRow(NamedTuple):
    """A judged event; `score` in tenths of a point, `at` in µs."""

    id: int
    at: int
    event: dict[str, Any]
    action: str
    refused: bool
    score: int


class SaidRow(NamedTuple):
    """What a person found a judged event to be."""

    id: int
    at: int
    assessment: int
    fraud: bool


def judged(session: Session, *, as_of: int, whose: People) -> list[JudgedRow]:
    """The judged events in the order in which the state took them in."""
    rows = session.execute(text(_for(_JUDGED, whose)), {"as_of": as_of})
    return [
        JudgedRow(id, at, json.loads(event), action, bool(refused), score)
        for id, at, event, action, refused, score in rows
    ]


def said(session: Session, *, as_of: int, whose: People) -> list[SaidRow]:
    """The labels of people, oldest first."""
    rows = session.execute(text(_for(_SAID, whose, table="a.")), {"as_of": as_of})
    return [SaidRow(id, at, about, label == "fraud") for id, at, about, label in rows]


def taken_back(session: Session, *, as_of: int) -> set[str]:
    """The ids of the events of payments that a bank took back as fraud."""
    rows = session.execute(text(_TAKEN_BACK), {"as_of": as_of})
    return {f"topup:paid:{payment}" for (payment,) in rows}


def moment(as_of: Any) -> int:
    """The moment in µs, from a number of them or from what is a time."""
    return as_of if isinstance(as_of, int) else to_micros(frames.moment(as_of).to_pydatetime())


def people(session: Session, *, as_of: int) -> People:
    """Whom to learn from: real people as soon as one has used anything, else the made-up ones."""
    return "real" if customers(session, as_of=as_of, whose="real") else "demo"


def customers(session: Session, *, as_of: int, whose: People) -> int:
    """How many have used anything up to then."""
    found = session.execute(text(_for(_CUSTOMERS, whose)), {"as_of": as_of}).scalar_one()
    return int(found)


def currency(session: Session, *, as_of: int) -> str:
    """The currency of most payments; USD before the first."""
    found = session.execute(text(_CURRENCY), {"as_of": as_of}).scalar()
    return str(found or "USD")


def purchases(session: Session, *, as_of: int, whose: People) -> pd.DataFrame:
    """What was paid, and given back as amounts below zero: `user_id, ts, amount`."""
    given = {"as_of": as_of, "currency": currency(session, as_of=as_of)}
    rows = session.execute(text(_for(_PURCHASES, whose, table="p.")), given).all()
    frame = pd.DataFrame([tuple(row) for row in rows], columns=["user_id", "ts", "amount"])
    return _timed(frame.astype({"user_id": "int64", "amount": "float64"}), "ts")


def visits(session: Session, *, as_of: int, whose: People) -> pd.DataFrame:
    """The hours in which somebody used anything: `user_id, ts`."""
    rows = session.execute(text(_for(_VISITS, whose)), {"as_of": as_of}).all()
    frame = pd.DataFrame([tuple(row) for row in rows], columns=["user_id", "ts"])
    return _timed(frame.astype({"user_id": "int64"}), "ts")


def daily(session: Session, *, as_of: int, whose: People) -> pd.DataFrame:
    """By UTC day the money that came in, net of what went back, and the credits that were used.

    `ds, y, unique_id`: the series `revenue` in minor units, `credits` in credits. Days without
    anything, from the first day of a series on, are zero; today counts when it is over.
    """
    rows = session.execute(text(_for(_CREDITS, whose)), {"as_of": as_of}).all()
    used = pd.DataFrame([tuple(row) for row in rows], columns=["ds", "y"])
    used["y"] = used["y"].astype("float64") / MICRO
    used = _timed(used, "ds")
    paid = purchases(session, as_of=as_of, whose=whose)
    income = paid.assign(ds=paid["ts"].dt.floor("D")).groupby("ds")["amount"].sum()
    parts = []
    last = pd.Timestamp(as_of, unit="us", tz="UTC").floor("D")
    for name, series in (("revenue", income), ("credits", used.set_index("ds")["y"])):
        if series.empty:
            continue
        days = pd.date_range(series.index.min(), last, freq="D", inclusive="left")
        whole = series.reindex(days, fill_value=0.0)
        parts.append(pd.DataFrame({"ds": days, "y": whole.to_numpy(), "unique_id": name}))
    if not parts:
        return _timed(pd.DataFrame(columns=["ds", "y", "unique_id"]), "ds")
    return pd.concat(parts, ignore_index=True)


def _for(query: str, whose: People, table: str = "") -> str:
    """The query for these people. Only constants of this file go into it."""
    whole = query.split("UNION ALL")
    alone = len(whole) == 1
    made = [
        part.replace(
            "{whose}", _WHOSE[whose].format(user=f"{table if place or alone else ''}user_id")
        )
        for place, part in enumerate(whole)
    ]
    return "UNION ALL".join(made)


def _timed(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    frame[column] = pd.to_datetime(frame[column].astype("int64"), unit="us", utc=True).astype(
        "datetime64[us, UTC]"
    )
    return frame
