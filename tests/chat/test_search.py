"""Search: the same messages on both databases, whatever is typed, and nothing that was wiped."""

import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import Session, col, update

from chat_app.chat import conversations, leaving, search
from chat_app.chat.search import Query, Term
from chat_app.chat.tables import Conversation, Message, MessageImage, Reply
from chat_app.db import Database
from chat_app.errors import Invalid
from chat_app.flows import erase
from chat_app.fold import fold, places
from tests.credits.test_walk import move
from tests.effort import effort

ALICE, BOB = 1, 2
SECOND = 1_000_000
_numbers = itertools.count(1)

# Every kind of sign that folding treats in its own way.
SIGNS = st.sampled_from(
    [*"abcXYZ019_-'\"*()<>%/\\. \n\t", *"éÉüßñøİıﬁ½Å²", *"ΟΔΣσς", *"Привет", *"中文檢索。、",
     *"がカﾊﾟ々ー・", *"한국어", *"ไทย", *"नमस्ते", *"שלום", *"مرحبا؟", *"🎉👍🏽™€№→", "Ａ", "①", "K",
     "\u200b", "\u00ad", "\ufeff", "\u2028", "e\u0301"]
)  # fmt: skip
TEXTS = st.lists(SIGNS, max_size=40).map("".join)


def say(
    session: Session,
    *texts: str,
    user_id: int = ALICE,
    at: int = SECOND,
    model: str = "m",
    charged: int = 0,
) -> list[str]:
    """A conversation of questions and answers by turns; returns the ids of its messages."""
    name = f"con_{next(_numbers)}"
    session.add(
        Conversation(
            id=name, user_id=user_id, title=name, model=model, created_at=at, updated_at=at
        )
    )
    session.flush()
    ids: list[str] = []
    for place, content in enumerate(texts):
        number = next(_numbers)
        answer = place % 2 == 1
        ids.append(f"msg_{number:06}")
        session.add(
            Message(
                id=ids[-1], conversation_id=name, parent_id=ids[-2] if answer else None,
                role="assistant" if answer else "user", content=content, model=model,
                created_at=at + place,
            )
        )  # fmt: skip
        session.flush()
        if answer:
            session.add(
                Reply(
                    id=f"rep_{number}", user_id=user_id, conversation_id=name, question_id=ids[-2],
                    message_id=ids[-1], model=model, hold_id=number, price_version=1,
                    maximum=charged, charged=charged, state="done", lease_until=0, created_at=0,
                    ended_at=1,
                )
            )  # fmt: skip
            session.flush()
    return ids


def found(database: Database, q: str = "", *, user_id: int = ALICE, **wishes: Any) -> list[str]:
    """The ids of the messages, over all pages."""
    ids: list[str] = []
    cursor = None
    with database.read() as session:
        while True:
            hits, cursor = search.find(
                session, user_id=user_id, q=q, cursor=cursor, **{"limit": 100, **wishes}
            )
            ids += [hit.message_id for hit in hits]
            if cursor is None:
                return ids


def test_words_beginnings_phrases_and_what_is_kept_out(database: Database) -> None:
    texts = {
        "invoice": "Please pay the Invoice by Friday",
        "invoices": "invoices for everybody",
        "order": "the by pay",
        "accent": "Un café à la carte",
        "code": "def read_file(path): return 1",
        "chinese": "我们使用Python搜索中文文本",
        "russian": "ПРИВЕТ мир",
        "greek": "ΟΔΟΣ",
        "hearts": "I 🎉 this <b>",
    }
    ids = {name: database.write(lambda s, t=t: say(s, t))[0] for name, t in texts.items()}  # type: ignore[misc]
    names = {id: name for name, id in ids.items()}
    for q, wanted in {
        "invoice": {"invoice", "invoices"},
        '"invoice"': {"invoice"},
        "INVOI": {"invoice", "invoices"},
        "friday invoice": {"invoice"},
        '"pay the"': {"invoice"},
        '"the pay"': set(),
        "pay -friday": {"order"},
        "-invoice -invoices": set(texts) - {"invoice", "invoices"},
        'the -"pay the"': {"order"},
        "cafe": {"accent"},
        "CAFÉ": {"accent"},
        "read_file": {"code"},
        "file(path)": {"code"},
        "中文": {"chinese"},
        "索中": {"chinese"},
        "文中": set(),
        "使用pyth": {"chinese"},
        "привет": {"russian"},
        "οδος": {"greek"},
        "🎉": {"hearts"},
        "<b>": {"hearts"},
        "nothing": set(),
        "": set(texts),
        "  ": set(texts),
    }.items():
        assert {names[id] for id in found(database, q)} == wanted, q


