"""Refunds and chargebacks on the side of the credits: what leaves a wallet with the money.

A refund takes only what is unused, in the order of use, at its exact share of the price. A
chargeback takes everything: what is unused leaves, what was spent becomes a debt. Knows no
provider and no order; `grants` are the transfers that brought the credits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits import accounts, debts, ledger, lots, operations, transfers
from chat_app.credits.accounts import Wallet
from chat_app.credits.lots import Lot
from chat_app.credits.sql import Books, Statement
from chat_app.errors import Conflict, Invalid

_END = Statement("SELECT expires_at FROM lot WHERE transfer_id = :transfer_id")


class NothingToRefund(Conflict):
    """All credits of the order are used, held, expired or refunded."""

    code = "nothing_to_refund"
    message = (
        "Nothing of this order is unused, so nothing can be refunded. "
        "Adjust the balance by hand if you want to give something back."
    )


class BadRefund(Invalid):
    """More money than the unused credits cost, or an amount that no number of credits costs."""

    code = "bad_refund"
    message = "Refund at most what the unused credits of this order cost. Choose another amount."


@dataclass(frozen=True)
class Taken:
    """What a refund or a chargeback did: microcredits taken and owed, money in minor units.

    The transfers are those of the credits that were taken and of the debt, if there were any.
    """

    operation_id: int
    micro: int
    minor: int
    owed: int
    transfer_id: int | None
    debt_id: int | None
    replayed: bool = False


@dataclass(frozen=True)
class Returned:
    """What came back: `micro` credits as a new lot of the transfer, and a debt that is no more.

    `forgiven` was let off before, so it neither comes back nor is owed.
    """

    micro: int
    cancelled: int
    transfer_id: int | None
    forgiven: int = 0


def refundable(session: Session, *, user_id: int, grants: Sequence[int]) -> tuple[int, int]:
    """Unused microcredits that could be refunded, and what they cost in minor units; a look."""
    books = Books(session)
    wallet = accounts.find(books, user_id=user_id)
    if wallet is None:
        return 0, 0
    found = lots.of_grants(books, wallet, grants)
    free = [(lot, lot.remaining - lot.held) for lot in found]
    return sum(micro for _, micro in free), sum(lot.revenue_of(micro) for lot, micro in free)


def refund(
    session: Session,
    *,
    user_id: int,
    grants: Sequence[int],
    minor: int | None,
    now: int,
    scope: str,
    key: str,
    actor: str,
    reference: str,
    description: str,
) -> Taken:
    """Take unused credits worth `minor` (all of them if None) out of the wallet, once.

    Raises NothingToRefund, BadRefund, or IdempotencyConflict.
    """
    deed = operations.begin(
        session,
        scope=scope,
        key=key,
        actor=actor,
        request={"refund": reference, "user": user_id, "minor": minor},
    )
    if deed.outcome is not None:
        return Taken(**deed.outcome, operation_id=deed.id, replayed=True)
    books = deed.books
    wallet = accounts.lock(books, user_id=user_id, now=now)
    now = wallet.time(now)
    lots.free(books, wallet, now=now)  # what has ended expires before it could be refunded
    found = lots.of_grants(books, wallet, grants)
    chosen = _worth(found, minor)
    micro = sum(part for _, part in chosen)
    money = sum(lot.revenue_of(part) for lot, part in chosen)
    if micro == 0 or money == 0:
        raise NothingToRefund
    transfer_id = _take(
        books, wallet, chosen, code="refund", now=now, reference=reference, description=description
    )
    done = {
        "micro": micro,
        "minor": money,
        "owed": 0,
        "transfer_id": transfer_id,
        "debt_id": None,
    }
    operation_id = deed.keep(done, now=now, transfer_id=transfer_id)
    return Taken(operation_id, micro, money, 0, transfer_id, None)


def charge_back(
    session: Session,
    *,
    user_id: int,
    grants: Sequence[int],
    now: int,
    scope: str,
    key: str,
    actor: str,
    reference: str,
    description: str,
) -> Taken:
    """Take all credits of an order out of the wallet, once; what was spent is owed from now on.

    Credits that an answer in progress holds are owed too: if it does not use them, `debts.collect`
    takes them. Expired and refunded ones are gone already and nobody owes them.
    """
    deed = operations.begin(
        session,
        scope=scope,
        key=key,
        actor=actor,
        request={"chargeback": reference, "user": user_id},
    )
    if deed.outcome is not None:
        return Taken(**deed.outcome, operation_id=deed.id, replayed=True)
    books = deed.books
    wallet = accounts.lock(books, user_id=user_id, now=now)
    now = wallet.time(now)
    lots.free(books, wallet, now=now)
    found = lots.of_grants(books, wallet, grants)
    owed = sum(lot.held + lots.spent(books, lot) for lot in found)
    chosen = [(lot, lot.remaining - lot.held) for lot in found if lot.remaining > lot.held]
    micro = sum(part for _, part in chosen)
    money = sum(lot.revenue_of(part) for lot, part in chosen)
    transfer_id = debt_id = None
    if micro:
        transfer_id = _take(
            books,
            wallet,
            chosen,
            code="chargeback",
            now=now,
            reference=reference,
            description=description,
        )
    if owed:
        debt_id = debts.incur(
            books, wallet, micro=owed, now=now, cause_id=transfer_id, reference=reference
        )
    done = {
        "micro": micro,
        "minor": money,
        "owed": owed,
        "transfer_id": transfer_id,
        "debt_id": debt_id,
    }
    operation_id = deed.keep(done, now=now, transfer_id=transfer_id or debt_id)
    return Taken(operation_id, micro, money, owed, transfer_id, debt_id)


def give_back(
    session: Session,
    *,
    user_id: int,
    taken: Taken,
    currency: str,
    expires_at: int | None,
    now: int,
    scope: str,
    key: str,
    actor: str,
    reference: str,
    description: str,
) -> Returned:
    """Undo a refund or a chargeback, once: the money stayed with us after all.

    Its debt is cancelled as far as it is still owed; what was paid of it comes back with the
    credits that were taken, as one lot with their share of the price. What was forgiven of it
    does not: nobody paid that.
    """
    deed = operations.begin(
        session, scope=scope, key=key, actor=actor, request={"give back": taken.operation_id}
    )
    if deed.outcome is not None:
        return Returned(**deed.outcome)
    books = deed.books
    wallet = accounts.lock(books, user_id=user_id, now=now)
    now = wallet.time(now)
    forgiven = 0
    if taken.debt_id is not None:
        forgiven = debts.forgiven(books, debt_id=taken.debt_id)
    if forgiven:
        assert taken.debt_id is not None
        debts.unforgive(
            books, wallet, micro=forgiven, now=now, cause_id=taken.debt_id, reference=reference
        )
    cancelled = min(wallet.owed, taken.owed - forgiven)
    if cancelled:
        assert taken.debt_id is not None
        debts.cancel(
            books, wallet, micro=cancelled, now=now, cause_id=taken.debt_id, reference=reference
        )
    micro, transfer_id = taken.micro + taken.owed - forgiven - cancelled, None
    if micro:
        transfer_id = ledger.grant(
            session,
            user_id=user_id,
            micro=micro,
            source="reinstated",
            now=now,
            scope=f"{scope}:lot",
            key=key,
            actor=actor,
            description=description,
            price_minor=taken.minor,
            currency=currency,
            expires_at=None if expires_at is None else max(expires_at, now + 1),
            reference=reference,
        ).transfer_id
    done = {
        "micro": micro,
        "cancelled": cancelled,
        "transfer_id": transfer_id,
        "forgiven": forgiven,
    }
    deed.keep(done, now=now, transfer_id=None)
    return Returned(micro, cancelled, transfer_id, forgiven)


def end_of(session: Session, *, grants: Sequence[int]) -> int | None:
    """When the first lot of these grants ends; None for never. In microseconds."""
    books = Books(session)
    row = books.one(_END, transfer_id=grants[0]) if grants else None
    return None if row is None else row[0]


def _worth(found: Sequence[Lot], minor: int | None) -> list[tuple[Lot, int]]:
    """Which free credits are worth exactly `minor`, first to last."""
    if minor is not None and minor <= 0:
        raise BadRefund(refundable=0)
    chosen: list[tuple[Lot, int]] = []
    left = minor
    for lot in found:
        free = lot.remaining - lot.held
        share = lot.revenue_of(free)
        if left == 0 or free == 0:
            continue
        if left is None or share <= left:
            chosen.append((lot, free))
            left = None if left is None else left - share
            continue
        # The fewest credits whose cumulative share reaches the amount.
        wanted = lot.recognized_minor + left
        part = -(-lot.granted * wanted // lot.price_minor) - (lot.granted - lot.remaining)
        if lot.revenue_of(part) != left:
            break
        chosen.append((lot, part))
        left = 0
    if left:
        possible = sum(lot.revenue_of(lot.remaining - lot.held) for lot in found)
        if possible == 0:
            raise NothingToRefund
        raise BadRefund(refundable=possible)
    return chosen


def _take(
    books: Books,
    wallet: Wallet,
    chosen: Sequence[tuple[Lot, int]],
    *,
    code: str,
    now: int,
    reference: str,
    description: str,
) -> int:
    micro = sum(part for _, part in chosen)
    assert accounts.post(books, wallet, micro=-micro, now=now), "free credits are not held"
    transfer_id = transfers.out(
        books,
        code=code,
        wallet_id=wallet.id,
        system="refunded",
        amount=micro,
        after=wallet.posted,
        now=now,
        description=description,
        reference=reference,
    )
    for lot, part in chosen:
        lots.take(books, lot, micro=part, transfer_id=transfer_id, kind="refund")
    return transfer_id
