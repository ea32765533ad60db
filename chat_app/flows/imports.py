"""Conversations of a file become the user's own, once."""

import asyncio
import hashlib
from dataclasses import asdict

from chat_app.app import App
from chat_app.chat import imports
from chat_app.chat.imports import Imported
from chat_app.credits import operations
from chat_app.llm import catalogue


async def conversations(app: App, *, user_id: int, data: object, key: str) -> list[Imported]:
    """Store the conversations of a parsed JSON file; nothing is charged.

    The same key and file give the same answer again. Raises what `imports.read` raises.
    """
    limit = app.settings.chat.max_message_kib * 1024
    talks = await asyncio.to_thread(imports.read, data, max_bytes=limit)
    digest = await asyncio.to_thread(_digest, talks)
    now = app.clock.micros()
    outcome, _ = await app.db.awrite(
        lambda session: operations.once(
            session,
            scope=f"import:{user_id}",
            key=key,
            request={"file": digest},
            now=now,
            actor=f"user:{user_id}",
            run=lambda: {
                "items": [
                    asdict(item)
                    for item in imports.store(
                        session,
                        user_id=user_id,
                        talks=talks,
                        models={entry.id for entry in catalogue.offered()},
                        default_model=app.settings.llm.default_model,
                        now=now,
                    )
                ]
            },
        )
    )
    return [Imported(**item) for item in outcome["items"]]


def _digest(talks: list[imports.Talk]) -> str:
    return hashlib.sha256(repr(talks).encode()).hexdigest()
