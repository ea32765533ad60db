"""The operator's commands: `python -m chat_app COMMAND`. To serve, see `launch.py`.

Exit codes: 0 all is well, 1 problems were found, 2 wrong use or wrong settings. Each command
is a function from its options to an exit code; the work is done by the rooms and flows.
"""

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chat_app import settings as settings_room
from chat_app.errors import AppError, Invalid
from chat_app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from chat_app.db import Database

OK, PROBLEMS, WRONG_USE = 0, 1, 2
MARK = {True: "ok", False: "PROBLEM"}


class WrongUse(Invalid):
    """The command cannot do this here; the sentence says what to do instead."""

    code = "wrong_use"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = parser().parse_args(argv)
    over = {} if options.data_dir is None else {"data_dir": options.data_dir}
    try:
        settings = settings_room.load(options.settings, **over)
        code: int = options.run(options, settings)
    except (WrongUse, SettingsError) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except AppError as error:
        print(error, file=sys.stderr)
        return PROBLEMS
    except KeyboardInterrupt:
        return PROBLEMS
    return code


def parser() -> argparse.ArgumentParser:
    """The command line. Every command takes the same two options."""
    root = argparse.ArgumentParser(
        prog="python -m chat_app", description="Operate the paid chat. To serve it: launch.py."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    _command(commands, "migrate", migrate, "bring the database to the newest schema")
    proof = _command(commands, "verify", verify, "prove the books; prints every discrepancy")
    proof.add_argument("--json", action="store_true", help="print one JSON document")
    models = commands.add_parser("models", help="models: list, pull, verify, convert-openvino")
    actions = models.add_subparsers(metavar="ACTION", required=True)
    _command(actions, "list", models_list, "every model, its state, its licence and how it runs")
    pull = _command(actions, "pull", models_pull, "download a model and check it")
    pull.add_argument("id", help="the model's id, see: models list")
    check = _command(actions, "verify", models_verify, "read every byte of the downloaded models")
    check.add_argument("id", nargs="?", help="only this model")
    convert = _command(
        actions,
        "convert-openvino",
        models_convert_openvino,
        "convert a Gemma or Llama model for the fastest way on a CPU",
    )
    convert.add_argument("id", help="the model's id, see: models list")
    convert.add_argument(
        "--python",
        type=Path,
        required=True,
        help="the Python of an environment of its own with optimum-intel, see docs/commands.md",
    )
    convert.add_argument(
        "--weights",
        choices=("int8", "int4"),
        default="int8",
        help="int4 is smaller and faster, costs quality, and needs 1 billion parameters or more",
    )
    admin = _command(commands, "create-admin", create_admin, "create an administrator")
    admin.description = (
        "Create an administrator. The password is asked for, or taken from "
        "CHAT_APP_ADMIN__PASSWORD; it is never an argument, because others can see those."
    )
    admin.add_argument("--username", required=True, help="the user name")
    admin.add_argument("--email", required=True, help="the e-mail address")
    mails = commands.add_parser("messages", help="mails and webhooks: list, resend, test")
    deeds = mails.add_subparsers(metavar="ACTION", required=True)
    listed = _command(deeds, "list", messages_list, "the newest messages and what went wrong")
    listed.add_argument("--state", choices=("waiting", "sent", "dead"), help="only these")
    again = _command(deeds, "resend", messages_resend, "let messages that were given up be tried")
    again.add_argument("id", nargs="*", help="their ids, see: messages list; none: all of them")
    tried = _command(deeds, "test", messages_test, "send a test mail now, by the [mail] settings")
    tried.add_argument("address", help="where to")
    _command(commands, "selfcheck", selfcheck, "look at this machine; one line each")
    return root


def _command(
    group: Any, name: str, run: Callable[[argparse.Namespace, Settings], int], sentence: str
) -> argparse.ArgumentParser:
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


def migrate(_options: argparse.Namespace, settings: Settings) -> int:
    """Bring the database to the newest schema."""
    from chat_app import db as database

    db = database.Database(settings.database_url)
    try:
        database.migrate(db)
    finally:
        db.close()
    print("The database has the newest schema.")
    return OK


def verify(options: argparse.Namespace, settings: Settings) -> int:
    """Prove the books; print every discrepancy."""
    from chat_app import secrets
    from chat_app.flows import books

    with _existing_database(settings) as db:
        if not (settings.data_dir / secrets.FILE).exists():
            raise WrongUse(
                f"{settings.data_dir / secrets.FILE} is missing, so the seals cannot be checked. "
                "Check --data-dir, or restore it from your backup."
            )
        key = secrets.load_or_create(settings.data_dir).audit_key
        found = books.prove(db, key=key)
    if options.json:
        problems = [
            {"invariant": item.invariant, "sentence": item.sentence, "facts": item.facts}
            for item in found
        ]
        print(json.dumps({"ok": not found, "problems": problems}, indent=2, default=str))
    else:
        for item in found:
            print(f"{item.invariant}: {item.sentence}")
        print(f"{len(found)} discrepancies." if found else "The books are right: no discrepancy.")
    return PROBLEMS if found else OK


@contextmanager
def _existing_database(settings: Settings) -> "Iterator[Database]":
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


def models_list(_options: argparse.Namespace, settings: Settings) -> int:
    """Every model that is offered, with its state and how it would run here."""
    from chat_app.llm import build, catalogue, loader

    engine = build.create(settings)
    for entry in catalogue.offered():
        state = loader.state(entry, settings.models_dir)
        words = state.reason or engine.why(entry.id)
        print(f"{entry.id:<24} {state.state:<15} {entry.name}; {entry.license}. {words}")
    return OK


def models_pull(options: argparse.Namespace, settings: Settings) -> int:
    """Download a model and check it."""
    from chat_app.llm import catalogue, loader
    from chat_app.llm.bar import bar

    entry = catalogue.get(options.id)
    with bar() as tell:
        loader.pull(entry, settings.models_dir, tell)
    print(f"{entry.name} is ready. License: {entry.license}, {entry.license_url}")
    return OK


def models_verify(options: argparse.Namespace, settings: Settings) -> int:
    """Read every byte of what was downloaded."""
    from chat_app.llm import catalogue, loader
    from chat_app.llm.bar import bar

    entries = [catalogue.get(options.id)] if options.id else catalogue.entries()
    code = OK
    for entry in entries:
        with bar() as tell:
            state = loader.verify(entry, settings.models_dir, tell)
        if state.state == "available":
            print(f"{entry.id}: every byte is right.")
        elif state.state == "broken" or options.id:
            print(f"{entry.id}: {state.reason}")
            code = PROBLEMS
    return code


def models_convert_openvino(options: argparse.Namespace, settings: Settings) -> int:
    """Convert a model for OpenVINO."""
    from chat_app.llm import catalogue, optimum

    entry = catalogue.get(options.id)
    print(f"Converting {entry.name} to {options.weights}; this takes minutes.", flush=True)
    folder = optimum.convert(
        entry, settings.models_dir, python=options.python, weights=options.weights
    )
    print(f"{folder} is ready. On a CPU it is used from the next load on.")
    return OK


def create_admin(options: argparse.Namespace, settings: Settings) -> int:
    """Create an administrator."""
    from chat_app import app as parts
    from chat_app.flows import signup

    password = settings.admin.password or _ask_password()
    app = parts.build(settings)
    try:
        signup.create_admin(app, username=options.username, email=options.email, password=password)
    finally:
        app.passwords.close()
        app.db.close()
    print(f"{options.username} can sign in as an administrator.")
    return OK


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise WrongUse("There is nobody to ask for a password. Set CHAT_APP_ADMIN__PASSWORD.")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise WrongUse("The two passwords differ. Start again.")
    return password


def messages_list(options: argparse.Namespace, settings: Settings) -> int:
    """The newest hundred messages; found problems if one of them was given up."""
    from chat_app.clock import rfc3339
    from chat_app.notify import outbox

    with _existing_database(settings) as db, db.read() as session:
        rows, _ = outbox.page(session, state=options.state or "", limit=100)
    for row in rows:
        error = f" ({row.error})" if row.error and row.state != "sent" else ""
        print(
            f"{row.message_id}  {rfc3339(row.created_at)[:19]}  {row.state:<7}  {row.channel:<7}  "
            f"{row.kind:<18}  {row.target}  tries {row.attempts}{error}"
        )
    print(f"{len(rows)} messages.")
    return PROBLEMS if any(row.state == "dead" for row in rows) else OK


def messages_resend(options: argparse.Namespace, settings: Settings) -> int:
    """Let messages that were given up be tried again by the running program."""
    from chat_app.clock import Clock
    from chat_app.notify import outbox

    with _existing_database(settings) as db:
        with db.read() as session:
            dead, _ = outbox.page(session, state="dead", limit=10_000)
        ids: list[str] = options.id or [row.message_id for row in dead]
        now = Clock().micros()
        db.write(lambda session: [outbox.resend(session, message_id=one, now=now) for one in ids])
    print(f"{len(ids)} messages will be tried again.")
    return OK


def messages_test(options: argparse.Namespace, settings: Settings) -> int:
    """Send a test mail, past the outbox, so that a wrong setting shows at once."""
    from chat_app.clock import Clock
    from chat_app.ids import new_id
    from chat_app.notify import kinds, mail

    folder = settings.data_dir / "outbox"
    try:
        message = mail.compose(
            kinds.letter("mail_test", {"url": f"the mail settings of {settings.site}"}),
            settings=settings.mail,
            to=options.address,
            message_id=new_id("ntf"),
            at=Clock().now(),
            site=settings.site,
        )
        mail.send(message, settings=settings.mail, outbox=folder)
    except (mail.MailRefused, mail.MailDelayed) as error:
        print(f"The mail did not leave: {error}. Check the [mail] settings.", file=sys.stderr)
        return PROBLEMS
    print(f"Written to {folder}." if settings.mail.kind == "outbox" else "The mail server took it.")
    return OK


def selfcheck(_options: argparse.Namespace, settings: Settings) -> int:
    """Look at this machine."""
    from chat_app.flows import selfcheck as looking

    code = OK
    for finding in looking.run(settings):
        print(f"{MARK[finding.ok]:<8} {finding.name:<9} {finding.sentence}", flush=True)
        code = code if finding.ok else PROBLEMS
    return code


if __name__ == "__main__":
    sys.exit(main())
