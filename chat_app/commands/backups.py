"""Commands of backups: make, restore, try, list."""

import argparse
from pathlib import Path
from typing import Any

from chat_app.commands.common import OK, PROBLEMS, WrongUse, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    made = add_command(commands, "backup", backup, "write a backup; safe while the server runs")
    made.add_argument("file", type=Path, metavar="FILE", help="the new file")
    made.add_argument(
        "--with-secrets", action="store_true", help="with the keys; guard the file like a safe"
    )
    back = add_command(
        commands, "restore", restore, "prove a backup, then put it in the place of what is there"
    )
    back.add_argument("file", type=Path, metavar="FILE", help="the backup")
    back.add_argument(
        "--secrets-from",
        type=Path,
        metavar="FOLDER",
        help="where secrets.json and receipt_keys.json are, if the backup has none",
    )
    back.add_argument(
        "--anyway", action="store_true", help="also when its books have discrepancies"
    )
    kept = commands.add_parser("backups", help="the folder of backups: list, drill")
    deeds = kept.add_subparsers(metavar="ACTION", required=True)
    add_command(deeds, "list", backups_list, "the backups that are kept, newest first")
    tried = add_command(
        deeds, "drill", backups_drill, "restore a backup into a temporary place and prove it there"
    )
    tried.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="the backup (default: the newest kept)"
    )


def backup(options: argparse.Namespace, settings: Settings) -> int:
    """Write a backup."""
    from chat_app.clock import Clock
    from chat_app.flows import backup as flow

    if not options.file.absolute().parent.is_dir():
        raise WrongUse(f"There is no folder {options.file.parent}. Make it first.")
    with existing_database(settings) as db:
        made = flow.write(
            db, settings, options.file, now=Clock().micros(), with_secrets=options.with_secrets
        )
    print(
        f"{options.file}: {options.file.stat().st_size / 1e6:.1f} MB, "
        f"{sum(made.counts.values())} rows, schema {made.revision}; every byte was read back."
    )
    if made.secrets:
        print("It holds the keys of this installation. Keep it where nobody else reads.")
    else:
        print("Without the keys. Keep secrets.json and receipt_keys.json in another safe place.")
    return OK


def restore(options: argparse.Namespace, settings: Settings) -> int:
    """Restore a backup; problems when keys are missing or its books have discrepancies."""
    from chat_app.clock import rfc3339
    from chat_app.flows import backup as flow

    done = flow.restore(
        settings, options.file, secrets_from=options.secrets_from, anyway=options.anyway
    )
    print(f"Restored: {settings.data_dir}, as of {rfc3339(done.manifest.made_at)}.")
    if done.aside:
        print(f"What was there before is kept: {done.aside}")
    for problem in done.problems:
        print(f"{problem.invariant}: {problem.sentence}")
    for name in done.missing:
        print(f"Missing key: {name}")
    if done.missing:
        print("Put the files with these keys into the data directory before you start the server.")
    if done.problems:
        print(f"{len(done.problems)} discrepancies.")
    elif any("audit_key" in name for name in done.missing):
        print("The books add up; their seals cannot be checked without the key.")
    else:
        print("The books are right: no discrepancy.")
    return PROBLEMS if done.missing or done.problems else OK


def backups_list(_options: argparse.Namespace, settings: Settings) -> int:
    """The backups in the folder; problems if one cannot be read."""
    from chat_app.backups import keeping
    from chat_app.backups.make import Place

    kept = keeping.listed(Place.of(settings).folder)
    for one in kept:
        words = "damaged"
        if one.manifest is not None:
            words = f"schema {one.manifest.revision}" + (
                ", with keys" if one.manifest.secrets else ""
            )
        print(f"{one.path}  {one.bytes / 1e6:.1f} MB  {words}")
    print(f"{len(kept)} backups.")
    return PROBLEMS if any(one.manifest is None for one in kept) else OK


def backups_drill(options: argparse.Namespace, settings: Settings) -> int:
    """Try a restore."""
    from chat_app.backups.make import Place
    from chat_app.clock import Clock
    from chat_app.flows import backup as flow

    found = flow.drill(Place.of(settings), options.file)
    with existing_database(settings) as db:
        flow.record_drill(db, found, actor="operator", now=Clock().micros())
    if found.ok:
        print(f"{found.backup}: restored and proven in {found.seconds:.1f} s.")
        return OK
    print(f"{found.backup}: {found.reason or f'{found.problems} discrepancies'}")
    return PROBLEMS
