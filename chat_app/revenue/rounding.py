"""Exact shares of whole amounts: half up, and cumulative, so that no cent is lost or made."""

from fractions import Fraction


def half_up(value: Fraction | int) -> int:
    """The nearest integer; a half goes away from zero."""
    doubled = abs(Fraction(value)) * 2
    nearest = (doubled.numerator + doubled.denominator) // (2 * doubled.denominator)
    return nearest if value >= 0 else -nearest


def shares(total: int, weights: "list[Fraction]") -> list[int]:
    """`total` split by weights: each part is the rounded sum up to it less the one before.

    The parts add up to `total` exactly, and no part is off by more than one. All weights zero:
    all of it is in the last part.
    """
    whole = sum(weights, Fraction(0))
    parts, before, seen = [], 0, Fraction(0)
    for number, weight in enumerate(weights, start=1):
        seen += weight
        upto = half_up(total * seen / whole) if whole else total * (number == len(weights))
        parts.append(upto - before)
        before = upto
    return parts
