"""Kept cards: whom a provider may charge without their being there, because they agreed to it.

Knows only the provider's name for a customer; card numbers never come here.
"""

from sqlmodel import Session, col, delete, select, update

from chat_app.credits.payments.tables import PaymentCustomerRow


def keep(session: Session, *, user_id: int, provider: str, customer_ref: str, now: int) -> None:
    """This customer of the provider is that user from now on, in place of an earlier one."""
    row = session.get(PaymentCustomerRow, (provider, customer_ref))
    if row is not None and not row.going:
        return
    forget(session, user_id=user_id)
    session.merge(
        PaymentCustomerRow(
            provider=provider, customer_ref=customer_ref, user_id=user_id, kept_at=now
        )
    )
    session.flush()


def customer(session: Session, *, user_id: int, provider: str) -> str | None:
    """The provider's name for the user, or None when nothing is kept."""
    return session.exec(
        select(PaymentCustomerRow.customer_ref).where(
            PaymentCustomerRow.user_id == user_id,
            PaymentCustomerRow.provider == provider,
            col(PaymentCustomerRow.going).is_(False),
        )
    ).first()


def forget(session: Session, *, user_id: int) -> None:
    """Nobody is charged without being there any more; see `going`."""
    session.execute(
        update(PaymentCustomerRow)
        .where(col(PaymentCustomerRow.user_id) == user_id)
        .values(going=True)
    )


def going(session: Session, *, provider: str, limit: int) -> list[str]:
    """Customers whose cards the provider is yet to forget."""
    return list(
        session.exec(
            select(PaymentCustomerRow.customer_ref)
            .where(PaymentCustomerRow.provider == provider, col(PaymentCustomerRow.going).is_(True))
            .limit(limit)
        )
    )


def gone(session: Session, *, provider: str, customer_ref: str) -> None:
    """The provider has forgotten the customer's cards."""
    session.execute(
        delete(PaymentCustomerRow).where(
            col(PaymentCustomerRow.provider) == provider,
            col(PaymentCustomerRow.customer_ref) == customer_ref,
            col(PaymentCustomerRow.going).is_(True),
        )
    )
