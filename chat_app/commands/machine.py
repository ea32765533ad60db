"""Commands of the machine: the schema, what is installed, what is wrong here."""

import argparse
import json
from pathlib import Path
from typing import Any

from chat_app.commands.common import OK, PROBLEMS, add_command
from chat_app.settings import Settings

MARK = {True: "ok", False: "PROBLEM"}


def add_schema(commands: Any) -> None:
    """Add `migrate`, which comes first."""
    add_command(commands, "migrate", migrate, "bring the database to the newest schema")


def add(commands: Any) -> None:
    """Add the other commands of this room."""
    bill = add_command(commands, "sbom", sbom, "write what is installed, as CycloneDX JSON")
    bill.add_argument("--out", type=Path, help="the file to write (default: print it)")
    add_command(commands, "selfcheck", selfcheck, "look at this machine; one line each")


def migrate(_options: argparse.Namespace, settings: Settings) -> int:
    """Bring the database to the newest schema."""
    from chat_app import db as database
    from chat_app.backups import make
    from chat_app.clock import Clock

    db = database.Database(settings.database_url)
    try:
        with make.before_migration(db, settings, now=Clock().micros()) as made:
            database.migrate(db)
    finally:
        db.close()
    if made is not None:
        print(f"Before the change it was backed up: {made}")
    print("The database has the newest schema.")
    return OK


def sbom(options: argparse.Namespace, _settings: Settings) -> int:
    """The bill of materials of this installation."""
    from chat_app.clock import Clock
    from chat_app.flows import sbom as bill

    text = json.dumps(bill.make(now=Clock().now()), indent=2)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text + "\n", encoding="utf-8")
    return OK


def selfcheck(_options: argparse.Namespace, settings: Settings) -> int:
    """Look at this machine."""
    from chat_app.flows import selfcheck as looking

    code = OK
    for finding in looking.run(settings):
        print(f"{MARK[finding.ok]:<8} {finding.name:<9} {finding.sentence}", flush=True)
        code = code if finding.ok else PROBLEMS
    return code
