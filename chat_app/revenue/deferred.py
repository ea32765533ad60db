"""What a lot still owes: how its price is earned, broken, handed on, one whole figure at a time.

With the `remote` rule (no expected breakage) the sum of all that left follows the credits that
left, rounded once on the whole, as the lot itself does it. With expected breakage what is earned
follows `used / (granted × (1 − expected))`, and a new estimate is caught up at once. A plan's
period is earned over its time, whatever is used of it. Knows no journal.
"""

from fractions import Fraction
from typing import TYPE_CHECKING

from chat_app.errors import Invalid
from chat_app.revenue.rounding import half_up
from chat_app.revenue.tables import LotRevenueRow

if TYPE_CHECKING:
    from chat_app.revenue.recognition import Proration

FULL_BP = 10_000


class BookedTwice(Invalid):
    """More left a lot than it had: the same rows were posted twice, or the books are damaged."""

    code = "booked_twice"
    message = "More was booked out of a lot than it held. Run `python -m chat_app verify`."


def left(lot: LotRevenueRow) -> int:
    """Minor units, net of tax, that are neither earned nor gone: deferred revenue."""
    return lot.net_minor - lot.earned - lot.broken - lot.handed


def over_time(lot: LotRevenueRow) -> bool:
    """Whether the price is for a time, not for the credits."""
    return lot.starts_at is not None


def use(lot: LotRevenueRow, micro: int) -> int:
    """`micro` more were used; returns what that earns."""
    lot.used += micro
    _check(lot)
    if over_time(lot):
        return 0
    due = _by_rule(lot)
    lot.earned += due
    return due


def end(lot: LotRevenueRow, micro: int) -> int:
    """`micro` ended unused; returns the breakage."""
    lot.expired += micro
    _check(lot)
    if over_time(lot):
        return 0
    due = _by_rule(lot) if not lot.expected_bp else (left(lot) if _empty(lot) else 0)
    lot.broken += due
    return due


def hand(lot: LotRevenueRow, micro: int, gross: int) -> tuple[int, int]:
    """`micro` are gone with `gross` of the price: (from what is deferred, from what is earned).

    Both net. The second was earned too early, as with plans and expected breakage.
    """
    before = _net_of(lot, lot.gone_gross)
    lot.gone += micro
    lot.gone_gross += gross
    _check(lot)
    if over_time(lot) or lot.expected_bp:
        share = _net_of(lot, lot.gone_gross) - before
    else:
        share = _by_rule(lot)
    deferred = min(share, left(lot))
    lot.handed += deferred
    back = share - deferred
    lot.earned -= back
    lot.handed += back
    return deferred, back


def serve(lot: LotRevenueRow, *, before: int, proration: "Proration") -> int:
    """What a plan's period earns more before `before` (µs); below zero after a refund."""
    # Only where there are plans is pandas loaded.
    import pandas as pd

    from chat_app.revenue import recognition

    def moment(micros: int | None) -> pd.Timestamp:
        assert micros is not None
        return pd.Timestamp(micros, unit="us", tz="UTC")

    served = recognition.served(
        lot.net_minor,
        start=moment(lot.starts_at),
        stop=moment(lot.ends_at),
        end=moment(before),
        proration=proration,
    )
    due = min(served, lot.net_minor - lot.handed) - lot.earned
    lot.earned += due
    return due


def expect(lot: LotRevenueRow, bp: int) -> int:
    """A new estimate of breakage, in hundredths of a percent; returns what it earns at once."""
    lot.expected_bp = bp
    if over_time(lot) or _empty(lot):
        return 0
    due = min(_by_use(lot), lot.net_minor - lot.broken - lot.handed) - lot.earned
    lot.earned += due
    return due


def _by_rule(lot: LotRevenueRow) -> int:
    """What is due so that all that left the lot is worth what left it."""
    if _empty(lot):
        return left(lot)
    if lot.expected_bp:
        return min(_by_use(lot), lot.net_minor - lot.broken - lot.handed) - lot.earned
    out = lot.used + lot.gone + lot.expired
    return _share(lot, out) - (lot.earned + lot.broken + lot.handed)


def _by_use(lot: LotRevenueRow) -> int:
    expected = lot.granted * (1 - Fraction(lot.expected_bp, FULL_BP))
    return half_up(lot.net_minor * lot.used / expected)


def _share(lot: LotRevenueRow, micro: int) -> int:
    return half_up(Fraction(lot.net_minor * micro, lot.granted))


def _net_of(lot: LotRevenueRow, gross: int) -> int:
    return half_up(Fraction(lot.net_minor * gross, lot.gross_minor)) if lot.gross_minor else 0


def _empty(lot: LotRevenueRow) -> bool:
    return lot.used + lot.gone + lot.expired == lot.granted


def _check(lot: LotRevenueRow) -> None:
    if lot.used + lot.gone + lot.expired > lot.granted:
        raise BookedTwice(lot=lot.lot_id)
