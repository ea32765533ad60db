"""Credits over HTTP: bought once, shown exactly, moved by administrators with a reason."""

import threading

import httpx
import pytest

from tests.api.conftest import Person, Server


def test_a_package_is_bought_and_its_credits_come_once(ann: Person) -> None:
    """T28: ten confirmations at once are one grant."""
    packages = ann.client.get("/api/billing/packages").json()["items"]
    package = next(item for item in packages if item["bonus_credits"] != "0")
    order = ann.client.post("/api/billing/add", json={"package_id": package["id"]})
    assert order.status_code == 201
    assert order.json()["status"] == "pending"
    assert order.json()["amount"] == package["price"]
    assert order.json()["checkout_url"] is None
    assert ann.available() == "100"
    path = f"/api/billing/payments/{order.json()['payment_id']}"
    answers: list[httpx.Response] = []
    barrier = threading.Barrier(10)

    def confirm() -> None:
        barrier.wait()
        answers.append(ann.client.post(f"{path}/confirm"))

    threads = [threading.Thread(target=confirm) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["status"] for answer in answers} == {"paid"}
    total = 100 + int(package["credits"]) + int(package["bonus_credits"])
    assert ann.available() == str(total)
    assert ann.client.get(path).json()["status"] == "paid"


def test_orders_keep_their_key(ann: Person) -> None:
    def order(**body: object) -> httpx.Response:
        return ann.client.post("/api/billing/add", json=body, headers={"Idempotency-Key": "k"})

    first = order(package_id="starter")
    assert order(package_id="starter").json() == first.json()
    clash = order(package_id="pro")
    assert (clash.status_code, clash.json()["error"]["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"package_id": "starter", "credits": 100}, 422),
        ({"package_id": "no-such"}, 404),
        ({"credits": 0}, 422),
        ({"credits": -100}, 422),
        ({"credits": "1e3"}, 422),
        ({"credits": 250.5}, 422),
        ({"credits": True}, 422),
        ({"credits": "99999999999999999999"}, 422),
        ({"credits": 10**30}, 422),
        ({"credits": 1}, 422),
        ({"credits": None}, 422),
        ({"credits": 250, "price": 1}, 422),
    ],
)
def test_bad_orders_are_refused(ann: Person, body: dict[str, object], status: int) -> None:
    answer = ann.client.post("/api/billing/add", json=body)
    assert answer.status_code == status, answer.text


def test_a_custom_amount_has_its_price(ann: Person) -> None:
    for credits in (250, "250"):
        order = ann.client.post("/api/billing/add", json={"credits": credits}).json()
        assert order["credits"] == "250"
        assert order["amount"] == {"amount": 250, "currency": "USD"}


def test_transactions_tell_the_whole_story(ann: Person) -> None:
    answer = ann.ask().json()
    order = ann.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    ann.client.post(f"/api/billing/payments/{order['payment_id']}/confirm")
    rows = ann.client.get("/api/billing/transactions").json()["items"]
    assert [row["type"] for row in rows] == ["purchase", "message", "welcome"]
    assert rows[1]["credits"] == "-1"
    assert rows[1]["reply_id"] == answer["reply_id"]
    assert rows[0]["balance_after"] == ann.available()
    only = ann.client.get("/api/billing/transactions", params={"type": "message"}).json()
    assert [row["id"] for row in only["items"]] == [rows[1]["id"]]
    page = ann.client.get("/api/billing/transactions", params={"limit": 2}).json()
    rest = ann.client.get(
        "/api/billing/transactions", params={"limit": 2, "cursor": page["next_cursor"]}
    ).json()
    assert [row["id"] for row in page["items"] + rest["items"]] == [row["id"] for row in rows]
    assert rest["next_cursor"] is None
    assert ann.client.get("/api/billing/transactions", params={"to": "2000-01-01"}).json() == {
        "items": [],
        "next_cursor": None,
    }


def test_usage_is_summed_by_period(ann: Person) -> None:
    answers = [ann.ask().json() for _ in range(3)]
    ann.ask(model="gemma-3-1b-it")
    today = answers[0]["created_at"][:10]
    for period, start in [("minute", today + "T"), ("day", today), ("month", today[:7])]:
        rows = ann.client.get("/api/billing/usage", params={"period": period}).json()["items"]
        assert all(row["period"].startswith(start) for row in rows)
        demo = [row for row in rows if row["model"] == answers[0]["model"]]
        assert sum(row["messages"] for row in demo) == 3
        assert sum(int(row["credits"]) for row in demo) == 3
        assert sum(row["completion_tokens"] for row in demo) == 24
        assert {row["credits"] for row in rows if row not in demo} == {"10"}
    long = ann.client.get("/api/billing/usage", params={"period": "minute", "from": "2020-01-01"})
    assert (long.status_code, long.json()["error"]["code"]) == (422, "window_too_long")
    old = {"from": "2020-01-01", "to": "2020-01-05"}
    assert ann.client.get("/api/billing/usage", params=old).json()["items"] == []


def test_an_administrator_moves_credits_once_and_with_a_reason(
    server: Server, root: Person, ann: Person
) -> None:
    path = f"/api/admin/users/{ann.id}/credits"
    headers = {"Idempotency-Key": f"gift-{ann.id}"}
    body = {"credits": "2.5", "reason": "a gift"}
    for _ in range(3):
        answer = root.client.post(path, json=body, headers=headers)
        assert answer.json()["available"] == "102.5"
    clash = root.client.post(path, json={**body, "credits": "3"}, headers=headers)
    assert clash.status_code == 409
    for bad in ({"credits": 1}, {"credits": 1, "reason": " "}, {"credits": 0, "reason": "why not"}):
        assert root.client.post(path, json=bad).status_code == 422
    too_much = root.client.post(path, json={"credits": "-103", "reason": "too much"})
    assert too_much.status_code == 402
    gone = root.client.post("/api/admin/users/999999/credits", json=body)
    assert gone.status_code == 404
    assert ann.available() == "102.5"


def test_accounts_are_found_promoted_and_suspended(server: Server, root: Person) -> None:
    person = server.person("findme")
    found = root.client.get("/api/admin/users", params={"q": "FINDME"}).json()["items"]
    assert [(row["id"], row["balance"]["available"]) for row in found] == [(person.id, "100")]
    assert "password" not in str(found)
    path = f"/api/admin/users/{person.id}"
    assert root.client.patch(path, json={"role": "admin"}).json()["role"] == "admin"
    assert person.client.get("/api/admin/dashboard").status_code == 200
    assert root.client.patch(path, json={"role": "user"}).status_code == 200
    assert person.client.get("/api/admin/dashboard").status_code == 403
    assert root.client.patch(path, json={"suspended": True}).json()["suspended"] is True
    assert person.client.get("/api/auth/me").status_code == 401
    again = server.client().post(
        "/api/auth/login",
        json={"login": "findme", "password": "correct horse battery staple"},
    )
    assert (again.status_code, again.json()["error"]["code"]) == (403, "account_suspended")
    listed = root.client.get("/api/admin/users", params={"status": "suspended"}).json()["items"]
    assert person.id in [row["id"] for row in listed]
    for body in ({"role": "root"}, {"suspended": 1}, {"credits": 5}):
        assert root.client.patch(path, json=body).status_code == 422
    assert root.client.patch(path, json={"suspended": False}).status_code == 200
