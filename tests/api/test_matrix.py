"""Every route against every kind of caller: the written matrix is the truth (bar 4)."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.conftest import Person, Server
from tests.api.matrix import MATRIX, Row


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


def own_ids(owner: Person) -> dict[str, str]:
    """Something of the owner's for each kind of path."""
    answer = owner.ask().json()
    payment = owner.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    sessions = owner.client.get("/api/auth/sessions").json()["items"]
    return {
        "/api/chat/conversations/": answer["conversation_id"],
        "/api/chat/replies/": answer["reply_id"],
        "/api/billing/payments/": payment["payment_id"],
        "/api/admin/payments/": payment["payment_id"],
        "/api/auth/sessions/": sessions[0]["id"],
        "/api/admin/users/": owner.id,
    }


@pytest.mark.parametrize("route", MATRIX)
def test_the_route_answers_each_caller_as_written(server: Server, root: Person, route: str) -> None:
    method, path = route.split(" ")
    row: Row = MATRIX[route]
    owner, other, admin = server.person(), server.person(), server.person(admin=True)
    ids = own_ids(owner)
    for start, id in ids.items():
        if path.startswith(start):
            path = path.replace("{id}", id)
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
