"""Holds: credits set aside while an answer is being written.

A hold keeps credits from being spent twice. It ends once: settled for what the answer cost,
released, or expired. One on an organisation's wallet counts against its member's budget, one
of an API key against the key's. Knows nothing of models or messages.
"""

from dataclasses import dataclass

from sqlmodel import Session

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import accounts, budgets, key_budgets, lots, operations, rollups, transfers
from chat_app.credits.accounts import Owner, Wallet
from chat_app.credits.key_budgets import KeyUse
from chat_app.credits.sql import Books, Row, Statement
from chat_app.errors import Conflict, NotFound, OutOfCredits
from chat_app.money import MAX_MICROCREDITS, format_credits

_ADD = Statement(
    """INSERT INTO hold
    (id, account_id, budget_id, key_id, amount, state, reference, expires_at, created_at)
    VALUES (:id, :account_id, :budget_id, :key_id, :micro, 'open', :reference, :expires_at,
     :now)"""
)
_ACCOUNT = Statement("SELECT account_id FROM hold WHERE id = :id")
_FIND = Statement(
    """SELECT h.id, h.account_id, h.amount, h.state, h.settled, h.expires_at, h.reference,
     h.settlement_id, COALESCE(b.user_id, a.user_id), h.budget_id, h.key_id, h.created_at
    FROM hold h JOIN account a ON a.id = h.account_id LEFT JOIN budget b ON b.id = h.budget_id
    WHERE h.id = :id"""
)
_END = Statement(
    """UPDATE hold SET state = :state, settled = :settled, settlement_id = :settlement_id,
     resolved_at = :now
    WHERE id = :id AND state = :before"""
)
_EXTEND = Statement(
    """UPDATE hold SET expires_at = :expires_at
    WHERE id = :id AND state = 'open' AND expires_at < :expires_at"""
)
_DUE = Statement(
    """SELECT id FROM hold WHERE state = 'open' AND expires_at <= :now
    ORDER BY account_id, id LIMIT :limit"""
)
_DUE_OF = Statement(
    """SELECT id FROM hold
    WHERE account_id = :account_id AND state = 'open' AND expires_at <= :now ORDER BY id"""
)
_PAYER = Statement(
    "SELECT a.org_id FROM hold h JOIN account a ON a.id = h.account_id WHERE h.id = :id"
)
_COUNT_OPEN = Statement("SELECT count(*) FROM hold WHERE state = 'open'")
_OLDEST_OPEN = Statement("SELECT min(created_at) FROM hold WHERE state = 'open'")
_USAGE = Statement(
    """INSERT INTO usage (transfer_id, account_id, user_id, reply_id, model, price_version,
     price_tier, prompt_tokens, completion_tokens, cached_tokens, cost, duration_ms, engine_ms,
     status, at)
    VALUES (:transfer_id, :account_id, :user_id, :reply_id, :model, :price_version, :price_tier,
     :prompt_tokens, :completion_tokens, :cached_tokens, :cost, :duration_ms, :engine_ms, :status,
     :now)"""
)


class UnknownHold(NotFound):
    """There is no hold with this id."""

    code = "unknown_hold"
    message = "This reservation of credits does not exist. Send the message again."


class HoldEnded(Conflict):
    """The hold was released before it could be settled: nothing may be charged on it."""

    code = "hold_ended"
    message = "This reservation of credits has been released. Send the message again."


class Overrun(Conflict):
    """The charge is more than what was set aside for it."""

    code = "overrun"
    message = "This costs more than was reserved for it. Send it again with a higher limit."


class DebtUnpaid(OutOfCredits):
    """Credits that were spent have been charged back since."""

    code = "debt_unpaid"
    message = (
        "A payment for credits that you have used was taken back. "
        "Buy credits to settle what is owed, then send the message again."
    )


@dataclass(frozen=True)
class HoldView:
    """A hold as it was placed. `replayed` when an earlier request with the key placed it."""

    id: int
    micro: int
    expires_at: int
    reference: str | None
    replayed: bool = False


@dataclass(frozen=True)
class UsageFacts:
    """What an answer used, for the record of its charge."""

    reply_id: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    price_version: int
    cached_tokens: int = 0
    duration_ms: int = 0
    engine_ms: int = 0
    status: str = "stop"
    price_tier: int = 0


@dataclass(frozen=True)
class Settlement:
    """How a hold was settled, in microcredits.

    `late` when the hold had expired before: `charged` was then taken directly, and
    `written_off` is what could not be.
    """

    charged: int
    transfer_id: int
    replayed: bool = False
    late: bool = False
    written_off: int = 0


