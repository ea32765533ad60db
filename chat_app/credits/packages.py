"""Packages: what is for sale, and the price of a custom amount."""

import re
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, select

from chat_app.credits.tables import PackageRow
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.money import MAX_MICROCREDITS, MICRO, Money, show_credits
from chat_app.settings import Credits as Rules

MAX_PRICE_MINOR = 10**9
MAX_DAYS = 36_500
MAX_NAME = 64
_CODE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
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
    message = "This amount of credits is not sold. Choose another amount of whole credits."


class BadPackage(Invalid):
    """A package or a plan that makes no sense; the sentence says which part of it."""

    code = "bad_package"
    message = "This cannot be offered like that. Check name, price, credits and lifetime."


class PackageExists(Conflict):
    """The code is taken: an order names it for ever."""

    code = "package_exists"
    message = "Something with this id is offered already. Choose another id, or change that one."


@dataclass(frozen=True)
class Package:
    """Credits for sale, in microcredits. The price buys the bonus too.

    `valid_days`: the credits end that long after the purchase; None: as the settings say.
    """

    code: str
    name: str
    price: Money
    credits: int
    bonus_credits: int = 0
    valid_days: int | None = None
    position: int = 0
    active: bool = True


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


def list_packages(session: Session, *, all: bool = False) -> list[Package]:
    """What is for sale, in the shop's order; with `all` what was taken off the shelf too."""
    query = select(PackageRow).order_by(
        col(PackageRow.position), col(PackageRow.price_minor), col(PackageRow.code)
    )
    if not all:
        query = query.where(col(PackageRow.active).is_(True))
    return [_package(row) for row in session.exec(query)]


def get(session: Session, code: str, *, all: bool = False) -> Package:
    """A package that is for sale, with `all` any package; raises UnknownPackage."""
    row = session.get(PackageRow, code)
    if row is None or not (row.active or all):
        raise UnknownPackage(package=code)
    return _package(row)


def create(session: Session, package: Package, *, now: int) -> Package:
    """Offer a new package; raises BadPackage or PackageExists."""
    package = replace(package, name=clean_name(package.name))
    check(package.code, package.name, package.price, package.credits)
    _check_more(package)
    if session.get(PackageRow, package.code) is not None:
        raise PackageExists(package=package.code)
    row = PackageRow(code=package.code, created_at=now, **_columns(package))
    session.add(row)
    session.flush()
    return _package(row)


def change(session: Session, code: str, **parts: object) -> Package:
    """Change parts of a package. What was ordered before keeps its price and its credits.

    Raises UnknownPackage or BadPackage.
    """
    row = session.get(PackageRow, code, with_for_update=True)
    if row is None:
        raise UnknownPackage(package=code)
    package = replace(_package(row), **parts)  # type: ignore[arg-type]
    package = replace(package, name=clean_name(package.name))
    check(code, package.name, package.price, package.credits)
    _check_more(package)
    for name, value in _columns(package).items():
        setattr(row, name, value)
    session.add(row)
    session.flush()
    return _package(row)


def custom_price(micro: int, rules: Rules | None = None) -> Money:
    """What a custom amount of whole credits costs, rounded up to a cent; raises BadAmount."""
    rules = rules or Rules()
    least, most = rules.custom_min * MICRO, rules.custom_max * MICRO
    if micro % MICRO or not least <= micro <= most:
        raise BadAmount(
            f"Buy between {show_credits(least)} and {show_credits(most)} whole credits. "
            "Choose another amount."
        )
    return Money(-(-micro * rules.custom_cents_per_100 // (100 * MICRO)))


def clean_name(name: str) -> str:
    """A name on one line."""
    return " ".join(name.split())


def check(code: str, name: str, price: Money, credits: int) -> None:
    """What packages and plans have in common; raises BadPackage."""
    if not _CODE.fullmatch(code):
        raise BadPackage(
            "An id has 1 to 32 small letters, digits, dashes or underscores. Choose another id."
        )
    if not 1 <= len(name) <= MAX_NAME:
        raise BadPackage(f"A name has 1 to {MAX_NAME} characters. Choose another name.")
    # T20: a negative price would pay people for taking credits.
    if not 0 <= price.amount <= MAX_PRICE_MINOR or not re.fullmatch(r"[A-Z]{3}", price.currency):
        raise BadPackage("A price is zero or more, in a currency such as USD. Check the price.")
    if not 0 < credits <= MAX_MICROCREDITS // 10**6:
        raise BadPackage("Give an amount of credits above zero that people could use up.")


def _check_more(package: Package) -> None:
    if not 0 <= package.bonus_credits <= MAX_MICROCREDITS // 10**6:
        raise BadPackage("A bonus is zero credits or more. Check the bonus.")
    if package.valid_days is not None and not 1 <= package.valid_days <= MAX_DAYS:
        raise BadPackage(f"Credits are valid for 1 to {MAX_DAYS:,} days, or without an end.")
    if not 0 <= package.position <= 10**6:
        raise BadPackage("A position is a number from 0. Choose another position.")


def _columns(package: Package) -> dict[str, Any]:
    return {
        "name": package.name,
        "price_minor": package.price.amount,
        "currency": package.price.currency,
        "credits": package.credits,
        "bonus_credits": package.bonus_credits,
        "position": package.position,
        "active": package.active,
        "valid_days": package.valid_days,
    }


def _package(row: PackageRow) -> Package:
    return Package(
        code=row.code,
        name=row.name,
        price=Money(row.price_minor, row.currency),
        credits=row.credits,
        bonus_credits=row.bonus_credits,
        valid_days=row.valid_days,
        position=row.position,
        active=row.active,
    )
