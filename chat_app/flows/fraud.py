"""Fraud, story by story: who is judged when, what a hold stops, and what people say of it.

Free credits, codes, transfers and orders are judged inside the transaction that would carry them
out; answers, refunds and payments by a provider are judged after they are done and stop nothing.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from chat_app.accounts import mailboxes, users, velocity
from chat_app.accounts.tables import SignInSession, User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.credits.payments.orders import Payment
from chat_app.db import AFTER_ROLLBACK
from chat_app.errors import NotAllowed
from chat_app.ml.fraud import watch
from chat_app.ml.fraud.watch import Case, Judged, Threshold
from chat_app.money import MICRO

log = logging.getLogger(__name__)
BATCH = 200
CAME = ("login", "password_change")  # these say themselves where from


class HeldForReview(NotAllowed):
    """It looks like fraud, so nothing was done. A person can look at it."""

    code = "held_for_review"
    message = (
        "This was stopped because it looks unusual, and nothing was charged. Wait an hour and try "
        "again, or ask the operator to look at it."
    )


def check(
    app: App, session: Session, *, type: str, user_id: int, key: str, now: int, **facts: Any
) -> None:
    """Judge what is about to be committed; the key is its own. Raises HeldForReview.

    A refusal is written although the transaction is rolled back.
    """
    if not app.fraud.on:
        return
    judged = _judge(app, session, type=type, user_id=user_id, key=key, now=now, **facts)
    if judged.decision.action == "hold" and app.fraud.acts:
        refused = judged._replace(refused=True)
        app.fraud.engine.refuse(judged.event)
        session.info.setdefault(AFTER_ROLLBACK, []).append(
            lambda later: watch.record(later, refused, now=now)
        )
        raise HeldForReview
    watch.record(session, judged, now=now)


def note(
    app: App, session: Session, *, type: str, user_id: int, key: str, now: int, **facts: Any
) -> bool:
    """Judge what is done in any case; whether it would have been held, were it to be stopped."""
    if not app.fraud.on:
        return False
    judged = _judge(app, session, type=type, user_id=user_id, key=key, now=now, **facts)
    held = judged.decision.action == "hold" and app.fraud.acts
    watch.record(session, judged._replace(refused=held and type == "signup_bonus"), now=now)
    return held


def check_order(app: App, session: Session, *, user_id: int, credits: int, now: int) -> None:
    """Look whether a new order would be held; it counts only when it is paid or fails."""
    if not app.fraud.on:
        return
    app.fraud.restore(session)
    event = _event(app, session, type="topup", user_id=user_id, key=f"look:{now}", now=now)
    event |= {"credits": credits / MICRO}
    found = app.fraud.engine.peek(app.fraud.cover(event))
    if found.action == "hold" and app.fraud.acts:
        judged = Judged(app.fraud.cover(event | {"peek": True}), found, refused=True)
        session.info.setdefault(AFTER_ROLLBACK, []).append(
            lambda later: watch.record(later, judged, now=now)
        )
        raise HeldForReview


def paid(app: App, session: Session, payment: Payment, *, now: int) -> None:
    """An order was paid: the state knows. The money is here, so nothing is stopped."""
    note(
        app,
        session,
        type="topup",
        user_id=payment.user_id,
        key=f"paid:{payment.id}",
        now=now,
        credits=(payment.credits + payment.bonus_credits) / MICRO,
        amount_minor=payment.amount_minor,
    )


def failed(app: App, session: Session, payment: Payment, *, now: int) -> None:
    """An order failed at the provider."""
    note(
        app,
        session,
        type="topup_failed",
        user_id=payment.user_id,
        key=f"failed:{payment.id}",
        now=now,
        credits=payment.credits / MICRO,
        amount_minor=payment.amount_minor,
    )


def answered(
    app: App, *, user_id: int, reply_id: str, micro: int, tokens: int, api: bool = False
) -> None:
    """An answer was settled. Only kept in a list here; `look` judges it."""
    if not app.fraud.on:
        return
    app.fraud.messages.append({
        "event_id": f"message:{reply_id}", "ts": app.clock.micros(), "type": "message",
        "user_id": str(user_id), "credits": micro / MICRO, "tokens": tokens,
        "channel": "api" if api else "ui",
    })  # fmt: skip


def came(app: App, *, type: str, user_id: int, ip: str, agent: str = "") -> None:
    """A `login` or a `password_change` is done. Only kept in a list here; `look` judges it.

    A new mail address is a `password_change` too: whoever has it can choose a new password.
    """
    if not app.fraud.on:
        return
    now = app.clock.micros()
    app.fraud.messages.append({
        "event_id": f"{type}:{user_id}:{now}", "ts": now, "type": type, "user_id": str(user_id),
        **address(ip), **browser(agent),
    })  # fmt: skip


def look(app: App) -> int:
    """Judge the answers and sign-ins since the last look; returns how many.

    What other processes have judged meanwhile is taken into the memory of this one, between all
    batches: of its own it knows the newest only, and would take older ones for others'.
    """
    done = 0
    _catch_up(app)
    while app.fraud.messages:
        rows = [app.fraud.messages.popleft() for _ in range(min(BATCH, len(app.fraud.messages)))]
        app.db.write(partial(_look, app, rows))
        done += len(rows)
        _catch_up(app)
    return done


def _catch_up(app: App) -> None:
    if app.fraud.on and not app.db.sqlite:  # a file has one process
        with app.db.read() as session:
            app.fraud.catch_up(session)


def remember(app: App) -> int:
    """Save the state; returns how many of its parts had changed."""
    look(app)
    return app.db.write(app.fraud.snapshot) if app.fraud.on else 0


def forget_old(app: App) -> int:
    """Delete old judgements without a label."""
    return app.db.write(lambda session: watch.purge(session, now=app.clock.micros()))


def forget(app: App, session: Session, *, user_id: int) -> None:
    """Erase what leads to a person, also what waits to be judged."""
    for row in list(app.fraud.messages):
        if row["user_id"] == str(user_id):
            with suppress(ValueError):  # judged meanwhile
                app.fraud.messages.remove(row)
    app.fraud.forget(session, user_id=user_id)


async def queue(
    app: App, *, limit: int = 50, cursor: int | None = None, labelled: bool = False
) -> list[Case]:
    """What wants a look, newest first; with `labelled` what had one."""

    def read() -> list[Case]:
        with app.db.read() as session:
            return watch.queue(session, limit=limit, cursor=cursor, labelled=labelled)

    return await asyncio.to_thread(read)


async def story(
    app: App, *, user_id: int, limit: int = 50, cursor: int | None = None
) -> list[Case]:
    """The judged events of an account, newest first. Raises NotFound."""

    def read() -> list[Case]:
        with app.db.read() as session:
            users.get(session, user_id)
            return watch.queue(session, limit=limit, cursor=cursor, user_id=user_id)

    return await asyncio.to_thread(read)


async def thresholds(app: App, *, points: Sequence[int]) -> list[Threshold]:
    """What holding from each of these points on would have cost with the labels of 90 days."""

    def read() -> list[Threshold]:
        with app.db.read() as session:
            return watch.thresholds(
                session, points=points, costs=app.fraud.engine.costs,
                since=app.clock.micros() - watch.KEPT_DAYS * watch.DAY,
            )  # fmt: skip

    return await asyncio.to_thread(read)


async def label(app: App, *, id: int, label: str, by: int) -> Case:
    """What a person found. Raises UnknownAssessment, BadLabel or AlreadyLabelled."""

    def act(session: Session) -> Case:
        found = app.fraud.label(session, id=id, label=label, by=by)
        audit.record(
            session,
            type="fraud_labelled",
            actor=f"user:{by}",
            now=app.clock.micros(),
            assessment=id,
            label=label,
            user_id=found.user_id,
        )
        return found

    return await app.db.awrite(act)


def _look(app: App, rows: list[dict[str, Any]], session: Session) -> None:
    known: dict[str, User] = {}
    for row in rows:
        user = known.get(row["user_id"])
        if user is None:
            user = known[row["user_id"]] = users.get(session, int(row["user_id"]))
        place = {} if row["type"] in CAME else _place(session, user)
        judged = app.fraud.judge(session, row | _person(user) | place)
        watch.record(session, judged, now=row["ts"])


def _judge(
    app: App, session: Session, *, type: str, user_id: int, key: str, now: int, **facts: Any
) -> Judged:
    event = _event(app, session, type=type, user_id=user_id, key=key, now=now)
    return app.fraud.judge(session, event | facts)


def _event(
    app: App, session: Session, *, type: str, user_id: int, key: str, now: int
) -> dict[str, Any]:
    user = users.get(session, user_id)
    return {
        "event_id": f"{type}:{key}"[:120], "ts": now, "type": type, "user_id": str(user_id),
    } | _person(user) | _place(session, user)  # fmt: skip


def _person(user: User) -> dict[str, Any]:
    return {
        "account_created_at": user.created_at,
        "email_domain": mailboxes.domain(user.email),
        "email_verified": user.email_verified_at is not None,
    }


def _place(session: Session, user: User) -> dict[str, Any]:
    """The address and the browser of the newest sign-in."""
    newest = session.exec(
        select(SignInSession.ip, SignInSession.agent)
        .where(SignInSession.user_id == user.id)
        .order_by(col(SignInSession.created_at).desc())
        .limit(1)
    ).first()
    ip, agent = newest or ("", "")
    return address(ip) | browser(agent)


def browser(agent: str) -> dict[str, Any]:
    """The field of a browser by its name, which stays when it renews itself; many have the same."""
    name = "".join(sign for sign in agent if not sign.isdigit())
    return {"agent": name} if name else {}


def address(ip: str) -> dict[str, Any]:
    """The field of an address of the internet; nothing for one of your own network."""
    return {"ip": ip} if velocity.block(ip) else {}
