"""A conversation as a file to keep: JSON for programs, Markdown for people."""

import json
from collections.abc import Sequence
from typing import Any

from chat_app.chat.conversations import MessageRow
from chat_app.chat.tables import Conversation
from chat_app.clock import rfc3339
from chat_app.errors import Conflict
from chat_app.money import format_credits

# The first had one path and no parents.
FORMATS = ("ml-chat-billing/conversation/1", "ml-chat-billing/conversation/2")
FORMAT = FORMATS[-1]


class TemporaryChat(Conflict):
    """A temporary conversation leaves no file."""

    code = "temporary_chat"
    message = "A temporary chat is not exported. Copy what you want to keep, or fork it."


def as_json(conversation: Conversation, messages: Sequence[MessageRow]) -> dict[str, Any]:
    """The conversation with all its branches, each message after its parent.

    Credits are decimal strings. `leaf_id` is where the active path ends.
    """
    return {
        "format": FORMAT,
        "id": conversation.id,
        "title": conversation.title,
        "model": conversation.model,
        "created_at": rfc3339(conversation.created_at),
        "leaf_id": conversation.leaf_id,
        **({"settings": json.loads(conversation.settings)} if conversation.settings else {}),
        "messages": [
            {
                "id": message.id,
                "parent_id": message.parent_id,
                "role": message.role,
                "content": message.content,
                "model": message.model,
                "created_at": rfc3339(message.created_at),
                **({"images": [image.id for image in message.images]} if message.images else {}),
                **(
                    {"charged": format_credits(message.charged or 0)}
                    if message.role == "assistant"
                    else {}
                ),
            }
            for message in messages
        ],
    }


def as_markdown(conversation: Conversation, messages: Sequence[MessageRow]) -> str:
    """The conversation as Markdown, one heading a message."""
    parts = [f"# {conversation.title}", f"_{rfc3339(conversation.created_at)}_"]
    for number, message in enumerate(messages):
        who = "You" if message.role == "user" else message.model
        if message.role == "assistant" and number and messages[number - 1].role == "assistant":
            parts[-1] += message.content  # it goes on
            continue
        parts.append(f"## {who}")
        parts += [f"_Image {image.id}_" for image in message.images]
        if message.images and not message.content:
            continue
        parts += [message.content or f"_{message.error_message or 'no answer'}_"]
    return "\n\n".join(parts) + "\n"
