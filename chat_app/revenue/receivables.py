"""Receivables: what customers owe on invoices, by how long it is past due."""

from collections.abc import Mapping, Sequence
from datetime import date
from fractions import Fraction
from typing import Any, cast

import pandas as pd

from chat_app.revenue import frames
from chat_app.revenue.rounding import half_up

EDGES = (30, 60, 90)
CURRENT = "current"
TOTAL = "total"
# Shares of each bucket that are expected never to come; a table of our own, to be replaced by
# the operator's experience (IFRS 9 B5.5.35 shows such a matrix).
RATES = {"current": 0.01, "1-30": 0.03, "31-60": 0.1, "61-90": 0.25, "90+": 0.5}


def buckets(edges: Sequence[int] = EDGES) -> list[str]:
    """The buckets' names: `current`, `1-30` and so on to `90+`; raises BadFrame for bad edges."""
    if not edges or list(edges) != sorted(set(edges)) or edges[0] < 1:
        raise frames.BadFrame("edges are rising days, such as 30, 60, 90.", param="edges")
    starts = [1, *(edge + 1 for edge in edges[:-1])]
    between = [f"{low}-{high}" for low, high in zip(starts, edges, strict=True)]
    return [CURRENT, *between, f"{edges[-1]}+"]


def bucket(days_past_due: int, edges: Sequence[int] = EDGES) -> str:
    """The bucket of so many days past due; 0 and less is `current`, the first day `1-30`."""
    names = buckets(edges)
    if days_past_due <= 0:
        return CURRENT
    for name, edge in zip(names[1:], edges, strict=False):
        if days_past_due <= edge:
            return name
    return names[-1]


def aging(invoices: pd.DataFrame, as_of: Any, edges: Sequence[int] = EDGES) -> pd.DataFrame:
    """Open amounts by customer and days past due at `as_of`, in minor units.

    `invoices`: `invoice_id, customer_id, due_date, open_minor` (negative for a credit). Due dates
    are days; a time counts as its day in UTC. With a column `issued_at`, what was issued after
    `as_of` changes nothing. A row for each customer and last one for `total`; a column for each
    bucket and one for the row's `total`. Raises BadFrame.
    """
    name = "invoices"
    columns = ("invoice_id", "customer_id", "due_date", "open_minor")
    frame = frames.checked(invoices, columns, name=name)
    today: date = frames.day(as_of)
    if "issued_at" in frame.columns:
        frames.times(frame, "issued_at", name=name)
        frame = frame[frame["issued_at"].dt.date <= today].reset_index(drop=True)
    frames.unique(frame, "invoice_id", name=name)
    frames.times(frame, "due_date", name=name)
    frames.whole(frame, "open_minor", name=name, low=None)
    frames.refuse(frame, frame["customer_id"].isna(), "customer_id", name, "is missing")
    late = pd.Series([(today - due).days for due in frame["due_date"].dt.date], dtype="int64")
    frame["bucket"] = [bucket(days, edges) for days in late]
    names = buckets(edges)
    table = frame.pivot_table(
        index="customer_id", columns="bucket", values="open_minor", aggfunc="sum", fill_value=0
    ).reindex(columns=names, fill_value=0)
    table = table.astype("int64")
    table.columns.name = None
    table[TOTAL] = table.sum(axis=1)
    table.loc[TOTAL] = table.sum(axis=0)
    return table.astype("int64")


def allowance(aged: pd.DataFrame, rates: Mapping[str, float] | None = None) -> dict[str, int]:
    """What of the aged total is expected never to come, by bucket and in `total` (minor units).

    `rates`: the share of each bucket between 0 and 1; a bucket without one raises BadFrame.
    """
    shares = RATES if rates is None else rates
    row = cast("pd.Series[int]", aged.loc[TOTAL])
    lost: dict[str, int] = {}
    for name in (column for column in aged.columns if column != TOTAL):
        if name not in shares:
            raise frames.BadFrame(f"rates lacks the bucket {name}.", param="rates")
        share = Fraction(str(shares[name]))
        if not 0 <= share <= 1:
            raise frames.BadFrame(f"The rate of {name} is between 0 and 1.", param="rates")
        lost[name] = max(0, half_up(share * int(row[name])))
    lost[TOTAL] = sum(lost.values())
    return lost