def test_filters_and_pages(database: Database) -> None:
    def story(session: Session) -> tuple[list[str], list[str]]:
        first = say(session, "red", "a red one", at=1 * SECOND, charged=5)
        second = say(session, "red", "a red one", at=2 * SECOND, model="n", charged=50)
        session.add(
            MessageImage(
                id="img", message_id=second[0], user_id=ALICE, position=0, digest="d", kind="png",
                width=1, height=1, bytes=1,
            )
        )  # fmt: skip
        say(session, "red", user_id=BOB)
        return first, second

    first, second = database.write(story)
    newest = [*reversed(second), *reversed(first)]
    assert found(database, "red") == newest
    assert found(database, "red", limit=1) == newest
    assert found(database, limit=1) == newest
    assert found(database, "red", model="n") == list(reversed(second))
    assert found(database, "red", role="user") == [second[0], first[0]]
    assert found(database, "red", since=2 * SECOND) == list(reversed(second))
    assert found(database, "red", until=2 * SECOND) == list(reversed(first))
    assert found(database, "red", min_charged=6) == [second[1]]
    assert found(database, "red", max_charged=6) == [first[1]]
    assert found(database, "red", has_image=True) == [second[0]]
    assert second[0] not in found(database, has_image=False)
    with database.read() as session:
        for cursor in ("x", "-1", "1.5", "9" * 19, "9" * 40, "٣"):
            with pytest.raises(Invalid):
                search.find(session, user_id=ALICE, cursor=cursor)


def test_what_is_wiped_is_found_no_more(database: Database) -> None:
    """Deletion, erasure and answers to programs reach the index in the same transaction."""
    ids = database.write(lambda session: say(session, "herons", "herons at dawn"))
    other = database.write(lambda session: say(session, "herons", "at dusk"))
    hidden = database.write(lambda session: say(session, "owls"))
    assert len(found(database, "herons")) == 3
    with database.read() as session:
        chat = session.get_one(Message, ids[0]).conversation_id
    database.write(
        lambda session: conversations.delete(session, user_id=ALICE, conversation_id=chat, now=9)
    )
    assert found(database, "herons") == [other[0]]
    database.write(
        lambda session: session.execute(
            update(Message).where(col(Message.id) == other[0]).values(content="geese")
        )
    )
    assert found(database, "herons") == []
    assert found(database, "geese") == [other[0]]
    database.write(
        lambda session: session.execute(
            update(Conversation).where(col(Conversation.title) != "").values(deleted_at=99)
        )
    )
    assert found(database, "owls") == [], hidden
    database.write(lambda session: leaving.forget(session, user_id=ALICE, now=9))
    with database.read() as session:
        assert session.execute(text("SELECT COUNT(*) FROM search_entry")).scalar_one() == 0
        assert search.problems(session) == []


def test_an_answer_is_found_when_it_has_ended(database: Database) -> None:
    def begin(session: Session) -> str:
        ids = say(session, "question", "")
        reply = session.connection().execute(
            update(Reply)
            .where(col(Reply.message_id) == ids[1])
            .values(state="running", ended_at=None)
        )
        assert reply.rowcount == 1
        return ids[1]

    answer = database.write(begin)

    def write(content: str) -> None:
        database.write(
            lambda session: session.execute(
                update(Message).where(col(Message.id) == answer).values(content=content)
            )
        )

    def end(session: Session) -> None:
        session.execute(
            update(Reply).where(col(Reply.message_id) == answer).values(state="done", ended_at=2)
        )

    write("cranes")
    write("cranes fly")
    assert found(database, "cranes") == []
    database.write(end)
    assert found(database, "cranes") == [answer]
    write("cranes fly south")
    assert found(database, "south") == [answer]
    with database.read() as session:
        assert search.problems(session) == []


