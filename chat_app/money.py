"""Credits and money are integers; these are the only places where they become text.

A credit is 1,000,000 microcredits (int64). Money is minor units and an ISO 4217 code.
"""

import re
from dataclasses import dataclass

from chat_app.errors import Invalid

MICRO = 1_000_000
MAX_MICROCREDITS = 2**62
_CREDITS = re.compile(r"[+-]?\d{1,13}(\.\d{1,6})?", re.ASCII)


class BadCredits(Invalid):
    """The text is not an amount of credits."""

    code = "invalid_credits"

    def __init__(self) -> None:
        super().__init__(
            "Credits are a whole number or a decimal text with at most six decimals, "
            'for example 10 or "0.25".'
        )


def parse_credits(value: object) -> int:
    """Microcredits from a decimal string or an integer of credits.

    Raises BadCredits for floats (they cannot say 0.1), booleans, exponents, more than six
    decimals and anything beyond 2**62 microcredits.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise BadCredits
    text = str(value).strip() if isinstance(value, str) else ""
    if isinstance(value, int):
        micro = value * MICRO
    elif _CREDITS.fullmatch(text):
        whole, _, fraction = text.lstrip("+-").partition(".")
        micro = int(whole) * MICRO + int(fraction.ljust(6, "0") or 0)
        micro = -micro if text.startswith("-") else micro
    else:
        raise BadCredits
    if abs(micro) > MAX_MICROCREDITS:
        raise BadCredits
    return micro


def format_credits(micro: int) -> str:
    """Microcredits as the shortest exact decimal text: `10`, `0.25`, `-3.000001`."""
    whole, fraction = divmod(abs(micro), MICRO)
    text = f"{whole}.{fraction:06d}".rstrip("0").rstrip(".") if fraction else str(whole)
    return f"-{text}" if micro < 0 else text


def show_credits(micro: int) -> str:
    """Microcredits for a person, with thousands separators: `12,345.5`."""
    text = format_credits(micro)
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, dot, fraction = digits.partition(".")
    return f"{sign}{int(whole):,}{dot}{fraction}"


@dataclass(frozen=True)
class Money:
    """An amount in minor units (cents) of a currency."""

    amount: int
    currency: str = "USD"

    def __str__(self) -> str:
        sign = "-" if self.amount < 0 else ""
        major, minor = divmod(abs(self.amount), 100)
        return f"{sign}{major:,}.{minor:02d} {self.currency}"
