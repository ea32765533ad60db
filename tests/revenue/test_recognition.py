"""Recognition: golden cases to the cent, and what always holds whatever is bought and used."""

# ruff: noqa: DTZ001 - callers may give naive times, which are taken as UTC

from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_app.revenue import recognition
from chat_app.revenue.frames import BadFrame
from chat_app.revenue.recognition import BadPolicy, Policy, schedule

# G1: 100.00 for 1,000 and 100 bonus credits, bought in January, gone at the end of December.
G1 = pd.DataFrame(
    {
        "purchase_id": ["G1"],
        "ts": [datetime(2026, 1, 1)],
        "price_minor": [100_00],
        "credits": [1000],
        "bonus_credits": [100],
        "expires_at": [datetime(2026, 12, 15)],
        "kind": ["credits"],
    }
)


def used(*amounts: float) -> pd.DataFrame:
    """Credits used on the tenth of January, February, March …"""
    return pd.DataFrame(
        {
            "purchase_id": ["G1"] * len(amounts),
            "ts": [datetime(2026, month, 10) for month in range(1, len(amounts) + 1)],
            "credits": amounts,
        }
    )


def earned(table: pd.DataFrame, *periods: str) -> list[int]:
    by_period = table.set_index("period")
    both = by_period["recognized_minor"] + by_period["breakage_minor"]
    return [int(both[period]) for period in periods]


MONTHS = ("2026-01", "2026-02", "2026-03", "2026-12")


@pytest.mark.parametrize(
    ("policy", "amounts", "expected", "broken"),
    [
        ({"breakage": "remote"}, (300, 400, 290), [27_27, 36_37, 26_36, 10_00], 10_00),
        (
            {"breakage": "proportional", "expected_breakage": 0.1},
            (300, 400, 290),
            [30_30, 40_41, 29_29, 0],
            0,
        ),
        (
            {
                "breakage": "proportional",
                "expected_breakage": [(None, 0.1), (datetime(2026, 2, 28), 0.2)],
            },
            (300, 400, 290),
            [30_30, 49_25, 20_45, 0],
            0,
        ),
        (
            {"breakage": "proportional", "expected_breakage": 0.1},
            (300, 400, 100),
            [30_30, 40_41, 10_10, 19_19],
            19_19,
        ),
    ],
    ids=["remote", "proportional", "estimate-changed", "used-less"],
)
def test_golden_case_g1(
    policy: dict[str, object], amounts: tuple[int, ...], expected: list[int], broken: int
) -> None:
    """Cumulative allocation: rounding month by month would give 36.36 and lose a cent."""
    table = schedule(G1, used(*amounts), datetime(2026, 12, 31), policy)
    assert earned(table, *MONTHS) == expected
    assert table["breakage_minor"].sum() == broken
    assert table["deferred_minor"].iloc[-1] == 0
    if policy.get("expected_breakage") == 0.1 and amounts[-1] == 290:
        assert list(table["deferred_minor"][:3]) == [69_70, 29_29, 0]


# The worked example of Stripe's documentation of its amortization settings: 120 USD for a service
# from 15 June 2026 12:00 to 13 October 2026 12:00 (docs.stripe.com/revenue-recognition).
PLAN = pd.DataFrame(
    {
        "purchase_id": ["P"],
        "ts": ["2026-06-15T12:00:00Z"],
        "price_minor": [120_00],
        "kind": ["plan"],
        "service_start": ["2026-06-15T12:00:00Z"],
        "service_end": ["2026-10-13T12:00:00Z"],
    }
)


@pytest.mark.parametrize(
    ("proration", "expected"),
    [
        ("millisecond", [15_50, 31_00, 31_00, 30_00, 12_50]),
        ("day", [16_00, 31_00, 31_00, 30_00, 12_00]),
        ("even", [30_00, 30_00, 30_00, 30_00, 0]),
        ("even_prorated", [15_50, 30_66, 30_66, 30_68, 12_50]),
    ],
)
def test_the_four_published_prorations(proration: str, expected: list[int]) -> None:
    table = schedule(PLAN, None, "2026-12-31", {"proration": proration})
    assert list(table["recognized_minor"][:5]) == expected
    assert table["recognized_minor"].sum() == 120_00
    assert set(table["breakage_minor"]) == {0}


