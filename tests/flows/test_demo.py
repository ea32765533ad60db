"""The demonstration: visitors become made-up people, and nobody real is ever handed out."""

from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from chat_app.accounts import users
from chat_app.api.demo import Door
from chat_app.app import App
from chat_app.flows import demo, signin
from chat_app.ml.tables import DemoUser
from tests import apps


async def get(door: Door, query: str = "", cookie: str = "", path: str = "/") -> dict[str, Any]:
    """What the door answers; status 200 is the page behind it."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"cookie", cookie.encode())] if cookie else []
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(),
             "headers": headers, "client": ("198.18.0.1", 1)}  # fmt: skip
    await door(scope, None, send)  # type: ignore[arg-type]
    return {"status": sent[0]["status"], **dict(sent[0].get("headers", []))}


async def page(_scope: Any, _receive: Any, send: Any) -> None:
    """Stands for the page."""
    await send({"type": "http.response.start", "status": 200})


def add(app: App, name: str, scenario: str | None = None, role: str = "user") -> int:
    """Somebody; made up where there is a scenario, of which the honest have an empty one."""

    def story(session: Any) -> int:
        made = users.create(
            session, username=name, email=f"{name}@example.org", password_hash="", now=1, role=role
        )
        assert made.id is not None
        if scenario is not None:
            session.add(DemoUser(user_id=made.id, seed=1, scenario=scenario))
        return made.id

    return app.db.write(story)


@apps.in_loop
async def test_a_visitor_is_signed_in_as_a_made_up_person(tmp_path: Path) -> None:
    async with apps.running_app(tmp_path) as app:
        door = Door(page, app)
        assert (await get(door))["status"] == 200  # nobody is there: the sign-in page
        add(app, "real")
        add(app, "chief", role="admin")
        add(app, "cheat", "sybil")
        with pytest.raises(demo.NobodyThere):
            await demo.enter(app, ip="", agent="")
        honest = {add(app, "ann", ""), add(app, "bob", "")}
        seen = set()
        for _ in range(12):
            answer = await get(door)
            assert (answer["status"], answer[b"location"]) == (303, b"/")
            morsel = next(iter(SimpleCookie(answer[b"set-cookie"].decode()).values()))
            assert morsel["httponly"]
            who = await signin.identify(app, cookie=morsel.value)
            seen.add(who.user.id)
        assert seen <= honest
        cookie = f"{morsel.key}={morsel.value}"
        assert (await get(door, cookie=cookie))["status"] == 200
        # Where all began anew, old sign-ins mean nothing and nobody is left outside.
        stale = f"{morsel.key}=of-yesterday"
        assert (await get(door, cookie=stale))["status"] == 303
        # Staff get to the sign-in page; other addresses are none of the door's business.
        assert (await get(door, "signin"))["status"] == 200
        assert (await get(door, path="/api/auth/me"))["status"] == 200
        left = await get(door, "leave", cookie)
        assert (left["status"], left[b"location"]) == (303, b"/?signin")
        assert b"Max-Age=0" in left[b"set-cookie"]


def test_an_installation_with_customers_is_no_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is filled once; with somebody real in it, the server does not start."""
    monkeypatch.setattr(demo, "USERS", 5)
    monkeypatch.setattr(demo, "MONTHS", 1)
    settings = apps.script_settings(tmp_path)
    assert demo.fill(settings)["people"] == 5
    assert demo.fill(settings) == {}
    from chat_app.app import build

    app = build(settings)
    add(app, "real")
    app.db.close()
    with pytest.raises(demo.RealPeople):
        demo.fill(settings)
