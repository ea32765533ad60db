"""Conversations out of files: our own export, and the `conversations.json` of ChatGPT.

A file is somebody's text and is read with suspicion: nothing in it is trusted to be there, to be
of its kind, or to be short. Knows no price: what was said elsewhere cost nothing here.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session

from chat_app.chat import conversations
from chat_app.chat.export import FORMAT
from chat_app.chat.tables import Conversation, Message
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
    """A message of a file; `at` in µs, None where the file does not say."""

    role: str
    text: str
    model: str | None
    at: int | None


@dataclass(frozen=True)
class Talk:
    """A conversation of a file. `skipped` messages in it were none of a person or a model."""

    title: str
    said: tuple[Said, ...]
    skipped: int = 0


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
        at, question = began - 1, None
        for said in talk.said:
            at = max(at + 1, _moment(said.at, now) or 0)
            message = Message(
                id=new_id("msg"),
                conversation_id=conversation.id,
                parent_id=question if said.role == "assistant" else None,
                role=said.role,
                content=said.text,
                model=(said.model or model) if said.role == "assistant" else model,
                created_at=at,
            )
            session.add(message)
            question = message.id if said.role == "user" else question
        conversation.updated_at = at
        session.add(conversation)
        session.flush()
        stored.append(Imported(conversation.id, talk.title, len(talk.said), talk.skipped))
    return stored


def _talk(item: dict[str, Any], max_bytes: int) -> Talk:
    if item.get("format") == FORMAT:
        raw = list(_ours(item))
    elif isinstance(item.get("mapping"), dict):
        raw = list(_chatgpt(item))
    else:
        raise NotAnExport
    said: list[Said] = []
    skipped = 0
    for turn in raw:
        if (
            turn is None
            or not turn.text.strip()
            or len(turn.text.encode()) > max_bytes
            or (turn.role == "assistant" and not said)
        ):
            skipped += 1
        elif said and said[-1].role == turn.role == "assistant":
            # One answer in several messages: here an answer is one.
            said[-1] = Said("assistant", f"{said[-1].text}\n\n{turn.text}", turn.model, said[-1].at)
        else:
            said.append(turn)
    title = conversations.title_of(_text(item.get("title")))
    if not title and said:
        title = conversations.title_of(said[0].text)
    return Talk(title, tuple(said), skipped)


def _ours(item: dict[str, Any]) -> Iterator[Said | None]:
    messages = item.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            yield None
            continue
        at = message.get("created_at")
        yield Said(
            message["role"], _text(message.get("content")), _model(message.get("model")), _rfc(at)
        )


def _chatgpt(item: dict[str, Any]) -> Iterator[Said | None]:
    """The branch that was shown last: from the current node up to the root."""
    mapping = item["mapping"]
    at, branch, seen = item.get("current_node"), [], set()
    if not isinstance(at, str):
        nodes = [node for node in mapping.values() if isinstance(node, dict)]
        parents = {name for node in nodes if isinstance(name := node.get("parent"), str)}
        at = next((name for name in reversed(mapping) if name not in parents), None)
    while isinstance(at, str) and at not in seen:
        seen.add(at)
        node = mapping.get(at)
        if not isinstance(node, dict):
            break
        branch.append(node)
        at = node.get("parent")
    for node in reversed(branch):
        message = node.get("message")
        if isinstance(message, dict) and (role := _role(message)) != "system":
            yield _chatgpt_message(message, role)


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
