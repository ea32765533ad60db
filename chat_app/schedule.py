"""Every background job on one page: name, how often, what it does."""

from chat_app.accounts import sessions
from chat_app.app import App
from chat_app.audit import seal
from chat_app.credits import holds, lots
from chat_app.flows import alerts, deliver, notices, summaries, sweep
from chat_app.jobs import Job


def jobs(app: App) -> list[Job]:
    """The jobs of this installation."""

    return [
        Job("settle abandoned replies", 10, lambda: sweep.settle_abandoned(app)),
        Job(
            "end overdue holds",
            30,
            lambda: app.db.write(lambda session: holds.sweep(session, now=app.clock.micros())),
        ),
        Job(
            "expire lots",
            60,
            lambda: app.db.write(lambda session: lots.expire_due(session, now=app.clock.micros())),
        ),
        Job(
            "forget old sign-ins",
            3600,
            lambda: app.db.write(lambda session: sessions.purge(session, now=app.clock.micros())),
        ),
        Job(
            "seal the books",
            60,
            lambda: app.db.write(
                lambda session: seal.seal(
                    session, key=app.secrets.audit_key, now=app.clock.micros()
                )
            ),
        ),
    ]


def errands(app: App) -> list[Job]:
    """The jobs that talk to other machines, on a thread of their own: they may be slow."""
    return [
        Job("look at changed balances", 5, lambda: alerts.look(app)),
        Job("deliver messages", 5, lambda: deliver.deliver_due(app)),
        Job("hand out announcements", 30, lambda: notices.spread(app)),
        Job("write usage summaries", 900, lambda: summaries.send_due(app)),
        Job("forget old messages", 3600, lambda: deliver.forget_old(app)),
    ]
