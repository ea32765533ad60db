"""Money under attack, over every way in: the page's own protocol, cookie REST, bearer REST."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlmodel import Session, func, select

from chat_app import db as database_room
from chat_app import secrets
from chat_app.chat.tables import Message, Reply
from chat_app.clock import Clock
from chat_app.credits import pricing
from chat_app.credits.tables import Hold, Transfer, UsageRow
from chat_app.db import Database
from chat_app.flows import books
from chat_app.money import MICRO, parse_credits
from tests.effort import effort
from tests.page import Page
from tests.servers import MODEL, Person, serving, verify

FUNDS, SENDERS, ROUNDS = 10, 64, effort(20, 1)
DISCONNECTS = effort(50, 4)
TOKENS = 30
PER_PROMPT_TOKEN, PER_TOKEN = 1000, 2000  # microcredits


# Parallel sends


def _over_page(person: Person, page: Page) -> bool:
    """Whether the page's chat handler admitted the message."""
    with page.session() as tab:
        return tab.send_message("hello", wait=False)


def _over_cookie(person: Person, page: Page) -> bool:
    return _admitted(person.send(bearer=False))


def _over_bearer(person: Person, page: Page) -> bool:
    return _admitted(person.send(bearer=True))


def _admitted(answer: httpx.Response) -> bool:
    if answer.status_code == 200:
        return True
    assert answer.status_code == 402, answer.text
    assert answer.json()["error"]["code"] == "out_of_credits"
    return False


WAYS: list[Callable[[Person, Page], bool]] = [_over_page, _over_cookie, _over_bearer]


def test_sixty_four_senders_ten_credits_twenty_rounds(tmp_path: Path, database_url: str) -> None:
    """T1, T18, T33: over mixed paths exactly ten are admitted, twenty times, and books verify."""
    data = tmp_path / "data"
    with (
        serving(
            data,
            DATABASE__URL=database_url,
            ACCOUNTS__WELCOME_CREDITS=str(FUNDS),
            LLM__SCRIPT__TOKENS="5",
            LLM__SCRIPT__TOKENS_PER_SECOND="50",
        ) as server,
        ThreadPoolExecutor(SENDERS) as pool,
    ):
        for number in range(ROUNDS):
            person = Person(server, f"racer{number}")
            page = Page(server, person)
            start = threading.Barrier(SENDERS)

            def send(
                sender: int,
                person: Person = person,
                page: Page = page,
                start: threading.Barrier = start,
            ) -> bool:
                start.wait(30)
                return WAYS[sender % len(WAYS)](person, page)

            admitted = list(pool.map(send, range(SENDERS)))
            _settled(person)
            assert admitted.count(True) == FUNDS, (number, admitted.count(True))
            left = {name: person.balance()[name] for name in ("total", "held", "available", "debt")}
            assert set(left.values()) == {"0"}
            person.close()
            with contextlib.closing(
                Database(database_url or f"sqlite:///{data / 'chat.db'}")
            ) as db:
                assert books.prove(db, key=secrets.load_or_create(data).audit_key) == []
    checked = verify(data, DATABASE__URL=database_url)
    assert checked.returncode == 0, checked.stdout


def _settled(person: Person, seconds: float = 20) -> None:
    """Wait until no credit of the person is held."""
    deadline = time.monotonic() + seconds
    while person.balance()["held"] != "0":
        assert time.monotonic() < deadline, person.balance()
        time.sleep(0.05)


# Disconnects


@contextlib.contextmanager
def _sse(person: Person, page: Page, chance: random.Random) -> Iterator[None]:
    """Read some events of a REST stream, then cut the connection."""
    wanted = chance.randrange(TOKENS)
    with person.bearer.stream(
        "POST", "/api/chat/message", json={"model": MODEL, "message": "a b c", "stream": True}
    ) as answer:
        assert answer.status_code == 200
        seen = 0
        for line in answer.iter_lines():
            seen += line.startswith("event: delta")
            if seen > wanted:
                break
    yield


