"""The money ledger by month: what was billed, earned, given back, and what is still owed."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

_MONTHS = """SELECT CASE WHEN j.day < :since THEN '' ELSE SUBSTR(j.day, 1, 7) END, j.kind,
  p.account, p.currency, SUM(p.amount_minor)
 FROM posting p JOIN journal j ON j.id = p.journal_id WHERE j.day <= :until
 GROUP BY 1, 2, 3, 4 ORDER BY 1"""
_SPAN = """SELECT CASE WHEN j.day < :since THEN '0' ELSE '1' END, j.kind, p.account,
  p.currency, SUM(p.amount_minor)
 FROM posting p JOIN journal j ON j.id = p.journal_id WHERE j.day <= :until
 GROUP BY 1, 2, 3, 4 ORDER BY 1"""
_WATERFALL = """SELECT SUBSTR(s.day, 1, 7), SUBSTR(j.day, 1, 7), -SUM(p.amount_minor)
 FROM posting p JOIN journal j ON j.id = p.journal_id
 JOIN journal s ON s.key = 'sale:' || p.payment_id
 WHERE p.account LIKE 'revenue:%' AND p.currency = :currency
  AND j.day >= :since AND j.day <= :until
 GROUP BY 1, 2 ORDER BY 1, 2"""


@dataclass(frozen=True)
class Month:
    """A month of a currency, in minor units net of tax. Closing = opening + billed − the rest.

    `other` is what came without an order or came back; `cost` what running the service cost.
    """

    period: str
    currency: str
    opening: int
    billed: int
    usage: int
    subscription: int
    breakage: int
    adjustment: int
    refunded: int
    other: int
    closing: int
    cost: int = 0

    @property
    def recognized(self) -> int:
        """What the month earned in all."""
        return self.usage + self.subscription + self.breakage + self.adjustment


def roll_forward(session: Session, *, until: str, since: str = "") -> list[Month]:
    """Deferred revenue by month and currency up to a day (ISO), oldest first.

    From `since` on: its month then opens with what was owed before that day.
    """
    found = _folded(session.execute(text(_MONTHS), {"since": since, "until": until}))
    return [row for row in found if row.period]


def between(session: Session, *, since: str, until: str) -> list[Month]:
    """The same for the days from `since` to `until` (ISO, both included), by currency."""
    rows = _folded(session.execute(text(_SPAN), {"since": since, "until": until}))
    newest = {row.currency: row for row in rows}
    return [
        replace(row, period=f"{since}/{until}")
        if row.period == "1"
        else _quiet(row, f"{since}/{until}")
        for row in newest.values()
    ]


def _quiet(row: Month, period: str) -> Month:
    """A span in which nothing happened: what was owed is owed."""
    owed = row.closing
    return Month(period, row.currency, owed, 0, 0, 0, 0, 0, 0, 0, owed)


def _folded(rows: Iterable[Any]) -> list[Month]:
    deferred: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    earned: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    costs: dict[tuple[str, str], int] = defaultdict(int)
    for period, kind, account, currency, minor in rows:
        group, _, name = account.partition(":")
        if group == "deferred":
            deferred[currency, period][kind] -= int(minor)
        elif group == "revenue":
            earned[currency, period][name] -= int(minor)
        elif group == "cost":
            costs[currency, period] += int(minor)
    found: list[Month] = []
    opening: dict[str, int] = defaultdict(int)
    for currency, period in sorted({*deferred, *earned, *costs}):
        of, made = deferred[currency, period], earned[currency, period]
        closing = opening[currency] + sum(of.values())
        billed = of.get("sale", 0)
        refunded = -sum(minor for kind, minor in of.items() if kind.endswith("_taken"))
        recognized = sum(made.values())
        found.append(
            Month(
                period=period,
                currency=currency,
                opening=opening[currency],
                billed=billed,
                usage=made.get("usage", 0),
                subscription=made.get("subscription", 0),
                breakage=made.get("breakage", 0),
                adjustment=made.get("adjustment", 0),
                refunded=refunded,
                other=closing - opening[currency] - billed + recognized + refunded,
                closing=closing,
                cost=costs.get((currency, period), 0),
            )
        )
        opening[currency] = closing
    return found


def waterfall(
    session: Session, *, currency: str, until: str, since: str = ""
) -> dict[str, dict[str, int]]:
    """Month of purchase → month of recognition → minor units."""
    table: dict[str, dict[str, int]] = {}
    for bought, period, minor in session.execute(
        text(_WATERFALL), {"currency": currency, "since": since, "until": until}
    ):
        table.setdefault(bought, {})[period] = int(minor)
    return table
