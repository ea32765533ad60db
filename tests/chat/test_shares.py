"""Shared conversations: what a link shows, for how long, and the page's defences."""

import json
import re
from html.parser import HTMLParser

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlmodel import Session, select

from chat_app import db as database_room
from chat_app import migrations
from chat_app.accounts.tokens import token_hash
from chat_app.chat import conversations, share_page, shares
from chat_app.chat.conversations import ConversationNotFound
from chat_app.chat.share_tables import Share
from chat_app.chat.shares import NothingToShare, NotShared, Said, ShareNotFound
from chat_app.chat.tables import Conversation, Message
from chat_app.db import Database

ALICE, BOB = 1, 2
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) [z](data:text/html;base64,PHNjcmlwdD4=)",
    "[a](java\tscript:alert(1)) [b](&#106;avascript:alert(1)) [c](\x01javascript:alert(1))",
    "![pixel](https://evil.example/p.png) ![x](x \"onerror=alert(1)\")",
    '[t](https://ok.example "><script>alert(1)</script>") <https://ok.example/"onclick=alert(1)>',
    "<javascript:alert(1)> <vbscript:x> [v](vbscript:x) [f](file:///etc/passwd)",
    "[r](//evil.example) [s](http:/evil.example) [u](mailto:a@example.org?subject=<b>)",
    "[ref]: javascript:alert(1)\n\n[ref] [back](/api/auth/logout) [q](?x)",
    "<iframe src=https://evil.example></iframe><base href=//evil.example><svg onload=alert(1)>",
    "| a |\n|---|\n| <b onmouseover=alert(1)>x</b> |",
    "```html\"onload=alert(1)\n<script>alert(1)</script>\n```",
    "<!-- --><style>*{background:url(//evil.example)}</style>\u2028</textarea></title><script>",
]  # fmt: skip


