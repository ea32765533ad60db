"""The tree of messages: the path is always valid, and what a model reads is the path."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlmodel import Session, select

from chat_app.chat import branches, conversations
from chat_app.chat.conversations import ROOT, ConversationNotFound, MessageNotFound
from chat_app.chat.tables import Conversation, Message, MessageImage
from chat_app.chat.tree import Tree
from chat_app.db import Database
from tests.effort import effort

ALICE, BOB = 1, 2
_numbers = count(1)


@dataclass
class Node:
    id: str
    parent_id: str | None
    created_at: int


@given(
    st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 12)),
                       st.integers(0, 3)), max_size=14)
)  # fmt: skip
def test_every_message_of_any_graph_is_reached_once(
    rows: list[tuple[int, int | None, int]],
) -> None:
    """Circles, missing parents and equal times, as a file may have them."""
    nodes = {
        str(id): Node(str(id), None if parent is None else str(parent), at)
        for id, parent, at in rows
    }
    tree = Tree(list(nodes.values()))
    walked = [node.id for node in tree.walk()]
    assert sorted(walked) == sorted(nodes)
    for number, id in enumerate(walked):
        parent = tree.parent(id)
        assert parent is None or walked.index(parent) < number
        assert id in {node.id for node in tree.siblings(id)}
        path = tree.path(id)
        assert (path[-1].id, tree.parent(path[0].id)) == (id, None)
        assert tree.path(tree.newest(id))[: len(path)] == path
    assert tree.path("nowhere") == tree.path(tree.newest())
    if any(tree.parent(id) is None and node.parent_id is not None for id, node in nodes.items()):
        event("cut")


@dataclass
class Talk:
    """A conversation in the database, and what a test expects of it."""

    session: Session
    id: str
    leaf: str | None = None
    rows: dict[str, Message] = field(default_factory=dict)
    clock: int = 10

    @classmethod
    def begin(cls, session: Session) -> "Talk":
        id = f"con_{next(_numbers)}"
        session.add(
            Conversation(id=id, user_id=ALICE, title="t", model="m", created_at=1, updated_at=1)
        )
        session.flush()
        return cls(session, id)

    def add(self, role: str, parent: str | None, text: str) -> None:
        """As a message is placed: the conversation's path ends there from now on."""
        row = Message(
            id=f"msg_{next(_numbers)}", conversation_id=self.id, parent_id=parent, role=role,
            content=text, model="m", created_at=self.clock,
        )  # fmt: skip
        self.session.add(row)
        self.clock += 1
        self.leaf = row.id
        self.rows[row.id] = row
        found = self.session.get_one(Conversation, self.id)
        found.leaf_id = row.id
        self.session.add(found)
        self.session.flush()

    def of(self, role: str) -> list[str]:
        return [row.id for row in self.rows.values() if row.role == role]

    def path(self, end: str | None) -> list[str]:
        """From the end up, without the room's own tree."""
        found: list[str] = []
        while end is not None:
            found.insert(0, end)
            end = self.rows[end].parent_id
        return found

    def told(self, end: str | None, *, alone: bool = False) -> list[str]:
        """What a model reads: answered questions with all parts of their answers as one.

        Where the path has no answer to a question, the newest one beside it counts; `alone`
        there is nothing beside it.
        """
        turns: list[tuple[str, str]] = []
        for id in self.path(end):
            if self.rows[id].role == "user":
                turns.append((id, ""))
            else:
                turns[-1] = (turns[-1][0], turns[-1][1] + self.rows[id].content)
        found: list[str] = []
        for id, answer in turns:
            beside = [
                row.content
                for row in self.rows.values()
                if row.parent_id == id and row.role == "assistant" and row.content.strip()
            ]
            said = answer if answer.strip() or alone else "".join(beside[-1:])
            found += [self.rows[id].content, said] if said else []
        return found


OPERATION = st.tuples(
    st.sampled_from(["ask", "ask", "edit", "answer", "answer", "go on", "pick", "fork"]),
    st.integers(0, 30),
)


