"""Prices over REST: looked at, published in two steps, and what is on the shelf."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.api.conftest import MODEL, Person, Serve, Server

OTHER = "gemma-3-12b-it"


@pytest.fixture(scope="module")
def shop(serve: Serve) -> Server:
    """A server whose prices change."""
    return serve()


@pytest.fixture(scope="module")
def owner(shop: Server) -> Person:
    return shop.person("owner", admin=True)


def test_a_price_is_previewed_confirmed_and_pinned(shop: Server, owner: Person) -> None:
    ann = shop.person()
    assert ann.ask().json()["charged"] == "1"
    body = {
        "model": MODEL,
        "kind": "per_message",
        "per_message": "30",
        "tiers": [{"unit": "messages", "from": 2, "per_message": "0.5"}],
    }
    seen = owner.client.post("/api/admin/prices", params={"preview": 1}, json=body)
    assert seen.status_code == 200
    looked = seen.json()
    assert looked["needs_confirm"]
    assert looked["factor"] == 60  # the tier against its base; the base is 30 times the old one
    assert looked["sample"] == (
        "A message of 300 tokens in and 400 out will cost 30 credits, now 1."
    )
    assert looked["total"] == {"messages": 1, "before": "1", "after": "30"}
    assert looked["users"] == [
        {"messages": 1, "before": "1", "after": "30", "id": ann.id, "username": ann.username}
    ]
    refused = owner.client.post("/api/admin/prices", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "price_needs_confirm")
    headers = {"Idempotency-Key": "publish-once"}
    made = [
        owner.client.post("/api/admin/prices", json={**body, "confirm": True}, headers=headers)
        for _ in range(2)
    ]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].json() == made[1].json()
    assert made[0].json()["state"] == "current"
    assert made[0].json()["price"] == {
        "kind": "per_message",
        "per_message": "30",
        "input_per_million": None,
        "output_per_million": None,
        "per_image": None,
        "version": 2,
        "tiers": [
            {
                "unit": "messages",
                "from": 2,
                "per_message": "0.5",
                "input_per_million": None,
                "output_per_million": None,
                "per_image": None,
            }
        ],
    }
    assert [ann.ask().json()["charged"] for _ in range(2)] == ["30", "0.5"]
    shown = ann.client.get("/api/chat/models").json()["items"]
    assert next(item for item in shown if item["id"] == MODEL)["price"]["version"] == 2


def test_versions_are_listed_with_their_states(owner: Person) -> None:
    body = {
        "model": OTHER,
        "kind": "per_token",
        "input_per_million": 1000,
        "output_per_million": "120000",
        "valid_from": "2999-01-01",
    }
    assert owner.client.post("/api/admin/prices", json=body).status_code == 422
    body["valid_from"] = _in_days(30)
    made = owner.client.post("/api/admin/prices", json=body)
    assert (made.status_code, made.json()["state"]) == (201, "scheduled")
    rows = owner.client.get("/api/admin/prices", params={"model": OTHER, "preview": 1}).json()
    assert [(row["price"]["version"], row["state"]) for row in rows["items"]] == [
        (2, "scheduled"),
        (1, "current"),
    ]
    assert all(row["preview"]["price"] == row["price"] for row in rows["items"])
    everything = owner.client.get("/api/admin/prices").json()["items"]
    assert {row["model"] for row in everything} >= {MODEL, OTHER}
    assert owner.client.get("/api/admin/prices", params={"model": "no"}).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_message": "-1"},
        {"per_message": 0.5},
        {"per_message": "NaN"},
        {"per_message": None},
        {"per_message": 1, "input_per_million": 1},
        {"per_message": "1e3"},
        {"per_message": 10**9},
        {"per_message": 1, "tiers": [{"unit": "messages", "from": "2", "per_message": 1}]},
        {"per_message": 1, "tiers": [{"unit": "credits", "from": 0, "per_message": 1}]},
        {"per_message": 1, "tiers": [{"unit": "credits", "from": 5}]},
        {"per_message": 1, "valid_from": "soon"},
        {"per_message": 1, "valid_from": "2020-01-01"},
    ],
)
@pytest.mark.parametrize("preview", [0, 1])
def test_impossible_prices_are_refused(
    owner: Person, preview: int, wrong: dict[str, object]
) -> None:
    """T20, T22: in the preview and in the publication alike."""
    body = {"model": OTHER, "kind": "per_message", "confirm": True, **wrong}
    answer = owner.client.post("/api/admin/prices", params={"preview": preview}, json=body)
    assert answer.status_code == 422, answer.text
    raw = b'{"model": "gemma-3-12b-it", "kind": "per_message", "per_message": NaN}'
    headers = {"Content-Type": "application/json"}
    assert owner.client.post("/api/admin/prices", content=raw, headers=headers).status_code in (
        400,
        422,
    )


def test_a_model_is_hidden_priced_and_offered_again(shop: Server, owner: Person) -> None:
    ann = shop.person()
    path = f"/api/admin/models/{OTHER}"
    hidden = owner.client.put(path, json={"offered": False}).json()
    assert (hidden["offered"], hidden["price"]["per_message"]) == (False, "50")
    assert OTHER not in [row["id"] for row in ann.client.get("/api/chat/models").json()["items"]]
    refused = ann.ask(model=OTHER)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_offered")
    price = {"kind": "per_message", "per_message": "40"}
    shown = owner.client.put(path, json={"offered": True, "price": price}).json()
    assert (shown["offered"], shown["price"]["per_message"]) == (True, "40")
    assert owner.client.get(path).json() == shown
    assert owner.client.put(path, json={"price": {**price, "per_message": 4000}}).status_code == 409


def _in_days(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()
