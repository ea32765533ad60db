"""API keys over REST: the same door by either header, and never a wider one."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from chat_app.accounts import keys, users
from chat_app.api import scopes
from tests.api.conftest import MODEL, PASSWORD, Person, Server
from tests.api.test_matrix import routes
from tests.house import tree


def make(person: Person, **more: Any) -> dict[str, Any]:
    """A new key of the person's, as the API shows it."""
    answer = person.client.post("/api/auth/keys", json={"name": "robot", **more})
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def client_of(server: Server, key: dict[str, Any], header: str = "authorization") -> httpx.Client:
    """A program that has nothing but the key."""
    value = f"Bearer {key['key']}" if header == "authorization" else key["key"]
    return server.client(**{header: value})


def ask(client: httpx.Client, message: str = "hello there", **more: Any) -> httpx.Response:
    return client.post("/api/chat/message", json={"model": MODEL, "message": message, **more})


def test_a_key_from_its_making_to_its_end(server: Server, ann: Person) -> None:
    """Shown once; spends its owner's credits; a balance is what it was after it is gone (T31)."""
    made = make(ann, budget={"total": "50"}, expires_at="2199-01-01")
    assert made["key"].startswith(f"{made['prefix']}_")
    assert made["scopes"] == ["chat", "billing:read"]
    assert made["budget"] == {"day": None, "month": None, "total": "50"}
    assert (made["models"], made["state"], made["last_used_at"]) == (None, "active", None)
    robot = client_of(server, made)
    answer = ask(robot).json()
    price = answer["charged"]
    assert robot.get("/api/billing/balance").json()["total"] == ann.available()
    shown = ann.client.get("/api/auth/keys")
    assert made["key"] not in shown.text
    (item,) = shown.json()["items"]
    assert set(made) - {"key"} == set(item)
    assert item["spent"] == {"day": price, "month": price, "total": price}
    assert item["last_used_at"] is not None
    with server.app.db.read() as session:
        query = text("SELECT key_id FROM reply WHERE id = :id")
        assert session.execute(query, {"id": answer["reply_id"]}).scalar_one() == made["id"]
        query = text("SELECT COUNT(*) FROM event_log WHERE payload LIKE :key")
        assert session.execute(query, {"key": f"%{made['key'][13:]}%"}).scalar_one() == 0
    assert "API key" in ann.client.get("/api/notifications").json()["items"][0]["title"]
    before = ann.available()
    assert ann.client.delete(f"/api/auth/keys/{made['id']}").status_code == 204
    assert ann.available() == before
    refused = ask(robot)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert ann.client.delete(f"/api/auth/keys/{made['id']}").status_code == 404
    assert ann.client.get("/api/auth/keys").json()["items"] == []
    with server.app.db.read() as session:
        query = text("SELECT type FROM event_log WHERE payload LIKE :key ORDER BY seq")
        told = session.execute(query, {"key": f'%"{made["id"]}"%'}).scalars().all()
    assert told == ["api_key_created", "api_key_revoked"]


def test_both_headers_are_one_door(server: Server, ann: Person) -> None:
    """CVE-2026-45339: what is refused by one header is refused by the other."""
    made = make(ann)
    for header in ("authorization", "x-api-key"):
        robot = client_of(server, made, header)
        assert ask(robot).status_code == 200
        assert robot.get("/api/auth/me").status_code == 403
        assert robot.post("/api/auth/keys", json={"name": "more"}).status_code == 403
        forged = client_of(server, {"key": made["key"][:-3] + "AAA"}, header)
        assert ask(forged).status_code == 401
        empty = server.client(**{header: "Bearer" if header == "authorization" else ""})
        assert ask(empty).status_code == 401
    both = server.client(**{"authorization": f"Bearer {made['key']}", "x-api-key": made["key"]})
    assert ask(both).status_code == 200
    other = {"authorization": f"Bearer {make(ann)['key']}", "x-api-key": made["key"]}
    assert ask(server.client(**other)).status_code == 401
    # A cookie beside a key that is not good helps nobody.
    signed_in = server.client()
    login = {"login": ann.username, "password": PASSWORD}
    assert signed_in.post("/api/auth/login", json=login).status_code == 200
    assert ask(signed_in).status_code == 200
    assert ask(signed_in, message="x").request.headers.get("x-api-key") is None
    signed_in.headers["x-api-key"] = "mcb_nothing"
    assert ask(signed_in).status_code == 401


