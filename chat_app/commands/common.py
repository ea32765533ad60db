"""What commands share: exit codes, wrong use, two options, and a database that is there."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chat_app import settings as settings_room
from chat_app.errors import Invalid
from chat_app.settings import Settings

if TYPE_CHECKING:
    from sqlmodel import Session

    from chat_app.accounts.tables import User
    from chat_app.db import Database

OK, PROBLEMS, WRONG_USE = 0, 1, 2


class WrongUse(Invalid):
    """The command cannot do this here; the sentence says what to do instead."""

    code = "wrong_use"


def add_command(
    group: Any, name: str, run: Callable[[argparse.Namespace, Settings], int], sentence: str
) -> argparse.ArgumentParser:
    """A command that `run` does, with the two options that every command takes."""
    command: argparse.ArgumentParser = group.add_parser(
        name, help=sentence, description=f"{sentence[0].upper()}{sentence[1:]}."
    )
    command.add_argument(
        "--settings",
        type=Path,
        default=settings_room.DEFAULT_FILE,
        help="the settings file (default: settings.toml)",
    )
    command.add_argument("--data-dir", type=Path, help="where the database and secrets live")
    command.set_defaults(run=run)
    return command


@contextmanager
def existing_database(settings: Settings) -> "Iterator[Database]":
    """The database of the settings; raises WrongUse when it is missing or not the newest."""
    from alembic.migration import MigrationContext
    from sqlalchemy import make_url

    from chat_app import db as database
    from chat_app import migrations

    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise WrongUse(f"There is no database at {url.database}. Check --data-dir.")
    db = database.Database(settings.database_url)
    try:
        # Only the revision is asked: a missing trigger is for the proof to find.
        with db.read() as session:
            found = MigrationContext.configure(session.connection()).get_current_revision()
        if found != migrations.head():
            raise WrongUse("The schema is not the newest. Run: python -m chat_app migrate")
        yield db
    finally:
        db.close()


def user_named(session: "Session", username: str) -> "User":
    """Who has this name; raises WrongUse when nobody has."""
    from chat_app.accounts import users

    user = users.find(session, username)
    if user is None:
        raise WrongUse(f"There is no user {username}. Check the name.")
    return user
