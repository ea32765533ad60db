"""Buying by REST: what the balance foretells, plans, codes, top-ups, and the shelves."""

import csv
import io
from typing import Any

from tests.api.conftest import Person, Server


def make_codes(root: Person, **body: Any) -> list[dict[str, Any]]:
    answer = root.client.post("/api/admin/codes", json={"credits": 50, **body})
    assert answer.status_code == 201, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def redeem(person: Person, code: str, **headers: str) -> Any:
    return person.client.post("/api/billing/redeem", json={"code": code}, headers=headers)


def test_a_code_gives_its_credits_once(ann: Person, bob: Person, root: Person) -> None:
    """T30."""
    code = make_codes(root, valid_days=30)[0]
    given = redeem(ann, code["code"])
    assert given.status_code == 200, given.text
    assert given.json()["credits"] == "50"
    assert given.json()["balance"]["total"] == "150"
    assert redeem(ann, code["code"]).json()["error"]["code"] == "code_already_redeemed"
    refused = redeem(bob, code["code"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "code_used_up")
    balance = ann.client.get("/api/billing/balance").json()
    assert balance["next_to_expire"] == {
        "credits": "50",
        "expires_at": given.json()["expires_at"],
    }
    assert balance["next_grant"] is None
    lots = ann.client.get("/api/billing/lots").json()["items"]
    assert [(lot["source"], lot["remaining"]) for lot in lots] == [
        ("promo", "50"),
        ("welcome", "100"),
    ]
    row = ann.client.get("/api/billing/transactions?type=promo").json()["items"][0]
    assert (row["credits"], row["reference"]) == ("50", code["id"])


def test_a_repeated_redemption_has_the_same_answer(ann: Person, root: Person) -> None:
    code = make_codes(root, uses=5, per_user=5)[0]["code"]
    key = {"Idempotency-Key": "the-same"}
    first, second = (redeem(ann, code, **key) for _ in range(2))
    assert first.json() == second.json()
    assert ann.available() == "150"
    other = make_codes(root)[0]["code"]
    assert redeem(ann, other, **key).json()["error"]["code"] == "idempotency_conflict"


def test_codes_are_shown_once_and_listed_without_their_text(root: Person) -> None:
    key = {"Idempotency-Key": "batch-1"}
    body = {"credits": "2.5", "count": 3, "expires_at": "2099-01-01T00:00:00Z", "name": "Fair"}
    made = root.client.post("/api/admin/codes", json=body, headers=key).json()["items"]
    again = root.client.post("/api/admin/codes/csv", json=body, headers=key)
    assert again.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(again.text)))
    assert [row["code"] for row in rows] == [code["code"] for code in made]
    assert rows[0]["expires_at"] == "2099-01-01T00:00:00Z"
    listed = root.client.get("/api/admin/codes?limit=3").json()
    assert {code["id"] for code in listed["items"]} == {code["id"] for code in made}
    assert {code["code"] for code in listed["items"]} == {None}
    ended = root.client.delete(f"/api/admin/codes/{made[0]['batch_id']}")
    assert ended.json() == {"revoked": 3}
    past = root.client.post("/api/admin/codes", json={"credits": 1, "expires_at": "2001-01-01"})
    assert (past.status_code, past.json()["error"]["code"]) == (422, "bad_code_batch")


def test_guessing_is_slowed_down(serve: Any) -> None:
    """T30: for the user, and for the address behind many users."""
    server: Server = serve(limits={"code_failures_per_15_minutes": 2})
    ann = server.person()
    got = [redeem(ann, f"guess {number}").status_code for number in range(3)]
    assert got == [404, 404, 429]
    slowed = redeem(ann, "guess")
    assert 0 < int(slowed.headers["Retry-After"]) <= 900
    crowd = [server.person() for _ in range(5)]
    results = [redeem(person, "guess").status_code for person in crowd for _ in range(2)]
    assert results == [404] * 8 + [429] * 2


