"""Every route against every kind of caller: the written matrix is the truth (bar 4)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlmodel import Session

from chat_app import api
from chat_app.accounts.permissions import Permission, may
from chat_app.credits import plans
from chat_app.credits.plans import Plan
from chat_app.money import MICRO, Money
from chat_app.notify import inbox, kinds, outbox
from tests.api.conftest import PASSWORD, Person, Server
from tests.api.matrix import CALLERS, FORBIDDEN, MATRIX, STAFF, WEBHOOK, Row
from tests.api.test_images import sent

# What the owner said, and what nobody else may read anywhere.
WORDS = "herons at dawn"
COUNTRIES = count(23 * 26)  # XA, XB, …


def live(web: FastAPI) -> dict[str, Any]:
    """Every method and path that is really served, also what the description does not show."""
    return {
        f"{method} {route.path}": route
        for route in iter_route_contexts(web.routes)
        for method in (route.methods or set()) - {"HEAD"}
    }


def routes(server: Server) -> set[str]:
    """Every route by the live table and by the OpenAPI description, which has no more."""
    web = api.create(server.app)
    found = set(live(web))
    documented = {
        f"{method.upper()} {path}"
        for path, methods in web.openapi()["paths"].items()
        for method in methods
    }
    assert documented <= found
    return found


def test_the_matrix_names_every_route(server: Server) -> None:
    """A new route without a row fails, and so does a row without a route."""
    assert routes(server) == set(MATRIX)


@dataclass
class Scene:
    """Whose things a route is about, and who made the shelves."""

    server: Server
    root: Person
    owner: Person
    admin: Person


def answer(scene: Scene) -> dict[str, Any]:
    """An answer that the owner got."""
    answered: dict[str, Any] = scene.owner.ask(WORDS).json()
    return answered


def payment(scene: Scene, *, paid: bool = False) -> str:
    """An order of the owner's."""
    order = scene.owner.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    id: str = order["payment_id"]
    if paid:
        scene.owner.client.post(f"/api/billing/payments/{id}/confirm").raise_for_status()
    return id


def invoice(scene: Scene) -> str:
    """A paid invoice of the owner's."""
    payment(scene, paid=True)
    id: str = scene.owner.client.get("/api/billing/invoices").json()["items"][0]["id"]
    return id


def hosted(scene: Scene) -> str:
    """The secret of the link to an invoice of the owner's."""
    ready = scene.owner.client.post(f"/api/billing/invoices/{invoice(scene)}/generate").json()
    return str(ready["hosted_url"].rpartition("/")[2])


def shared(scene: Scene) -> str:
    """The secret of the link to a conversation of the owner's, open to everybody."""
    path = f"/api/chat/conversations/{answer(scene)['conversation_id']}/share"
    made = scene.owner.client.post(path, json={"access": "open"}).raise_for_status().json()
    return str(made["url"].rpartition("/")[2])


def folder(scene: Scene) -> str:
    """A folder of the owner's, the only one."""
    for row in scene.owner.client.get("/api/chat/folders").json()["items"]:
        scene.owner.client.delete(f"/api/chat/folders/{row['id']}")
    return str(scene.owner.client.post("/api/chat/folders", json={"name": "One"}).json()["id"])


def image(scene: Scene) -> str:
    """An image that the owner showed to a model."""
    shown = scene.owner.ask(WORDS, model="gemma-3-4b-it", images=[sent()]).json()
    talk = scene.owner.client.get(f"/api/chat/conversations/{shown['conversation_id']}").json()
    return str(talk["messages"][0]["images"][0]["id"])


def preset(scene: Scene) -> str:
    """A preset of the owner's."""
    body = {"name": "Herons", "settings": {"system": WORDS}}
    return str(scene.owner.client.post("/api/chat/presets", json=body).json()["id"])


def plan(scene: Scene) -> str:
    """A plan on the shelf."""
    offer = Plan("basic", "Basic", Money(900), 1000 * MICRO)
    with scene.server.app.db.read() as session:
        offered = plans.list_plans(session)
    if not offered:
        scene.server.app.db.write(lambda session: plans.create(session, offer, now=1))
    return "basic"


def code(scene: Scene) -> str:
    """A redemption code."""
    made = scene.admin.client.post("/api/admin/codes", json={"credits": 5}).json()
    return str(made["items"][0]["id"])


