"""The audit, the proof and the reconciliation over REST."""

from sqlalchemy import text

from chat_app.flows import books
from tests.api.conftest import Person, Server


def test_the_audit_is_listed_and_filtered(server: Server, root: Person) -> None:
    person = server.person()
    root.client.patch(f"/api/admin/users/{person.id}", json={"suspended": True})
    rows = root.client.get("/api/admin/audit", params={"type": "user_changed"}).json()["items"]
    newest = rows[0]
    assert newest["actor"] == f"user:{root.id}"
    assert newest["facts"]["user_id"] == int(person.id)
    assert newest["facts"]["after"]["suspended"] is True
    page = root.client.get("/api/admin/audit", params={"limit": 1}).json()
    assert page["items"][0]["id"] == newest["id"]
    older = root.client.get("/api/admin/audit", params={"limit": 1, "cursor": page["next_cursor"]})
    assert int(older.json()["items"][0]["id"]) < int(newest["id"])
    nobody = root.client.get("/api/admin/audit", params={"actor": "user:999999"}).json()
    assert nobody == {"items": [], "next_cursor": None}
    bad = root.client.get("/api/admin/audit", params={"cursor": "x"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "invalid_audit_cursor")


def test_the_proof_says_what_is_sealed(server: Server, root: Person) -> None:
    books.seal_and_anchor(server.app)
    proof = root.client.get("/api/admin/audit/verify").json()
    assert (proof["ok"], proof["problems"]) == (True, [])
    assert {row["stream"] for row in proof["seals"]} == {"event", "transfer"}
    assert all(row["sealed_rows"] > 0 for row in proof["seals"])
    assert proof["head"].startswith("event:")
    assert proof["anchored_at"]


def test_a_difference_is_shown_with_what_to_do(server: Server, root: Person) -> None:
    """A fault is planted, found, shown, taken back and gone."""
    person = server.person()
    reply_id = person.ask().json()["reply_id"]

    def plant(step: str) -> None:
        statement = text(f"UPDATE reply SET charged = charged {step} WHERE id = :id")
        server.app.db.write(lambda session: session.execute(statement, {"id": reply_id}))

    first = root.client.post("/api/admin/reconciliation")
    assert first.json()["differences"] == 0, first.text
    plant("- 1")
    try:
        run = root.client.post("/api/admin/reconciliation").json()
        assert (run["differences"], run["fresh"], run["actor"]) == (1, 1, f"user:{root.id}")
        seen = root.client.get("/api/admin/reconciliation").json()
        [row] = seen["items"]
        assert seen["counts"] == {"answer_and_usage": 1}
        assert (row["left"], row["right"]["kind"]) == ({"kind": "reply", "id": reply_id}, "usage")
        assert row["advice"].endswith(".")
        assert row["open"] is True
    finally:
        plant("+ 1")
    root.client.post("/api/admin/reconciliation")
    assert root.client.get("/api/admin/reconciliation").json()["items"] == []
    gone = root.client.get("/api/admin/reconciliation", params={"state": "gone"}).json()["items"]
    assert [item["id"] for item in gone] == [row["id"]]
