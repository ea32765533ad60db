"""What the audit costs: seal and verify a long log, in a fresh SQLite file.

python benchmarks/audit.py [rows]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import insert

from chat_app.audit import anchors, seal
from chat_app.audit.tables import EventRow
from chat_app.db import Database, migrate

T = TypeVar("T")
KEY = b"benchmark" * 4
GOAL_SECONDS = 5.0  # for 100,000 rows


def timed(what: str, rows: int, run: Callable[[], T]) -> T:
    """Run it and print how long it took, also per row."""
    began, busy = time.perf_counter(), time.process_time()
    found = run()
    wall, cpu = time.perf_counter() - began, time.process_time() - busy
    print(f"{what:<28}{wall:8.2f} s  {cpu:8.2f} s of CPU  {cpu / rows * 1e6:6.1f} µs a row")
    return found


def main(rows: int) -> int:
    """Print the figures; 1 if a bad row was not named."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'audit.db'}")
        migrate(database)
        events = [
            {"at": n, "type": "user_changed", "actor": f"user:{n % 999}", "payload": f'{{"n":{n}}}'}
            for n in range(rows)
        ]
        database.write(lambda session: session.execute(insert(EventRow), events))
        print(f"{rows:,} events; the goal for verify is {GOAL_SECONDS:.0f} s for 100,000")
        timed("seal", rows, lambda: database.write(lambda s: seal.seal(s, key=KEY, now=1)))
        with database.read() as session:
            path = Path(folder) / anchors.FILE
            anchors.append(path, head=seal.head(session), key=KEY, now=1)
            heads, _ = anchors.read(path, key=KEY)
            good = timed("verify", rows, lambda: seal.verify(session, key=KEY, published=heads))
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER event_log_no_update")
            connection.exec_driver_sql(
                "UPDATE event_log SET actor = 'user:1000' WHERE seq = ?", (rows // 2,)
            )
        with database.read() as session:
            bad = timed("verify with one bad row", rows, lambda: seal.verify(session, key=KEY))
        database.close()
        print("named:", [problem.facts["row"] for problem in bad])
        right = not good and [problem.facts["row"] for problem in bad] == [rows // 2]
        return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
