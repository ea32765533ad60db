"""A user limits what they spend: stored at once, on the record."""

from dataclasses import fields

from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import log
from chat_app.credits import guards
from chat_app.credits.guards import Limits
from chat_app.money import format_credits


async def limit(app: App, *, user_id: int, limits: Limits) -> None:
    """Set the user's own guards as a whole; None is no limit."""

    def story(session: Session) -> None:
        now = app.clock.micros()
        before = guards.own(session, user_id=user_id)
        guards.put(session, user_id=user_id, limits=limits, now=now)
        if before != limits:
            log.record(
                session,
                type="spend_limits_set",
                actor=f"user:{user_id}",
                now=now,
                user=user_id,
                **_facts(limits),
            )

    await app.db.awrite(story)


def _facts(limits: Limits) -> dict[str, str]:
    amounts = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return {name: format_credits(micro) for name, micro in amounts.items() if micro is not None}
