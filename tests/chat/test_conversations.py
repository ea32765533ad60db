"""Conversations are listed, found and changed by their owner alone."""

import pytest
from sqlmodel import Session

from chat_app.chat import conversations, export
from chat_app.chat.conversations import ConversationNotFound
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.db import Database
from chat_app.errors import Invalid

ALICE, BOB = 1, 2


def _tell(
    session: Session, number: int, *, user_id: int = ALICE, text: str = "", answer: str = "yes"
) -> str:
    """A conversation with one question and its answer, at time `number` * 10."""
    name, at = f"con_{number:03}", number * 10
    session.add(
        Conversation(
            id=name, user_id=user_id, title=f"Talk {number}", model="m", created_at=at,
            updated_at=at,
        )
    )  # fmt: skip
    session.flush()
    session.add(
        Message(
            id=f"msg_{number:03}q", conversation_id=name, role="user",
            content=text or f"question {number}", model="m", created_at=at,
        )
    )  # fmt: skip
    session.flush()
    _answer(session, number, answer)
    return name


def _answer(session: Session, number: int, text: str, *, again: int = 0) -> None:
    message_id = f"msg_{number:03}a{again}"
    session.add(
        Message(
            id=message_id, conversation_id=f"con_{number:03}", parent_id=f"msg_{number:03}q",
            role="assistant", content=text, model="m", created_at=number * 10 + 1 + again,
        )
    )  # fmt: skip
    session.flush()
    session.add(
        Reply(
            id=f"rep_{number}_{again}", user_id=ALICE, conversation_id=f"con_{number:03}",
            question_id=f"msg_{number:03}q", message_id=message_id, model="m",
            hold_id=number * 100 + again, price_version=1, maximum=10, charged=5, state="done",
            finish_reason="stop", lease_until=0, created_at=0, ended_at=1,
        )
    )  # fmt: skip
    session.flush()


@pytest.fixture
def told(database: Database) -> Database:
    """Twelve conversations of Alice and one of Bob."""

    def story(session: Session) -> None:
        for number in range(1, 13):
            _tell(session, number)
        _tell(session, 50, user_id=BOB, text="Bob's secret")

    database.write(story)
    return database


def test_pages_show_every_conversation_once_newest_first(told: Database) -> None:
    seen: list[str] = []
    cursor = None
    with told.read() as session:
        while True:
            page, cursor = conversations.list_for(session, user_id=ALICE, limit=5, cursor=cursor)
            seen += [row.id for row in page]
            if cursor is None:
                break
    assert seen == [f"con_{number:03}" for number in range(12, 0, -1)]


@pytest.mark.parametrize("cursor", ["x", "1", "1.", "-1.a", "9" * 30 + ".a"])
def test_a_wrong_page_marker_is_refused(told: Database, cursor: str) -> None:
    with told.read() as session, pytest.raises(Invalid):
        conversations.list_for(session, user_id=ALICE, cursor=cursor)


def test_anothers_conversation_does_not_exist(told: Database) -> None:
    def every(session: Session) -> None:
        owner = {"user_id": ALICE, "conversation_id": "con_050"}
        for attempt in (
            lambda: conversations.get(session, **owner),
            lambda: conversations.messages(session, **owner),
            lambda: conversations.rename(session, **owner, title="mine"),
            lambda: conversations.delete(session, **owner, now=1),
        ):
            with pytest.raises(ConversationNotFound):
                attempt()
        hits, _ = conversations.search(session, user_id=ALICE, q="secret")
        assert hits == []

    told.write(every)


def test_search_ignores_case_and_takes_signs_as_gaps(told: Database) -> None:
    def story(session: Session) -> None:
        _tell(session, 20, text="100% of_all Things")

    told.write(story)
    with told.read() as session:
        for q, count in (
            ("100%", 1),
            ("OF_ALL", 1),
            ("of%all", 1),
            ("%", 1),
            ("QUESTION", 12),
            ("", 26),
        ):
            hits, _ = conversations.search(session, user_id=ALICE, q=q, limit=100)
            assert len(hits) == count, q
        hits, _ = conversations.search(session, user_id=ALICE, since=30, until=50)
        assert {hit.conversation_id for hit in hits} == {"con_003", "con_004"}


def test_the_newest_answer_is_shown_and_told(told: Database) -> None:
    told.write(lambda session: _answer(session, 3, "better", again=1))
    with told.read() as session:
        rows = conversations.messages(session, user_id=ALICE, conversation_id="con_003")
        assert [row.content for row in rows] == ["question 3", "better"]
        history = conversations.history(session, conversation_id="con_003")
        assert [row.content for row in history] == ["question 3", "better"]
    told.write(lambda session: _answer(session, 3, "", again=2))
    with told.read() as session:
        history = conversations.history(session, conversation_id="con_003")
        assert [row.content for row in history] == ["question 3", "better"]  # silence tells nothing


def test_deleting_wipes_the_texts(told: Database) -> None:
    told.write(
        lambda session: conversations.delete(
            session, user_id=ALICE, conversation_id="con_004", now=99
        )
    )
    with told.read() as session:
        assert session.get_one(Message, "msg_004q").content == ""
        assert session.get_one(Conversation, "con_004").title == ""
        page, _ = conversations.list_for(session, user_id=ALICE, limit=50)
        assert "con_004" not in {row.id for row in page}


def test_titles_are_short_and_renamed_within_bounds(told: Database) -> None:
    assert conversations.title_of("  one \n two ") == "one two"
    assert len(conversations.title_of("word " * 50)) <= conversations.TITLE_LENGTH
    for title in ("", " \n", "x" * 201):
        with pytest.raises(Invalid):
            told.write(
                lambda session, title=title: conversations.rename(  # type: ignore[misc]
                    session, user_id=ALICE, conversation_id="con_001", title=title
                )
            )


def test_exports_hold_every_shown_message(told: Database) -> None:
    with told.read() as session:
        conversation = conversations.get(session, user_id=ALICE, conversation_id="con_002")
        rows = conversations.messages(session, user_id=ALICE, conversation_id="con_002")
    content = export.as_json(conversation, rows)
    assert [item["content"] for item in content["messages"]] == ["question 2", "yes"]
    assert content["messages"][1]["charged"] == "0.000005"
    text = export.as_markdown(conversation, rows)
    assert text.index("# Talk 2") < text.index("question 2") < text.index("yes")


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("Walls in the Harbour", "Walls in the Harbour"),
        ('"Walls in the Harbour."\nThis title is about', "Walls in the Harbour"),
        ("**Title:** Walls & Quays", "Walls & Quays"),
        ("The title is: *Häfen und Kais*", "Häfen und Kais"),
        ("\n\n# What is a quay?\n", "What is a quay?"),
        ("港の壁", "港の壁"),
        ("one two three four five six", "one two three four five six"),
        ("one two three four five six seven", None),
        ("", None),
        (" \n\t ", None),
        ("42 - 17", None),
        ("a" * 61, None),
        ("<b>Walls</b>", None),
        ("[Walls](javascript:alert(1))", None),
        ("${alert(1)}", None),
        ("http://evil.example", None),
        ("=HYPERLINK(evil)", "HYPERLINK(evil)"),
        ("@SUM(A1)", "SUM(A1)"),
        ("Walls\u202egnp.exe", "Wallsgnp.exe"),
        ("Walls\x00 and\x1b[31m", None),
        ("Walls\u2028second line", "Walls"),
    ],
)
def test_a_models_words_become_a_title_or_nothing(said: str, title: str | None) -> None:
    """Hostile output: one line, at most six words, no markup, no link, no formula."""
    assert conversations.title_from(said) == title
