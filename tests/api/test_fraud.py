"""The fraud desk over REST: what was held, its story, and a label that counts."""

from tests.api.conftest import Person, Server

QUEUE = "/api/admin/fraud/queue"


def test_what_is_held_is_listed_and_labelled(
    server: Server, root: Person, ann: Person, bob: Person
) -> None:
    keys = [{"Idempotency-Key": name} for name in ("fraud-1", "fraud-2")]
    order = ann.client.post("/api/billing/add", json={"credits": 500}, headers=keys[0]).json()
    ann.client.post(f"/api/billing/payments/{order['payment_id']}/confirm")
    before = ann.available()
    body = {"to_username": bob.username, "credits": 490}
    held = ann.client.post("/api/billing/transfer", json=body, headers=keys[1])
    assert (held.status_code, held.json()["error"]["code"]) == (403, "held_for_review")
    assert (ann.available(), bob.available()) == (before, "100")
    page = root.client.get(QUEUE, params={"limit": 1}).json()
    (case,) = page["items"]
    assert (case["user_id"], case["type"], case["credits"]) == (ann.id, "transfer_out", "490")
    assert (case["action"], case["refused"], case["label"]) == ("hold", True, None)
    assert case["reasons"][0].startswith("topup_then_transfer")
    story = root.client.get(QUEUE, params={"user_id": ann.id}).json()["items"]
    assert [one["type"] for one in story] == ["transfer_out", "topup", "signup_bonus"]
    url = f"/api/admin/fraud/{case['id']}/label"
    labelled = root.client.post(url, json={"label": "legit"})
    assert labelled.json() == {**case, "label": "legit"}
    again = root.client.post(url, json={"label": "legit"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_labelled")
    assert case["id"] not in [one["id"] for one in root.client.get(QUEUE).json()["items"]]
    done = root.client.get(QUEUE, params={"labelled": True}).json()["items"]
    assert case["id"] in [one["id"] for one in done]
    assert root.client.post(url, json={"label": "odd"}).status_code == 422
    for bad in ("0", "x", "9" * 30):
        assert (
            root.client.post(f"/api/admin/fraud/{bad}/label", json={"label": "fraud"}).status_code
            == 404
        )
    assert root.client.get(QUEUE, params={"cursor": "x"}).status_code == 400
