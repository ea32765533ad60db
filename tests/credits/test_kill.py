"""SIGKILL at any moment: what was acknowledged is there, and the books verify."""

import random
import signal
import subprocess
import sys
import time

import pytest
from sqlalchemy import text

from chat_app.credits import verify
from chat_app.db import Database
from tests.credits.books import credits

KILLS = 5
WRITER = """
import sys, threading
from chat_app.credits import holds, ledger
from chat_app.credits.holds import UsageFacts
from chat_app.db import Database

database, run = Database(sys.argv[1]), sys.argv[2]

def client(number):
    for step in range(10**6):
        name = f"{run}-{number}-{step}"
        database.write(lambda s: ledger.grant(s, user_id=number, micro=3, source="promo",
            now=step, scope="kill", key=name, actor="test"))
        hold = database.write(lambda s: holds.place(s, user_id=number, micro=2, ttl_seconds=3600,
            now=step, scope="kill-hold", key=name))
        database.write(lambda s: holds.settle(s, hold_id=hold.id, micro=1, now=step,
            usage=UsageFacts(name, "m", 1, 1, 1)))
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()

for number in range(8):
    threading.Thread(target=client, args=(number,), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_nothing_acknowledged_is_lost(backend: str, request: pytest.FixtureRequest) -> None:
    if backend == "sqlite":
        url = str(request.getfixturevalue("sqlite_database").url)
    else:
        url = request.getfixturevalue("postgres_url")
    chance = random.Random(5)
    acknowledged: list[str] = []
    for run in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(run)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acknowledged.append(writer.stdout.readline().strip())
        time.sleep(chance.uniform(0.02, 0.5))
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate(timeout=30)
        # The last line may be cut short by the kill.
        acknowledged += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    names = {name.strip() for name in acknowledged}
    assert len(names) >= KILLS
    database = Database(url)
    try:
        with database.read() as session:
            stored = set(session.execute(text("SELECT reply_id FROM usage")).scalars())
            assert names <= stored
            assert verify.run(session) == []
            left = session.execute(
                text("SELECT SUM(posted) FROM account WHERE kind = 'wallet'")
            ).scalar_one()
        assert left >= 2 * len(stored)
        assert left < credits(1)
    finally:
        database.close()
