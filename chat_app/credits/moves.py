"""Moves: credits go from one wallet to another, with their price and their end.

What is taken of a lot becomes a lot of the other wallet, with its share of the price by
cumulative allocation: however often a lot is split, all its parts together cost what it cost.
Held credits stay. Both wallets are locked in the order of their ids.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits import accounts, budgets, holds, lots, operations, transfers
from chat_app.credits.accounts import Owner, Wallet
from chat_app.credits.lots import Lot
from chat_app.credits.sql import Books, Statement
from chat_app.errors import Conflict, Invalid, OutOfCredits
from chat_app.money import MAX_MICROCREDITS, format_credits

# The type of a move from user to user; a day's budget counts these.
SENT = "transfer"
# What a lot is called in the wallet that it came to.
SOURCE = "transfer"

_DETAILS = Statement(
    """SELECT id, source, priority, currency FROM lot
    WHERE account_id = :account_id AND remaining > held"""
)
_FREE = Statement(
    """SELECT source, SUM(remaining - held) FROM lot
    WHERE account_id = :account_id AND remaining > held
     AND (expires_at IS NULL OR expires_at > :now) GROUP BY source"""
)
_ADD = Statement(
    """INSERT INTO lot (account_id, transfer_id, parent_lot_id, source, priority, granted,
     remaining, currency, price_minor, expires_at, created_at)
    VALUES (:account_id, :transfer_id, :parent_id, :source, :priority, :micro, :micro, :currency,
     :price_minor, :expires_at, :now)"""
)


class OwnWallet(Invalid):
    """Both sides are the same wallet."""

    code = "own_wallet"
    message = "These credits are yours already. Name somebody else."


class BadMove(Invalid):
    """Nothing, less than nothing, or more than the other wallet can have."""

    code = "bad_move"
    message = "This amount of credits cannot be moved. Give an amount above zero."


class NotTransferable(OutOfCredits):
    """There are enough credits, but not of a kind that may be given away."""

    code = "not_transferable"
    message = (
        "Only credits that were paid for can be given away, not welcome or bonus credits. "
        "Give less, or add credits first."
    )


class DayLimit(OutOfCredits):
    """The limit of what somebody may send in a day."""

    code = "transfer_day_limit"
    message = "This is more than may be sent in a day. Send less, or send the rest tomorrow."


class NotEmpty(Conflict):
    """A wallet with open holds cannot be emptied."""

    code = "credits_held"
    message = "Some of these credits are held for running answers. Try again when they are done."


@dataclass(frozen=True)
class Moved:
    """What was moved, in microcredits; `balance_after` is the giver's. Times in µs."""

    transfer_id: int
    micro: int
    balance_after: int
    created_at: int
    replayed: bool = False


def move(
    session: Session,
    *,
    source: Owner,
    target: Owner,
    micro: int,
    code: str,
    now: int,
    scope: str,
    key: str,
    actor: str,
    kinds: Collection[str] | None = None,
    day_limit: int | None = None,
    description: str | None = None,
    reference: str | None = None,
) -> Moved:
    """Move `micro` microcredits from `source` to `target`, once for each (scope, key).

    `code` is the type that both see. Only lots of these `kinds` (sources) are taken, of all
    when none are given, in the order of use. Moves of code SENT are counted for the user's
    calendar day (UTC), and stay within `day_limit` microcredits if there is one.

    Who owes gives nothing away. Raises OutOfCredits, DebtUnpaid, NotTransferable, DayLimit,
    WalletClosed, OwnWallet, BadMove or IdempotencyConflict.
    """
    if source == target:
        raise OwnWallet
    if not 0 < micro <= MAX_MICROCREDITS:
        raise BadMove
    request = {"move": micro, "from": source.code, "to": target.code, "code": code}
    deed = operations.begin(
        session,
        scope=scope,
        key=key,
        actor=actor,
        request={**request, "description": description},
    )
    if deed.outcome is not None:
        return Moved(**deed.outcome, replayed=True)
    books = deed.books
    giver, taker = accounts.lock_both(books, source, target, now=now)
    accounts.refuse_closed(giver)
    accounts.refuse_closed(taker)
    now = max(giver.time(now), taker.time(now))
    if taker.posted + micro > MAX_MICROCREDITS:
        raise BadMove
    found = _movable(books, giver, kinds=kinds, now=now)
    error = _refusal(
        books, source, giver, found, micro=micro, code=code, day_limit=day_limit, now=now
    )
    if error is not None:
        deed.refuse(error, now=now)
        raise error
    transfer_id = _carry(
        books,
        giver,
        taker,
        found,
        micro=micro,
        code=code,
        now=now,
        description=description,
        reference=reference,
    )
    done = {
        "transfer_id": transfer_id,
        "micro": micro,
        "balance_after": giver.posted,
        "created_at": now,
    }
    deed.keep(done, now=now, transfer_id=transfer_id)
    return Moved(transfer_id, micro, giver.posted, now)