def tax_rate(scene: Scene) -> str:
    """A rate that is still to come, of a country that has none."""
    number = next(COUNTRIES)
    country = chr(65 + number // 26) + chr(65 + number % 26)
    rate = {"jurisdiction": f"{country}", "rate_bp": 500, "valid_from": "2099-01-01"}
    made = scene.admin.client.post("/api/admin/tax-rates", json=rate).raise_for_status()
    return str(made.json()["id"])


def notification(scene: Scene) -> str:
    """Something that the owner was told."""
    scene.server.app.db.write(
        lambda session: inbox.put(
            session,
            user_id=int(scene.owner.id),
            kind="announcement",
            letter=kinds.letter("announcement", {"title": "Hi", "text": "There."}),
            dedupe_key=f"matrix:{scene.owner.id}",
            now=1,
        )
    )
    return str(scene.owner.client.get("/api/notifications").json()["items"][0]["id"])


def announcement(scene: Scene) -> str:
    """An announcement on everybody's page."""
    body = {"title": "Maintenance", "text": "On Monday.", "notify": False}
    made = scene.admin.client.post("/api/admin/announcements", json=body)
    return str(made.json()["id"])


def webhook(scene: Scene) -> str:
    """A webhook of the owner's that leads nowhere."""
    scene.server.app.wire.resolver = lambda _host, _port: []
    return str(scene.owner.client.post("/api/webhooks", json=WEBHOOK).json()["id"])


def dead_message(scene: Scene) -> str:
    """A mail that was given up."""

    def story(session: Session) -> str:
        key = f"matrix:{scene.owner.id}"
        outbox.put(
            session,
            kind="mail_test",
            channel="mail",
            target="a@b.cd",
            dedupe_key=key,
            data={},
            now=1,
        )
        row = outbox.by_key(session, key)
        row.state, row.ended_at = "dead", 1
        session.add(row)
        return row.message_id

    return scene.server.app.db.write(story)


def org(scene: Scene) -> str:
    """An organisation of the owner's with a member and credits in its pool."""
    for row in scene.owner.client.get("/api/orgs").json()["items"]:  # one may have a few at most
        if row["name"] != "Boss Ltd":
            scene.owner.client.delete(f"/api/orgs/{row['id']}")
    made: str = scene.owner.client.post("/api/orgs", json={"name": "Matrix"}).json()["id"]
    for path, body in (("members", {"username": "matrix-mate"}), ("fund", {"credits": 5})):
        scene.owner.client.post(f"/api/orgs/{made}/{path}", json=body).raise_for_status()
    return made


def session_id(scene: Scene) -> str:
    """A session of the owner's."""
    return str(scene.owner.client.get("/api/auth/sessions").json()["items"][0]["id"])


def api_key(scene: Scene) -> str:
    """An API key of the owner's."""
    made = scene.owner.client.post("/api/auth/keys", json={"name": "robot"})
    return str(made.json()["id"])


# What `{id}` stands for, by the beginning of the path.
THINGS: dict[str, Callable[[Scene], str]] = {
    "/api/admin/backups/": lambda _: "chat-20260101T000000000000Z-asked",
    "/api/admin/fraud/": lambda _: "999999999",
    "/api/admin/revenue/trace/": lambda _: "pay_of_nobody",
    "/api/admin/revenue/periods/": lambda _: "2999-01",
    "/api/chat/conversations/": lambda scene: str(answer(scene)["conversation_id"]),
    "/api/chat/replies/": lambda scene: str(answer(scene)["reply_id"]),
    "/api/chat/messages/": lambda scene: str(answer(scene)["message_id"]),
    "/api/chat/images/": image,
    "/api/chat/folders/": folder,
    "/share/": shared,
    "/api/chat/presets/": preset,
    "/api/billing/payments/": payment,
    "/api/billing/invoices/": invoice,
    "/api/billing/hosted/": hosted,
    "/api/billing/receipts/": lambda scene: str(answer(scene)["receipt_id"]),
    "/api/auth/sessions/": session_id,
    "/api/auth/keys/": api_key,
    "/api/notifications/": notification,
    "/api/webhooks/": webhook,
    "/api/orgs/": org,
    "/api/admin/users/": lambda scene: scene.server.person().id,
    "/api/admin/downloads/": lambda _scene: "no-such-model",
    "/api/admin/models/": lambda _scene: "gemma-3-1b-it",
    "/api/admin/packages/": lambda _scene: "starter",
    "/api/admin/plans/": plan,
    "/api/admin/codes/": code,
    "/api/admin/invoices/": invoice,
    "/api/admin/tax-rates/": tax_rate,
    "/api/admin/payments/": payment,
    "/api/admin/messages/": dead_message,
    "/api/admin/announcements/": announcement,
    "/api/monitoring/rules/": lambda _scene: "queue_wait",
    "/api/announcements/": announcement,
    "/v1/models/": lambda _scene: "gemma-3-1b-it",
}


class Cast:
    """The eight callers, made once and signed in anew when an act has ended their sign-in.

    The owner and the mate are members of the boss's organisation.
    """

    def __init__(self, server: Server, root: Person) -> None:
        self.server, self.root = server, root
        self.people = {
            "owner": server.person("matrix-owner"),
            "other": server.person(),
            "mate": server.person("matrix-mate"),
            "boss": server.person(),
            **{role: server.person(role=role) for role in STAFF},
        }
        server.person("matrix-extra")
        gift = {"credits": 10_000, "reason": "for the matrix"}
        for name in ("owner", "boss"):
            path = f"/api/admin/users/{self.people[name].id}/credits"
            root.client.post(path, json=gift).raise_for_status()
        boss = self.people["boss"].client
        org = boss.post("/api/orgs", json={"name": "Boss Ltd"}).json()["id"]
        for name in ("owner", "mate"):
            who = {"username": self.people[name].username}
            boss.post(f"/api/orgs/{org}/members", json=who).raise_for_status()

    def client(self, caller: str) -> httpx.Client:
        """What the caller sends with."""
        return self.server.client() if caller == "anonymous" else self.people[caller].client

    def sign_in(self, caller: str) -> None:
        """A new sign-in of the same person."""
        person = self.people[caller]
        body = {"login": person.username, "password": PASSWORD}
        made = self.server.client().post("/api/auth/login", json=body).raise_for_status().json()
        person.client.headers["Authorization"] = f"Bearer {made['access_token']}"


@pytest.fixture(scope="module")
def cast(server: Server, root: Person) -> Cast:
    return Cast(server, root)


@pytest.mark.parametrize("route", MATRIX)
def test_the_route_answers_each_caller_as_written(cast: Cast, route: str) -> None:
    """Bar 4: all callers, and whoever is refused learns nothing of the owner's."""
    method, path = route.split(" ")
    row: Row = MATRIX[route]
    scene = Scene(cast.server, cast.root, cast.people["owner"], cast.people["admin"])

    def address() -> str:
        made = path
        if "{id}" in path:
            thing = next(make for start, make in THINGS.items() if path.startswith(start))
            made = path.replace("{id}", thing(scene)).replace("{user}", "matrix-mate")
        assert "{" not in made
        return made

    url = address()
    acted = False
    # Whoever may act comes last, because the act may end what the others would be refused.
    for caller in sorted(CALLERS, key=lambda name: row.status(name) < 400):
        if acted and method != "GET" and "{id}" in path:
            url = address()
        response = cast.client(caller).request(method, url, json=row.body, params=row.query)
        assert response.status_code == row.status(caller), (caller, response.text)
        if response.status_code >= 400:
            assert set(response.json()["error"]) >= {"message", "type", "code", "param"}
        elif caller != "anonymous":
            acted = True
            if path.startswith("/api/auth/") and method != "GET":
                cast.sign_in(caller)
        if row.anonymous >= 400 and caller not in ("owner", *STAFF):
            assert WORDS not in response.text
            assert "matrix-owner@example.org" not in response.text


def permission_of(route: Any) -> str | None:
    """The permission that a live route asks for, wherever among its dependencies it stands."""
    waiting = [route.dependant] if getattr(route, "dependant", None) else []
    while waiting:
        dependant = waiting.pop()
        named = getattr(dependant.call, "permission", None)
        if named:
            return str(named)
        waiting.extend(dependant.dependencies)
    return None


def test_every_route_of_staff_names_its_permission(server: Server) -> None:
    """The matrix and the program's table agree, and nothing under /admin asks for none."""
    found = {name: permission_of(route) for name, route in live(api.create(server.app)).items()}
    named = {permission for permission in found.values() if permission}
    # What has no route of its own yet, or is asked for inside of one.
    assert set(get_args(Permission)) - named == {"prices.write", "models.write"}
    for route, permission in found.items():
        row = MATRIX[route]
        if permission is None:
            assert "/admin/" not in route, f"{route} needs deps.allowed(...)"
            assert (row.admin == FORBIDDEN) == (row.other == FORBIDDEN), route
            continue
        assert row.other == row.owner == FORBIDDEN, route
        for role in STAFF:
            assert (row.status(role) != FORBIDDEN) == may(role, permission), (route, role)  # type: ignore[arg-type]


@pytest.mark.parametrize("route", [route for route in MATRIX if "{id}" in route])
@pytest.mark.parametrize("id", ["nothing", "rep_x", "0", "-1", "9" * 30, "%00", "%FF"])
def test_ids_that_lead_nowhere_are_not_found(root: Person, route: str, id: str) -> None:
    method, path = route.split(" ")
    answer = root.client.request(method, path.replace("{id}", id), json=MATRIX[route].body)
    assert answer.status_code == 404