def test_a_plan_from_beginning_to_end(ann: Person, root: Person) -> None:
    offers = [
        {"id": "light", "name": "Light", "price": {"amount": 900}, "credits": 1000},
        {"id": "heavy", "name": "Heavy", "price": {"amount": 2900}, "credits": 4000,
         "keep_periods": None},
    ]  # fmt: skip
    for offer in offers:
        assert root.client.post("/api/admin/plans", json=offer).status_code == 201
    assert root.client.post("/api/admin/plans", json=offers[0]).status_code == 409
    offered = {plan["id"] for plan in ann.client.get("/api/billing/plans").json()["items"]}
    assert {"light", "heavy"} <= offered
    assert ann.client.get("/api/billing/subscription").json() == {
        "subscription": None,
        "waiting": None,
    }
    key = {"Idempotency-Key": "plan"}
    for _ in range(2):
        held = ann.client.post(
            "/api/billing/subscription", json={"plan_id": "light"}, headers=key
        ).json()
        assert (held["status"], held["plan_id"], held["period"]) == ("active", "light", 0)
    assert ann.available() == "1100"
    balance = ann.client.get("/api/billing/balance").json()
    assert balance["next_grant"] == {"credits": "1000", "at": held["renews_at"], "kind": "plan"}
    assert balance["next_to_expire"]["expires_at"] == held["period_end"]
    higher = ann.client.post("/api/billing/subscription", json={"plan_id": "heavy"}).json()
    assert (higher["plan_id"], ann.available()) == ("heavy", "5100")
    lower = ann.client.post("/api/billing/subscription", json={"plan_id": "light"}).json()
    assert (lower["plan_id"], lower["next_plan_id"]) == ("heavy", "light")
    paused = ann.client.post("/api/billing/subscription/pause").json()
    assert (paused["status"], paused["renews_at"]) == ("paused", None)
    assert ann.client.post("/api/billing/subscription/pause").status_code == 409
    assert ann.client.post("/api/billing/subscription/resume").json()["status"] == "active"
    ended = ann.client.post("/api/billing/subscription/cancel").json()
    assert (ended["cancel_at_period_end"], ended["renews_at"]) == (True, None)
    types = {row["type"] for row in ann.client.get("/api/billing/transactions").json()["items"]}
    assert types == {"plan", "welcome"}


def test_packages_are_changed_by_what_is_named(ann: Person, root: Person) -> None:
    body = {"id": "tiny", "name": "Tiny", "price": {"amount": 100}, "credits": 90}
    made = root.client.post("/api/admin/packages", json=body)
    assert made.status_code == 201
    for wrong in (
        {"id": "No Id"}, {"price": {"amount": -1}}, {"credits": 0}, {"credits": -5},
        {"price": {"amount": 1.5}}, {"name": ""}, {"valid_days": 0}, {"bonus_credits": "-1"},
    ):  # fmt: skip
        refused = root.client.post("/api/admin/packages", json={**body, "id": "tiny2", **wrong})
        assert refused.status_code == 422, wrong
    change = {"bonus_credits": "10", "valid_days": 30}
    changed = root.client.patch("/api/admin/packages/tiny", json=change).json()
    assert changed == {**made.json(), **change}
    assert root.client.patch("/api/admin/packages/tiny", json={}).status_code == 422
    order = ann.client.post("/api/billing/add", json={"package_id": "tiny"}).json()
    root.client.patch("/api/admin/packages/tiny", json={"active": False, "valid_days": None})
    assert ann.client.post("/api/billing/add", json={"package_id": "tiny"}).status_code == 404
    ann.client.post(f"/api/billing/payments/{order['payment_id']}/confirm").raise_for_status()
    lot = ann.client.get("/api/billing/lots").json()["items"][0]
    assert (lot["granted"], lot["source"]) == ("100", "paid")
    assert lot["expires_at"] is not None


def test_a_top_up_by_itself(ann: Person) -> None:
    at = "/api/billing/auto-topup"
    rule = {"threshold": 150, "package_id": "starter", "per_day": 2}
    assert ann.client.put(at, json={**rule, "threshold": 0}).status_code == 422
    assert ann.client.put(at, json={**rule, "package_id": "gold"}).status_code == 404
    shown = ann.client.put(at, json=rule).json()
    assert shown == {**rule, "threshold": "150", "active": True, "blocked_until": None}
    assert ann.available() == "600"  # it was below the threshold already
    assert ann.client.delete(at).status_code == 204
    assert ann.client.get(at).json()["active"] is False
