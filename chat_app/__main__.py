"""The operator's commands: `python -m chat_app COMMAND`. To serve, see `launch.py`.

Exit codes: 0 all is well, 1 problems were found, 2 wrong use or wrong settings. Each command
is a function from its options to an exit code, in a room of `chat_app/commands/`; the work is
done by the rooms and flows below.
"""

import argparse
import os
import sys

from chat_app import settings as settings_room
from chat_app.commands import (
    backups,
    books,
    keyring,
    learning,
    machine,
    messages,
    models,
    people,
    reports,
    search,
    shop,
)
from chat_app.commands.common import OK, PROBLEMS, WRONG_USE, WrongUse
from chat_app.errors import AppError
from chat_app.settings import SettingsError

__all__ = ["OK", "PROBLEMS", "WRONG_USE", "WrongUse", "main", "parser"]


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    # Forecasts are small sums: threads that wait for each other would take what the server needs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
    machine.add_schema(commands)
    for room in (
        backups,
        books,
        reports,
        shop,
        models,
        learning,
        people,
        messages,
        search,
        keyring,
        machine,
    ):
        room.add(commands)
    return root


if __name__ == "__main__":
    sys.exit(main())