def test_every_route_has_its_scope_or_takes_no_key(server: Server, root: Person) -> None:
    """Default-deny: the live routes, with a key of all scopes and with one that lacks theirs."""
    everything = client_of(server, make(root, name="all", scopes=list(keys.SCOPES)))
    only = {
        scope: client_of(server, make(root, name=scope, scopes=[scope]))
        for scope in ("chat", "billing:read")
    }
    anonymous = server.client()
    live = routes(server)
    seen = set()
    for route in sorted(live):
        method, path = route.split(" ")
        path = path.replace("{id}", "nothing").replace("{user}", "nobody")
        if anonymous.request(method, path, json={}).status_code != 401:
            continue
        answer = everything.request(method, path, json={})
        code = answer.json()["error"]["code"] if answer.status_code >= 400 else ""
        scope = scopes.SCOPES.get(route)
        if scope is None:
            assert (answer.status_code, code) == (403, "key_not_allowed"), route
            continue
        seen.add(scope)
        assert answer.status_code != 401, route
        assert code != "key_not_allowed", route
        lacking = only["chat" if scope != "chat" else "billing:read"]
        answer = lacking.request(method, path, json={})
        assert (answer.status_code, answer.json()["error"]["scope"]) == (403, scope), route
    assert seen == set(keys.SCOPES)
    # A row without a route is a route that lost its scope with its name.
    assert scopes.SCOPES.keys() <= live
    for route, scope in scopes.SCOPES.items():
        assert "/auth/" not in route or route == "GET /api/auth/me"
        assert scope != "admin" or route.startswith("GET ")


def test_the_scopes_are_in_the_documents() -> None:
    rows = [f"| `{scope}` | {sentence} |" for scope, sentence in keys.SCOPES.items()]
    assert "\n".join(rows) in tree.read("docs/keys.md")


