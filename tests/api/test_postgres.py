"""The whole story once on PostgreSQL: the same routes, the same numbers."""

from pathlib import Path

import httpx
import pytest

from tests.api.conftest import Server, serving


@pytest.mark.postgres
def test_the_story_on_postgres(tmp_path: Path, postgres_url: str) -> None:
    with serving(tmp_path, database={"url": postgres_url}) as server:
        story(server)


def test_the_story_on_sqlite(server: Server) -> None:
    story(server)


def story(server: Server) -> None:
    ann, bob, root = server.person(), server.person(), server.person(admin=True)
    answer = ann.ask(key="one").json()
    assert ann.ask(key="one").json() == answer
    assert ann.ask("more", key="one").status_code == 409
    stream = ann.ask(stream=True, conversation_id=answer["conversation_id"])
    assert "event: done" in stream.text
    order = ann.client.post("/api/billing/add", json={"package_id": "standard"}).json()
    paid = ann.client.post(f"/api/billing/payments/{order['payment_id']}/confirm")
    assert paid.json()["status"] == "paid"
    taken = root.client.post(
        f"/api/admin/users/{ann.id}/credits", json={"credits": "-0.25", "reason": "for a test"}
    )
    assert taken.json()["available"] == ann.available() == "2297.75"
    rows = ann.client.get("/api/billing/transactions", params={"limit": 3}).json()
    assert [row["type"] for row in rows["items"]] == ["adjustment", "purchase", "message"]
    assert rows["next_cursor"]
    for period in ("minute", "day", "month"):
        lines = ann.client.get("/api/billing/usage", params={"period": period}).json()["items"]
        assert sum(line["messages"] for line in lines) == 2
    hits = ann.client.get("/api/chat/history", params={"q": "HELLO"}).json()["items"]
    assert len(hits) == 2
    found = root.client.get("/api/admin/users", params={"q": ann.username.upper()}).json()
    assert ann.id in [row["id"] for row in found["items"]]
    assert bob.client.get(f"/api/chat/replies/{answer['reply_id']}").status_code == 404
    body = {"refresh_token": ann.tokens["refresh_token"]}
    fresh = httpx.post(f"{server.url}/api/auth/refresh", json=body, timeout=60).json()
    assert fresh["access_token"]
    path = f"/api/admin/users/{ann.id}"
    assert root.client.patch(path, json={"suspended": True}).status_code == 200
    assert ann.client.get("/api/auth/me").status_code == 401
    assert root.client.get("/readyz").json()["status"] == "ok"
    path = f"/api/chat/conversations/{bob.ask().json()['conversation_id']}"
    assert bob.client.delete(path).status_code == 204