def test_a_month_of_service_by_the_day() -> None:
    """31 USD from 15 January to 15 February: 17 days and 14 (Stripe's subscription example)."""
    plan = PLAN.assign(
        ts="2019-01-15", price_minor=31_00, service_start="2019-01-15", service_end="2019-02-15"
    )
    assert list(schedule(plan, None, "2019-03-01", {})["recognized_minor"]) == [17_00, 14_00, 0]
    # Half a service is half earned, in the middle of it too.
    middle = schedule(plan, None, "2019-01-20", {"proration": "millisecond"})
    assert list(middle["recognized_minor"]) == [5_00]


def test_a_service_within_one_month_is_earned_in_it() -> None:
    for proration in ("millisecond", "day", "even", "even_prorated"):
        plan = PLAN.assign(service_end="2026-06-20T00:00:00Z")
        table = schedule(plan, None, "2026-07-31", {"proration": proration})
        assert list(table["recognized_minor"]) == [120_00, 0]


def test_a_point_in_time_is_earned_at_once() -> None:
    table = schedule(G1.assign(kind="point_in_time"), None, "2026-02-01", None)
    assert list(table["recognized_minor"]) == [100_00, 0]


def test_promotional_credits_bring_no_revenue() -> None:
    table = schedule(G1.assign(price_minor=0), used(500), "2026-12-31", {})
    assert table[["recognized_minor", "breakage_minor", "deferred_minor"]].to_numpy().sum() == 0


def test_what_is_kept_is_earned_only_when_credits_end() -> None:
    last = datetime(2026, 12, 15)
    before = schedule(G1, used(300), last.replace(microsecond=0) - pd.Timedelta(1, "us"), {})
    assert before["breakage_minor"].sum() == 0
    assert before["deferred_minor"].iloc[-1] == 72_73
    at = schedule(G1, used(300), last, {})
    assert at["breakage_minor"].iloc[-1] == 72_73
    never = schedule(G1.assign(expires_at=None), used(300), datetime(2030, 1, 1), {})
    assert never["deferred_minor"].iloc[-1] == 72_73


MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 6, 30))


@st.composite
def histories(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, object]]:
    """Purchases of both kinds, and uses that never take more than there is."""
    purchases, uses = [], []
    for number in range(draw(st.integers(1, 4))):
        at = draw(MOMENTS)
        total = draw(st.integers(1, 3000))
        bonus = draw(st.integers(0, 300))
        plan = draw(st.booleans())
        length = pd.Timedelta(draw(st.integers(1, 400 * 86_400)), "s")
        purchases.append(
            {
                "purchase_id": f"p{number}",
                "ts": at,
                "price_minor": draw(st.integers(0, 10**6)),
                "credits": total,
                "bonus_credits": bonus,
                "expires_at": at + length if draw(st.booleans()) else None,
                "kind": "plan" if plan else "credits",
                "service_start": at if plan else None,
                "service_end": at + length if plan else None,
            }
        )
        left = total + bonus
        for _ in range(draw(st.integers(0, 5))):
            part = draw(st.integers(0, left))
            left -= part
            late = at + pd.Timedelta(draw(st.integers(0, 500 * 86_400)), "s")
            uses.append({"purchase_id": f"p{number}", "ts": late, "credits": part})
    policy = {
        "breakage": draw(st.sampled_from(["remote", "proportional"])),
        "expected_breakage": draw(st.sampled_from([0, 0.05, 0.1, 0.37])),
        "proration": draw(st.sampled_from(["millisecond", "day", "even", "even_prorated"])),
    }
    usage = pd.DataFrame(uses, columns=["purchase_id", "ts", "credits"])
    return pd.DataFrame(purchases), usage, policy


