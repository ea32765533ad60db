"""Alerts: after a balance changed, see whether its owner has to be told, and tell once.

The transaction that changes a balance only marks the wallet (`credits/changes.py`). What is
judged is the whole balance, held credits included: a hold is not spent yet, and an alert for a
message that then costs less would be a false one.
"""

from dataclasses import dataclass
from functools import partial

from sqlmodel import Session

from chat_app.app import App
from chat_app.credits import changes, ledger, usage
from chat_app.credits.changes import Change
from chat_app.flows import notices
from chat_app.money import MICRO, format_credits
from chat_app.notify import alerts
from chat_app.notify.alerts import Level, Rule
from chat_app.settings import Settings

BATCH = 200


@dataclass(frozen=True)
class AlertView:
    """A person's rule and which levels are raised now."""

    rule: Rule
    raised: tuple[str, ...]


def usual(settings: Settings) -> Rule:
    """The rule of somebody who has chosen nothing."""
    chosen = settings.notifications
    return Rule(
        low=chosen.low_credits * MICRO,
        critical=min(chosen.critical_credits, chosen.low_credits) * MICRO,
        runout_days=chosen.runout_days or None,
    )


def view(app: App, *, user_id: int) -> AlertView:
    """The person's alerts."""
    with app.db.read() as session:
        rule = alerts.rule_of(session, user_id=user_id, usual=usual(app.settings))
        levels = alerts.levels_of(session, user_id=user_id)
    raised = (name for name in alerts.LEVELS if levels.get(name, Level()).raised)
    return AlertView(rule, tuple(raised))


async def choose(app: App, *, user_id: int, rule: Rule) -> AlertView:
    """Store the person's rule and have the balance looked at with it. Raises BadThreshold."""

    def story(session: Session) -> None:
        alerts.set_rule(session, user_id=user_id, rule=rule, now=app.clock.micros())
        changes.mark(session, user_id=user_id)

    await app.db.awrite(story)
    return view(app, user_id=user_id)


def look(app: App) -> int:
    """Judge every wallet that changed; returns how many people were told something.

    Most wallets cross no threshold: their marks are cleared together. An edge is judged again
    inside the transaction that tells of it.
    """
    told = after = 0
    while True:
        with app.db.read() as session:
            found = changes.take(session, after=after, limit=BATCH)
            edges = [change for change in found if _moves(app, session, change)]
        if not found:
            return told
        after = found[-1].account_id
        crossing = {change.account_id for change in edges}
        quiet = [change for change in found if change.account_id not in crossing]
        if quiet:
            app.db.write(partial(_clear, quiet))
        for change in edges:
            told += app.db.write(partial(_cross, app, change))


def _clear(quiet: list[Change], session: Session) -> None:
    for change in quiet:
        changes.clear(session, change)


def _moves(app: App, session: Session, change: Change) -> bool:
    if change.user_id is None:
        return False
    before, after, _, _ = _judged(app, session, change, change.user_id, change.total)
    return any(after[name] != before.get(name, Level()) for name in after)


def _judged(
    app: App, session: Session, change: Change, user_id: int, total: int
) -> tuple[dict[str, Level], dict[str, Level], list[str], dict[str, object]]:
    rule = alerts.rule_of(session, user_id=user_id, usual=usual(app.settings))
    before = alerts.levels_of(session, user_id=user_id)
    days = None
    if rule.runout_days is not None:
        days = usage.runout(session, user_id=user_id, available=total, now=app.clock.micros()).days
    after, fresh = alerts.judge(rule, before, total=total, days=days)
    facts: dict[str, object] = {
        "total": format_credits(total),
        "days": None if days is None else round(days, 1),
        "low": None if rule.low is None else format_credits(rule.low),
        "critical": None if rule.critical is None else format_credits(rule.critical),
        "runout": rule.runout_days,
    }
    return before, after, fresh, facts


def _cross(app: App, change: Change, session: Session) -> bool:
    assert change.user_id is not None
    total = ledger.balance(session, user_id=change.user_id).total
    before, after, fresh, facts = _judged(app, session, change, change.user_id, total)
    now = app.clock.micros()
    if not alerts.keep(session, user_id=change.user_id, before=before, after=after, now=now):
        return False
    told = False
    for level in fresh:
        told |= notices.tell(
            session,
            user_id=change.user_id,
            kind=f"balance_{level}",
            key=str(after[level].edge),
            data={"level": level, "total": facts["total"], "days": facts["days"],
                  "threshold": facts[level]},
            now=now,
        )  # fmt: skip
    changes.clear(session, change)
    return told
