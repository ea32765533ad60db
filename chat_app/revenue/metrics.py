"""Metrics of recurring revenue: MRR and how it moved, retention, churn.

MRR counts recurring prices of plans only; prepaid top-ups are usage and stand apart. Movements
compare each customer at the two ends of a window, so they add up to the change of MRR exactly:
new (nothing now or ever before the window), reactivation (nothing at its beginning, something
once before), expansion, contraction and churn. Net revenue retention is what the customers of
the beginning pay at the end over what they paid; gross retention counts no growth.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pandas as pd

from chat_app.revenue import frames
from chat_app.revenue.rounding import half_up

MONTHS_PER_YEAR = 12


@dataclass(frozen=True)
class Metrics:
    """The window that ends at `as_of`. Amounts in minor units, movements as positive figures.

    Shares are None when nobody paid at the beginning; `arpu_minor` is None without customers.
    """

    as_of: pd.Timestamp
    since: pd.Timestamp
    currency: str | None
    mrr_minor: int
    arr_minor: int
    opening_mrr_minor: int
    new_minor: int
    expansion_minor: int
    contraction_minor: int
    churned_minor: int
    reactivation_minor: int
    customers: int
    opening_customers: int
    churned_customers: int
    nrr: float | None
    grr: float | None
    gross_revenue_churn: float | None
    net_revenue_churn: float | None
    logo_churn: float | None
    quick_ratio: float | None
    arpu_minor: int | None

    @property
    def net_change_minor(self) -> int:
        """The change of MRR in the window: the sum of its movements."""
        gained = self.new_minor + self.expansion_minor + self.reactivation_minor
        return gained - self.contraction_minor - self.churned_minor


def compute(
    movements: pd.DataFrame,
    as_of: Any,
    currency: str | None = None,
    *,
    since: Any = None,
) -> Metrics:
    """MRR at `as_of` and how it came to be in the month that ends there, or since `since`.

    `movements`: `customer_id, ts, mrr_minor`, what the customer's plans are worth in a month from
    then on, 0 for one who left; with a column `currency` only rows of `currency` count, and
    several without a choice are refused. Rows after `as_of` change nothing. Of two rows of a
    customer at one moment the later row counts. Raises BadFrame.
    """
    end = frames.moment(as_of)
    start = end - pd.DateOffset(months=1) if since is None else frames.moment(since, name="since")
    if start > end:
        raise frames.BadFrame("since is after as_of.", param="since")
    frame, currency = _movements(movements, end, currency)
    closing = _standing(frame)
    opening = _standing(frame[frame["ts"] <= start]).reindex(closing.index, fill_value=0)
    ever = set(frame.loc[(frame["ts"] <= start) & (frame["mrr_minor"] > 0), "customer_id"])
    gained = (closing - opening).clip(lower=0)
    lost = (opening - closing).clip(lower=0)
    fresh = opening == 0
    before = closing.index.isin(list(ever))
    gone = (opening > 0) & (closing == 0)
    new = int(gained[fresh & ~before].sum())
    again = int(gained[fresh & before].sum())
    grown = int(gained[~fresh].sum())
    shrunk, churned = int(lost[~gone].sum()), int(lost[gone].sum())
    first, last = int(opening.sum()), int(closing.sum())
    people, were = int((closing > 0).sum()), int((opening > 0).sum())
    kept = _share(first + grown - shrunk - churned, first)
    return Metrics(
        as_of=end,
        since=start,
        currency=currency,
        mrr_minor=last,
        arr_minor=last * MONTHS_PER_YEAR,
        opening_mrr_minor=first,
        new_minor=new,
        expansion_minor=grown,
        contraction_minor=shrunk,
        churned_minor=churned,
        reactivation_minor=again,
        customers=people,
        opening_customers=were,
        churned_customers=int(gone.sum()),
        nrr=kept,
        grr=_share(first - shrunk - churned, first),
        gross_revenue_churn=_share(shrunk + churned, first),
        net_revenue_churn=_share(shrunk + churned - grown, first),
        logo_churn=_share(int(gone.sum()), were),
        quick_ratio=_share(new + grown + again, shrunk + churned),
        arpu_minor=half_up(Fraction(last, people)) if people else None,
    )


def history(
    movements: pd.DataFrame, as_of: Any, *, months: int = 12, currency: str | None = None
) -> pd.DataFrame:
    """`compute` for each calendar month (UTC) up to the one of `as_of`, oldest first.

    The last row goes as far as `as_of`. Columns are the fields of Metrics; index `2026-01`.
    """
    end = frames.moment(as_of)
    rows = {}
    month = frames.month_start(end)
    for back in reversed(range(months)):
        begin = month - pd.DateOffset(months=back)
        # What happens at midnight of the first belongs to the month that begins with it.
        since = begin - pd.Timedelta(1, "us")
        until = min(frames.next_month(begin) - pd.Timedelta(1, "us"), end)
        rows[f"{begin:%Y-%m}"] = vars(compute(movements, until, currency, since=since))
    return pd.DataFrame.from_dict(rows, orient="index")


@dataclass(frozen=True)
class Cohort:
    """Those who began to pay in one month. `age` 0 is the end of that month, the last one now.

    `base_minor` is what they began with, so shares are of `customers` and of it.
    """

    period: str
    customers: int
    base_minor: int
    left: tuple[int, ...]
    mrr_minor: tuple[int, ...]

    @property
    def logo_retention(self) -> list[float | None]:
        """The share of the customers who still pay, by age."""
        return [_share(count, self.customers) for count in self.left]

    @property
    def revenue_retention(self) -> list[float | None]:
        """What they pay over what they began with, by age."""
        return [_share(minor, self.base_minor) for minor in self.mrr_minor]


def retention(movements: pd.DataFrame, as_of: Any, *, currency: str | None = None) -> list[Cohort]:
    """How many customers of each month's beginners pay, and what, at the month ends since."""
    frame, first, ends = _cohorts(movements, as_of, currency)
    began = frame[frame["mrr_minor"] > 0].groupby("customer_id")["mrr_minor"].first()
    standing = [_standing(frame[frame["ts"] < frames.next_month(month)]) for month in ends]
    found = []
    for number, month in enumerate(ends):
        people = first.index[first == month]
        if not len(people):
            continue
        then = [at.reindex(people, fill_value=0) for at in standing[number:]]
        found.append(
            Cohort(
                period=f"{month:%Y-%m}",
                customers=len(people),
                base_minor=int(began.reindex(people).sum()),
                left=tuple(int((at > 0).sum()) for at in then),
                mrr_minor=tuple(int(at.sum()) for at in then),
            )
        )
    return found


