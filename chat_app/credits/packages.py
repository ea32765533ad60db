"""Packages: what is for sale, and the price of a custom amount."""

from dataclasses import dataclass

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, select

from chat_app.credits.tables import PackageRow
from chat_app.errors import Invalid, NotFound
from chat_app.money import MICRO, Money, show_credits

CREDITS_PER_DOLLAR = 100
CUSTOM_MIN = 100 * MICRO
CUSTOM_MAX = 1_000_000 * MICRO
# code, name, price in cents, credits, bonus credits
SEED = [
    ("starter", "Starter", 500, 500, 0),
    ("standard", "Standard", 2000, 2000, 200),
    ("pro", "Pro", 5000, 5000, 1000),
]


class UnknownPackage(NotFound):
    """There is no such package, or it is no longer sold."""

    code = "unknown_package"
    message = "This package is not for sale. Reload the page and choose another one."


class BadAmount(Invalid):
    """A custom amount outside of what is sold."""

    code = "bad_amount"
    message = (
        f"Buy between {show_credits(CUSTOM_MIN)} and {show_credits(CUSTOM_MAX)} whole credits. "
        "Choose another amount."
    )


@dataclass(frozen=True)
class Package:
    """Credits for sale, in microcredits. The price buys the bonus too."""

    code: str
    name: str
    price: Money
    credits: int
    bonus_credits: int


def seed(session: Session, *, now: int) -> None:
    """Put the first packages on sale; those that are there stay as they are."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    for position, (code, name, price_minor, credits, bonus) in enumerate(SEED):
        row = {
            "code": code,
            "name": name,
            "price_minor": price_minor,
            "currency": "USD",
            "credits": credits * MICRO,
            "bonus_credits": bonus * MICRO,
            "position": position,
            "active": True,
            "created_at": now,
        }
        session.execute(insert(PackageRow).values(**row).on_conflict_do_nothing())


def list_packages(session: Session) -> list[Package]:
    """What is for sale, cheapest first."""
    rows = session.exec(
        select(PackageRow)
        .where(col(PackageRow.active).is_(True))
        .order_by(col(PackageRow.position), col(PackageRow.code))
    )
    return [_package(row) for row in rows]


def get(session: Session, code: str) -> Package:
    """A package that is for sale; raises UnknownPackage."""
    row = session.get(PackageRow, code)
    if row is None or not row.active:
        raise UnknownPackage(package=code)
    return _package(row)


def custom_price(micro: int) -> Money:
    """What a custom amount of whole credits costs, rounded up to a cent; raises BadAmount."""
    if micro % MICRO or not CUSTOM_MIN <= micro <= CUSTOM_MAX:
        raise BadAmount
    return Money(-(-micro * 100 // (CREDITS_PER_DOLLAR * MICRO)))


def _package(row: PackageRow) -> Package:
    return Package(
        code=row.code,
        name=row.name,
        price=Money(row.price_minor, row.currency),
        credits=row.credits,
        bonus_credits=row.bonus_credits,
    )