@dataclass(slots=True)
class _Hold:
    id: int
    account_id: int
    amount: int
    state: str
    settled: int
    expires_at: int
    reference: str | None
    settlement_id: int | None
    user_id: int
    budget_id: int | None
    key_id: str | None
    created_at: int


def place(
    session: Session,
    *,
    user_id: int,
    micro: int,
    ttl_seconds: float,
    now: int,
    scope: str,
    key: str,
    reference: str | None = None,
    actor: str | None = None,
    org_id: int | None = None,
    limit_micro: int | None = None,
    by_key: KeyUse | None = None,
) -> HoldView:
    """Set `micro` microcredits aside for `ttl_seconds`; 0 is a hold too.

    With `org_id` it is that organisation's wallet that pays, and the user's budget of this
    month, at most `limit_micro`, counts it from now on. What a user owes stops only what is paid
    out of the user's own wallet: a pool is somebody else's money and a debt is not the pool's.
    `by_key` is the API key that asks, whose budgets count it too.

    The same (scope, key) gives the same hold. Raises OutOfCredits with what was needed and
    available, DebtUnpaid, BudgetReached, KeyBudgetReached, WalletClosed, or IdempotencyConflict
    when the key was used for another amount.
    """
    assert 0 <= micro <= MAX_MICROCREDITS
    books = Books(session)
    payer = Owner("user", user_id) if org_id is None else Owner("org", org_id)
    request: dict[str, object] = {"place": micro, "user": user_id}
    hashed = operations.digest(request if org_id is None else {**request, "org": org_id})
    outcome = operations.find(books, scope=scope, key=key, hashed=hashed)
    if outcome is not None:
        return HoldView(**outcome, replayed=True)
    wallet = accounts.lock_of(books, payer, now=now)
    accounts.refuse_closed(wallet)
    now = wallet.time(now)
    actor = actor or f"user:{user_id}"
    found = lots.free(books, wallet, now=now)
    if wallet.available < micro and _expire_due_of(books, wallet, now=now):
        found = lots.free(books, wallet, now=now)
    error: OutOfCredits | None = None
    budget: budgets.Budget | None = None
    if org_id is not None:
        budget = budgets.open_month(books, account_id=wallet.id, user_id=user_id, now=now)
        if budget.left(limit_micro) < micro and _expire_due_of(books, wallet, now=now):
            found = lots.free(books, wallet, now=now)
            budget = budgets.open_month(books, account_id=wallet.id, user_id=user_id, now=now)
        if not budgets.hold(books, budget, micro=micro, limit=limit_micro):
            error = budgets.reached(budget, needed=micro, limit=limit_micro)
    if error is None and by_key is not None:
        if key_budgets.left(books, by_key, now=now) < micro and _expire_due_of(
            books, wallet, now=now
        ):
            found = lots.free(books, wallet, now=now)
        error = key_budgets.hold(books, by_key, micro=micro, now=now)
    if error is None and not accounts.hold(books, wallet, micro=micro, now=now):
        error = refusal(wallet, needed=micro, pooled=org_id is not None)
    if error is not None:
        operations.refuse(
            session, books, scope=scope, key=key, hashed=hashed, now=now, actor=actor, why=error
        )
        raise error
    hold_id = transfers.out(
        books,
        kind="pending",
        code="message",
        wallet_id=wallet.id,
        system="consumed",
        amount=micro,
        after=wallet.posted,
        now=now,
        reference=reference,
    )
    expires_at = now + int(ttl_seconds * MICROS_PER_SECOND)
    books.change(
        _ADD,
        id=hold_id,
        account_id=wallet.id,
        budget_id=budget.id if budget else None,
        key_id=by_key.id if by_key else None,
        micro=micro,
        reference=reference,
        expires_at=expires_at,
        now=now,
    )
    lots.pin(books, hold_id=hold_id, chosen=lots.choose(found, micro))
    placed = {"id": hold_id, "micro": micro, "expires_at": expires_at, "reference": reference}
    operations.keep(
        books,
        scope=scope,
        key=key,
        hashed=hashed,
        now=now,
        actor=actor,
        outcome=placed,
        transfer_id=hold_id,
    )
    return HoldView(hold_id, micro, expires_at, reference)