@settings(deadline=None, max_examples=25)
@given(histories(), MOMENTS, MOMENTS)
def test_what_always_holds(
    history: tuple[pd.DataFrame, pd.DataFrame, dict[str, object]], one: datetime, other: datetime
) -> None:
    """Every cent of a price is recognised, broken or deferred; none is earned twice; what comes
    after `as_of` changes no figure; a later look at an earlier month tells the same.
    """
    purchases, usage, policy = history
    early, late = sorted((one, other))
    table = schedule(purchases, usage, late, policy)
    prices = purchases.set_index("purchase_id")["price_minor"]
    for name, part in table.groupby("purchase_id"):
        gone = (part["recognized_minor"] + part["breakage_minor"]).cumsum()
        assert (gone + part["deferred_minor"] == prices[name]).all()
        assert part["deferred_minor"].between(0, prices[name]).all()
    cut = schedule(purchases[purchases["ts"] <= early], usage[usage["ts"] <= early], early, policy)
    assert cut.equals(schedule(purchases, usage, early, policy))
    full = [period for period in cut["period"].unique() if period < f"{early:%Y-%m}"]
    for period in full:
        a = cut[cut["period"] == period].set_index("purchase_id")
        b = table[table["period"] == period].set_index("purchase_id")
        assert a.equals(b.loc[a.index])
    forward = recognition.roll_forward(table)
    if not forward.empty:
        moved = forward["opening"] + forward["billed"] - forward["recognized"] - forward["breakage"]
        assert (moved == forward["closing"]).all()
        assert recognition.waterfall(table).to_numpy().sum() == (
            table["recognized_minor"].sum() + table["breakage_minor"].sum()
        )


def test_row_order_and_time_zones_change_nothing() -> None:
    uses = used(300, 400, 290)
    there = uses.assign(
        ts=pd.to_datetime(uses["ts"]).dt.tz_localize(UTC).dt.tz_convert("Asia/Tokyo")
    )
    assert schedule(G1, there[::-1], "2026-12-31", {}).equals(schedule(G1, uses, "2026-12-31", {}))


@pytest.mark.parametrize(
    ("purchases", "usage", "named"),
    [
        (G1.drop(columns="price_minor"), None, "price_minor"),
        (G1.assign(price_minor=float("nan")), None, "price_minor"),
        (G1.assign(price_minor=1.5), None, "price_minor"),
        (G1.assign(price_minor=-1), None, "price_minor"),
        (G1.assign(price_minor=float("inf")), None, "price_minor"),
        (pd.concat([G1, G1]), None, "purchase_id"),
        (G1.assign(kind="gift"), None, "kind"),
        (G1.assign(kind="plan"), None, "service_start"),
        (G1.assign(ts="yesterday"), None, "ts"),
        (G1, used(1).assign(purchase_id="other"), "purchase_id"),
        (G1, used(1).assign(credits=float("nan")), "credits"),
        (G1, used(1).assign(ts=datetime(2025, 1, 1)), "ts"),
    ],
)
def test_bad_tables_are_refused_by_name(
    purchases: pd.DataFrame, usage: pd.DataFrame | None, named: str
) -> None:
    with pytest.raises(BadFrame) as refused:
        schedule(purchases, usage, "2026-12-31", {})
    assert refused.value.facts["column"] == named


@pytest.mark.parametrize(
    "policy",
    [
        {"breakage": "often"},
        {"proration": "weekly"},
        {"expected_breakage": 1},
        {"expected_breakage": "nan"},
        {"rounding": "up"},
    ],
)
def test_unknown_rules_are_refused(policy: dict[str, object]) -> None:
    with pytest.raises(BadPolicy):
        Policy.of(policy)


def test_nothing_bought_is_an_empty_schedule() -> None:
    empty = schedule(G1[:0], used(), "2026-12-31", {})
    assert list(empty.columns) == list(recognition.COLUMNS)
    assert empty.empty
    assert recognition.waterfall(empty).empty
    assert recognition.roll_forward(empty).empty