@contextlib.contextmanager
def _whole(person: Person, page: Page, chance: random.Random) -> Iterator[None]:
    """Ask for the whole answer and hang up before it is there."""
    with contextlib.suppress(httpx.ReadTimeout):
        person.bearer.post(
            "/api/chat/message",
            json={"model": MODEL, "message": "a b c"},
            timeout=httpx.Timeout(10, read=chance.uniform(0.02, 0.3)),
        )
    yield


@contextlib.contextmanager
def _gradio(person: Person, page: Page, chance: random.Random) -> Iterator[None]:
    """Read some updates of the page's stream, then close the tab."""
    with page.session() as tab:
        tab.send_message("a b c", wait=False, updates=chance.randrange(1, 4))
    yield


@pytest.mark.parametrize("transport", [_sse, _whole, _gradio])
def test_fifty_disconnects_settle_by_the_tokens_produced(
    tmp_path: Path, transport: Callable[..., contextlib.AbstractContextManager[None]]
) -> None:
    """T9, T15, T16: a reader that goes away at any token leads to one settlement, and the
    charge is the price rule on the tokens that were produced."""
    data = tmp_path / "data"
    _by_token(data)
    chance = random.Random(transport.__name__)
    with serving(
        data, LLM__SCRIPT__TOKENS=str(TOKENS), LLM__SCRIPT__TOKENS_PER_SECOND="100"
    ) as server:
        person = Person(server, "alice")
        page = Page(server, person)
        for _ in range(DISCONNECTS):
            with transport(person, page, chance):
                pass
        _settled(person)
        spent = 100 * MICRO - parse_credits(person.balance()["total"])
    database = Database(f"sqlite:///{data / 'chat.db'}")
    with database.read() as session:
        replies = session.exec(select(Reply)).all()
        assert len(replies) == DISCONNECTS
        for reply in replies:
            assert reply.state == "done", reply
            text = session.get_one(Message, reply.message_id).content
            assert reply.completion_tokens == TOKENS == len(text.split())
            owed = reply.prompt_tokens * PER_PROMPT_TOKEN + TOKENS * PER_TOKEN
            assert reply.charged == owed
            usage = session.exec(select(UsageRow).where(UsageRow.reply_id == reply.id)).one()
            assert usage.cost == owed
        assert spent == sum(reply.charged for reply in replies)
        assert _count(session, Hold) == DISCONNECTS
        assert (
            session.exec(
                select(func.count()).select_from(Transfer).where(Transfer.kind == "post")
            ).one()
            == DISCONNECTS
        )
    database.close()
    checked = verify(data)
    assert checked.returncode == 0, checked.stdout


def _count(session: Session, table: type[Hold]) -> int:
    return session.exec(select(func.count()).select_from(table)).one()


def _by_token(data: Path) -> None:
    """Give the demo model a price by token before the server first starts."""
    data.mkdir(parents=True)
    database = Database(f"sqlite:///{data / 'chat.db'}")
    database_room.migrate(database)
    database.write(
        lambda session: pricing.publish(
            session,
            model_id=MODEL,
            kind="per_token",
            input_per_million=PER_PROMPT_TOKEN * MICRO,
            output_per_million=PER_TOKEN * MICRO,
            now=Clock().micros(),
        )
    )
    database.close()


def test_stream_and_whole_answer_cost_the_same(tmp_path: Path) -> None:
    """T17: what is recorded does not depend on how it was read."""
    data = tmp_path / "data"
    _by_token(data)
    with serving(data, LLM__SCRIPT__TOKENS="7", LLM__SCRIPT__TOKENS_PER_SECOND="0") as server:
        person = Person(server, "alice")
        whole = person.send("one two three").json()
        with person.bearer.stream(
            "POST",
            "/api/chat/message",
            json={"model": MODEL, "message": "one two three", "stream": True},
        ) as answer:
            lines = list(answer.iter_lines())
        done = json.loads(lines[lines.index("event: done") + 1].removeprefix("data: "))
        assert done["charged"] == whole["charged"] != "0"
        assert done["usage"] == whole["usage"]
        assert done["content"] == whole["content"]
        page = Page(server, person)
        before = parse_credits(person.balance()["total"])
        with page.session() as tab:
            assert tab.send_message("one two three", wait=True)
        _settled(person)
        spent = before - parse_credits(person.balance()["total"])
        assert spent == parse_credits(whole["charged"])