def settle(
    session: Session, *, hold_id: int, micro: int, now: int, usage: UsageFacts | None = None
) -> Settlement:
    """Charge `micro` microcredits on a hold and free the rest, exactly once.

    A second settlement returns the first one. On a hold that has expired the charge is taken
    from what the wallet has; the rest is written off, on the record. Raises Overrun for more
    than was held, HoldEnded after a release, UnknownHold.
    """
    books = Books(session)
    hold, wallet = _locked(books, hold_id)
    if not 0 <= micro <= hold.amount:
        raise Overrun(needed=format_credits(micro), held=format_credits(hold.amount))
    if hold.state in ("settled", "late"):
        assert hold.settlement_id is not None
        return Settlement(hold.settled, hold.settlement_id, True, hold.state == "late")
    if hold.state == "released":
        raise HoldEnded
    now = wallet.time(now)
    if hold.state == "open" and hold.expires_at <= now:
        _resolve(books, wallet, hold, kind="expire", state="expired", now=now)
    if hold.state == "expired":
        settlement = _settle_late(books, wallet, hold, micro=micro, now=now)
    else:
        transfer_id = _resolve(
            books, wallet, hold, kind="post", state="settled", spent=micro, now=now
        )
        settlement = Settlement(micro, transfer_id)
    if usage is not None:
        _record_usage(books, hold, usage, settlement, now=now)
    return settlement


def release(session: Session, *, hold_id: int, now: int) -> bool:
    """Free a hold without a charge; False when it had ended. Raises UnknownHold."""
    books = Books(session)
    hold, wallet = _locked(books, hold_id)
    if hold.state != "open":
        return False
    now = wallet.time(now)
    if hold.expires_at <= now:
        _resolve(books, wallet, hold, kind="expire", state="expired", now=now)
        return False
    _resolve(books, wallet, hold, kind="void", state="released", now=now)
    return True


def extend(session: Session, *, hold_id: int, expires_at: int) -> bool:
    """Let an open hold end later, at `expires_at` microseconds; False when it has ended."""
    return Books(session).change(_EXTEND, id=hold_id, expires_at=expires_at) == 1


def sweep(session: Session, *, now: int, limit: int = 500) -> int:
    """Expire at most `limit` holds that are overdue; returns how many ended."""
    books = Books(session)
    ended = 0
    for (hold_id,) in books.rows(_DUE, now=now, limit=limit):
        hold, wallet = _locked(books, hold_id)
        # Looked at again under the lock: it may have been settled or extended meanwhile.
        if hold.state == "open" and hold.expires_at <= now:
            _resolve(books, wallet, hold, kind="expire", state="expired", now=wallet.time(now))
            ended += 1
    return ended


def paid_by(session: Session, *, hold_id: int) -> int | None:
    """The organisation whose wallet the hold is on; None: a user's own."""
    row = Books(session).one(_PAYER, id=hold_id)
    return row[0] if row else None


def count_open(session: Session) -> int:
    """How many holds are open, of all users; for operators."""
    row = Books(session).one(_COUNT_OPEN)
    assert row is not None
    return int(row[0])


def oldest_open(session: Session) -> int | None:
    """When the oldest open hold was placed, in µs; None without any."""
    row = Books(session).one(_OLDEST_OPEN)
    return None if row is None or row[0] is None else int(row[0])


def out_of_credits(*, needed: int, available: int, pooled: bool = False) -> OutOfCredits:
    """The refusal with its facts; amounts in microcredits. `pooled`: an organisation's wallet."""
    ways = "Ask who runs the organisation to add some" if pooled else "Add credits"
    return OutOfCredits(
        reason="balance",
        limit_source="org" if pooled else "wallet",
        needed=format_credits(needed),
        available=format_credits(max(0, available)),
        hint=f"{ways}, or choose a cheaper model.",
    )


def refusal(wallet: Wallet, *, needed: int, pooled: bool = False) -> OutOfCredits:
    """Why a wallet does not give `needed` microcredits: a debt, or there are not enough."""
    if not wallet.owed:
        return out_of_credits(needed=needed, available=wallet.available, pooled=pooled)
    return DebtUnpaid(
        reason="debt",
        limit_source="wallet",
        needed=format_credits(wallet.owed),
        available=format_credits(max(0, wallet.available)),
        debt=format_credits(wallet.owed),
        hint="Buy credits: the debt is paid first, the rest is yours.",
    )


