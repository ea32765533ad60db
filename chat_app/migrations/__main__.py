"""Write the next migration: `python -m chat_app.migrations "what changes"`.

It compares the tables of the program with a fresh database at the newest revision. Read the
result before you keep it. `--first` starts the history over: only before the first release.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

from chat_app import migrations
from chat_app.db import Database


def main(arguments: list[str]) -> int:
    """Write it; returns the exit code."""
    first = "--first" in arguments
    words = [word for word in arguments if word != "--first"]
    if len(words) != 1 and not first:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    versions = migrations.HERE / "versions"
    if first:
        for old in versions.glob("*.py"):
            old.unlink()
    number = f"{len(list(versions.glob('*.py'))) + 1:04d}"
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'history.db'}")
        with database.engine.connect() as connection:
            config: Config = migrations.config(connection)
            if not first:
                command.upgrade(config, "head")
            command.revision(
                config,
                message=words[0] if words else "first tables",
                autogenerate=True,
                rev_id=number,
            )
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