class Reader(HTMLParser):
    """Every tag with its attributes, as a browser would read them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tell(session: Session, id: str, *said: str, user_id: int = ALICE) -> None:
    """A conversation: a question and an answer in turns."""
    session.add(
        Conversation(id=id, user_id=user_id, title="A title", model="m", created_at=1, updated_at=1)
    )
    session.flush()
    before = None
    for at, words in enumerate(said):
        row = Message(
            id=f"{id}_{at}", conversation_id=id, parent_id=before,
            role="assistant" if at % 2 else "user", content=words, model="m", created_at=at,
        )  # fmt: skip
        session.add(row)
        session.flush()
        before = row.id


def publish(session: Session, id: str, *, user_id: int = ALICE, **how: object) -> Share:
    given = {"access": "open", "update": False, **how}
    return shares.publish(
        session,
        user_id=user_id,
        conversation_id=id,
        hash_of=lambda name: token_hash("of " + name),
        now=7,
        **given,  # type: ignore[arg-type]
    )


def shown(database: Database, share: Share) -> list[str]:
    with database.read() as session:
        found = shares.behind(session, token_hash=token_hash("of " + share.id))
    return [item.text for item in shares.said_in(found)]


def test_a_link_shows_what_was_said_when_it_was_shared(database: Database) -> None:
    """Later words come with an update alone; the link and its hash stay."""
    database.write(lambda session: tell(session, "con", "hello", "hi"))
    first = database.write(lambda session: publish(session, "con"))
    database.write(
        lambda session: session.add(
            Message(id="later", conversation_id="con", parent_id="con_1", role="user",
                    content="a secret", model="m", created_at=50)
        )
    )  # fmt: skip
    again = database.write(lambda session: publish(session, "con", access="signed_in"))
    assert (again.id, again.token_hash, again.access) == (first.id, first.token_hash, "signed_in")
    assert shown(database, first) == ["hello", "hi"]
    newer = database.write(lambda session: publish(session, "con", access=None, update=True))
    assert (newer.access, newer.messages) == ("signed_in", 3)
    assert shown(database, first) == ["hello", "hi", "a secret"]


def test_the_snapshot_has_nothing_of_the_owner(database: Database) -> None:
    database.write(lambda session: tell(session, "con", "hello", "hi"))
    share = database.write(lambda session: publish(session, "con"))
    assert json.loads(share.snapshot) == [
        {"role": "user", "text": "hello", "model": "m", "images": 0},
        {"role": "assistant", "text": "hi", "model": "m", "images": 0},
    ]


def test_what_was_taken_back_leads_nowhere_and_a_new_link_is_another(database: Database) -> None:
    database.write(lambda session: tell(session, "con", "hello", "hi"))
    first = database.write(lambda session: publish(session, "con"))
    how = {"user_id": ALICE, "conversation_id": "con"}
    database.write(lambda session: shares.take_back(session, **how))  # type: ignore[arg-type]
    with pytest.raises(ShareNotFound):
        shown(database, first)
    with pytest.raises(NotShared):
        database.write(lambda session: shares.take_back(session, **how))  # type: ignore[arg-type]
    second = database.write(lambda session: publish(session, "con"))
    assert second.token_hash != first.token_hash
    with database.read() as session:
        assert [row.id for row in session.exec(select(Share)).all()] == [second.id]


def test_what_is_anothers_deleted_or_empty_is_not_shared(database: Database) -> None:
    def story(session: Session) -> None:
        tell(session, "bobs", "hello", "hi", user_id=BOB)
        tell(session, "gone", "hello", "hi")
        tell(session, "mute", "hello", "")
        conversations.delete(session, user_id=ALICE, conversation_id="gone", now=3)

    database.write(story)
    for id, error in (
        ("bobs", ConversationNotFound),
        ("gone", ConversationNotFound),
        ("mute", NothingToShare),
    ):
        with pytest.raises(error):
            database.write(lambda session, id=id: publish(session, id))  # type: ignore[misc]
    with database.read() as session:
        assert shares.listed(session, user_id=ALICE) == []


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_stay_words(words: str) -> None:
    """XSS: no tag of theirs, no image, no link but to the web, nothing that runs or loads."""
    html = share_page.render(
        title=words, said=[Said("user", words, words), Said("assistant", words, words)], at=1
    )
    reader = Reader()
    reader.feed(html)
    tags = {tag for tag, _ in reader.found}
    assert not tags & {"script", "img", "iframe", "base", "form", "object", "embed", "input"}
    assert [tag for tag, _ in reader.found].count("style") == 1
    for tag, attributes in reader.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        if tag == "a" and attributes.get("class") != "go":
            assert re.match(r"https?://|mailto:", attributes["href"] or ""), attributes
            assert "noopener" in (attributes["rel"] or "")


def test_markdown_looks_like_markdown() -> None:
    html = share_page.html_of(
        "# Big\n\n- a\n  - b\n\n```make\nall:\n\tcc\n```\n\n| x | y |\n|---|---|\n| 1 | ~~2~~ |\n\n"
        "[web](https://example.org)"
    )
    assert "<h1>Big</h1>" in html
    assert html.count("<ul>") == 2
    assert "all:\n\tcc\n" in html
    assert "<td>1</td>" in html
    assert "<s>2</s>" in html
    assert 'href="https://example.org" rel="noopener' in html


def test_long_hostile_markdown_is_not_slow_to_death() -> None:
    """A page is made from 5,000 marks of each kind; what explodes would not end."""
    for piece in ("[", "![", "**a ", "> ", "`", "<", "| a ", "[a](", "- ", "\\", "_a_*b*"):
        share_page.html_of(piece * (5_000 // len(piece)))


def test_the_policy_allows_the_style_and_nothing_else() -> None:
    policy = share_page.policy()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_down_and_up_with_rows(database: Database) -> None:
    """Conversations stay; the older program knows neither folders nor links."""
    database.write(lambda session: tell(session, "con", "hello", "hi"))
    database.write(lambda session: publish(session, "con"))
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO folder VALUES ('f', 1, 'Work', 'work', 1)"))
        connection.execute(text("UPDATE conversation SET folder_id = 'f', pinned_at = 3"))
    with database.engine.connect() as connection, connection.begin():
        config = migrations.config(connection)
        step = ScriptDirectory.from_config(config).get_revision("0021").down_revision
        assert isinstance(step, str)
        command.downgrade(config, step)
    assert not {"folder", "conversation_share"} & set(inspect(database.engine).get_table_names())
    database_room.migrate(database)
    assert database_room.schema_is_current(database)
    with database.read() as session:
        row = session.exec(select(Conversation)).one()
        assert (row.title, row.pinned_at, row.folder_id) == ("A title", None, None)
        assert session.exec(select(Share)).all() == []
