"""Summaries: last week's or last month's usage for those who asked for it, once for each period.

Periods are whole UTC weeks from Monday and whole UTC months. Who asks in the middle of a
period gets that period's summary as the first; after a long stop only the newest is sent.
"""

from datetime import UTC, datetime, timedelta
from functools import partial

from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import from_micros, to_micros
from chat_app.credits import ledger, usage
from chat_app.flows import notices
from chat_app.money import format_credits
from chat_app.notify import preferences, summaries, webhooks


def periods(now: datetime) -> list[tuple[str, str, datetime, datetime]]:
    """The newest complete week and month: topic, name, beginning and end."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = day - timedelta(days=day.weekday())
    week = monday - timedelta(days=7)
    year, number, _ = week.isocalendar()
    first = day.replace(day=1)
    month = (first - timedelta(days=1)).replace(day=1)
    return [
        ("weekly", f"{year}-W{number:02d}", week, monday),
        ("monthly", f"{month:%Y-%m}", month, first),
    ]


def send_due(app: App) -> int:
    """Write the summaries that are due; returns how many people got one."""
    told = 0
    for topic, name, begin, end in periods(from_micros(app.clock.micros())):
        since, until = to_micros(begin), to_micros(end)
        with app.db.read() as session:
            people = set(preferences.who_wants(session, topic=topic, since=until))
            people |= set(webhooks.listeners(session, event=f"usage.{topic}", since=until))
            waiting = summaries.without(session, user_ids=sorted(people), period=name)
        for user_id in waiting:
            told += app.db.write(
                partial(_send, app, user_id=user_id, topic=topic, name=name, since=since,
                        until=until)
            )  # fmt: skip
    return told


def _send(
    app: App, session: Session, *, user_id: int, topic: str, name: str, since: int, until: int
) -> bool:
    now = app.clock.micros()
    if not summaries.take(session, user_id=user_id, period=name, now=now):
        return False
    models: dict[str, int] = {}
    messages = 0
    for row in usage.own(session, user_id=user_id, since=since, until=until):
        models[row.model] = models.get(row.model, 0) + row.credits
        messages += row.messages
    if not messages:
        return False
    last = from_micros(until) - timedelta(days=1)
    by_cost = sorted(models.items(), key=lambda item: (-item[1], item[0]))
    return notices.tell(
        session,
        user_id=user_id,
        kind=f"usage_{topic}",
        key=name,
        data={
            "title": "Your week" if topic == "weekly" else f"Your {from_micros(since):%B}",
            "period": name,
            "from": f"{from_micros(since):%d %b %Y}",
            "to": f"{last:%d %b %Y}",
            "messages": messages,
            "credits": format_credits(sum(models.values())),
            "total": format_credits(ledger.balance(session, user_id=user_id).total),
            "models": [{"model": model, "credits": format_credits(c)} for model, c in by_cost],
        },
        now=now,
    )
