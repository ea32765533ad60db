"""Commands of the money ledger: reports of a time."""

import argparse
import sys
from datetime import date
from typing import Any

from chat_app.commands.common import OK, WrongUse, add_command, existing_database
from chat_app.settings import Settings


def add(commands: Any) -> None:
    """Add the commands of this room."""
    made = add_command(commands, "report", report, "print a report of a time as JSON or CSV")
    made.add_argument(
        "kind", help="usage, financial, revenue, tax, receivables, reconciliation or monitoring"
    )
    made.add_argument("--from", dest="first", type=_day, help="the first day (default: 30 days)")
    made.add_argument("--to", dest="last", type=_day, help="the last day (default: today)")
    made.add_argument("--format", choices=("json", "csv"), default="json")


def report(options: argparse.Namespace, settings: Settings) -> int:
    """Print a report, row by row."""
    from chat_app.clock import Clock
    from chat_app.flows import reports

    with existing_database(settings) as db:
        try:
            made = reports.make(
                db,
                kind=options.kind,
                since=options.first,
                until=options.last,
                today=Clock().now().date(),
            )
        except reports.BadReport as error:
            raise WrongUse(f"{error} Kinds: {', '.join(reports.KINDS)}.") from error
        for text in reports.as_csv(made) if options.format == "csv" else reports.as_json(made):
            sys.stdout.write(text)
    if options.format == "json":
        print()
    return OK


def _day(text: str) -> date:
    return date.fromisoformat(text)
