"""Tax on a sale: which rate, by date and place, and the amounts, in whole minor units.

The table of rates is our own and dated: a rate that changes next year changes nothing that was
sold before. It is a help, not advice: an operator confirms the rates that apply to them. Knows
nothing of invoices.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, or_, select

from chat_app.credits.invoices.tables import TaxRateRow
from chat_app.errors import Invalid

Mode = Literal["off", "seller", "destination"]
Treatment = Literal["standard", "none", "reverse_charge", "outside"]
FULL = 10_000  # a rate of 100 %, in hundredths of a percent
STANDARD = "standard"
# Greece's VAT ids begin with EL; here it is GR everywhere.
EU = {
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT",
    "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
}  # fmt: skip
BUILT_IN = "list in this program"
SOURCE = f"{BUILT_IN}, as of January 2026; confirm it for your business"
# Jurisdiction, hundredths of a percent, first day, last day.
SEED: list[tuple[str, int, str, str | None]] = [
    ("AT", 2000, "1984-01-01", None),
    ("BE", 2100, "1996-01-01", None),
    ("BG", 2000, "1999-01-01", None),
    ("CY", 1900, "2014-01-13", None),
    ("CZ", 2100, "2013-01-01", None),
    ("DE", 1900, "2021-01-01", None),
    ("DK", 2500, "1992-01-01", None),
    ("EE", 2000, "2009-07-01", "2023-12-31"),
    ("EE", 2200, "2024-01-01", "2025-06-30"),
    ("EE", 2400, "2025-07-01", None),
    ("ES", 2100, "2012-09-01", None),
    ("FI", 2400, "2013-01-01", "2024-08-31"),
    ("FI", 2550, "2024-09-01", None),
    ("FR", 2000, "2014-01-01", None),
    ("GR", 2400, "2016-06-01", None),
    ("HR", 2500, "2012-03-01", None),
    ("HU", 2700, "2012-01-01", None),
    ("IE", 2300, "2021-03-01", None),
    ("IT", 2200, "2013-10-01", None),
    ("LT", 2100, "2009-09-01", None),
    ("LU", 1700, "2024-01-01", None),
    ("LV", 2100, "2012-07-01", None),
    ("MT", 1800, "2004-01-01", None),
    ("NL", 2100, "2012-10-01", None),
    ("PL", 2300, "2011-01-01", None),
    ("PT", 2300, "2011-01-01", None),
    ("RO", 1900, "2017-01-01", "2025-07-31"),
    ("RO", 2100, "2025-08-01", None),
    ("SE", 2500, "1990-07-01", None),
    ("SI", 2200, "2013-07-01", None),
    ("SK", 2000, "2011-01-01", "2024-12-31"),
    ("SK", 2300, "2025-01-01", None),
    ("CH", 810, "2024-01-01", None),
    ("GB", 2000, "2011-01-04", None),
    ("NO", 2500, "2005-01-01", None),
]


class NoTaxRate(Invalid):
    """Tax is switched on for a country whose rate is not in the table."""

    code = "no_tax_rate"
    message = (
        "There is no tax rate for the seller's country. Set business.country to a country of the "
        "table in docs/money.md, or business.tax to off."
    )


@dataclass(frozen=True)
class Rule:
    """How a sale is taxed. `rate_bp` is in hundredths of a percent."""

    treatment: Treatment
    jurisdiction: str
    rate_bp: int
    category: str = STANDARD


@dataclass(frozen=True)
class TaxLine:
    """One rate with the sum of all that it applies to, in minor units."""

    rule: Rule
    base_minor: int
    tax_minor: int


def seed(session: Session, *, now: int) -> None:
    """Put the built-in rates into the table; those that are there stay as they are.

    A place whose rates the operator keeps is the operator's from then on.
    """
    kept = set(
        session.exec(
            select(TaxRateRow.jurisdiction).where(~col(TaxRateRow.source).startswith(BUILT_IN))
        )
    )
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    rows = [
        {
            "jurisdiction": place,
            "category": STANDARD,
            "rate_bp": rate,
            "valid_from": first,
            "valid_to": last,
            "source": SOURCE,
            "created_at": now,
        }
        for place, rate, first, last in SEED
        if place not in kept
    ]
    session.execute(insert(TaxRateRow).values(rows).on_conflict_do_nothing())


def rate(session: Session, *, jurisdiction: str, day: str, category: str = STANDARD) -> int | None:
    """Hundredths of a percent in force on an ISO day, or None for a place that is not known."""
    found = session.exec(
        select(TaxRateRow.rate_bp)
        .where(
            TaxRateRow.jurisdiction == jurisdiction,
            TaxRateRow.category == category,
            col(TaxRateRow.valid_from) <= day,
            or_(col(TaxRateRow.valid_to).is_(None), col(TaxRateRow.valid_to) >= day),
        )
        .order_by(col(TaxRateRow.valid_from).desc())
    ).first()
    return None if found is None else int(found)


def decide(
    session: Session,
    *,
    mode: Mode,
    seller_country: str,
    buyer_country: str,
    buyer_has_vat_id: bool,
    day: str,
) -> Rule:
    """How a digital service is taxed on an ISO day.

    A business in another member state accounts for the tax itself (reverse charge); a buyer
    outside of the seller's tax area is outside; everybody else pays the rate of the seller's
    country, or with `destination` the buyer's. An unknown buyer's country is taken as the
    seller's. Raises NoTaxRate.
    """
    if mode == "off":
        return Rule("none", seller_country, 0)
    place = buyer_country or seller_country
    abroad = place != seller_country
    in_eu = seller_country in EU and place in EU
    if abroad and not in_eu:
        return Rule("outside", place, 0)
    if abroad and buyer_has_vat_id:
        return Rule("reverse_charge", place, 0)
    taxed_in = place if mode == "destination" else seller_country
    found = rate(session, jurisdiction=taxed_in, day=day)
    if found is None:
        taxed_in, found = seller_country, rate(session, jurisdiction=seller_country, day=day)
    if found is None:
        raise NoTaxRate(country=seller_country)
    return Rule("standard", taxed_in, found)


def half_up(numerator: int, denominator: int) -> int:
    """The quotient of two whole numbers that are not negative, rounded half up."""
    return (2 * numerator + denominator) // (2 * denominator)


def inside(gross_minor: int, rate_bp: int) -> int:
    """The tax that a gross amount contains."""
    return half_up(gross_minor * rate_bp, FULL + rate_bp)


def upon(net_minor: int, rate_bp: int) -> int:
    """The tax that comes on top of a net amount."""
    return half_up(net_minor * rate_bp, FULL)


def lines(amounts: Iterable[tuple[int, Rule]], *, inclusive: bool = True) -> list[TaxLine]:
    """One line for each rate: the amounts are summed first and taxed once.

    With `inclusive` amounts the bases are what is left without the tax.
    """
    sums: dict[Rule, int] = {}
    for amount, rule in amounts:
        sums[rule] = sums.get(rule, 0) + amount
    found = []
    for rule, total in sums.items():
        tax = inside(total, rule.rate_bp) if inclusive else upon(total, rule.rate_bp)
        found.append(TaxLine(rule, total - tax if inclusive else total, tax))
    return sorted(found, key=lambda line: (line.rule.jurisdiction, -line.rule.rate_bp))


def part(whole: int, *, done: int, more: int, of: int) -> int:
    """The share of `whole` that belongs to `more` after `done`, both out of `of`.

    Cumulative: the shares of all parts add up to `whole`, however it is cut.
    """
    return half_up(whole * (done + more), of) - half_up(whole * done, of)


def show_rate(rate_bp: int) -> str:
    """`24 %`, `25.5 %`."""
    whole, rest = divmod(rate_bp, 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".") + " %" if rest else f"{whole} %"
