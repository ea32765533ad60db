"""Every route against every kind of caller: the written matrix is the truth (bar 4)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlmodel import Session

from chat_app.credits import plans
from chat_app.credits.plans import Plan
from chat_app.money import MICRO, Money
from chat_app.notify import inbox, kinds, outbox
from tests.api.conftest import Person, Server
from tests.api.matrix import MATRIX, WEBHOOK, Row
from tests.api.test_images import sent


def routes(server: Server) -> set[str]:
    """Every method and path that the application really serves."""
    from chat_app import api

    def walk(items: Any, prefix: str = "") -> Iterator[str]:
        for route in items:
            if getattr(route, "methods", None):
                for method in route.methods - {"HEAD"}:
                    yield f"{method} {prefix}{route.path}"
            elif getattr(route, "routes", None):
                yield from walk(route.routes, prefix + getattr(route, "path", ""))

    web = api.create(server.app)
    found = set(walk(web.routes))
    documented = {
        f"{method.upper()} {path}"
        for path, methods in web.openapi()["paths"].items()
        for method in methods
    }
    assert documented <= found | documented
    return found | documented


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
    answered: dict[str, Any] = scene.owner.ask().json()
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


def image(scene: Scene) -> str:
    """An image that the owner showed to a model."""
    shown = scene.owner.ask(model="gemma-3-4b-it", images=[sent()]).json()
    talk = scene.owner.client.get(f"/api/chat/conversations/{shown['conversation_id']}").json()
    return str(talk["messages"][0]["images"][0]["id"])


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
    made: str = scene.owner.client.post("/api/orgs", json={"name": "Matrix"}).json()["id"]
    gift = {"credits": 10, "reason": "for the matrix"}
    path = f"/api/admin/users/{scene.owner.id}/credits"
    scene.root.client.post(path, json=gift).raise_for_status()
    for path, body in (("members", {"username": "matrix-mate"}), ("fund", {"credits": 5})):
        scene.owner.client.post(f"/api/orgs/{made}/{path}", json=body).raise_for_status()
    return made


def session_id(scene: Scene) -> str:
    """A session of the owner's."""
    return str(scene.owner.client.get("/api/auth/sessions").json()["items"][0]["id"])


# What `{id}` stands for, by the beginning of the path.
THINGS: dict[str, Callable[[Scene], str]] = {
    "/api/chat/conversations/": lambda scene: str(answer(scene)["conversation_id"]),
    "/api/chat/replies/": lambda scene: str(answer(scene)["reply_id"]),
    "/api/chat/images/": image,
    "/api/billing/payments/": payment,
    "/api/billing/invoices/": invoice,
    "/api/billing/hosted/": hosted,
    "/api/billing/receipts/": lambda scene: str(answer(scene)["receipt_id"]),
    "/api/auth/sessions/": session_id,
    "/api/notifications/": notification,
    "/api/webhooks/": webhook,
    "/api/orgs/": org,
    "/api/admin/users/": lambda scene: scene.owner.id,
    "/api/admin/models/": lambda _scene: "gemma-3-1b-it",
    "/api/admin/packages/": lambda _scene: "starter",
    "/api/admin/plans/": plan,
    "/api/admin/codes/": code,
    "/api/admin/invoices/": invoice,
    "/api/admin/payments/": payment,
    "/api/admin/messages/": dead_message,
    "/v1/models/": lambda _scene: "gemma-3-1b-it",
}


@pytest.fixture(scope="module")
def mates(server: Server) -> tuple[Person, Person]:
    """A member of every organisation here, and somebody who may be added."""
    return server.person("matrix-mate"), server.person("matrix-extra")


@pytest.mark.usefixtures("mates")
@pytest.mark.parametrize("route", MATRIX)
def test_the_route_answers_each_caller_as_written(server: Server, root: Person, route: str) -> None:
    method, path = route.split(" ")
    row: Row = MATRIX[route]
    owner, other, admin = server.person(), server.person(), server.person(admin=True)
    scene = Scene(server, root, owner, admin)
    if "{id}" in path:
        thing = next(make for start, make in THINGS.items() if path.startswith(start))
        path = path.replace("{id}", thing(scene)).replace("{user}", "matrix-mate")
    assert "{" not in path
    clients = {
        "anonymous": server.client(),
        "owner": owner.client,
        "other": other.client,
        "admin": admin.client,
    }
    # Whoever may act comes last, because the act may end what the others would be refused.
    last = "owner" if row.owner < 400 else "admin"
    for caller in sorted(clients, key=lambda name: name == last):
        response = clients[caller].request(method, path, json=row.body, params=row.query)
        assert response.status_code == getattr(row, caller), (caller, response.text)
        if response.status_code >= 400:
            assert set(response.json()["error"]) >= {"message", "type", "code", "param"}


@pytest.mark.parametrize("route", [route for route in MATRIX if "{id}" in route])
@pytest.mark.parametrize("id", ["nothing", "rep_x", "0", "-1", "9" * 30, "%00", "%FF"])
def test_ids_that_lead_nowhere_are_not_found(root: Person, route: str, id: str) -> None:
    method, path = route.split(" ")
    answer = root.client.request(method, path.replace("{id}", id), json=MATRIX[route].body)
    assert answer.status_code == 404
