"""The ledger as the rest of the program sees it: grants, adjustments, balances, history.

Everything is in microcredits and microseconds. Ledger time never goes backwards in a wallet:
a change is dated by the clock, or by the wallet's newest change if that is later.
"""

from dataclasses import dataclass
from typing import TypedDict

from sqlmodel import Session

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import accounts, debts, holds, lots, operations, transfers, words
from chat_app.credits.sql import Books, Statement
from chat_app.errors import Invalid
from chat_app.money import MAX_MICROCREDITS
from chat_app.settings import Credits as Rules
from chat_app.settings import Source

# Source of a grant: the type it is shown as, and the system account it comes from.
SOURCES = {
    "paid": ("purchase", "issued"),
    "welcome": ("welcome", "promo"),
    "bonus": ("bonus", "promo"),
    "promo": ("promo", "promo"),
    "plan": ("plan", "issued"),
    "refund": ("refund", "adjusted"),
    "adjust": ("adjustment", "adjusted"),
    "reinstated": ("reinstatement", "refunded"),
}
MOVES = ("transfer", "fund", "allocation")
_OWN_TYPES = ("message", "expiry", "chargeback", "repayment", "forgiveness")
TYPES = (*_OWN_TYPES, *MOVES, *(shown for shown, _ in SOURCES.values()))
MAX_PAGE = 500
DAY = 24 * 3600 * MICROS_PER_SECOND

_FIRST, _LAST = 0, 2**63 - 1
# Each side is cut to a page before they are joined, so a long history costs no more to show.
_SIDE = """SELECT * FROM (
      SELECT id, code, {sign}amount AS amount, {after} AS after, description, reference, created_at
      FROM transfer WHERE {account} = :account_id AND id < :cursor
       AND kind IN ('direct', 'post') AND amount > 0
       AND created_at >= :since AND created_at < :until AND (:type = '' OR code = :type)
      ORDER BY id DESC LIMIT :limit
    ) {name}"""
_OUT = _SIDE.format(sign="-", after="debit_after", account="debit_id", name="went")
_IN = _SIDE.format(sign="", after="credit_after", account="credit_id", name="came")
_HISTORY = Statement(
    f"""SELECT moved.id, moved.code, moved.amount, moved.after, moved.description,
     moved.reference, moved.created_at, usage.model, usage.reply_id
    FROM ({_OUT} UNION ALL {_IN}) moved
    LEFT JOIN usage ON usage.transfer_id = moved.id
    ORDER BY moved.id DESC LIMIT :limit"""  # noqa: S608 - constants
)


class BadGrant(Invalid):
    """The amount or the source of a grant is not possible."""

    code = "bad_grant"
    message = "This amount of credits cannot be granted. Give an amount above zero."


class BadCursor(Invalid):
    """The cursor or the filter of a list is not one that was given out."""

    code = "invalid_cursor"
    message = "This page of the list does not exist. Start again without a cursor."


@dataclass(frozen=True)
class Balance:
    """Microcredits: all, set aside, free to spend, and owed."""

    total: int
    held: int
    available: int
    debt: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a grant or an adjustment did. `micro` is signed; `replayed` if it was done before."""

    operation_id: int
    transfer_id: int
    micro: int
    balance_after: int
    replayed: bool = False


@dataclass(frozen=True)
class Transaction:
    """One movement that a customer sees. `credits` is signed; both are microcredits."""

    id: int
    type: str
    credits: int
    balance_after: int
    description: str | None
    model: str | None
    reply_id: str | None
    reference: str | None
    created_at: int


class Terms(TypedDict):
    """When the credits of a lot are used and when they end, as arguments of `grant`."""

    priority: int
    expires_at: int | None


def terms(rules: Rules, source: Source, *, now: int, days: int | None = None) -> Terms:
    """The terms of a new lot of this source; `days` is a lifetime of its own."""
    days = rules.lifetimes_days.get(source) if days is None else days
    return Terms(
        priority=rules.priorities.get(source, 0),
        expires_at=None if days is None else now + days * DAY,
    )


def wallet(session: Session, *, user_id: int, now: int) -> int:
    """The account id of the user's wallet, opened when there is none."""
    return accounts.lock(Books(session), user_id=user_id, now=now).id


