"""The demonstration: an installation filled once with a made-up year, visitors signed in.

Only people whom the simulator made up are handed to visitors, and only where nobody real is.
"""

import secrets as chance

from sqlmodel import Session, col, select

from chat_app import db as database
from chat_app import secrets
from chat_app.accounts import sessions
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import Clock
from chat_app.credits import ledger
from chat_app.db import Database
from chat_app.errors import Conflict
from chat_app.flows import simulate
from chat_app.flows.simulate import Tell
from chat_app.ml.tables import DemoUser
from chat_app.settings import Settings

USERS, MONTHS, SEED = 400, 12, 1
NEWEST = 200  # who joined last is still there
TRIES = 8  # of so many the one with most credits, so that a visitor can try something


class RealPeople(Conflict):
    """Strangers would be let into an installation that has real customers."""

    code = "real_people"
    message = (
        "This installation has real customers, so it is no demonstration. "
        "Start it without --demo, or use another data directory."
    )


class NobodyThere(Conflict):
    """There is no made-up person whom a visitor could be."""

    code = "nobody_there"
    message = "The demonstration is empty. Start the server with --demo again."


def fill(settings: Settings, *, tell: Tell = lambda _done, _all: None) -> dict[str, int]:
    """Migrate, and write the made-up year if there is none; its counts, empty if there was one.

    Raises RealPeople.
    """
    now = Clock().micros()
    key = secrets.load_or_create(settings.data_dir).audit_key
    db = Database(settings.database_url)
    try:
        database.migrate(db)
        with db.read() as session:
            if not simulate.alone(session):
                raise RealPeople
            if simulate.present(session):
                return {}
        counts = simulate.run(
            db, settings, users=USERS, months=MONTHS, seed=SEED, now=now, fraud=True, tell=tell
        )
        simulate.seal(db, settings, key=key, now=now)
    finally:
        db.close()
    return counts


async def enter(app: App, *, ip: str, agent: str) -> str:
    """Sign a visitor in as one of the honest; returns the token for the cookie.

    Raises NobodyThere.
    """

    def story(session: Session) -> str:
        wanted = (
            select(User)
            .join(DemoUser, col(DemoUser.user_id) == col(User.id))
            .where(DemoUser.scenario == "", col(User.suspended).is_(False))
            .where(col(User.erased_at).is_(None), User.role == "user")
        )
        newest = session.exec(wanted.order_by(col(User.id).desc()).limit(NEWEST)).all()
        if not newest:
            raise NobodyThere
        some = [chance.choice(newest) for _ in range(TRIES)]
        user = max(some, key=lambda one: ledger.balance(session, user_id=one.id or 0).available)
        return sessions.create(
            session, user=user, now=app.clock.micros(), settings=app.settings.accounts,
            ip=ip, agent=agent,
        )  # fmt: skip

    return await app.db.awrite(story)
