"""Recognition: when the money that was paid for credits and plans is earned.

Prepaid credits are a liability until they are used or end (ASC 606-10-55-46 to 49, IFRS 15
B44 to B47). The price of a purchase is spread over its paid and bonus credits together. What was
earned up to a moment is one rounded figure of a purchase, and a month's part is its difference to
the month before, so a thousand small uses lose no cent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, cast

import pandas as pd

from chat_app.errors import Invalid
from chat_app.revenue import frames
from chat_app.revenue.rounding import half_up, shares

Breakage = Literal["remote", "proportional"]
Proration = Literal["millisecond", "day", "even", "even_prorated"]
KINDS = ("credits", "plan", "point_in_time")
COLUMNS = ("purchase_id", "period", "recognized_minor", "breakage_minor", "deferred_minor")
LONGEST_MONTHS = 1200


class BadPolicy(Invalid):
    """A rule of recognition that does not exist or is out of range."""

    code = "bad_policy"
    message = "This rule of recognition is not known. See the accounting guide for the rules."


@dataclass(frozen=True)
class Policy:
    """How revenue is recognised.

    `breakage`: `remote` waits until credits end; `proportional` spreads the share that is
    expected never to be used (`expected_breakage`, at least 0 and below 1) over the use of the
    others. The share may be a list of (time from which it holds, share): a changed estimate
    takes effect on all open purchases in the month in which it changes (a cumulative catch-up).
    `proration` spreads plans over their service: by the `millisecond`, by the `day` (the first
    day counts whole, the last not at all), `even` over the months (the last partial one is cut
    off), or `even_prorated` (first and last month by the millisecond, the others alike). Those
    four are the amortizations that Stripe's Revenue Recognition documents.
    """

    breakage: Breakage = "remote"
    expected_breakage: Any = 0
    proration: Proration = "day"
    _estimates: list[tuple[pd.Timestamp | None, Fraction]] = field(
        default_factory=list, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.breakage not in ("remote", "proportional"):
            raise BadPolicy(f"breakage cannot be {self.breakage!r}.", param="breakage")
        if self.proration not in ("millisecond", "day", "even", "even_prorated"):
            raise BadPolicy(f"proration cannot be {self.proration!r}.", param="proration")
        given = self.expected_breakage
        listed = given if isinstance(given, (list, tuple)) else [(None, given)]
        for at, share in listed:
            since = None if at is None else frames.moment(at, name="expected_breakage")
            self._estimates.append((since, _share(share)))

    @classmethod
    def of(cls, policy: "Policy | Mapping[str, Any] | None") -> "Policy":
        """A policy from a mapping with the same names; raises BadPolicy for unknown ones."""
        if isinstance(policy, cls):
            return policy
        try:
            return cls(**dict(cast("Mapping[str, Any]", policy or {})))
        except TypeError as error:
            raise BadPolicy from error

    def expected(self, at: pd.Timestamp) -> Fraction:
        """The share expected never to be used, as it was estimated just before `at`."""
        if self.breakage == "remote":
            return Fraction(0)
        known = [share for since, share in self._estimates if since is None or since < at]
        return known[-1] if known else Fraction(0)


@dataclass(frozen=True)
class _Earned:
    """What is earned up to a moment: by use or service, and because credits ended unused."""

    used: int
    broken: int

    @property
    def all(self) -> int:
        return self.used + self.broken


def schedule(
    purchases: pd.DataFrame,
    usage: pd.DataFrame | None,
    as_of: Any,
    policy: Policy | Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """What each purchase earned in each calendar month (UTC) up to and including `as_of`.

    `purchases`: `purchase_id, ts, price_minor, credits, bonus_credits, expires_at, kind`
    (`credits`, `plan` or `point_in_time`), `service_start, service_end` (of plans; the end is
    the first moment that is not served). The last five may be missing. `usage`: `purchase_id,
    ts, credits`. A row for each purchase and month from its first to that of `as_of`:
    `purchase_id, period` (`2026-01`), `recognized_minor` (by use or service), `breakage_minor`
    (because credits ended unused) and `deferred_minor`, what is not earned at the month's end.
    Over all months recognised, breakage and what is still deferred add up to the price.
    Rows after `as_of` change nothing. Raises BadFrame and BadPolicy.
    """
    rules = Policy.of(policy)
    until = frames.moment(as_of)
    bought = _purchases(purchases, until)
    spent = _usage(usage, bought, until)
    rows: list[tuple[Any, ...]] = []
    for purchase in bought.itertuples(index=False):
        mine = spent.get(purchase.purchase_id)
        before = _Earned(0, 0)
        for month, end in _months(purchase.ts, until):
            now = _earned(purchase, mine, end, rules)
            rows.append(
                (
                    purchase.purchase_id,
                    f"{month:%Y-%m}",
                    now.used - before.used,
                    now.broken - before.broken,
                    purchase.price_minor - now.all,
                )
            )
            before = now
    return pd.DataFrame(rows, columns=list(COLUMNS))


def waterfall(scheduled: pd.DataFrame) -> pd.DataFrame:
    """The schedule as a table: month of purchase by month of recognition, in minor units."""
    if scheduled.empty:
        return pd.DataFrame()
    first = scheduled.groupby("purchase_id", sort=False)["period"].transform("min")
    earned = scheduled["recognized_minor"] + scheduled["breakage_minor"]
    table = earned.groupby([first.rename("bought"), scheduled["period"]]).sum()
    return cast("pd.DataFrame", table.unstack(fill_value=0))


def roll_forward(scheduled: pd.DataFrame) -> pd.DataFrame:
    """Deferred revenue by month: `opening, billed, recognized, breakage, closing` (minor units).

    Closing is opening and what was billed less what was earned; each opening is the closing
    before it.
    """
    if scheduled.empty:
        return pd.DataFrame(columns=["opening", "billed", "recognized", "breakage", "closing"])
    frame = scheduled.assign(
        billed=(
            scheduled["recognized_minor"]
            + scheduled["breakage_minor"]
            + scheduled["deferred_minor"]
        ).where(~scheduled["purchase_id"].duplicated(), 0)
    )
    sums = frame.groupby("period").agg(
        billed=("billed", "sum"),
        recognized=("recognized_minor", "sum"),
        breakage=("breakage_minor", "sum"),
        closing=("deferred_minor", "sum"),
    )
    sums.insert(0, "opening", sums["closing"].shift(fill_value=0))
    return sums


def _purchases(purchases: Any, until: pd.Timestamp) -> pd.DataFrame:
    name = "purchases"
    frame = frames.checked(purchases, ("purchase_id", "ts", "price_minor"), name=name)
    for column, missing in (
        ("credits", 0),
        ("bonus_credits", 0),
        ("expires_at", None),
        ("kind", "credits"),
        ("service_start", None),
        ("service_end", None),
    ):
        if column not in frame.columns:
            frame[column] = missing
    frames.unique(frame, "purchase_id", name=name)
    frames.times(frame, "ts", name=name)
    for column in ("expires_at", "service_start", "service_end"):
        frames.times(frame, column, name=name, optional=True)
    frame = frame[frame["ts"] <= until].reset_index(drop=True)
    frames.whole(frame, "price_minor", name=name)
    for column in ("credits", "bonus_credits"):
        frames.amounts(frame, column, name=name, default=0)
    frame["kind"] = frame["kind"].fillna("credits")
    frames.refuse(frame, ~frame["kind"].isin(KINDS), "kind", name, f"is none of {KINDS}")
    plans = frame["kind"] == "plan"
    served = frame["service_start"].notna() & frame["service_end"].notna()
    frames.refuse(frame, plans & ~served, "service_start", name, "or service_end is missing")
    backwards = frame["service_end"] <= frame["service_start"]
    frames.refuse(frame, plans & backwards, "service_end", name, "is not after service_start")
    return frame.sort_values(["ts", "purchase_id"], kind="stable", ignore_index=True)


def _usage(usage: Any, bought: pd.DataFrame, until: pd.Timestamp) -> dict[Any, pd.DataFrame]:
    if usage is None:
        return {}
    frame = frames.checked(usage, ("purchase_id", "ts", "credits"), name="usage")
    frames.times(frame, "ts", name="usage")
    frame = frame[frame["ts"] <= until].reset_index(drop=True)
    if frame.empty:
        return {}
    frames.amounts(frame, "credits", name="usage")
    since = frame["purchase_id"].map(bought.set_index("purchase_id")["ts"])
    frames.refuse(frame, since.isna(), "purchase_id", "usage", "names no purchase")
    frames.refuse(frame, frame["ts"] < since, "ts", "usage", "is before its purchase")
    frame = frame.sort_values("ts", kind="stable")
    return dict(iter(frame.groupby("purchase_id", sort=False)))


def _months(first: pd.Timestamp, until: pd.Timestamp) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """Months from that of `first` on, each with the moment up to which it is looked at."""
    month, found = frames.month_start(first), []
    just_after = until + pd.Timedelta(1, "us")
    while month <= until:
        following = frames.next_month(month)
        found.append((month, min(following, just_after)))
        month = following
        if len(found) > LONGEST_MONTHS:
            raise frames.BadFrame("purchases.ts is more than a hundred years ago.", column="ts")
    return found


def _earned(purchase: Any, mine: pd.DataFrame | None, end: pd.Timestamp, rules: Policy) -> _Earned:
    """What the purchase has earned before `end`."""
    if purchase.kind == "point_in_time":
        return _Earned(purchase.price_minor, 0)
    if purchase.kind == "plan":
        earned = served(
            purchase.price_minor,
            start=purchase.service_start,
            stop=purchase.service_end,
            end=end,
            proration=rules.proration,
        )
        return _Earned(earned, 0)
    price = purchase.price_minor
    offered = _exact(purchase.credits) + _exact(purchase.bonus_credits)
    if not offered:  # nothing can be used up, so nothing is owed
        return _Earned(price, 0)
    ended = pd.notna(purchase.expires_at) and purchase.expires_at < end
    used = Fraction(0)
    if mine is not None:
        counted = mine["ts"] < end  # an answer that ran when they ended may settle after it
        used = min(offered, sum((_exact(one) for one in mine.loc[counted, "credits"]), Fraction(0)))
    # An estimate that changes after the end says nothing about what ended before.
    expected = offered * (1 - rules.expected(purchase.expires_at if ended else end))
    by_use = min(price, half_up(price * used / expected))
    return _Earned(by_use, price - by_use) if ended or used == offered else _Earned(by_use, 0)


def served(
    price: int, *, start: pd.Timestamp, stop: pd.Timestamp, end: pd.Timestamp, proration: Proration
) -> int:
    """Minor units of a price for the service from `start` to `stop` that is earned before `end`."""
    if proration == "day":
        # The day on which it begins counts whole, the one on which it ends not at all.
        first, last = start.normalize(), stop.normalize()
        if last <= first:
            return price if end > start else 0
        return half_up(Fraction(price) * _part(first, last, end))
    if proration == "millisecond":
        return half_up(Fraction(price) * _part(start, stop, end))
    months = _service_months(start, stop)
    parts = _even(price, months, start, stop, prorated=proration == "even_prorated")
    return sum(part for month, part in zip(months, parts, strict=True) if month < end)


def _service_months(start: pd.Timestamp, stop: pd.Timestamp) -> list[pd.Timestamp]:
    month, found = frames.month_start(start), []
    while month < stop:
        found.append(month)
        month = frames.next_month(month)
    return found


def _even(
    price: int,
    months: list[pd.Timestamp],
    start: pd.Timestamp,
    stop: pd.Timestamp,
    *,
    prorated: bool,
) -> list[int]:
    """The price over the months it is served in: alike, or with the ends by their time."""
    if len(months) == 1:
        return [price]
    partial_end = frames.month_start(stop) < stop
    if not prorated:
        counted = len(months) - 1 if partial_end else len(months)
        return [*shares(price, [Fraction(1)] * counted), *[0] * (len(months) - counted)]
    ends = [months[0]] if months[0] < start else []
    if partial_end:
        ends.append(months[-1])
    by_time = {
        month: half_up(
            Fraction(price)
            * (_part(start, stop, frames.next_month(month)) - _part(start, stop, month))
        )
        for month in ends
    }
    whole = [month for month in months if month not in by_time]
    if not whole:
        return [by_time[months[0]], price - by_time[months[0]]]
    rest = price - sum(by_time.values())
    # Published tables cut the equal parts and put what is left over into the last of them.
    equal = dict.fromkeys(whole, rest // len(whole))
    equal[whole[-1]] += rest - sum(equal.values())
    return [by_time.get(month, equal.get(month, 0)) for month in months]


def _part(start: pd.Timestamp, stop: pd.Timestamp, at: pd.Timestamp) -> Fraction:
    """The share of the time from start to stop that has passed at `at`."""
    passed = min(max(at, start), stop) - start
    return Fraction(int(passed.value // 1000), int((stop - start).value // 1000))


def _exact(number: float) -> Fraction:
    """A number of credits, exact to the microcredit."""
    return Fraction(round(number * 1_000_000), 1_000_000)


def _share(share: Any) -> Fraction:
    try:
        exact = Fraction(str(share))
    except (ValueError, ZeroDivisionError) as error:
        raise BadPolicy("expected_breakage is no share.", param="expected_breakage") from error
    if not 0 <= exact < 1:
        raise BadPolicy("expected_breakage is at least 0 and below 1.", param="expected_breakage")
    return exact
