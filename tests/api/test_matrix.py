"""Every route against every kind of caller: the written matrix is the truth (bar 4)."""

from collections.abc import Iterator
from typing import Any

import pytest

from chat_app.credits import plans
from chat_app.credits.plans import Plan
from chat_app.money import MICRO, Money
from tests.api.conftest import Person, Server
from tests.api.matrix import MATRIX, Row
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


def of_the_shop(server: Server, admin: Person) -> dict[str, str]:
    """What an administrator has put on the shelves."""
    offer = Plan("basic", "Basic", Money(900), 1000 * MICRO)
    with server.app.db.read() as session:
        offered = plans.list_plans(session)
    if not offered:
        server.app.db.write(lambda session: plans.create(session, offer, now=1))
    made = admin.client.post("/api/admin/codes", json={"credits": 5}).json()["items"]
    return {
        "/api/admin/packages/": "starter",
        "/api/admin/plans/": "basic",
        "/api/admin/codes/": made[0]["id"],
    }


def own_invoice(owner: Person) -> tuple[str, str]:
    """The id of a paid invoice and the secret of its link."""
    payment = owner.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    owner.client.post(f"/api/billing/payments/{payment['payment_id']}/confirm")
    invoice = owner.client.get("/api/billing/invoices").json()["items"][0]["id"]
    ready = owner.client.post(f"/api/billing/invoices/{invoice}/generate").json()
    return invoice, ready["hosted_url"].rpartition("/")[2]


def own_ids(owner: Person, path: str) -> dict[str, str]:
    """Something of the owner's for each kind of path."""
    answer = owner.ask().json()
    payment = owner.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    invoice, token = own_invoice(owner)
    sessions = owner.client.get("/api/auth/sessions").json()["items"]
    return {
        "/api/chat/conversations/": answer["conversation_id"],
        "/api/chat/replies/": answer["reply_id"],
        "/api/chat/images/": own_image(owner) if path.startswith("/api/chat/images/") else "",
        "/api/billing/payments/": payment["payment_id"],
        "/api/billing/invoices/": invoice,
        "/api/admin/invoices/": invoice,
        "/api/billing/hosted/": token,
        "/api/billing/receipts/": answer["receipt_id"],
        "/api/auth/sessions/": sessions[0]["id"],
        "/api/admin/users/": owner.id,
        "/api/admin/models/": "gemma-3-1b-it",
    }


def own_image(owner: Person) -> str:
    """An image that the owner showed to a model."""
    more = {"model": "gemma-3-4b-it", "images": [sent()]}
    talk = owner.ask(**more).json()["conversation_id"]
    messages = owner.client.get(f"/api/chat/conversations/{talk}").json()["messages"]
    return str(messages[0]["images"][0]["id"])


@pytest.fixture(scope="module")
def mates(server: Server) -> tuple[Person, Person]:
    """A member of every organisation here, and somebody who may be added."""
    return server.person("matrix-mate"), server.person("matrix-extra")


def own_org(server: Server, root: Person, owner: Person) -> str:
    """An organisation with a member and credits in its pool."""
    org: str = owner.client.post("/api/orgs", json={"name": "Matrix"}).json()["id"]
    gift = {"credits": 10, "reason": "for the matrix"}
    root.client.post(f"/api/admin/users/{owner.id}/credits", json=gift).raise_for_status()
    for path, body in (("members", {"username": "matrix-mate"}), ("fund", {"credits": 5})):
        owner.client.post(f"/api/orgs/{org}/{path}", json=body).raise_for_status()
    return org


@pytest.mark.usefixtures("mates")
@pytest.mark.parametrize("route", MATRIX)
def test_the_route_answers_each_caller_as_written(server: Server, root: Person, route: str) -> None:
    method, path = route.split(" ")
    row: Row = MATRIX[route]
    owner, other, admin = server.person(), server.person(), server.person(admin=True)
    ids = own_ids(owner, path) | of_the_shop(server, admin)
    for start, id in ids.items():
        if path.startswith(start):
            path = path.replace("{id}", id)
    if path.startswith("/api/orgs/"):
        path = path.replace("{id}", own_org(server, root, owner))
        path = path.replace("{user}", "matrix-mate")
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
        answer = clients[caller].request(method, path, json=row.body, params=row.query)
        assert answer.status_code == getattr(row, caller), (caller, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) >= {"message", "type", "code", "param"}


@pytest.mark.parametrize("route", [route for route in MATRIX if "{id}" in route])
@pytest.mark.parametrize("id", ["nothing", "rep_x", "0", "-1", "9" * 30, "%00", "%FF"])
def test_ids_that_lead_nowhere_are_not_found(root: Person, route: str, id: str) -> None:
    method, path = route.split(" ")
    answer = root.client.request(method, path.replace("{id}", id), json=MATRIX[route].body)
    assert answer.status_code == 404
