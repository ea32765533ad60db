"""What searching costs: the full-text index beside LIKE, in one run on the same messages.

python benchmarks/search.py [messages] [--postgres]

Two thirds of the messages are one person's, the rest are other people's. Words are as frequent
as Zipf says. Each query asks for the newest twenty; the calls of both ways take turns, so that
a busy machine slows both. `--postgres` starts a server of its own, if the machine has one.
"""

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text
from sqlmodel import Session, col, select

from chat_app.chat import search
from chat_app.chat.tables import Conversation, Message
from chat_app.db import Database, migrate
from chat_app.migrations import full_text

OWNER, OTHERS = 1, 49
VOCABULARY, WORDS, EACH, LIMIT = 30_000, 70, 20, 20
ROUNDS = 12


def words() -> list[str]:
    """Invented words, the most frequent first."""
    parts = [
        "ba",
        "ce",
        "di",
        "fo",
        "gu",
        "ha",
        "ki",
        "lo",
        "mu",
        "ne",
        "pi",
        "ra",
        "so",
        "tu",
        "ve",
    ]
    named = ("".join(pick) for size in (2, 3, 4) for pick in itertools.product(parts, repeat=size))
    return list(itertools.islice(named, VOCABULARY))


def fill(database: Database, count: int) -> list[str]:
    """Write so many messages, then the index at once; returns the vocabulary."""
    draw, known = random.Random(7), words()
    weights = list(itertools.accumulate(1 / (at + 5) for at in range(len(known))))
    talks: dict[str, dict[str, Any]] = {}
    said: list[dict[str, Any]] = []
    for number in range(count):
        owner = OWNER if number % 3 else 2 + number // 3 % OTHERS
        name = f"con_{owner}_{number // (EACH * 60)}"
        talks[name] = {
            "id": name, "user_id": owner, "title": name, "model": "m", "renamed": False,
            "created_at": number, "updated_at": number,
        }  # fmt: skip
        content = " ".join(draw.choices(known, cum_weights=weights, k=draw.randrange(5, 2 * WORDS)))
        said.append(
            {
                "id": f"msg_{number:07}", "conversation_id": name, "role": "user",
                "content": content, "model": "m", "created_at": number * 1_000_000,
            }
        )  # fmt: skip
    with database.engine.begin() as connection:
        full_text.pause(connection)
        connection.execute(insert(Conversation), list(talks.values()))
        for at in range(0, count, 5_000):
            connection.execute(insert(Message), said[at : at + 5_000])
        began = time.perf_counter()
        full_text.fill(connection)
        full_text.resume(connection)
        print(f"index of {count:,} messages made in {time.perf_counter() - began:.1f} s")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not database.sqlite:
            connection.execute(text("ANALYZE"))
    return known


def by_like(session: Session, q: str) -> int:
    """The newest messages that contain the text, as it was done before there was an index."""
    rows = session.execute(
        select(Message.id, Message.content)
        .join(Conversation, col(Conversation.id) == Message.conversation_id)
        .where(
            Conversation.user_id == OWNER,
            col(Conversation.deleted_at).is_(None),
            col(Message.content).icontains(q, autoescape=True),
        )
        .order_by(col(Message.created_at).desc(), col(Message.id).desc())
        .limit(LIMIT + 1)
    ).all()
    return len(rows)


def by_index(session: Session, q: str) -> int:
    """The same by the index, with marked snippets."""
    return len(search.find(session, user_id=OWNER, q=q, limit=LIMIT)[0])


def queries(known: list[str]) -> dict[str, list[str]]:
    """What people type, by kind."""
    draw = random.Random(9)
    common, middle, rare = known[:30], known[300:2000], known[10_000:]
    return {
        "frequent word": draw.sample(common, ROUNDS),
        "usual word": draw.sample(middle, ROUNDS),
        "rare word": draw.sample(rare, ROUNDS),
        "no such word": [f"zzz{at}" for at in range(ROUNDS)],
        "beginning": [word[:3] for word in draw.sample(rare, ROUNDS)],
        "two letters": [word[:2] for word in draw.sample(middle, ROUNDS)],
    }


def p95(times: list[float]) -> float:
    """The nearest rank, in ms."""
    return sorted(times)[max(0, -(-len(times) * 95 // 100) - 1)] * 1e3


def race(database: Database, known: list[str]) -> tuple[list[float], list[float]]:
    """Print the times by kind; returns all of both ways."""
    ways: tuple[tuple[str, Callable[[Session, str], int]], ...] = (
        ("index", by_index), ("LIKE", by_like),
    )  # fmt: skip
    took: dict[str, list[float]] = {"index": [], "LIKE": []}
    print(f"{'p50/p95 ms':<16}{'index':>18}{'LIKE':>18}")
    for kind, asked in queries(known).items():
        here: dict[str, list[float]] = {"index": [], "LIKE": []}
        for q in asked:
            for name, way in ways:
                with database.read() as session:
                    session.execute(text("SELECT 1"))
                    began = time.perf_counter()
                    way(session, q)
                    here[name].append(time.perf_counter() - began)
        shown = "".join(
            f"{sorted(times)[len(times) // 2] * 1e3:>10.1f}/{p95(times):<7.1f}"
            for times in here.values()
        )
        print(f"{kind:<16}{shown}")
        for name, times in here.items():
            took[name] += times
    return took["index"], took["LIKE"]


@contextmanager
def opened(*, postgres: bool) -> Iterator[Database]:
    """An empty migrated database."""
    if postgres:
        from tests.postgres import running_server

        with running_server() as server, server.database("search") as url:
            database = Database(url)
            migrate(database)
            yield database
            database.close()
        return
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'chat.db'}")
        migrate(database)
        yield database
        database.close()


def main() -> int:
    """Print the figures; 1 if the index was slower."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("messages", nargs="?", type=int, default=100_000)
    options.add_argument("--postgres", action="store_true")
    chosen = options.parse_args()
    with opened(postgres=chosen.postgres) as database:
        known = fill(database, chosen.messages)
        index, like = race(database, known)
    print(
        f"p95 over all: index {p95(index):.1f} ms, LIKE {p95(like):.1f} ms: "
        f"{p95(like) / p95(index):.0f} times as fast"
    )
    return 0 if p95(index) < p95(like) else 1


if __name__ == "__main__":
    sys.exit(main())