def _locked(books: Books, hold_id: int) -> tuple[_Hold, Wallet]:
    """The hold and its wallet. The wallet is locked first, as everywhere."""
    row: Row | None = books.one(_ACCOUNT, id=hold_id)
    if row is None:
        raise UnknownHold(hold_id=hold_id)
    wallet = accounts.lock_id(books, account_id=row[0])
    row = books.one(_FIND, id=hold_id)
    assert row is not None
    return _Hold(*row), wallet


def _resolve(
    books: Books, wallet: Wallet, hold: _Hold, *, kind: str, state: str, spent: int = 0, now: int
) -> int:
    """End an open hold: its transfer, its wallet, its row and its pins."""
    accounts.release(books, wallet, held=hold.amount, spent=spent, now=now)
    if hold.budget_id is not None:
        budgets.release(books, budget_id=hold.budget_id, held=hold.amount, spent=spent)
    _release_key(books, hold, held=hold.amount, spent=spent)
    transfer_id = transfers.out(
        books,
        kind=kind,
        code="message",
        wallet_id=wallet.id,
        system="consumed",
        amount=spent,
        after=wallet.posted,
        now=now,
        pending_id=hold.id,
        reference=hold.reference,
    )
    _end(books, hold, before="open", state=state, settled=spent, transfer_id=transfer_id, now=now)
    if hold.amount:
        lots.unpin(books, wallet, hold_id=hold.id, spent=spent, transfer_id=transfer_id, now=now)
    return transfer_id


def _release_key(books: Books, hold: _Hold, *, held: int, spent: int) -> None:
    if hold.key_id is not None:
        key_budgets.release(
            books, key_id=hold.key_id, placed_at=hold.created_at, held=held, spent=spent
        )


def _end(
    books: Books,
    hold: _Hold,
    *,
    before: str,
    state: str,
    settled: int,
    transfer_id: int,
    now: int,
) -> None:
    changed = books.change(
        _END,
        id=hold.id,
        before=before,
        state=state,
        settled=settled,
        settlement_id=transfer_id,
        now=now,
    )
    assert changed == 1, "a hold ends once"
    hold.state = state


def _settle_late(books: Books, wallet: Wallet, hold: _Hold, *, micro: int, now: int) -> Settlement:
    """Charge directly what the wallet can pay; what it cannot is a recorded loss."""
    found = lots.free(books, wallet, now=now)
    charged = min(micro, max(0, wallet.available))
    assert accounts.post(books, wallet, micro=-charged, now=now), "only what is available"
    transfer_id = transfers.out(
        books,
        code="message",
        wallet_id=wallet.id,
        system="consumed",
        amount=charged,
        after=wallet.posted,
        now=now,
        cause_id=hold.id,
        reference=hold.reference,
    )
    for lot, part in lots.choose(found, charged):
        lots.take(books, lot, micro=part, transfer_id=transfer_id, kind="use")
    if hold.budget_id is not None:
        # The answer was given, so it counts, also where that is above the limit by now.
        budgets.release(books, budget_id=hold.budget_id, held=0, spent=charged)
    _release_key(books, hold, held=0, spent=charged)
    if charged < micro:
        transfers.write_off(
            books, amount=micro - charged, now=now, cause_id=hold.id, reference=hold.reference
        )
    _end(
        books,
        hold,
        before="expired",
        state="late",
        settled=charged,
        transfer_id=transfer_id,
        now=now,
    )
    return Settlement(charged, transfer_id, late=True, written_off=micro - charged)


def _expire_due_of(books: Books, wallet: Wallet, *, now: int) -> int:
    due = books.rows(_DUE_OF, account_id=wallet.id, now=now)
    for (hold_id,) in due:
        row = books.one(_FIND, id=hold_id)
        assert row is not None
        _resolve(books, wallet, _Hold(*row), kind="expire", state="expired", now=now)
    return len(due)


def _record_usage(
    books: Books, hold: _Hold, usage: UsageFacts, settlement: Settlement, *, now: int
) -> None:
    books.change(
        _USAGE,
        transfer_id=settlement.transfer_id,
        account_id=hold.account_id,
        user_id=hold.user_id,
        reply_id=usage.reply_id,
        model=usage.model,
        price_version=usage.price_version,
        price_tier=usage.price_tier,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        cost=settlement.charged,
        duration_ms=usage.duration_ms,
        engine_ms=usage.engine_ms,
        status=usage.status,
        now=now,
    )
    rollups.add(
        books,
        user_id=hold.user_id,
        model=usage.model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost=settlement.charged,
        delivered=rollups.delivered(completion_tokens=usage.completion_tokens, status=usage.status),
        now=now,
    )
