"""Open streams end when their reason does, on every transport of a real server (bar 7)."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest

from chat_app.accounts import users
from chat_app.chat.tables import Reply
from tests.apps import MODEL, PASSWORD
from tests.ui.conftest import Site, Visitor, serving
from ui.guard import guard

SECONDS = 5
WAYS = [
    "logout",
    "end-session",
    "logout-all",
    "admin-logout",
    "password",
    "suspend",
    "revoke-key",
]
# These end one sign-in; whoever follows from another device stays.
ONE_DEVICE = {"logout", "end-session"}
# A key is not a sign-in: it ends with what makes all earlier proofs worthless, or by itself.
KEY_STAYS = ONE_DEVICE
STOPPED = ("cancelled", "stopped", '"stop"')


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose answers take half a minute."""
    script = {"tokens": 600, "tokens_per_second": 20}
    with serving(tmp_path_factory.mktemp("slow"), script=script) as running:
        yield running


@dataclass
class Follower:
    """Somebody who listens on a thread of their own: what came last, and when it ended."""

    name: str
    listen: Callable[["Follower"], None]
    heard: threading.Event = field(default_factory=threading.Event)
    ended_at: float | None = None
    last: str = ""

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.listen(self)
        except httpx.HTTPError as error:
            self.last = repr(error)
        self.ended_at = time.monotonic()


