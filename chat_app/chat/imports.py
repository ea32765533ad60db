"""Conversations out of files: our own export, and the `conversations.json` of ChatGPT.

A file is somebody's text and is read with suspicion: nothing in it is trusted to be there, to be
of its kind, or to be short. Knows no price: what was said elsewhere cost nothing here.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlmodel import Session

from chat_app.chat import conversations
from chat_app.chat.export import FORMATS
from chat_app.chat.tables import Conversation, Message
from chat_app.chat.tree import Tree
from chat_app.clock import MICROS_PER_SECOND, to_micros
from chat_app.errors import Invalid, TooLarge
from chat_app.ids import new_id

MAX_CONVERSATIONS = 500
MAX_MESSAGES = 10_000
MAX_MODEL = 128
MAX_SECONDS = 10**11
_ROLES = ("user", "assistant")


class NotAnExport(Invalid):
    """Neither form of file, or nothing in it that can be shown."""

    code = "not_an_export"
    message = (
        "This file has no conversations that can be read. Send the JSON export of a conversation "
        "from here, a list of them, or the conversations.json of ChatGPT."
    )


class TooMuchToImport(TooLarge):
    """More conversations or messages than are taken at once. Facts: the limits."""

    code = "too_much_to_import"
    message = "This is too much at once. Split the file and send its parts one after another."


@dataclass(frozen=True)
class Said:
    """A message of a file; `at` in µs, None where the file does not say.

    It follows number `parent` of its conversation's messages; None: it begins it.
    """

    role: str
    text: str
    model: str | None
    at: int | None
    parent: int | None = None


@dataclass(frozen=True)
class Talk:
    """A conversation of a file, each message after its parent; `leaf` ends its active path.

    `skipped` messages in it were none of a person or a model.
    """

    title: str
    said: tuple[Said, ...]
    skipped: int = 0
    leaf: int | None = None


@dataclass
class _Node:
    """A message as it stands in a file, at its place; the place is kept where nothing was said."""

    id: str
    parent_id: str | None
    created_at: int  # its number in the file
    said: Said | None
    silent: bool = False  # not even counted as skipped


@dataclass(frozen=True)
class Imported:
    """A conversation as it is stored now."""

    id: str
    title: str
    messages: int
    skipped: int


def read(data: object, *, max_bytes: int) -> list[Talk]:
    """The conversations in a parsed JSON file. Raises NotAnExport and TooMuchToImport.

    A message with more than `max_bytes` of text is skipped, and so is an answer to nothing.
    """
    items = data if isinstance(data, list) else [data]
    if len(items) > MAX_CONVERSATIONS:
        raise TooMuchToImport(conversations=len(items), limit=MAX_CONVERSATIONS)
    talks, total = [], 0
    for item in items:
        if not isinstance(item, dict):
            raise NotAnExport
        talk = _talk(item, max_bytes)
        total += len(talk.said)
        if total > MAX_MESSAGES:
            raise TooMuchToImport(messages=total, limit=MAX_MESSAGES)
        if talk.said:
            talks.append(talk)
    if not talks:
        raise NotAnExport
    return talks


def store(
    session: Session,
    *,
    user_id: int,
    talks: Sequence[Talk],
    models: Collection[str],
    default_model: str,
    now: int,
) -> list[Imported]:
    """Store conversations with the times they have in the file, as far as those make sense.

    A conversation goes on with the last of `models` that wrote in it, else with `default_model`.
    """
    stored = []
    for talk in talks:
        known = [said.model for said in talk.said if said.model in models]
        model = known[-1] if known and known[-1] else default_model
        began = _moment(talk.said[0].at, now) or now
        conversation = Conversation(
            id=new_id("con"),
            user_id=user_id,
            title=talk.title,
            renamed=True,
            model=model,
            created_at=began,
            updated_at=began,
        )
        session.add(conversation)
        session.flush()
        rows = _messages(talk, conversation, model=model, now=now)
        session.add_all(rows)
        session.flush()
        conversation.leaf_id = None if talk.leaf is None else rows[talk.leaf].id
        conversation.updated_at = max(row.created_at for row in rows)
        session.add(conversation)
        session.flush()
        stored.append(Imported(conversation.id, talk.title, len(talk.said), talk.skipped))
    return stored


def _messages(talk: Talk, conversation: Conversation, *, model: str, now: int) -> list[Message]:
    """The rows. A message is later than its parent and than the siblings before it."""
    rows: list[Message] = []
    latest: dict[int | None, int] = {}
    for said in talk.said:
        parent = None if said.parent is None else rows[said.parent]
        begin = conversation.created_at - 1 if parent is None else parent.created_at
        at = max(begin + 1, latest.get(said.parent, 0) + 1, _moment(said.at, now) or 0)
        latest[said.parent] = at
        rows.append(
            Message(
                id=new_id("msg"),
                conversation_id=conversation.id,
                parent_id=None if parent is None else parent.id,
                role=said.role,
                content=said.text,
                model=(said.model or model) if said.role == "assistant" else model,
                created_at=at,
            )
        )
    return rows


def _talk(item: dict[str, Any], max_bytes: int) -> Talk:
    if item.get("format") in FORMATS:
        nodes, leaf = list(_ours(item)), item.get("leaf_id")
    elif isinstance(item.get("mapping"), dict):
        nodes, leaf = list(_chatgpt(item["mapping"])), _current(item)
    else:
        raise NotAnExport
    # What continues an answer of ours is its text; others begin a paragraph.
    glue = "" if item.get("format") == FORMATS[-1] else "\n\n"
    said, places, skipped = _kept(nodes, max_bytes, glue)
    title = conversations.title_of(_text(item.get("title")))
    if not title and said:
        title = conversations.title_of(said[0].text)
    end = places.get(leaf) if isinstance(leaf, str) else None
    return Talk(title, tuple(said), skipped, end)


def _kept(
    nodes: Sequence[_Node], max_bytes: int, glue: str
) -> tuple[list[Said], dict[str, int | None], int]:
    """What can be shown, each after its parent; where each node went; and how many were skipped.

    What follows a message that is skipped follows the one before that.
    """
    tree = Tree(nodes)
    kept: list[Said] = []
    texts: list[list[str]] = []
    places: dict[str, int | None] = {}
    alone: dict[str, bool] = {}  # no other branch since the message that is kept
    skipped = 0
    for node in tree.walk():
        parent = tree.parent(node.id)
        above = None if parent is None else places[parent]
        only = parent is not None and len(tree.children(parent)) == 1
        turn = node.said
        places[node.id] = above
        alone[node.id] = only and parent is not None and alone[parent]
        if (
            turn is None
            or not turn.text.strip()
            or len(turn.text.encode()) > max_bytes
            or (turn.role == "assistant" and above is None)
        ):
            skipped += not node.silent
            continue
        goes_on = above is not None and kept[above].role == turn.role == "assistant"
        if goes_on and alone[node.id] and above is not None:
            # One answer in several messages: here an answer is one.
            texts[above] += [glue, turn.text]
            kept[above] = replace(kept[above], model=turn.model)
            continue
        alone[node.id] = True
        places[node.id] = len(kept)
        kept.append(replace(turn, parent=above))
        texts.append([glue, turn.text] if goes_on else [turn.text])
    said = [replace(turn, text="".join(text)) for turn, text in zip(kept, texts, strict=True)]
    return said, places, skipped


def _ours(item: dict[str, Any]) -> Iterator[_Node]:
    """Our own files: with parents, or in the first form one message after the other."""
    messages = item.get("messages")
    linear, last = item["format"] == FORMATS[0], None
    for number, message in enumerate(messages if isinstance(messages, list) else []):
        about = message if isinstance(message, dict) else {}
        id, parent = str(number) if linear else about.get("id"), about.get("parent_id")
        if linear or not isinstance(id, str):
            id, parent = f"{number}", last
        last = id
        said = None
        if about.get("role") in _ROLES:
            said = Said(
                about["role"],
                _text(about.get("content")),
                _model(about.get("model")),
                _rfc(about.get("created_at")),
            )
        yield _Node(id, parent if isinstance(parent, str) else None, number, said)


def _chatgpt(mapping: dict[str, Any]) -> Iterator[_Node]:
    """Every node with all branches; what the system says is left out without a word."""
    for number, (id, node) in enumerate(mapping.items()):
        about = node if isinstance(node, dict) else {}
        parent, message = about.get("parent"), about.get("message")
        role = _role(message) if isinstance(message, dict) else "system"
        said = _chatgpt_message(message, role) if isinstance(message, dict) else None
        yield _Node(
            id,
            parent if isinstance(parent, str) else None,
            number,
            None if role == "system" else said,
            silent=role == "system",
        )


def _current(item: dict[str, Any]) -> object:
    """The node that was shown last."""
    mapping, at = item["mapping"], item.get("current_node")
    if isinstance(at, str):
        return at
    nodes = [node for node in mapping.values() if isinstance(node, dict)]
    parents = {name for node in nodes if isinstance(name := node.get("parent"), str)}
    return next((name for name in reversed(mapping) if name not in parents), None)


def _role(message: dict[str, Any]) -> object:
    author = message.get("author")
    return author.get("role") if isinstance(author, dict) else None


def _chatgpt_message(message: dict[str, Any], role: object) -> Said | None:
    content, about = message.get("content"), message.get("metadata")
    if not isinstance(content, dict) or role not in _ROLES:
        return None
    if content.get("content_type") not in ("text", "multimodal_text"):
        return None
    about = about if isinstance(about, dict) else {}
    if about.get("is_visually_hidden_from_conversation"):
        return None
    parts = content.get("parts")
    texts = [part for part in (parts if isinstance(parts, list) else []) if isinstance(part, str)]
    at = _micros(message.get("create_time"))
    return Said(str(role), _text("\n".join(texts)), _model(about.get("model_slug")), at)


def _text(value: object) -> str:
    """Text that every database stores: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str):
        return ""
    return value.replace("\x00", "").encode("utf-8", "replace").decode()


def _model(value: object) -> str | None:
    return " ".join(_text(value).split())[:MAX_MODEL] or None


def _micros(seconds: object) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    return int(seconds * MICROS_PER_SECOND) if 0 < seconds < MAX_SECONDS else None


def _rfc(value: object) -> int | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return to_micros(moment) if moment is not None and moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _moment(at: int | None, now: int) -> int | None:
    """A time that can have been, or None."""
    return at if at is not None and 0 < at <= now else None