def test_many_messages_of_one_moment_are_all_found(database: Database) -> None:
    """Also of times that no clock shows: nothing that is written may fail because of the index."""

    def story(session: Session) -> None:
        for at in (0, 7, 7, 7, 8, -5, 2**61):
            say(session, "same", "same", at=at)

    database.write(story)
    assert len(found(database, "same", limit=3)) == 14
    before = found(database, "same")
    assert database.write(search.rebuild) == 14
    assert sorted(found(database, "same")) == sorted(before)


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, _sqlite_template: Path
) -> Iterator[list[Database]]:
    """The same messages in a database of each kind."""
    server = request.getfixturevalue("_postgres_server")
    path = tmp_path_factory.mktemp("search") / "books.db"
    shutil.copyfile(_sqlite_template, path)
    with server.database("search_both", "template_books") as url:
        made = [Database(f"sqlite:///{path}"), Database(url)]
        for one in made:
            one.write(lambda session: [say(session, told) for told in TOLD] and None)
        yield made
        for one in made:
            one.close()


@pytest.mark.postgres
@settings(max_examples=effort(1000, 40), deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_both_databases_fold_alike(both: list[Database], texts: Sequence[str]) -> None:
    cleaned = [one.replace("\0", "") for one in texts]
    with both[1].read() as session:
        told = session.execute(
            text("SELECT search_fold(t) FROM unnest(CAST(:texts AS text[])) AS t"),
            {"texts": cleaned},
        ).scalars()
        assert list(told) == [fold(one) for one in cleaned]
    for one in cleaned:
        words = [word for word, _, _ in places(one)]
        assert fold(" ".join(words)) == " ".join(words)


def matches(content: str, query: Query) -> bool:
    """What the query means, without an index."""
    if query.literal:
        return query.literal.lower() in content.lower()
    words = fold(content).split()

    def holds(term: Term) -> bool:
        size = len(term.words)
        return any(
            words[at : at + size - 1] == list(term.words[:-1])
            and (
                words[at + size - 1].startswith(term.words[-1])
                if term.prefix
                else words[at + size - 1] == term.words[-1]
            )
            for at in range(len(words) - size + 1)
        )

    return all(map(holds, query.wanted)) and not any(map(holds, query.unwanted))


WORDS = ("pay", "payment", "a", "the", "café", "中文", "文", "x_y", "Straße", "42", "é")
TOLD = [
    " ".join(part)
    for size in (1, 2, 3)
    for part in itertools.islice(itertools.permutations(WORDS, size), 0, None, 1 + 5 * size * size)
]
QUERIES = st.lists(
    st.one_of(
        st.sampled_from(
            [*WORDS, "pa", "p", "th*", '"', "-", '"a the"', "-pay", '-"the pay"', "(", "AND"]
        ),
        TEXTS,
    ),
    max_size=5,
).map(" ".join)  # fmt: skip


@pytest.mark.postgres
@settings(max_examples=effort(2000, 60), deadline=None)
@given(QUERIES)
def test_any_text_is_a_query_and_both_find_what_it_means(both: list[Database], q: str) -> None:
    """Never an error of the database, and the answer of a plain reading of every message."""
    query = search.parse(q)
    wanted = sorted(told for told in TOLD if matches(told, query))
    for one in both:
        with one.read() as session:
            rows = session.execute(text("SELECT id, content FROM message")).all()
        texts = {row.id: row.content for row in rows}
        told = sorted(texts[id] for id in found(one, q))
        assert told == wanted or query.literal  # of which each has its own idea of case


@pytest.mark.parametrize(
    ("content", "q", "marked"),
    [
        ("a " * 200 + "Needle " + "b " * 200, "need", ["Needle"]),
        ("a needle, two needles", "needle", ["needle", "needles"]),
        ("say   it\nagain", '"it again"', ["it again"]),
        ("Un CAFÉ noir", "cafe", ["CAFÉ"]),
        ("我们使用中文搜索", "中文", ["中文"]),
        ("x <b>bold</b>", "<", ["<"]),
        ("one two", "-two", []),
        ("short", "", []),
    ],
)
def test_an_excerpt_shows_and_marks_the_match(content: str, q: str, marked: list[str]) -> None:
    shown, marks = search.excerpt(content, search.parse(q))
    assert [shown[start:end] for start, end in marks] == marked
    assert len(shown) <= 2 * search.SNIPPET + 2
    if len(content) > 300:
        assert re.fullmatch("….*…", shown)
    assert search.snippet(content, q) == shown


@given(TEXTS, QUERIES)
@settings(max_examples=effort(1000, 50), deadline=None)
def test_marks_are_in_order_within_the_excerpt(content: str, q: str) -> None:
    shown, marks = search.excerpt(content * 9, search.parse(q))
    flat = [place for mark in marks for place in mark]
    assert flat == sorted(flat)
    assert all(0 <= place <= len(shown) for place in flat)
    assert all(start < end for start, end in marks)


def test_wiped_words_leave_the_file(sqlite_database: Database, tmp_path: Path) -> None:
    """FTS5 only marks what is deleted; the job takes it out of the file for good."""
    database = sqlite_database

    def on_disk() -> bool:
        assert database.scrub()
        return b"zzyzxsecret" in (tmp_path / "books.db").read_bytes()

    ids = database.write(lambda session: say(session, "zzyzxsecret words"))
    database.write(lambda session: [say(session, f"other {n}") for n in range(50)] and None)
    assert on_disk()
    assert not database.write(search.tidy)
    with database.read() as session:
        chat = session.get_one(Message, ids[0]).conversation_id
    database.write(
        lambda session: conversations.delete(session, user_id=ALICE, conversation_id=chat, now=9)
    )
    steps = 0
    while database.write(search.tidy):
        steps += 1
        assert steps < 50
    assert not on_disk()
    assert not database.write(search.tidy)
    assert len(found(database, "other")) == 50


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_messages_from_before_are_found(backend: str, request: pytest.FixtureRequest) -> None:
    """Down and up again with messages in the tables."""
    got = request.getfixturevalue("sqlite_database" if backend == "sqlite" else "postgres_url")
    database = got if isinstance(got, Database) else Database(got)
    try:
        ids = database.write(lambda session: say(session, "old words", "old answer"))
        move(database, "0021", down=True)
        with database.engine.connect() as connection:
            names = {
                row[0]
                for row in connection.execute(text("SELECT content FROM message ORDER BY id"))
            }
        assert names == {"old words", "old answer"}
        move(database, "head", down=False)
        assert found(database, "old") == [ids[1], ids[0]]
        more = database.write(lambda session: say(session, "old but newer", at=9 * SECOND))
        assert found(database, "old") == [more[0], ids[1], ids[0]]
    finally:
        database.close()


def test_a_broken_index_is_seen_and_mended(database: Database) -> None:
    ids = database.write(lambda session: say(session, "kept", "kept too"))
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM search_entry"))
    with database.read() as session:
        assert search.problems(session) == ["2 messages are not in the index."]
    assert database.write(search.rebuild) == 2
    assert found(database, "kept") == [ids[1], ids[0]]
    with database.read() as session:
        assert search.problems(session) == []


def test_the_job_forgets_until_nothing_is_left(sqlite_database: Database) -> None:
    class Holder:
        db = sqlite_database

    app: Any = Holder()
    assert erase.forget_words(app) == 0
    sqlite_database.write(lambda session: say(session, "gone"))
    sqlite_database.write(lambda session: leaving.forget(session, user_id=ALICE, now=1))
    assert erase.forget_words(app) >= 1
    assert erase.forget_words(app) == 0
