"""Commands of the keys in secrets.json."""

import argparse
from typing import Any

from chat_app.commands.common import OK, WrongUse, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    keys = commands.add_parser("secrets", help="the keys in secrets.json: list, rotate")
    deeds = keys.add_subparsers(metavar="ACTION", required=True)
    add_command(deeds, "list", secrets_list, "the keys by ring, without the keys themselves")
    turned = add_command(deeds, "rotate", secrets_rotate, "add a key and remove those out of date")
    turned.add_argument("ring", choices=("tokens", "pepper"), help="which ring")
    turned.add_argument(
        "--at-once",
        action="store_true",
        help="tokens alone: remove the old keys now, so that every access token is refused",
    )


def secrets_list(_options: argparse.Namespace, settings: Settings) -> int:
    """Every key of every ring."""
    from chat_app.clock import Clock, rfc3339
    from chat_app.flows import keyring

    with existing_database(settings) as db:
        shown = keyring.overview(settings.data_dir, db, now=Clock().micros())
    for key in shown:
        since = rfc3339(key.since) if key.since else "the beginning"
        words = "in use" if key.active else "kept"
        if key.passwords is not None:
            words += f", {key.passwords} passwords"
        print(f"{key.ring:<8} {key.id:<4} since {since:<28} {words}")
    return OK


def secrets_rotate(options: argparse.Namespace, settings: Settings) -> int:
    """Add a key to a ring."""
    from chat_app.clock import Clock, rfc3339
    from chat_app.flows import keyring

    if options.at_once and options.ring != "tokens":
        raise WrongUse("A pepper cannot go at once: no password could be checked any more.")
    now = Clock().micros()
    if options.ring == "tokens":
        fresh = keyring.rotate_tokens(settings.data_dir, now=now, at_once=options.at_once)
    else:
        with existing_database(settings) as db:
            fresh = keyring.rotate_pepper(settings.data_dir, db, now=now)
    print(f"Key {fresh.id} of {options.ring} is used from {rfc3339(fresh.since)} on.")
    print("Running servers read it within seconds. Back up secrets.json, apart from the database.")
    return OK