def members(
    movements: pd.DataFrame, as_of: Any, *, cohort: str, age: int, currency: str | None = None
) -> dict[Any, int]:
    """What each customer of a cohort (`2026-03`) pays `age` months later; who left pays 0."""
    frame, first, ends = _cohorts(movements, as_of, currency)
    places = {f"{month:%Y-%m}": number for number, month in enumerate(ends)}
    at = places.get(cohort, len(ends)) + age
    if age < 0 or at >= len(ends):
        return {}
    standing = _standing(frame[frame["ts"] < frames.next_month(ends[at])])
    people = first.index[first == ends[at - age]]
    return {person: int(standing.get(person, 0)) for person in people}


def cohorts(movements: pd.DataFrame, as_of: Any, *, currency: str | None = None) -> pd.DataFrame:
    """MRR (minor units) of customers by the month in which they first paid, at month ends.

    A row for each cohort (`2026-01`), columns 0, 1, 2 … months later; NaN for what is not yet.
    """
    rows = retention(movements, as_of, currency=currency)
    table = {row.period: dict(enumerate(row.mrr_minor)) for row in rows}
    return pd.DataFrame.from_dict(table, orient="index").sort_index()


def _cohorts(
    movements: Any, as_of: Any, currency: str | None
) -> tuple[pd.DataFrame, "pd.Series[pd.Timestamp]", list[pd.Timestamp]]:
    """The movements, the month in which each customer began to pay, and all months since."""
    end = frames.moment(as_of)
    frame, _ = _movements(movements, end, currency)
    paying = frame[frame["mrr_minor"] > 0]
    first = paying.groupby("customer_id")["ts"].min().map(frames.month_start)
    ends = []
    month = first.min() if len(first) else frames.next_month(end)
    while month <= end:
        ends.append(month)
        month = frames.next_month(month)
    return frame, first, ends


def breakdown(
    movements: pd.DataFrame, as_of: Any, by: str, *, currency: str | None = None
) -> pd.Series:
    """MRR at `as_of` by a column of the customers' newest rows: plan, country, channel."""
    frame, _ = _movements(frames.checked(movements, (by,), name="movements"),
                          frames.moment(as_of), currency)  # fmt: skip
    newest = frame.drop_duplicates("customer_id", keep="last")
    sums = newest[newest["mrr_minor"] > 0].groupby(by)["mrr_minor"].sum()
    return sums.sort_values(ascending=False)


def _movements(
    movements: Any, end: pd.Timestamp, currency: str | None
) -> tuple[pd.DataFrame, str | None]:
    name = "movements"
    frame = frames.checked(movements, ("customer_id", "ts", "mrr_minor"), name=name)
    frames.times(frame, "ts", name=name)
    frame = frame[frame["ts"] <= end].reset_index(drop=True)
    frames.refuse(frame, frame["customer_id"].isna(), "customer_id", name, "is missing")
    frames.whole(frame, "mrr_minor", name=name)
    if "currency" in frame.columns:
        known = frame["currency"].dropna().unique()
        if currency is None and len(known) > 1:
            listed = ", ".join(sorted(map(str, known)))
            raise frames.BadFrame(f"Choose one currency of {listed}.", param="currency")
        if currency is None:
            currency = str(known[0]) if len(known) else None
        else:
            frame = frame[frame["currency"] == currency]
    return frame.sort_values("ts", kind="stable", ignore_index=True), currency


def _standing(frame: pd.DataFrame) -> "pd.Series[int]":
    """Each customer's newest amount in a frame that is in the order of time."""
    return frame.groupby("customer_id", sort=True)["mrr_minor"].last().astype("int64")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
