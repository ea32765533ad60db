"""The model's title reaches the open page without a reload."""

import asyncio
import re
import time
from typing import Any

import pytest

from chat_app.app import App
from chat_app.chat import conversations
from chat_app.flows import title
from tests.ui.conftest import Site

MODEL = "smollm2-135m-instruct"


def test_the_list_shows_the_title_when_it_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler after an answer says at once that the list changed, and again with the title."""

    def begin(app: App, *, conversation_id: str, **_more: Any) -> None:
        async def name_it() -> None:
            await asyncio.sleep(1.5)
            await app.db.awrite(
                lambda session: conversations.give_title(
                    session, conversation_id=conversation_id, title="Walls in the harbour"
                )
            )

        app.titles[conversation_id] = asyncio.create_task(name_it())

    monkeypatch.setattr(title, "begin", begin)
    person = site.person()
    person.call(site.number("send"), ["What is a quay?", MODEL, None, "k", "", ""])
    while not site.app.titles:
        time.sleep(0.01)
    end, seen = person.call(site.number("settle"), [None, None])
    site.app.titles.clear()
    assert end["success"], end
    lists = [str(message) for message in seen if message["msg"] == "process_generating"]
    assert len(lists) == 2
    markers = [re.search(r"data-side=[^>]*data-news", text) for text in lists]
    assert all(markers)
    assert markers[0] != markers[1]
    rows = person.client.get("/api/chat/conversations").json()["items"]
    assert [row["title"] for row in rows] == ["Walls in the harbour"]
