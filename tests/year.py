"""A year of a small company, through the real ledger: `python -m tests.year 1000`.

People sign up, buy, chat, let credits expire and are corrected; answers are cut off, too late or
free. At the end the books are proven four ways. It prints how long each took.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session

from chat_app.audit import anchors, log, seal
from chat_app.audit.differences import Found
from chat_app.audit.seal import Problem
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import checkpoints, holds, ledger, lots, packages
from chat_app.credits.holds import UsageFacts
from chat_app.credits.payments import orders
from chat_app.db import Database, migrate
from chat_app.errors import OutOfCredits
from chat_app.flows import beancount, books, reconcile
from chat_app.money import MICRO

START = 1_767_225_600 * MICROS_PER_SECOND  # 2026-01-01
DAY = 24 * 3600 * MICROS_PER_SECOND
KEY = b"year" * 8
MODELS = {"gemma-3-1b-it": 10 * MICRO, "gemma-3-12b-it": 50 * MICRO, "tokens": 0}


@dataclass
class Year:
    """What happened. Counts by name."""

    dice: random.Random
    counts: dict[str, int] = field(default_factory=dict)
    number: int = 0
    questions: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)

    def did(self, what: str) -> None:
        """Count it."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def key(self) -> str:
        """A key that was never used."""
        self.number += 1
        return f"y{self.number}"