def sse(client: httpx.Client, method: str, path: str, body: Any = None) -> Callable[..., None]:
    def listen(me: Follower) -> None:
        with client.stream(method, path, json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    # OpenAI's protocol says nothing in its last line.
                    me.last = line if line != "data: [DONE]" else me.last
                    me.heard.set()

    return listen


def whole(client: httpx.Client) -> Callable[..., None]:
    def listen(me: Follower) -> None:
        me.heard.set()
        body = {"model": MODEL, "message": "all at once"}
        me.last = client.post("/api/chat/message", json=body, timeout=60).text

    return listen


def gradio(site: Site, visitor: Visitor) -> Callable[..., None]:
    def listen(me: Follower) -> None:
        visitor.call(site.number("send"), ["on the page", MODEL, None, "key", "", ""])
        # What is followed is kept at the server, so the page's own value does not count.
        visitor.join(site.number("write"), [None]).raise_for_status()
        for message in visitor.events():
            if message["msg"] == "process_generating":
                me.heard.set()
            me.last = json.dumps(message) if message.get("output") else me.last
            if message["msg"] == "process_completed":
                return

    return listen


def key_of(visitor: Visitor) -> tuple[str, dict[str, str]]:
    """A new API key's id, and the header that a program sends."""
    made = visitor.client.post("/api/auth/keys", json={"name": "robot"}).raise_for_status().json()
    return made["id"], {"Authorization": f"Bearer {made['key']}"}


def program(site: Site, headers: dict[str, str]) -> httpx.Client:
    return httpx.Client(base_url=site.url, headers=headers, timeout=30)


def sign_in(site: Site, name: str) -> tuple[httpx.Client, dict[str, Any]]:
    client = httpx.Client(base_url=site.url, headers={"Origin": site.url}, timeout=30)
    body = {"login": name, "password": PASSWORD}
    tokens = client.post("/api/auth/login", json=body).raise_for_status().json()
    client.cookies.clear()
    client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    return client, tokens


def act(site: Site, boss: Visitor, person: Visitor, way: str, key: str) -> None:
    """Take the person's reason to be here away."""
    if way in {"logout", "logout-all"}:
        person.client.post(f"/api/auth/{way}").raise_for_status()
    elif way == "end-session":
        shown = person.client.get("/api/auth/sessions").json()["items"]
        (current,) = [item["id"] for item in shown if item["current"]]
        person.client.delete(f"/api/auth/sessions/{current}").raise_for_status()
    elif way == "revoke-key":
        person.client.delete(f"/api/auth/keys/{key}").raise_for_status()
    elif way == "password":
        body = {"current": PASSWORD, "new": "another staple of horses"}
        person.client.post("/api/auth/password/change", json=body).raise_for_status()
    else:
        id = person.client.get("/api/auth/me").json()["id"]
        if way == "suspend":
            path = f"/api/admin/users/{id}"
            boss.client.patch(path, json={"suspended": True}).raise_for_status()
        else:
            boss.client.post(f"/api/admin/users/{id}/logout").raise_for_status()


def test_open_streams_end_within_five_seconds_on_every_transport(slow: Site) -> None:
    """Bar 7: six ways to listen, seven reasons to be sent away, all at once.

    OpenAI's protocol and the events of an answer, both with an API key, are two of the ways.
    """
    boss = slow.person(admin=True)
    people = {way: slow.person() for way in WAYS}
    followers: dict[str, list[Follower]] = {}
    elsewhere: dict[str, Follower] = {}
    replies: dict[str, str] = {}
    keys: dict[str, str] = {}
    programs: dict[str, list[Follower]] = {}
    for way, person in people.items():
        body = {"model": MODEL, "message": "count for me", "stream": True}
        first = Follower("message", sse(person.client, "POST", "/api/chat/message", body))
        assert first.heard.wait(20)
        begun = person.client.get("/api/chat/conversations").json()["items"][0]["id"]
        shown = person.client.get(f"/api/chat/conversations/{begun}").json()
        replies[way] = shown["messages"][-1]["reply_id"]
        path = f"/api/chat/replies/{replies[way]}/events"
        followers[way] = [
            first,
            Follower("events", sse(person.client, "GET", path)),
            Follower("whole", whole(person.client)),
            Follower("gradio", gradio(slow, person)),
        ]
        keys[way], headers = key_of(person)
        asked = {
            "model": MODEL, "messages": [{"role": "user", "content": "by key"}], "stream": True,
        }  # fmt: skip
        chat = "/v1/chat/completions"
        programs[way] = [
            Follower("v1", sse(program(slow, headers), "POST", chat, asked)),
            Follower("events by key", sse(program(slow, headers), "GET", path)),
        ]
        other, _ = sign_in(slow, person.username)
        elsewhere[way] = Follower("elsewhere", sse(other, "GET", path))
    for group in [*followers.values(), *programs.values()]:
        assert all(one.heard.wait(20) for one in group)
    time.sleep(0.5)
    went = {}
    for way, person in people.items():
        act(slow, boss, person, way, keys[way])
        went[way] = time.monotonic()

    for way in WAYS:
        ends = [] if way in KEY_STAYS else [*programs[way]]
        if way != "revoke-key":
            ends += followers[way]
            ends += [] if way in ONE_DEVICE else [elsewhere[way]]
        for one in ends:
            one.thread.join(timeout=max(0.1, went[way] + 2 * SECONDS - time.monotonic()))
            assert one.ended_at is not None, f"{one.name} goes on after {way}"
            assert one.ended_at - went[way] < SECONDS, f"{one.name} after {way}"
            # The answer of a suspended user or an ended key is stopped: its end may come last.
            stopped = way == "suspend" or one.name == "v1"
            expected = ("ign in", *(STOPPED if stopped else ()))
            assert any(word in one.last for word in expected), f"{one.name}, {way}: {one.last}"

    for way, reply_id in replies.items():
        found = stored(slow, reply_id, ended=way == "suspend")
        if way == "suspend":
            # T14: the model stops too, and what was written is paid.
            assert (found.state, found.finish_reason) == ("done", "cancelled")
            assert 0 < found.completion_tokens < 600
            assert found.charged > 0
        else:
            assert found.state == "running", f"{way} ended the answer itself"
    stay = [elsewhere[way] for way in [*ONE_DEVICE, "revoke-key"]]
    stay += [one for way in KEY_STAYS for one in programs[way]]
    stay += [one for one in followers["revoke-key"] if one.name != "whole"]
    for one in stay:
        assert one.ended_at is None, f"{one.name} was cut off: {one.last}"
    # T14: what the revoked key had asked for is stopped and settled.
    assert not [item for item in slow.app.replies if item.key_id == keys["revoke-key"]]
    for live in slow.app.replies:
        live.stop_wanted.set()


def stored(site: Site, reply_id: str, *, ended: bool) -> Reply:
    until = time.monotonic() + 20
    while True:
        with site.app.db.read() as session:
            found = session.get_one(Reply, reply_id)
        if not ended or found.state != "running" or time.monotonic() > until:
            return found
        time.sleep(0.1)


async def drained(updates: Any) -> None:
    async for _ in updates:
        pass


def test_a_page_for_staff_ends_with_the_role(slow: Site) -> None:
    """Bar 7: a demoted administrator gets no further update of a page that was open."""
    import asyncio

    boss = slow.person(admin=True)
    name = boss.client.get("/api/auth/me").json()
    slow.person(admin=True)  # somebody has to stay

    @guard(slow.app, "machine.read")
    async def figures(_user: Any) -> Any:
        while True:
            yield "a figure"
            await asyncio.sleep(0.1)

    async def look() -> float:
        request = SimpleNamespace(cookies=dict(boss.client.cookies), headers={})
        updates = figures(request)
        await anext(updates)
        slow.app.db.write(lambda s: users.set_role(s, user_id=int(name["id"]), role="user"))
        began = time.monotonic()
        with pytest.raises(gr.Error, match="role has changed"):
            await drained(updates)
        return time.monotonic() - began

    assert asyncio.run(look()) < SECONDS
    slow.app.looks.clear()  # the loop that would forget it is gone


def test_no_look_is_kept(slow: Site) -> None:
    until = time.monotonic() + 10
    while slow.app.looks and time.monotonic() < until:
        time.sleep(0.1)
    assert slow.app.looks == {}
