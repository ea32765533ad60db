"""A conversation as a file to keep: JSON for programs, Markdown for people."""

from collections.abc import Sequence
from typing import Any

from chat_app.chat.conversations import MessageRow
from chat_app.chat.tables import Conversation
from chat_app.clock import rfc3339
from chat_app.money import format_credits

FORMAT = "ml-chat-billing/conversation/1"


def as_json(conversation: Conversation, messages: Sequence[MessageRow]) -> dict[str, Any]:
    """The conversation with all shown messages; credits as decimal strings."""
    return {
        "format": FORMAT,
        "id": conversation.id,
        "title": conversation.title,
        "model": conversation.model,
        "created_at": rfc3339(conversation.created_at),
        "messages": [
            {
                "id": message.id,
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
    for message in messages:
        who = "You" if message.role == "user" else message.model
        parts.append(f"## {who}")
        parts += [f"_Image {image.id}_" for image in message.images]
        if message.images and not message.content:
            continue
        parts += [message.content or f"_{message.error_message or 'no answer'}_"]
    return "\n\n".join(parts) + "\n"