def test_a_key_is_no_more_than_its_owner(server: Server, root: Person) -> None:
    """The owner's role is asked at every request; a user cannot ask for the staff's scope."""
    boss = server.person(admin=True)
    made = make(boss, scopes=["admin", "account:read"])
    robot = client_of(server, made)
    outside = {"x-forwarded-for": "203.0.113.9"}
    assert robot.get("/api/admin/dashboard").status_code == 200
    assert robot.get("/metrics", headers=outside).status_code == 200
    assert client_of(server, make(boss)).get("/metrics", headers=outside).status_code == 403
    number = int(boss.id)
    server.app.db.write(lambda s: users.set_role(s, user_id=number, role="user"))
    assert robot.get("/api/admin/dashboard").json()["error"]["code"] == "admins_only"
    assert robot.get("/api/auth/me").json()["role"] == "user"
    refused = boss.client.post("/api/auth/keys", json={"name": "x", "scopes": ["admin"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "staff_scope")
    path = f"/api/admin/users/{boss.id}"
    assert root.client.patch(path, json={"suspended": True}).status_code == 200
    assert robot.get("/api/auth/me").status_code == 401
    assert ask(client_of(server, made, "x-api-key")).status_code == 401


def test_models_of_a_key(server: Server, ann: Person) -> None:
    """One place for all ways to ask: message, quote and retry; the list shows no others."""
    answered = ann.ask().json()
    robot = client_of(server, make(ann, models=["gemma-3-1b-it"]))
    shown = robot.get("/api/chat/models").json()["items"]
    assert [model["id"] for model in shown] == ["gemma-3-1b-it"]
    before = ann.available()
    for path in (
        "/api/chat/message",
        "/api/chat/quote",
        f"/api/chat/conversations/{answered['conversation_id']}/retry",
    ):
        body = {} if path.endswith("retry") else {"model": MODEL, "message": "hello"}
        refused = robot.post(path, json=body)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "key_model_not_allowed"
    assert ann.available() == before
    assert ask(robot, model="gemma-3-1b-it").status_code == 200
    for wrong in ([], ["nothing"], ["gemma-3-1b-it x"], ["x"] * 51):
        body = {"name": "x", "models": wrong}
        assert ann.client.post("/api/auth/keys", json=body).status_code == 422


def test_64_at_once_with_a_key_for_ten(server: Server, ann: Person) -> None:
    """T1 over REST: exactly ten; the rest learn which limit it was, and cost nothing."""
    price = int(ann.ask().json()["charged"])
    before = int(ann.available())
    made = make(ann, budget={"day": 10 * price})
    crowd = [client_of(server, made, ("authorization", "x-api-key")[n % 2]) for n in range(8)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ask(crowd[n % 8], f"number {n}"), range(64)))
    by_status = sorted(answer.status_code for answer in answers)
    assert by_status == [200] * 10 + [402] * 54
    error = next(a.json()["error"] for a in answers if a.status_code == 402)
    assert (error["reason"], error["limit_source"]) == ("key_budget", "key")
    assert (error["period"], error["needed"], error["limit"]) == (
        "day",
        str(price),
        f"{10 * price}",
    )
    assert {"available", "hint", "resets_at"} <= set(error)
    assert int(ann.available()) == before - 10 * price
    own = crowd[0].get("/api/billing/limits").json()["key"]
    assert own["spent"]["day"] == own["budget"]["day"] == str(10 * price)
    assert ann.client.get("/api/billing/limits").json()["key"] is None
    # The owner is not held to it, and a wider budget lets the key on at once.
    assert ann.ask().status_code == 200
    path = f"/api/auth/keys/{made['id']}"
    assert ask(crowd[0]).status_code == 402
    changed = ann.client.patch(path, json={"budget": {"day": 11 * price}})
    assert changed.json()["budget"]["day"] == str(11 * price)
    assert ask(crowd[0]).status_code == 200
    assert ask(crowd[0]).status_code == 402


def test_a_key_with_a_budget_gives_nothing_away(server: Server, ann: Person, bob: Person) -> None:
    """A stolen key costs its budget and no more; without one the account's limits hold."""
    made = make(ann, scopes=["billing:write", "orgs:write"])
    robot = client_of(server, made)
    gift = {"to_username": bob.username, "credits": 1}
    org = ann.client.post("/api/orgs", json={"name": "Harbour"}).json()["id"]
    before = ann.available()

    def codes() -> set[str]:
        answers = [
            robot.post("/api/billing/transfer", json=gift),
            robot.post(f"/api/orgs/{org}/fund", json={"credits": 1}),
            robot.post(f"/api/orgs/{org}/allocate", json={"username": "nobody", "credits": 1}),
        ]
        return {answer.json().get("error", {}).get("code", "") for answer in answers}

    assert "key_not_allowed" not in codes()
    ann.client.patch(f"/api/auth/keys/{made['id']}", json={"budget": {"total": 1000}})
    assert codes() == {"key_not_allowed"}
    assert ann.available() == before  # the welcome credits cannot be given away either


def test_making_a_key_asks_for_a_fresh_sign_in(server: Server, ann: Person) -> None:
    """ASVS 7.5: an open page that somebody finds makes no key and widens none."""
    made = make(ann, models=[MODEL])
    path = f"/api/auth/keys/{made['id']}"
    number = int(ann.id)
    server.app.db.write(
        lambda s: s.execute(
            text("UPDATE session SET created_at = created_at - :old WHERE user_id = :id"),
            {"old": 61 * 60_000_000, "id": number},
        )
    )

    def tried(password: str | None) -> tuple[int, str]:
        body = {"name": "more", **({"password": password} if password else {})}
        answer = ann.client.post("/api/auth/keys", json=body)
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    assert tried(None) == (403, "password_needed")
    assert tried("wrong horse battery staple") == (422, "wrong_current_password")
    assert tried(PASSWORD) == (201, "")
    for wider in ({"models": None}, {"budget": None}, {"budget": {"day": 1}}):
        assert ann.client.patch(path, json=wider).status_code == 403
        assert ann.client.patch(path, json={**wider, "password": PASSWORD}).status_code == 200
    assert ann.client.patch(path, json={"name": "renamed"}).json()["name"] == "renamed"
    assert ann.client.delete(path).status_code == 204


def test_what_ends_all_sign_ins_ends_the_keys(server: Server, ann: Person) -> None:
    made = make(ann)
    robot = client_of(server, made)
    assert ask(robot).status_code == 200
    assert ann.client.post("/api/auth/logout-all").status_code == 204
    assert ask(robot).status_code == 401
    login = {"login": ann.username, "password": PASSWORD}
    tokens = server.client().post("/api/auth/login", json=login).json()
    ann.client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    (item,) = ann.client.get("/api/auth/keys").json()["items"]
    assert item["state"] == "ended"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "x", "role": "admin"},
        {"name": "x", "scopes": "chat"},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "scopes": []},
        {"name": "x", "budget": {"day": -1}},
        {"name": "x", "budget": {"day": 0.5}},
        {"name": "x", "budget": {"day": 2**63}},
        {"name": "x", "budget": {"week": 1}},
        {"name": "x", "expires_at": "2001-01-01"},
        {"name": "x", "expires_at": "soon"},
        {"name": "x\x00"},
    ],
)
def test_bodies_that_make_no_key(ann: Person, body: dict[str, Any]) -> None:
    assert ann.client.post("/api/auth/keys", json=body).status_code == 422
    assert ann.client.get("/api/auth/keys").json()["items"] == []


def test_the_number_of_keys_is_limited(server: Server, ann: Person) -> None:
    made = [make(ann) for _ in range(server.app.settings.accounts.keys_per_user)]
    refused = ann.client.post("/api/auth/keys", json={"name": "one more"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "too_many_keys")
    ann.client.delete(f"/api/auth/keys/{made[0]['id']}")
    make(ann)


def test_an_answer_of_a_revoked_key_stops(slow: Server) -> None:
    """Bar 7 for keys: the stream ends and the answer with it; what was written is charged."""
    ann = slow.person()
    made = make(ann)
    robot = client_of(slow, made)
    body = {"model": MODEL, "message": "hello", "stream": True}
    events: list[str] = []
    with robot.stream("POST", "/api/chat/message", json=body) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                events.append(line.removeprefix("event: "))
                if events.count("delta") == 3 and made:
                    ann.client.delete(f"/api/auth/keys/{made.pop('id')}")
                    made.clear()
            elif line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    assert events[-1] in ("done", "error")
    assert events.count("delta") < 300
    if events[-1] == "done":
        assert last["finish_reason"] == "cancelled"
    assert ann.client.get("/api/billing/balance").json()["held"] == "0"
