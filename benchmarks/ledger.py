"""The ledger's speed, all in one run on one disk: trust the ratios, not the absolutes.

    python benchmarks/ledger.py [--rounds 5] [--seconds 1.0] [--users 1000] [--chat-seconds 15]
        [--postgres]

One transaction is a hold or its settlement, each durable (WAL, synchronous=FULL) before it
returns. Variants take turns in random order; medians of the rounds are printed.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import create_engine, text
from sqlmodel import Session, select

from chat_app.credits import holds, ledger, verify
from chat_app.credits.holds import UsageFacts
from chat_app.credits.tables import Account, Transfer, UsageRow
from chat_app.db import Database, migrate
from chat_app.errors import OutOfCredits
from chat_app.money import MICRO

CLIENTS = 64
START = 1_767_268_800_000_000


class Books:
    """A fresh database with a rich wallet for each client; in `folder`, or at `url`."""

    def __init__(self, folder: str, name: str, users: int = CLIENTS, url: str = "") -> None:
        self.database = Database(url or f"sqlite:///{folder}/{name}.db")
        migrate(self.database)
        self.count = 0
        for user in range(users):
            self.grant(user, 1_000_000)

    def grant(self, user: int, credits: int) -> None:
        self.database.write(
            lambda session: ledger.grant(
                session,
                user_id=user,
                micro=credits * MICRO,
                source="paid",
                now=START,
                scope="bench",
                key=f"grant-{user}",
                actor="bench",
            )
        )


def hold(session: Any, user: int, key: str) -> int:
    return holds.place(
        session,
        user_id=user,
        micro=MICRO,
        ttl_seconds=3600,
        now=START,
        scope="bench",
        key=key,
        reference=key,
    ).id


def settle(session: Any, hold_id: int, key: str) -> None:
    holds.settle(
        session,
        hold_id=hold_id,
        micro=MICRO // 2,
        now=START,
        usage=UsageFacts(key, "m", 100, 200, 1),
    )


def bare_driver(books: Books, seconds: float, run: str) -> float:
    """The same statements on sqlite3 itself: BEGIN IMMEDIATE … COMMIT for each."""
    connection = books.database.engine.connect()
    driver: Any = connection.connection.driver_connection
    bare = SimpleNamespace(
        new=(),
        dirty=(),
        deleted=(),
        info={},
        bind=None,
        connection=lambda: SimpleNamespace(
            dialect=SimpleNamespace(name="sqlite"),
            connection=SimpleNamespace(driver_connection=driver),
        ),
    )
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        key = f"{run}-{done}"
        driver.execute("BEGIN IMMEDIATE")
        name = hold(bare, 0, key)
        driver.execute("COMMIT")
        driver.execute("BEGIN IMMEDIATE")
        settle(bare, name, key)
        driver.execute("COMMIT")
        done += 2
    connection.close()
    return done / seconds


def one_client(books: Books, seconds: float, run: str) -> float:
    """Our writer with one client: every transaction waits for a commit of its own."""
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        key = f"{run}-{done}"
        name = books.database.write(lambda session, k=key: hold(session, 0, k))
        books.database.write(lambda session, n=name, k=key: settle(session, n, k))
        done += 2
    return done / seconds


def orm_idiom(books: Books, seconds: float, run: str) -> float:
    """Get, check, subtract, commit: what most programs do, without holds, lots or keys."""
    done, end = 0, time.perf_counter() + seconds
    engine = books.database.engine
    while time.perf_counter() < end:
        with Session(engine) as session:
            wallet = session.exec(select(Account).where(Account.user_id == 0)).one()
            target = session.exec(select(Account).where(Account.code == "sys:consumed")).one()
            if wallet.posted - wallet.held < MICRO // 2:
                raise RuntimeError("out of credits")
            wallet.posted -= MICRO // 2
            moved = Transfer(
                kind="direct",
                code="message",
                debit_id=wallet.id,
                credit_id=target.id,
                amount=MICRO // 2,
                debit_after=wallet.posted,
                created_at=START,
            )
            session.add(moved)
            session.flush()
            session.add(
                UsageRow(
                    transfer_id=moved.id,
                    account_id=wallet.id,
                    user_id=0,
                    reply_id=f"{run}-{done}",
                    model="m",
                    price_version=1,
                    prompt_tokens=100,
                    completion_tokens=200,
                    cost=MICRO // 2,
                    status="stop",
                    at=START,
                )
            )
            session.commit()
        done += 1
    return done / seconds


def group_commit(fair: list[float]) -> Callable[[Books, float, str], float]:
    """Our writer with 64 clients, each waiting for its own transaction."""

    def measure(books: Books, seconds: float, run: str) -> float:
        counts = [0] * CLIENTS
        end = time.perf_counter() + seconds

        def client(user: int) -> None:
            while time.perf_counter() < end:
                key = f"{run}-{user}-{counts[user]}"
                name = books.database.write(lambda session, k=key: hold(session, user, k))
                books.database.write(lambda session, n=name, k=key: settle(session, n, k))
                counts[user] += 2

        began = time.perf_counter()
        crowd = [threading.Thread(target=client, args=(user,)) for user in range(CLIENTS)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        fair.append(min(counts) / max(counts))
        return sum(counts) / (time.perf_counter() - began)

    return measure


def double_spend(folder: str) -> None:
    """32 charges at once on credits for 10: how many are let through?"""
    counts = {}
    for name in ("the ORM idiom", "the ledger"):
        url = f"sqlite:///{folder}/race-{len(counts)}.db"
        database = Database(url)
        migrate(database)
        database.write(
            lambda session: ledger.grant(
                session,
                user_id=0,
                micro=10 * MICRO,
                source="paid",
                now=START,
                scope="bench",
                key="grant",
                actor="bench",
            )
        )
        engine = create_engine(url, pool_size=32, connect_args={"timeout": 30})
        barrier = threading.Barrier(32)
        accepted: list[int] = []

        def by_orm(
            number: int, engine: Any = engine, go: Any = barrier, won: Any = accepted
        ) -> None:
            with Session(engine) as session:
                wallet = session.exec(select(Account).where(Account.user_id == 0)).one()
                go.wait()
                if wallet.posted >= MICRO:
                    wallet.posted -= MICRO
                    session.commit()
                    won.append(number)

        def by_ledger(
            number: int, db: Any = database, go: Any = barrier, won: Any = accepted
        ) -> None:
            go.wait()
            try:
                db.write(lambda session: hold(session, 0, str(number)))
            except OutOfCredits:
                return
            won.append(number)

        work = by_orm if name == "the ORM idiom" else by_ledger
        crowd = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        counts[name] = len(accepted)
        engine.dispose()
        database.close()
    for name, accepted_count in counts.items():
        print(f"  {name:<16} {accepted_count:>3} of 32 accepted, 10 were funded")


def processor(books: Books, rounds: int, group: int) -> tuple[float, float]:
    """Microseconds of processor time of a raw charge, and of a hold with its settlement.

    The raw charge is what it takes at the least: a conditional UPDATE and an INSERT of the
    record, by prepared statements on sqlite3. Both share a commit among `group`.
    """
    connection = books.database.engine.connect()
    driver: Any = connection.connection.driver_connection
    driver.execute("CREATE TABLE charge (id INTEGER PRIMARY KEY, user_id, amount, at)")
    driver.execute("CREATE TABLE purse (user_id INTEGER PRIMARY KEY, credits)")
    driver.execute("INSERT INTO purse VALUES (0, 1000000000000000)")
    raw, ours = [], []
    for turn in range(rounds):
        began = time.process_time()
        driver.execute("BEGIN IMMEDIATE")
        for number in range(group):
            done = driver.execute(
                "UPDATE purse SET credits = credits - ? WHERE user_id = ? AND credits >= ?",
                (MICRO, 0, MICRO),
            )
            assert done.rowcount == 1
            driver.execute(
                "INSERT INTO charge (user_id, amount, at) VALUES (?, ?, ?)", (0, MICRO, number)
            )
        driver.execute("COMMIT")
        raw.append((time.process_time() - began) / group)
        began = time.process_time()
        waiting = [
            books.database.submit(lambda session, k=f"cpu-{turn}-{n}": hold(session, 0, k))
            for n in range(group)
        ]
        names = [future.result() for future in waiting]
        settling = [
            books.database.submit(
                lambda session, h=name, k=f"cpu-{turn}-{n}": settle(session, h, k)
            )
            for n, name in enumerate(names)
        ]
        for future in settling:
            future.result()
        ours.append((time.process_time() - began) / group)
    connection.close()
    return 1e6 * statistics.median(raw), 1e6 * statistics.median(ours)


def fsyncs(folder: str, seconds: float = 0.5) -> float:
    """How many 4 KB appends this disk makes durable in a second."""
    done, end = 0, time.perf_counter() + seconds
    with open(f"{folder}/fsync", "wb", buffering=0) as file:
        while time.perf_counter() < end:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            done += 1
    return done / seconds


async def chat(books: Books, users: int, seconds: float) -> tuple[list[float], list[float]]:
    """Closed loop: hold, one second of answer, settle, nine seconds of reading."""
    reserved: list[float] = []
    settled: list[float] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def user(number: int) -> None:
        await asyncio.sleep(random.uniform(0, min(10, seconds)))
        turn = 0
        while loop.time() < end:
            key = f"chat-{number}-{turn}"
            turn += 1
            began = time.perf_counter()
            name = await books.database.awrite(lambda session, k=key: hold(session, number, k))
            reserved.append(time.perf_counter() - began)
            await asyncio.sleep(1)
            began = time.perf_counter()
            await books.database.awrite(lambda session, n=name, k=key: settle(session, n, k))
            settled.append(time.perf_counter() - began)
            await asyncio.sleep(random.uniform(4, 9))

    await asyncio.gather(*(user(number) for number in range(users)))
    return reserved, settled


def quantiles(values: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    ordered = sorted(values)
    return (
        1000 * ordered[len(ordered) // 2],
        1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
    )


def report_chat(town: Books, where: str, options: argparse.Namespace) -> None:
    """Print the waiting times of a town of users."""
    reserved, settled = asyncio.run(chat(town, options.users, options.chat_seconds))
    p50, p99 = quantiles(reserved)
    s50, s99 = quantiles(settled)
    print(f"\n{options.users:,} users chatting on {where}, {len(reserved):,} messages")
    print(f"  hold    p50 {p50:.1f} ms   p99 {p99:.1f} ms   (p99 / p50 = {p99 / p50:.1f})")
    print(f"  settle  p50 {s50:.1f} ms   p99 {s99:.1f} ms")
    town.database.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--chat-seconds", type=float, default=15.0)
    parser.add_argument("--postgres", action="store_true", help="the users on PostgreSQL too")
    parser.add_argument("--folder", default=None, help="a folder on the disk to measure")
    options = parser.parse_args()
    fair: list[float] = []
    variants: dict[str, Callable[[Books, float, str], float]] = {
        "bare sqlite3, one commit each": bare_driver,
        "ledger, one client": one_client,
        "ORM idiom, one client": orm_idiom,
        f"ledger, {CLIENTS} clients (group commit)": group_commit(fair),
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        load = os.getloadavg()[0]
        print(f"{os.cpu_count()} cores, load {load:.1f}; this disk: {fsyncs(folder):,.0f} fsyncs/s")
        books = {name: Books(folder, f"v{n}") for n, name in enumerate(variants)}
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for round_ in range(options.rounds):
            for name in random.sample(list(variants), len(variants)):
                rates[name].append(variants[name](books[name], options.seconds, f"r{round_}"))
        median = {name: statistics.median(values) for name, values in rates.items()}
        bare, single, orm, group = median.values()
        print(f"\ndurable transactions in a second, median of {options.rounds} rounds")
        for name, rate in median.items():
            print(f"  {name:<42} {rate:>8,.0f}   x{rate / single:.2f} of one client")
        print("\nratios of the group commit")
        goal = "met" if group >= 3 * single else "missed"
        print(
            f"  to single commits of the same writer   x{group / single:.1f}   (goal >= 3: {goal})"
        )
        print(f"  to bare sqlite3, one commit each       x{group / bare:.1f}")
        print(f"  to the ORM idiom                       x{group / orm:.1f}")
        print(f"  slowest to fastest client               {statistics.median(fair):.2f}")
        print("\n32 charges at once")
        double_spend(folder)
        print("\nprocessor time of a hold and its settlement, to a raw SQL charge")
        for group in (1, CLIENTS):
            books_of_cpu = Books(folder, f"cpu{group}")
            plain, full = processor(books_of_cpu, 200 if group == 1 else 20, group)
            books_of_cpu.database.close()
            goal = f"   (goal <= 12: {'met' if full <= 12 * plain else 'missed'})"
            print(
                f"  {group:>2} in a commit   {full:,.0f} µs to {plain:,.0f} µs   "
                f"x{full / plain:.1f}{goal if group == 1 else ''}"
            )
        if options.users:
            report_chat(Books(folder, "town", options.users), "SQLite", options)
            if options.postgres:
                from tests.postgres import running_server

                with running_server() as server, server.database("town") as url:
                    report_chat(Books(folder, "", options.users, url), "PostgreSQL", options)
        biggest = books[f"ledger, {CLIENTS} clients (group commit)"]
        with biggest.database.read() as session:
            transfers = session.execute(text("SELECT COUNT(*) FROM transfer")).scalar_one()
            began = time.perf_counter()
            problems = verify.run(session)
            took = time.perf_counter() - began
        print(f"\nverify: {len(problems)} problems, {1e6 * took / transfers:.1f} µs for each of")
        print(f"  {transfers:,} transfers")
        for made in books.values():
            made.database.close()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
