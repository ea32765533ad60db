"""Every background job on one page: name, how often, what it does."""

from chat_app.accounts import sessions
from chat_app.app import App
from chat_app.audit import seal
from chat_app.credits import holds, lots
from chat_app.flows import payments, refund, sweep
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
        Job("try announced payments again", 15, lambda: payments.retry_events(app)),
        Job("ask about open orders", 60, lambda: payments.poll(app)),
        Job("send refunds", 30, lambda: refund.send_due(app)),
        Job("collect debts", 60, lambda: refund.collect(app)),
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
