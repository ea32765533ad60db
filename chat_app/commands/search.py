"""Commands of the full-text index: a check, and to make it anew."""

import argparse
from typing import Any

from chat_app.commands.common import OK, PROBLEMS, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    index = commands.add_parser("search", help="the full-text index: check, rebuild")
    deeds = index.add_subparsers(metavar="ACTION", required=True)
    add_command(deeds, "check", search_check, "compare the index with the messages")
    add_command(deeds, "rebuild", search_rebuild, "make the index anew from all messages")


def search_check(_options: argparse.Namespace, settings: Settings) -> int:
    """Whether every message that should be found is in the index, and nothing else."""
    from chat_app.chat import search

    with existing_database(settings) as db, db.read() as session:
        found = search.problems(session)
    for problem in found:
        print(problem)
    print("Run: python -m chat_app search rebuild" if found else "The index is whole.")
    return PROBLEMS if found else OK


def search_rebuild(_options: argparse.Namespace, settings: Settings) -> int:
    """Make the full-text index anew; a server that runs waits meanwhile."""
    from chat_app.chat import search

    with existing_database(settings) as db:
        count = db.write(search.rebuild)
    print(f"{count} messages can be found.")
    return OK
