"""Transfers: the rows that the books consist of. Added, never changed."""

from chat_app.credits.sql import Books, Statement

_ADD = """INSERT INTO transfer
    (kind, code, debit_id, credit_id, amount, pending_id, cause_id, debit_after, credit_after,
     description, reference, created_at)
    VALUES (:kind, :code, {debit}, {credit}, :amount, :pending_id, :cause_id, {after},
     :description, :reference, :now)"""
_SYSTEM = "(SELECT id FROM account WHERE code = :system)"
_OUT = Statement(
    _ADD.format(debit=":wallet_id", credit=_SYSTEM, after=":after, NULL"), returning="id"
)
_IN = Statement(
    _ADD.format(debit=_SYSTEM, credit=":wallet_id", after="NULL, :after"), returning="id"
)
_BETWEEN_SYSTEM = Statement(
    _ADD.format(
        debit="(SELECT id FROM account WHERE code = :debit)",
        credit="(SELECT id FROM account WHERE code = :credit)",
        after="NULL, NULL",
    ),
    returning="id",
)
_BETWEEN = Statement(
    _ADD.format(debit=":from_id", credit=":to_id", after=":from_after, :to_after"),
    returning="id",
)


def out(
    books: Books,
    *,
    kind: str = "direct",
    code: str,
    wallet_id: int,
    system: str,
    amount: int,
    after: int,
    now: int,
    pending_id: int | None = None,
    cause_id: int | None = None,
    description: str | None = None,
    reference: str | None = None,
) -> int:
    """From a wallet to a system account; returns the transfer's id.

    `system` is a name or, with a colon, a whole code. `after` is the wallet's balance after it.
    """
    return books.insert(
        _OUT,
        kind=kind,
        code=code,
        wallet_id=wallet_id,
        system=system if ":" in system else f"sys:{system}",
        amount=amount,
        after=after,
        now=now,
        pending_id=pending_id,
        cause_id=cause_id,
        description=description,
        reference=reference,
    )


def into(
    books: Books,
    *,
    code: str,
    wallet_id: int,
    system: str,
    amount: int,
    after: int,
    now: int,
    cause_id: int | None = None,
    description: str | None = None,
    reference: str | None = None,
) -> int:
    """From a system account into a wallet; returns the transfer's id."""
    return books.insert(
        _IN,
        kind="direct",
        code=code,
        wallet_id=wallet_id,
        system=f"sys:{system}",
        amount=amount,
        after=after,
        now=now,
        pending_id=None,
        cause_id=cause_id,
        description=description,
        reference=reference,
    )


def write_off(books: Books, *, amount: int, now: int, cause_id: int, reference: str | None) -> int:
    """A loss on the record: what was consumed and could not be charged."""
    return between_system(
        books,
        code="writeoff",
        debit="sys:writeoff",
        credit="sys:consumed",
        amount=amount,
        now=now,
        cause_id=cause_id,
        reference=reference,
    )


def between_system(
    books: Books,
    *,
    code: str,
    debit: str,
    credit: str,
    amount: int,
    now: int,
    cause_id: int | None,
    reference: str | None,
) -> int:
    """From one system account to another, both by code; returns the transfer's id."""
    return books.insert(
        _BETWEEN_SYSTEM,
        kind="direct",
        code=code,
        debit=debit,
        credit=credit,
        amount=amount,
        now=now,
        pending_id=None,
        cause_id=cause_id,
        description=None,
        reference=reference,
    )


def between(
    books: Books,
    *,
    code: str,
    from_id: int,
    to_id: int,
    amount: int,
    from_after: int,
    to_after: int,
    now: int,
    description: str | None = None,
    reference: str | None = None,
) -> int:
    """From one wallet to another; returns the transfer's id."""
    return books.insert(
        _BETWEEN,
        kind="direct",
        code=code,
        from_id=from_id,
        to_id=to_id,
        amount=amount,
        from_after=from_after,
        to_after=to_after,
        now=now,
        pending_id=None,
        cause_id=None,
        description=description,
        reference=reference,
    )