def movable(session: Session, *, user_id: int, kinds: Collection[str] | None, now: int) -> int:
    """How many microcredits of these kinds the user could give away, for a look."""
    books = Books(session)
    wallet = accounts.find(books, user_id=user_id)
    if wallet is None:
        return 0
    found = books.rows(_FREE, account_id=wallet.id, now=now)
    return int(sum(free for source, free in found if kinds is None or source in kinds))


def empty_pool(
    session: Session, *, org_id: int, to_user_id: int, now: int, key: str, actor: str
) -> int:
    """Give all that an organisation has to a user and close its wallet; returns microcredits.

    Raises NotEmpty while credits are held, or WalletClosed.
    """
    books = Books(session)
    source = Owner("org", org_id)
    giver, _ = accounts.lock_both(books, source, Owner("user", to_user_id), now=now)
    accounts.refuse_closed(giver)
    if giver.held:
        raise NotEmpty
    lots.free(books, giver, now=giver.time(now))
    rest = giver.posted
    if rest:
        move(
            session,
            source=source,
            target=Owner("user", to_user_id),
            micro=rest,
            code="allocation",
            now=now,
            scope="org-closed",
            key=key,
            actor=actor,
            description="The organisation was closed",
            reference=source.code,
        )
    accounts.close(books, giver, now=giver.time(now))
    return rest


def _movable(
    books: Books, giver: Wallet, *, kinds: Collection[str] | None, now: int
) -> list[tuple[Lot, tuple[str, int, str]]]:
    """Lots with free credits of these kinds, in the order of use, each with what it hands on."""
    found = lots.free(books, giver, now=now)
    rows = books.rows(_DETAILS, account_id=giver.id)
    details = {id: (source, priority, currency) for id, source, priority, currency in rows}
    return [
        (lot, details[lot.id])
        for lot in found
        if lot.remaining > lot.held and (kinds is None or details[lot.id][0] in kinds)
    ]


def _refusal(
    books: Books,
    source: Owner,
    giver: Wallet,
    found: Sequence[tuple[Lot, object]],
    *,
    micro: int,
    code: str,
    day_limit: int | None,
    now: int,
) -> OutOfCredits | None:
    """Why this much cannot be moved, or None; then it counts for the day."""
    if giver.owed or giver.available < micro:
        return holds.refusal(giver, needed=micro, pooled=source.kind == "org")
    movable = sum(lot.remaining - lot.held for lot, _ in found)
    if movable < micro:
        return NotTransferable(
            reason="not_transferable",
            limit_source="wallet" if source.kind == "user" else "org",
            needed=format_credits(micro),
            available=format_credits(movable),
            hint="Give less, or add credits first.",
        )
    if code != SENT:
        return None
    day = budgets.open_day(books, account_id=giver.id, user_id=source.id, now=now)
    if budgets.spend(books, day, micro=micro, limit=day_limit):
        return None
    return DayLimit(
        reason="budget",
        limit_source="transfers_per_day",
        needed=format_credits(micro),
        available=format_credits(day.left(day_limit)),
        hint="Send less, or send the rest tomorrow.",
    )


def _carry(
    books: Books,
    giver: Wallet,
    taker: Wallet,
    found: Sequence[tuple[Lot, tuple[str, int, str]]],
    *,
    micro: int,
    code: str,
    now: int,
    description: str | None,
    reference: str | None,
) -> int:
    assert accounts.post(books, giver, micro=-micro, now=now), "only what is available"
    assert accounts.post(books, taker, micro=micro, now=now), "adding never breaks the floor"
    transfer_id = transfers.between(
        books,
        code=code,
        from_id=giver.id,
        to_id=taker.id,
        amount=micro,
        from_after=giver.posted,
        to_after=taker.posted,
        now=now,
        description=description,
        reference=reference,
    )
    details = {lot.id: more for lot, more in found}
    for lot, part in lots.choose([lot for lot, _ in found], micro):
        # What it would have earned if it were used goes along as the new lot's price.
        price_minor = lot.revenue_of(part)
        lots.take(books, lot, micro=part, transfer_id=transfer_id, kind="move")
        _, priority, currency = details[lot.id]
        books.change(
            _ADD,
            account_id=taker.id,
            transfer_id=transfer_id,
            parent_id=lot.id,
            source=SOURCE,
            priority=priority,
            micro=part,
            currency=currency,
            price_minor=price_minor,
            expires_at=lot.expires_at,
            now=now,
        )
    return transfer_id