@settings(
    max_examples=effort(full=400, quick=40),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(operations=st.lists(OPERATION, max_size=20))
def test_the_path_is_what_is_shown_and_read(
    sqlite_database: Database, operations: list[tuple[str, int]]
) -> None:
    def story(session: Session) -> None:
        talk = Talk.begin(session)
        for deed, choice in operations:
            if act(talk, deed, choice):
                done.add(deed)
            check(talk)

    done: set[str] = set()
    sqlite_database.write(story)
    for deed in done:  # of hypothesis, which knows this thread alone
        event(deed)


def act(talk: Talk, deed: str, choice: int) -> bool:
    """One thing that people do; False when it cannot be done now."""
    number = next(_numbers)
    questions, answers, every = talk.of("user"), talk.of("assistant"), list(talk.rows)
    if deed == "ask":
        spot = conversations.place_of(
            talk.session, conversation_id=talk.id, leaf_id=talk.leaf, parent_id=None
        )
        talk.add("user", spot, f"q{number}")
    elif deed == "edit" and questions:
        old = talk.rows[questions[choice % len(questions)]]
        spot = conversations.place_of(
            talk.session,
            conversation_id=talk.id,
            leaf_id=talk.leaf,
            parent_id=old.parent_id or ROOT,
        )
        assert spot == old.parent_id
        talk.add("user", spot, f"e{number}")
    elif deed == "answer" and questions:
        talk.add("assistant", questions[choice % len(questions)], f"a{number}")
    elif deed == "go on" and answers:
        talk.add("assistant", answers[choice % len(answers)], f"c{number}")
    elif deed == "pick" and every:
        picked = every[choice % len(every)]
        branches.pick(talk.session, user_id=ALICE, conversation_id=talk.id, message_id=picked)
        found = talk.session.get_one(Conversation, talk.id).leaf_id
        assert found is not None
        assert picked in talk.path(found)
        assert not any(row.parent_id == found for row in talk.rows.values())
        talk.leaf = found
    elif deed == "fork" and every:
        fork(talk, every[choice % len(every)])
    else:
        return False
    return True


def fork(talk: Talk, end: str) -> None:
    """The copy is read as the original up to there, and the original stays as it was."""
    made = branches.fork(
        talk.session, user_id=ALICE, conversation_id=talk.id, message_id=end, now=talk.clock
    )
    rows = conversations.messages(talk.session, user_id=ALICE, conversation_id=made.id)
    assert [row.content for row in rows] == [talk.rows[id].content for id in talk.path(end)]
    assert not {row.id for row in rows} & set(talk.rows)
    read = conversations.history(talk.session, conversation_id=made.id, leaf_id=made.leaf_id)
    assert [row.content for row in read] == talk.told(end, alone=True)


def check(talk: Talk) -> None:
    """What is shown, what is read, and that nothing is lost."""
    owner = {"user_id": ALICE, "conversation_id": talk.id}
    shown = conversations.messages(talk.session, **owner)
    assert [row.id for row in shown] == talk.path(talk.leaf)
    read = conversations.history(talk.session, conversation_id=talk.id, leaf_id=talk.leaf)
    assert [row.content for row in read] == talk.told(talk.leaf)
    whole = conversations.messages(talk.session, **owner, whole=True)
    assert sorted(row.id for row in whole) == sorted(talk.rows)
    for row in whole:
        assert row.siblings[row.sibling_index] == row.id
        assert set(row.siblings) == {
            other.id for other in talk.rows.values() if other.parent_id == row.parent_id
        }
        until = conversations.history(talk.session, conversation_id=talk.id, at=row.id)
        last = [row.content] if row.role == "user" else []
        before = row.parent_id if row.role == "user" else row.id
        assert [each.content for each in until] == talk.told(before) + last
    assert conversations.history(talk.session, conversation_id=talk.id, at=ROOT) == []


def test_a_silent_answer_is_read_as_its_newest_sibling_that_speaks(
    sqlite_database: Database,
) -> None:
    """A retry that failed does not take the answer out of what the model knows."""

    def story(session: Session) -> Sequence[str]:
        talk = Talk.begin(session)
        talk.add("user", None, "q")
        question = talk.leaf
        talk.add("assistant", question, "good")
        talk.add("assistant", question, " ")
        talk.add("user", talk.leaf, "and?")
        read = conversations.history(session, conversation_id=talk.id, at=talk.leaf)
        return [row.content for row in read]

    assert sqlite_database.write(story) == ["q", "good", "and?"]


def test_branches_of_others_do_not_exist(sqlite_database: Database) -> None:
    def story(session: Session) -> None:
        mine, theirs = Talk.begin(session), Talk.begin(session)
        mine.add("user", None, "mine")
        theirs.add("user", None, "theirs")
        owner = session.get_one(Conversation, theirs.id)
        owner.user_id = BOB
        session.add(owner)
        session.flush()
        end = str(theirs.leaf)
        for conversation, error in ((theirs.id, ConversationNotFound), (mine.id, MessageNotFound)):
            about = {"user_id": ALICE, "conversation_id": conversation, "message_id": end}
            with pytest.raises(error):
                branches.pick(session, **about)
            with pytest.raises(error):
                branches.fork(session, **about, now=5)
        with pytest.raises(MessageNotFound):
            conversations.message(session, user_id=ALICE, message_id=end)
        for call in (
            lambda: conversations.history(session, conversation_id=mine.id, at=end),
            lambda: conversations.place_of(
                session, conversation_id=mine.id, leaf_id=None, parent_id=end
            ),
        ):
            with pytest.raises(MessageNotFound):
                call()

    sqlite_database.write(story)


def test_a_fork_shows_the_same_images(sqlite_database: Database) -> None:
    def story(session: Session) -> None:
        talk = Talk.begin(session)
        talk.add("user", None, "look")
        session.add(
            MessageImage(
                id=f"img_{next(_numbers)}", message_id=str(talk.leaf), user_id=ALICE, position=0,
                digest="ab", kind="png", width=3, height=4, bytes=5,
            )
        )  # fmt: skip
        session.flush()
        made = branches.fork(
            session, user_id=ALICE, conversation_id=talk.id, message_id=str(talk.leaf), now=9
        )
        (row,) = conversations.messages(session, user_id=ALICE, conversation_id=made.id)
        assert [image.digest for image in row.images] == ["ab"]
        found = session.exec(select(MessageImage).where(MessageImage.digest == "ab")).all()
        assert len({image.id for image in found}) == 2

    sqlite_database.write(story)
