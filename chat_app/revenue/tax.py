"""Tax: what is owed to whom, from the lines of invoices and a dated table of rates.

Tax is rounded once for each rate of an invoice, on the sum of its lines (EN 16931, BR-CO-17), and
never by line. Rates come from the caller: no table of a program knows next year's law.
"""

from fractions import Fraction
from typing import Any

import pandas as pd

from chat_app.errors import Invalid
from chat_app.revenue import frames
from chat_app.revenue.rounding import half_up

BASIS_POINTS = 10_000
HIGHEST_BP = 100_00
STANDARD = "standard"
COLUMNS = (
    "jurisdiction", "category", "rate_bp", "taxable_minor", "tax_minor", "exempt_minor",
    "reverse_charge_minor",
)  # fmt: skip


class NoRate(Invalid):
    """No rate holds for a jurisdiction and category at that time."""

    code = "no_rate"
    message = "There is no tax rate for this jurisdiction at this time. Add it to the table."


def rate_table(rates: Any) -> pd.DataFrame:
    """The table of rates, checked: `jurisdiction, category, rate_bp, valid_from, valid_to`.

    A frame or a list of mappings; `rate` as a share may stand for `rate_bp`; a missing category
    is `standard`, missing dates are open. Raises BadFrame, for overlapping rows too.
    """
    frame = rates if isinstance(rates, pd.DataFrame) else pd.DataFrame(list(rates))
    if "rate_bp" not in frame.columns and "rate" in frame.columns:
        shares = pd.to_numeric(frame["rate"], errors="coerce")
        frame = frame.assign(rate_bp=(shares * BASIS_POINTS).round(6))
    frame = frames.checked(frame, ("jurisdiction", "rate_bp"), name="rates")
    frames.whole(frame, "rate_bp", name="rates")
    frames.refuse(frame, frame["rate_bp"] > HIGHEST_BP, "rate_bp", "rates", "is above 100 %")
    if "category" not in frame.columns:
        frame["category"] = STANDARD
    frame["category"] = frame["category"].fillna(STANDARD)
    for column in ("valid_from", "valid_to"):
        if column not in frame.columns:
            frame[column] = None
        frames.times(frame, column, name="rates", optional=True)
    for _, group in frame.groupby(["jurisdiction", "category"]):
        ordered = group.sort_values("valid_from", na_position="first")
        ends, starts = ordered["valid_to"].iloc[:-1], ordered["valid_from"].iloc[1:]
        overlap = [
            pd.isna(end) or pd.isna(start) or start < end
            for end, start in zip(ends, starts, strict=True)
        ]
        if any(overlap):
            which = f"{ordered['jurisdiction'].iloc[0]} {ordered['category'].iloc[0]}"
            raise frames.BadFrame(f"rates holds two rates at once for {which}.", param="rates")
    return frame


def rate_of(table: pd.DataFrame, *, jurisdiction: str, category: str, at: Any) -> int:
    """The rate in basis points that holds at a time; `valid_to` is the first moment without it.

    A category without rows of its own has the standard rate. Raises NoRate.
    """
    moment = frames.moment(at, name="ts")
    for wanted in dict.fromkeys((category, STANDARD)):
        rows = table[(table["jurisdiction"] == jurisdiction) & (table["category"] == wanted)]
        holds = (rows["valid_from"].isna() | (rows["valid_from"] <= moment)) & (
            rows["valid_to"].isna() | (moment < rows["valid_to"])
        )
        if holds.any():
            return int(rows.loc[holds, "rate_bp"].iloc[0])
        if len(rows):
            break
    raise NoRate(jurisdiction=jurisdiction, category=category, at=moment.isoformat())


def liability(lines: pd.DataFrame, rates: Any, as_of: Any) -> pd.DataFrame:
    """Tax that is owed for the lines up to `as_of`, by jurisdiction, category and rate.

    `lines`: `invoice_id, ts, jurisdiction, category, base_minor, inclusive, exempt,
    reverse_charge`; the last three are flags and may be missing. `base_minor` of an inclusive
    line contains the tax; negative ones are credit notes. Exempt and reverse-charged lines bear
    no tax and are listed apart. Columns: `jurisdiction, category, rate_bp, taxable_minor,
    tax_minor, exempt_minor, reverse_charge_minor`. Raises BadFrame and NoRate.
    """
    name, end = "lines", frames.moment(as_of)
    columns = ("invoice_id", "ts", "jurisdiction", "base_minor")
    frame = frames.checked(lines, columns, name=name)
    frames.times(frame, "ts", name=name)
    frame = frame[frame["ts"] <= end].reset_index(drop=True)
    frames.whole(frame, "base_minor", name=name, low=None)
    if "category" not in frame.columns:
        frame["category"] = STANDARD
    frame["category"] = frame["category"].fillna(STANDARD)
    for flag in ("inclusive", "exempt", "reverse_charge"):
        frame[flag] = frame[flag].fillna(value=False).astype(bool) if flag in frame else False
    table = rate_table(rates)
    free = frame["exempt"] | frame["reverse_charge"]
    frame["rate_bp"] = [
        0 if bare else rate_of(table, jurisdiction=where, category=what, at=at)
        for bare, where, what, at in zip(
            free, frame["jurisdiction"], frame["category"], frame["ts"], strict=True
        )
    ]
    keys = ["jurisdiction", "category", "rate_bp"]
    found: dict[tuple[str, str, int], list[int]] = {}

    def book(key: Any, taxable: int, tax: int, exempt: int, reverse: int) -> None:
        row = found.setdefault(key, [0, 0, 0, 0])
        for place, amount in enumerate((taxable, tax, exempt, reverse)):
            row[place] += amount

    for (*key, _invoice, inclusive), group in frame[~free].groupby(
        [*keys, "invoice_id", "inclusive"]
    ):
        total, rate = int(group["base_minor"].sum()), int(key[2])
        if inclusive:
            tax = half_up(Fraction(total * rate, BASIS_POINTS + rate))
            book(tuple(key), total - tax, tax, 0, 0)
        else:
            book(tuple(key), total, half_up(Fraction(total * rate, BASIS_POINTS)), 0, 0)
    for (*key, exempt), group in frame[free].groupby([*keys, "exempt"]):
        total = int(group["base_minor"].sum())
        book(tuple(key), 0, 0, total if exempt else 0, 0 if exempt else total)
    rows = [(*key, *amounts) for key, amounts in sorted(found.items())]
    return pd.DataFrame(rows, columns=list(COLUMNS))
