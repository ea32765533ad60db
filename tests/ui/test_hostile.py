"""Hostile input to every handler of the page, by its number, through the real queue (bar 11)."""

import json
import logging
import secrets
from typing import Any

import pytest
from sqlmodel import select

from chat_app.credits import ledger
from tests.ui.conftest import Site, Visitor

pytestmark = pytest.mark.usefixtures("drills_here")
# As raw JSON, because a polite client would not send them.
VALUES = [
    "null",
    "true",
    "-1",
    '"\\ud800"',
    '"a\\u0000b; DROP TABLE user; --"',
    '"1e400"',
    '"' + "x" * 20_000 + '"',
    "[[[1]]]",
    '{"act": "\\udfff", "id": "\\u0000", "more": {"b": 1}}',
]
# What a page cannot send is refused before Gradio reads it.
REFUSED = ["NaN", "-Infinity", "1e999", "9223372036854775808", "1" + "0" * 400, "1" * 5000]
LEAVING = {"leave", "sign_out"}


def handlers(site: Site) -> list[tuple[int, Any]]:
    """All handlers that run Python; one that several events call stands here once."""
    found = {id(fn.fn): (number, fn) for number, fn in site.demo.fns.items() if fn.fn is not None}
    return list(found.values())


def ask(person: Visitor, number: int, data: str, event_data: str = "null") -> str:
    """Join the queue with raw JSON; the event's id."""
    body = (
        f'{{"data": {data}, "fn_index": {number}, "session_hash": "{person.session}", '
        f'"event_data": {event_data}, "trigger_id": null}}'
    )
    headers = {"Content-Type": "application/json"}
    joined = person.client.post("/gradio_api/queue/join", content=body, headers=headers)
    assert joined.status_code < 500, (number, data[:100], joined.text)
    return str(joined.json().get("event_id", "")) if joined.status_code == 200 else ""


def ends(person: Visitor, events: set[str]) -> list[dict[str, Any]]:
    """How these events ended."""
    found: list[dict[str, Any]] = []
    if not events:
        return found
    for message in person.events():
        if message["msg"] == "process_completed" and message["event_id"] in events:
            found.append(message["output"] or {})
            if len(found) == len(events):
                break
    return found


@pytest.fixture(scope="module")
def rich(site: Site) -> Visitor:
    """An administrator, whom no handler turns away."""
    return site.person(admin=True)


def test_every_handler_survives_hostile_values(
    site: Site, rich: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """0 crashes, 0 balances changed: all inputs at once, and what the page says was pressed.

    Proven by taking `fit` out of the guard: half of the handlers fail.
    """
    bystander = site.person()
    before = balances(site)
    caplog.set_level(logging.WARNING)
    crashed: list[str] = []
    for number, fn in handlers(site):
        name = fn.fn.__name__
        if name in LEAVING:
            continue
        rich.session = secrets.token_hex(6)
        events = set()
        for value in VALUES:
            data = "[" + ", ".join([value] * len(fn.inputs)) + "]"
            events.add(ask(rich, number, data, value))
        for end in ends(rich, events - {""}):
            if end.get("title") == "Unexpected error" or "reference" in str(end.get("error")):
                crashed.append(f"{name}: {json.dumps(end)[:200]}")
    assert crashed == []
    assert balances(site) == before
    assert bystander.client.get("/api/auth/me").status_code == 200


def balances(site: Site) -> dict[int, int]:
    """What everybody has."""
    from chat_app.accounts.tables import User

    with site.app.db.read() as session:
        ids = session.exec(select(User.id)).all()
        return {id: ledger.balance(session, user_id=id).available for id in ids if id}


@pytest.mark.parametrize("value", REFUSED)
def test_numbers_that_no_page_sends(site: Site, rich: Visitor, value: str) -> None:
    """At any depth."""
    for data in (f"[{value}]", f'["a", {{"b": [{value}]}}]'):
        assert ask(rich, site.number("quote"), data) == ""


@pytest.mark.parametrize(
    "body",
    [
        f'{{"data": [], "fn_index": {value}}}'
        for value in ("NaN", "1e999", "-1", "9223372036854775808", '"0"', "null", "[]", "true")
    ]
    + [f'{{"data": {value}, "fn_index": 0}}' for value in ("null", '"x"', "{}", "1", "[" * 90)],
)
def test_hostile_envelopes(site: Site, rich: Visitor, body: str) -> None:
    """What surrounds the values."""
    whole = f'{body[:-1]}, "session_hash": "{rich.session}"}}'
    headers = {"Content-Type": "application/json"}
    for path in ("queue/join", "cancel"):
        answer = rich.client.post(f"/gradio_api/{path}", content=whole, headers=headers)
        assert answer.status_code < 500, answer.text
