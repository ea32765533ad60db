"""Notices: somebody is told something, on the channels they chose, with the cause's transaction.

`tell` only writes rows; what leaves the program leaves later (`flows/deliver.py`). The same
kind and key for the same person is told once, however often it is asked for.
"""

from collections.abc import Container, Mapping
from functools import partial
from typing import Any

from sqlmodel import Session

from chat_app.accounts import permissions, users
from chat_app.app import App
from chat_app.audit import log
from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.payments.returns import Dispute, Refund
from chat_app.errors import Invalid
from chat_app.money import Money, format_credits
from chat_app.notify import announcements, inbox, kinds, outbox, preferences, webhooks
from chat_app.notify.announcements import Announcement, Bar
from chat_app.notify.tables import OutboxRow

PEOPLE_AT_ONCE = 200
MAX_KEY = 100
_NOWHERE = "Nobody would see this. Show it on the page, or tell people of it."
_OVER = "This would be over before it begins. Give a later end."


class BadAnnouncement(Invalid):
    """An announcement without a title or a text, a very long one, or one that nobody would see."""

    code = "invalid_announcement"
    message = "Give a title of 3 to 200 characters and a text of 3 to 5,000."


def tell(
    session: Session,
    *,
    user_id: int,
    kind: str,
    key: str,
    data: Mapping[str, Any],
    now: int,
    by: Container[str] = ("mail", "app", "webhook"),
) -> bool:
    """Tell a person, once for each (kind, key); False if nothing new was written.

    Mail and app follow the person's preferences, webhooks the events they were set up for; what
    is not in `by` is left out.
    """
    what = kinds.KINDS[kind]
    person = users.get(session, user_id)
    if person.erased_at is not None:
        return False
    letter = what.letter(data)
    assert len(key) <= MAX_KEY, key
    name = f"{kind}:{user_id}:{key}"
    told = False
    for channel in what.channels:
        if channel not in by or not preferences.wants(
            session, user_id=user_id, topic=what.topic, channel=channel
        ):
            continue
        if channel == "app":
            told |= inbox.put(
                session, user_id=user_id, kind=kind, letter=letter, dedupe_key=name, now=now
            )
            continue
        person = users.get(session, user_id)
        # An address that waits to be confirmed may be anybody's, and gets only the link for it.
        if person.pending_email_key is None:
            told |= outbox.put(
                session,
                kind=kind,
                channel="mail",
                target=person.email,
                dedupe_key=f"mail:{name}",
                data=data,
                now=now,
                user_id=user_id,
            )
    if what.event is None or "webhook" not in by:
        return told
    for endpoint in webhooks.of(session, user_id=user_id):
        if endpoint.enabled and what.event in endpoint.events:
            told |= call(session, endpoint_id=endpoint.id, user_id=user_id, kind=kind,
                         name=name, data=data, now=now)  # fmt: skip
    return told


def call(
    session: Session,
    *,
    endpoint_id: str,
    user_id: int,
    kind: str,
    name: str,
    data: Mapping[str, Any],
    now: int,
) -> bool:
    """Queue one call of one webhook."""
    return outbox.put(
        session,
        kind=kind,
        channel="webhook",
        target=endpoint_id,
        dedupe_key=f"{endpoint_id}:{name}",
        data=data,
        now=now,
        user_id=user_id,
    )


def paid(session: Session, payment: Payment, *, now: int) -> None:
    """A payment has arrived and its credits are there. Every way of paying calls this."""
    tell(
        session,
        user_id=payment.user_id,
        kind="payment_paid",
        key=payment.id,
        data={
            "payment": payment.id,
            "credits": format_credits(payment.credits + payment.bonus_credits),
            "bonus": format_credits(payment.bonus_credits),
            "amount": str(Money(payment.amount_minor, payment.currency)),
            "amount_minor": payment.amount_minor,
            "currency": payment.currency,
            "demo": payment.provider == "offline",
        },
        now=now,
    )


def refunded(session: Session, refund: Refund, *, now: int) -> None:
    """The money of a refund has gone back, and its credits with it."""
    tell(
        session,
        user_id=orders.find(session, refund.payment_id).user_id,
        kind="payment_refunded",
        key=refund.id,
        data={
            "payment": refund.payment_id,
            "refund": refund.id,
            "credits": format_credits(refund.credits),
            "amount": str(Money(refund.amount_minor, refund.currency)),
            "amount_minor": refund.amount_minor,
            "currency": refund.currency,
        },
        now=now,
    )