def grant(
    session: Session,
    *,
    user_id: int,
    micro: int,
    source: str,
    now: int,
    scope: str,
    key: str,
    actor: str,
    description: str | None = None,
    price_minor: int = 0,
    currency: str = "USD",
    priority: int = 0,
    expires_at: int | None = None,
    reference: str | None = None,
) -> Outcome:
    """Add a lot of credits to a user's wallet, once for each (scope, key).

    Credits that cost money pay what the user owes first; that is a movement of its own.
    `source` is a key of SOURCES; `price_minor` is what all of the lot cost. Raises BadGrant,
    WalletClosed, or IdempotencyConflict when the key was used for another grant.
    """
    shown, system = SOURCES.get(source, ("", ""))
    ends_before = expires_at is not None and expires_at <= now
    if not shown or not 0 < micro <= MAX_MICROCREDITS or price_minor < 0 or ends_before:
        raise BadGrant
    deed = operations.begin(
        session,
        scope=scope,
        key=key,
        actor=actor,
        request={
            "grant": micro,
            "user": user_id,
            "source": source,
            "price": price_minor,
            "currency": currency,
            "expires_at": expires_at,
            "reference": reference,
        },
    )
    if deed.outcome is not None:
        return Outcome(deed.id, **deed.outcome, replayed=True)
    books = deed.books
    owner = accounts.lock(books, user_id=user_id, now=now)
    accounts.refuse_closed(owner)
    now = owner.time(now)
    if owner.posted + micro > MAX_MICROCREDITS:
        raise BadGrant
    assert accounts.post(books, owner, micro=micro, now=now), "adding never breaks the floor"
    transfer_id = transfers.into(
        books,
        code=shown,
        wallet_id=owner.id,
        system=system,
        amount=micro,
        after=owner.posted,
        now=now,
        description=description,
        reference=reference,
    )
    lot_id = lots.add(
        books,
        account_id=owner.id,
        transfer_id=transfer_id,
        source=source,
        priority=priority,
        micro=micro,
        currency=currency,
        price_minor=price_minor,
        expires_at=expires_at,
        now=now,
    )
    done = {"transfer_id": transfer_id, "micro": micro, "balance_after": owner.posted}
    operation_id = deed.keep(done, now=now, transfer_id=transfer_id)
    if owner.owed and price_minor:
        debts.repay_from(books, owner, lot_id=lot_id, now=now, cause_id=transfer_id)
    return Outcome(operation_id, transfer_id, micro, done["balance_after"])


def adjust(
    session: Session,
    *,
    user_id: int,
    micro: int,
    reason: str,
    actor: str,
    now: int,
    scope: str,
    key: str,
    terms: Terms | None = None,
) -> Outcome:
    """Add or, if negative, take credits, with a reason that stays in the books.

    `terms` are those of what is added.

    Takes only what is neither spent nor held: raises OutOfCredits when that is not enough.
    """
    if micro >= 0:
        return grant(
            session,
            user_id=user_id,
            micro=micro,
            source="adjust",
            now=now,
            scope=scope,
            key=key,
            actor=actor,
            description=reason,
            **(terms or Terms(priority=0, expires_at=None)),
        )
    deed = operations.begin(
        session,
        scope=scope,
        key=key,
        actor=actor,
        request={"adjust": micro, "user": user_id, "reason": reason},
    )
    if deed.outcome is not None:
        return Outcome(deed.id, **deed.outcome, replayed=True)
    books = deed.books
    owner = accounts.lock(books, user_id=user_id, now=now)
    now = owner.time(now)
    found = lots.free(books, owner, now=now)
    if not accounts.post(books, owner, micro=micro, now=now):
        error = holds.out_of_credits(needed=-micro, available=owner.available)
        deed.refuse(error, now=now)
        raise error
    transfer_id = transfers.out(
        books,
        code="adjustment",
        wallet_id=owner.id,
        system="adjusted",
        amount=-micro,
        after=owner.posted,
        now=now,
        description=reason,
    )
    for lot, part in lots.choose(found, -micro):
        lots.take(books, lot, micro=part, transfer_id=transfer_id, kind="adjust")
    done = {"transfer_id": transfer_id, "micro": micro, "balance_after": owner.posted}
    operation_id = deed.keep(done, now=now, transfer_id=transfer_id)
    return Outcome(operation_id, transfer_id, micro, owner.posted)


def balance(session: Session, *, user_id: int) -> Balance:
    """What the user has; all zero before the first credit."""
    return _balance(accounts.find(Books(session), user_id=user_id))


def pool(session: Session, *, org_id: int) -> Balance:
    """What the organisation has; all zero before the first credit."""
    return _balance(accounts.find_pool(Books(session), org_id=org_id))


def _balance(found: accounts.Wallet | None) -> Balance:
    if found is None:
        return Balance(0, 0, 0)
    return Balance(
        total=found.posted,
        held=found.held,
        available=found.available,
        debt=found.owed,
    )


def close(session: Session, *, user_id: int, now: int) -> bool:
    """Close the user's wallet for grants and holds; its credits stay. False if it was closed."""
    books = Books(session)
    owner = accounts.lock(books, user_id=user_id, now=now)
    return accounts.close(books, owner, now=owner.time(now))


def transactions(
    session: Session,
    *,
    user_id: int | None = None,
    org_id: int | None = None,
    type: str | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Transaction], str | None]:
    """The user's or organisation's movements, newest first, and the next page's cursor or None.

    `since` is included, `until` is not. Holds do not appear; a settled message is one row.
    Raises BadCursor for a cursor or a type that does not exist.
    """
    if (type is not None and type not in TYPES) or (cursor and not cursor.isascii()):
        raise BadCursor
    if cursor and not (cursor.isdigit() and len(cursor) < 19):
        raise BadCursor
    limit = max(1, min(limit, MAX_PAGE))
    books = Books(session)
    if org_id is not None:
        owner = accounts.find_pool(books, org_id=org_id)
    else:
        assert user_id is not None, "somebody's movements"
        owner = accounts.find(books, user_id=user_id)
    if owner is None:
        return [], None
    found = books.rows(
        _HISTORY,
        account_id=owner.id,
        cursor=int(cursor) if cursor else _LAST,
        since=_FIRST if since is None else since,
        until=_LAST if until is None else until,
        type=type or "",
        limit=limit + 1,
    )
    page = [
        Transaction(id, code, amount, after, text, model, reply_id, reference, created_at)
        for id, code, amount, after, text, reference, created_at, model, reply_id in found[:limit]
    ]
    return words.told(session, page), str(page[-1].id) if len(found) > limit else None
