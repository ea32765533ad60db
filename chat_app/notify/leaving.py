"""Leaving: what was said to a person, and where it was to go, is deleted."""

from pathlib import Path

from sqlmodel import Session, col, delete, or_

from chat_app.notify.tables import (
    AlertRuleRow,
    AlertStateRow,
    DismissalRow,
    InboxRow,
    OutboxRow,
    PreferenceRow,
    SummaryRow,
    WebhookRow,
)

_HEAD_BYTES = 4096


def forget(session: Session, *, user_id: int, email: str) -> None:
    """Delete messages, preferences, alerts and webhooks of the person, and mail to the address."""
    session.execute(
        delete(OutboxRow).where(
            or_(col(OutboxRow.user_id) == user_id, col(OutboxRow.target) == email)
        )
    )
    for table in (
        InboxRow,
        PreferenceRow,
        WebhookRow,
        AlertRuleRow,
        AlertStateRow,
        SummaryRow,
        DismissalRow,
    ):
        session.execute(delete(table).where(col(table.user_id) == user_id))
    session.flush()


def drop_mails(outbox: Path, *, email: str) -> int:
    """Delete the files of mails to this address; returns how many. Mail that was sent is gone."""
    gone, wanted = 0, email.casefold().encode()
    for path in outbox.glob("*.eml"):
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).partition(b"\r\n\r\n")[0].lower()
        if wanted in head:
            path.unlink(missing_ok=True)
            gone += 1
    return gone