def disputed(session: Session, dispute: Dispute, *, now: int) -> None:
    """A bank took a payment back, or has decided: the buyer and who looks after payments know."""
    took = dispute.credits or dispute.owed
    if dispute.state not in ("open", "lost", "won") or (dispute.state == "won" and not took):
        return
    order = orders.find(session, dispute.payment_id)
    data = {
        "payment": order.id,
        "user": str(order.user_id),
        "state": dispute.state,
        "reason": dispute.reason,
        "credits": format_credits(dispute.credits),
        "owed": format_credits(dispute.owed),
        "amount": str(Money(dispute.disputed_minor, order.currency)),
        "amount_minor": dispute.disputed_minor,
        "currency": order.currency,
    }
    key = f"{order.id}:{dispute.state}"
    tell(session, user_id=order.user_id, kind="payment_disputed", key=key, data=data, now=now)
    for id in permissions.holders(session, "payments.refund"):
        tell(session, user_id=id, kind="staff_dispute", key=key, data=data, now=now)


def security(session: Session, *, user_id: int, key: str, title: str, text: str, now: int) -> None:
    """Something about the account's safety. Cannot be switched off."""
    data = {"title": title, "text": text}
    tell(session, user_id=user_id, kind="security_notice", key=key, data=data, now=now)


async def announce(
    app: App,
    *,
    admin_id: int,
    title: str,
    text: str,
    kind: str = "announcement",
    bar: Bar | None = None,
    notify: bool = True,
) -> Announcement:
    """Tell everybody: on the page with a `bar`, and with `notify` by mail and in the inbox.

    That is done in the background. `kind` may be `price_notice`. Raises BadAnnouncement.
    """
    title, text = " ".join(title.split()), text.strip()
    if not 3 <= len(title) <= 200 or not 3 <= len(text) <= 5000:
        raise BadAnnouncement
    if bar is None and not notify:
        raise BadAnnouncement(_NOWHERE, param="notify")

    def story(session: Session) -> Announcement:
        now, actor = app.clock.micros(), f"user:{admin_id}"
        if bar is not None and bar.ends_at <= max(now, bar.starts_at):
            raise BadAnnouncement(_OVER, param="ends_at")
        made = announcements.add(
            session, kind=kind, title=title, text=text, actor=actor, now=now, bar=bar, tell=notify
        )
        log.record(session, type="announced", actor=actor, now=now, id=made.id, title=title)
        return made

    return await app.db.awrite(story)


async def take_down(app: App, *, admin_id: int, announcement_id: str) -> None:
    """End an announcement: nobody sees or is told it any more who has not. On the record.

    Raises UnknownAnnouncement.
    """

    def story(session: Session) -> None:
        now = app.clock.micros()
        announcements.end(session, public_id=announcement_id, now=now)
        actor = f"user:{admin_id}"
        log.record(session, type="announcement_ended", actor=actor, now=now, id=announcement_id)

    await app.db.awrite(story)


async def resend(app: App, *, admin_id: int, message_id: str) -> OutboxRow:
    """Let a dead message be tried again; on the record. Raises UnknownMessage."""

    def story(session: Session) -> OutboxRow:
        now = app.clock.micros()
        row = outbox.resend(session, message_id=message_id, now=now)
        log.record(
            session, type="message_resent", actor=f"user:{admin_id}", now=now, message=message_id
        )
        return row

    return await app.db.awrite(story)


def spread(app: App) -> int:
    """Hand announcements out, a few hundred people in a transaction; returns how many were told.

    Where it stopped is stored with what was told, so a crash leaves nobody out and tells
    nobody twice.
    """
    told = 0
    while True:
        count = app.db.write(partial(_spread_some, app))
        if count is None:
            return told
        told += count


def _spread_some(app: App, session: Session) -> int | None:
    found = announcements.unfinished(session)
    if found is None:
        return None
    people, more = users.search(session, limit=PEOPLE_AT_ONCE, cursor=str(found.upto))
    now = app.clock.micros()
    for person in people:
        assert person.id is not None
        tell(
            session,
            user_id=person.id,
            kind=found.kind,
            key=found.id,
            data={"title": found.title, "text": found.text},
            now=now,
        )
    upto = people[-1].id if people else found.upto
    announcements.advance(session, found, upto=upto or 0, done_at=None if more else now)
    return len(people)
