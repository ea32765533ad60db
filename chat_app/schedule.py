"""Every background job on one page: name, how often, what it does."""

from chat_app.accounts import sessions, throttles
from chat_app.app import App
from chat_app.credits import checkpoints, holds, lots
from chat_app.flows import (
    alerts,
    backup,
    books,
    collect,
    deliver,
    dunning,
    erase,
    finance_mail,
    fraud,
    free,
    images,
    learn,
    monitoring,
    notices,
    payments,
    plans,
    reconcile,
    recover,
    refund,
    revenue,
    rollouts,
    summaries,
    sweep,
    topup,
)
from chat_app.jobs import Job
from chat_app.monitor import heap


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
        Job("renew plans", 60, lambda: plans.renew_due(app)),
        Job("give periodic credits", 600, lambda: free.give_periodic(app)),
        Job("top up automatically", 60, lambda: topup.run_low(app)),
        Job("try announced payments again", 15, lambda: payments.retry_events(app)),
        Job("charge kept cards", 60, lambda: collect.due(app)),
        Job("have kept cards forgotten", 300, lambda: collect.forget_gone(app)),
        Job("ask about open orders", 60, lambda: payments.poll(app)),
        Job("close the pages of orders given up", 300, lambda: collect.retire(app)),
        Job("send refunds", 30, lambda: refund.send_due(app)),
        Job("collect debts", 60, lambda: refund.collect(app)),
        Job(
            "forget old sign-ins",
            3600,
            lambda: app.db.write(lambda session: sessions.purge(session, now=app.clock.micros())),
        ),
        Job(
            "forget old links",
            3600,
            lambda: app.db.write(lambda session: recover.forget(session, now=app.clock.micros())),
        ),
        Job(
            "forget old throttles",
            3600,
            lambda: app.db.write(lambda session: throttles.purge(session, now=app.clock.micros())),
        ),
        Job("seal the books", 60, lambda: books.seal_and_anchor(app)),
        Job("write the money ledger", 900, lambda: revenue.post_due(app)),
        Job("remind of open invoices", 3600, lambda: dunning.remind_due(app)),
        Job("reconcile the books", 24 * 3600, lambda: reconcile.run(app)),
        Job("judge answers", 2, lambda: fraud.look(app), everywhere=True),
        Job("remember what was judged", 60, lambda: fraud.remember(app)),
        Job("forget old judgements", 24 * 3600, lambda: fraud.forget_old(app)),
        Job("forget answers to programs", 600, lambda: erase.forget_programs_texts(app)),
        Job("see which models judge", 30, lambda: rollouts.follow(app), everywhere=True),
        Job("train the models", 24 * 3600, lambda: learn.nightly(app)),
        Job("forget words of wiped messages", 60, lambda: erase.forget_words(app)),
        Job("delete images of no message", 3600, lambda: images.tidy(app)),
        Job("give free memory back", 300, heap.trim, everywhere=True),
        Job(
            "keep checkpoints",
            24 * 3600,
            lambda: app.db.write(lambda session: checkpoints.take(session, now=app.clock.micros())),
        ),
    ]


def errands(app: App) -> list[Job]:
    """The jobs that talk to other machines, on a thread of their own: they may be slow."""
    return [
        Job("look at changed balances", 5, lambda: alerts.look(app)),
        Job("mail links for new passwords", 5, lambda: recover.answer_wishes(app)),
        Job("deliver messages", 5, lambda: deliver.deliver_due(app)),
        Job("hand out announcements", 30, lambda: notices.spread(app)),
        Job("write usage summaries", 900, lambda: summaries.send_due(app)),
        Job("mail finance reports", 900, lambda: finance_mail.send_due(app)),
        Job("forget old messages", 3600, lambda: deliver.forget_old(app)),
        Job("forget old faults", 24 * 3600, lambda: monitoring.forget_old(app)),
    ]


def chores(app: App) -> list[Job]:
    """The jobs that may take minutes, so that nothing else waits for them."""
    return [Job("make backups", 600, lambda: backup.tend(app))]


def proofs(app: App) -> list[Job]:
    """The jobs that read all of the books, on a thread of their own: they take their time."""
    hours = app.settings.monitor.prove_hours
    return [Job("prove the books", hours * 3600, lambda: monitoring.prove(app))]