def simulate(
    database: Database, folder: Path, *, users: int, days: int = 365, seed: int = 1
) -> Year:
    """Fill a migrated database. The same seed gives the same year."""
    year = Year(random.Random(seed))
    joined = {user: year.dice.randrange(days * 2 // 3) for user in range(1, users + 1)}
    database.write(lambda session: packages.seed(session, now=START))
    for day in range(days):
        database.write(partial(_one_day, year, joined, day))
        if day % 30 == 29:
            now = START + (day + 1) * DAY
            database.write(partial(seal.seal, key=KEY, now=now))
            database.write(partial(checkpoints.take, now=now))
            with database.read() as session:
                head = seal.head(session)
            anchors.append(folder / anchors.FILE, head=head, key=KEY, now=now)
    return year


def _one_day(year: Year, joined: dict[int, int], day: int, session: Session) -> None:
    now = START + day * DAY
    holds.sweep(session, now=now, limit=100_000)
    lots.expire_due(session, now=now, limit=100_000)
    for user, first in joined.items():
        if day < first:
            continue
        at = now + user * MICROS_PER_SECOND
        if day == first:
            _join(year, session, user, at)
        busy = 0.3 if user % 5 else 0.9  # a few use it daily
        if year.dice.random() < busy:
            for _ in range(year.dice.choice((1, 1, 2, 3))):
                at += 60 * MICROS_PER_SECOND
                _message(year, session, user, at)
        if year.dice.random() < 0.001:
            _correct(year, session, user, at)
    for table, rows in (
        (Message, year.questions),
        (Message, year.answers),
        (Reply, year.replies),
    ):
        if rows:
            session.execute(insert(table), rows)
            rows.clear()


def _join(year: Year, session: Session, user: int, now: int) -> None:
    year.did("people")
    log.record(session, type="user_created", actor=f"user:{user}", now=now, role="user")
    _grant(year, session, user, 100, now, source="welcome", expires_at=now + 90 * DAY)
    conversation = Conversation(
        id=f"con_{user}", user_id=user, title="", model="m", created_at=now, updated_at=now
    )
    session.add(conversation)
    session.flush()


def _grant(year: Year, session: Session, user: int, amount: int, now: int, **more: Any) -> None:
    ledger.grant(
        session, user_id=user, micro=amount * MICRO, now=now, scope="year", key=year.key(),
        actor="system", **more,
    )  # fmt: skip


def _buy(year: Year, session: Session, user: int, now: int) -> None:
    package = year.dice.choice((None, None, *packages.list_packages(session)))
    what: dict[str, Any] = {"package_code": package.code} if package else {"micro": 100 * MICRO}
    made = orders.create(session, user_id=user, now=now, scope="year", key=year.key(), **what)
    if year.dice.random() < 0.9:
        orders.fulfil(session, payment_id=made.id, now=now)
        log.record(session, type="payment_fulfilled", actor=f"user:{user}", now=now, id=made.id)
        year.did("purchases")
    else:
        year.did("orders that nobody paid")


def _correct(year: Year, session: Session, user: int, now: int) -> None:
    if year.dice.random() < 0.5:
        _grant(year, session, user, 5, now, source="promo", expires_at=now + 20 * DAY)
        year.did("gifts")
        return
    try:
        ledger.adjust(
            session, user_id=user, micro=-MICRO // 3, reason="a correction", actor="user:1",
            now=now, scope="year", key=year.key(),
        )  # fmt: skip
        year.did("corrections")
    except OutOfCredits:
        year.did("refused corrections")


def _message(year: Year, session: Session, user: int, now: int) -> None:
    model = year.dice.choice(list(MODELS))
    tokens = year.dice.randrange(400)
    price = MODELS[model] or tokens * 20_011 + 7
    id = f"rep_{year.key()}"
    try:
        hold = holds.place(
            session, user_id=user, micro=price, ttl_seconds=600, now=now, scope="year",
            key=year.key(), reference=id,
        )  # fmt: skip
    except OutOfCredits:
        year.did("refused messages")
        if year.dice.random() < 0.3:
            _buy(year, session, user, now)
        return
    late = year.dice.random() < 0.01
    ended = now + (700 if late else 20) * MICROS_PER_SECOND
    if late:
        holds.sweep(session, now=ended)
    cost = price if year.dice.random() < 0.95 else 0
    usage = UsageFacts(
        reply_id=id, model=model, prompt_tokens=9, completion_tokens=tokens, price_version=1
    )
    settled = holds.settle(session, hold_id=hold.id, micro=cost, now=ended, usage=usage)
    year.did("late messages" if late else "messages" if cost else "free messages")
    _record(year, user, usage, hold.id, price, settled, now, ended)


def _record(
    year: Year,
    user: int,
    usage: UsageFacts,
    hold_id: int,
    price: int,
    settled: holds.Settlement,
    now: int,
    ended: int,
) -> None:
    id = usage.reply_id
    texts = {"conversation_id": f"con_{user}", "model": usage.model, "content": "x"}
    question = {**texts, "id": f"q_{id}", "role": "user", "parent_id": None, "created_at": now}
    answer = {**texts, "id": f"a_{id}", "role": "assistant", "parent_id": f"q_{id}"}
    year.questions.append(question)
    year.answers.append({**answer, "created_at": now + 1})
    year.replies.append(
        {
            "id": id,
            "user_id": user,
            "conversation_id": f"con_{user}",
            "question_id": f"q_{id}",
            "message_id": f"a_{id}",
            "model": usage.model,
            "hold_id": hold_id,
            "price_version": 1,
            "maximum": price,
            "state": "done",
            "lease_until": ended,
            "pieces": "",
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "charged": settled.charged,
            "transfer_id": settled.transfer_id,
            "finish_reason": "stop",
            "created_at": now,
            "ended_at": ended,
        }
    )


def proofs(database: Database, folder: Path) -> tuple[list[Problem], list[Found]]:
    """What `verify` and the reconciliation say, with the anchors."""
    return (
        books.prove(database, key=KEY, data_dir=folder),
        reconcile.compare(database, now=START + 400 * DAY),
    )


def beancount_errors(path: Path) -> list[str]:
    """What `bean-check` says about an export."""
    from beancount import loader
    from beancount.ops import validation

    found = loader.load_file(str(path), extra_validations=validation.HARDCORE_VALIDATIONS)[1]
    return [error.message for error in found]


def main(users: int) -> int:
    """The slow check; 0 when all is right."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = Database(f"sqlite:///{folder / 'year.db'}")
        migrate(database)

        def timed(what: str, run: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            found = run()
            print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)
            return found

        year = timed("simulated", lambda: simulate(database, folder, users=users))
        print(", ".join(f"{count:,} {what}" for what, count in sorted(year.counts.items())))
        with database.read() as session:
            state = seal.state(session)
            print({name: (item.sealed, item.unsealed) for name, item in state.items()})
            bad = timed("seals verified", lambda: seal.verify(session, key=KEY))
        problems, differences = timed("proven and reconciled", lambda: proofs(database, folder))
        path = folder / "year.beancount"
        count = timed("exported", lambda: beancount.write(database, path))
        errors = timed(f"bean-check of {count:,} transactions", lambda: beancount_errors(path))
        database.close()
        wrong = [*bad, *problems, *differences, *errors]
        print(*wrong[:20], f"{len(wrong)} problems", sep="\n")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
