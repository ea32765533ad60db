"""Credits given away, and organisations that pay: over HTTP, as programs see it."""

import threading
import time
from typing import Any

import httpx
import pytest

from chat_app.accounts import users
from tests.api.conftest import Person, Server
from tests.api.matrix import QUESTION


def gift(root: Person, person: Person, credits: int = 50) -> None:
    """Credits that may be given away."""
    body = {"credits": credits, "reason": "for the test"}
    root.client.post(f"/api/admin/users/{person.id}/credits", json=body).raise_for_status()


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def send(person: Person, to: str, credits: object, **more: Any) -> httpx.Response:
    headers = {"Idempotency-Key": more.pop("key")} if "key" in more else {}
    body = {"to_username": to, "credits": credits, **more}
    return person.client.post("/api/billing/transfer", json=body, headers=headers)


@pytest.fixture
def org(root: Person, ann: Person, bob: Person) -> str:
    """Ann's organisation: thirty credits, and Bob is a member."""
    gift(root, ann)
    made = ann.client.post("/api/orgs", json={"name": "  Harbour   Ltd "})
    assert (made.status_code, made.json()["name"]) == (201, "Harbour Ltd")
    id: str = made.json()["id"]
    assert made.json()["payer"] == f"org:{id}"
    funded = ann.client.post(f"/api/orgs/{id}/fund", json={"credits": 30})
    assert funded.json()["available"] == "30"
    added = ann.client.post(f"/api/orgs/{id}/members", json={"username": bob.username})
    assert [row["role"] for row in added.json()["members"]] == ["owner", "member"]
    return id


def test_credits_are_sent_once_and_both_see_them(root: Person, ann: Person, bob: Person) -> None:
    gift(root, ann)
    first = send(ann, bob.username.upper(), "12.5", note=" for   lunch ", key="lunch")
    assert first.status_code == 201
    shown = first.json()
    assert (shown["to_username"], shown["credits"]) == (bob.username, "12.5")
    assert (shown["note"], shown["balance_after"]) == ("for lunch", "137.5")
    assert (
        send(ann, bob.username.upper(), "12.5", note=" for   lunch ", key="lunch").json() == shown
    )
    assert error(send(ann, bob.username, 12, key="lunch")) == (409, "idempotency_conflict")
    assert (ann.available(), bob.available()) == ("137.5", "112.5")
    for person, credits in ((ann, "-12.5"), (bob, "12.5")):
        query = {"type": "transfer"}
        (row,) = person.client.get("/api/billing/transactions", params=query).json()["items"]
        assert row["credits"] == credits
        assert row["description"] == f"{ann.username} → {bob.username}: for lunch"
    # What was received may be given on; the welcome credits of both stay where they are.
    assert send(bob, ann.username, "12.5").status_code == 201


def test_welcome_credits_stay(ann: Person, bob: Person) -> None:
    """T34: a farm of accounts cannot collect what each was given."""
    answer = send(ann, bob.username, 10)
    assert error(answer) == (402, "not_transferable")
    assert answer.json()["error"]["available"] == "0"
    made = ann.client.post("/api/orgs", json={"name": "Farm"}).json()["id"]
    pooled = ann.client.post(f"/api/orgs/{made}/fund", json={"credits": 10})
    assert error(pooled) == (402, "not_transferable")


def test_names_are_not_told(server: Server, root: Person, ann: Person, bob: Person) -> None:
    """Nobody, somebody suspended, and an address all get one answer."""
    gift(root, ann)
    gone = server.person()
    root.client.patch(f"/api/admin/users/{gone.id}", json={"suspended": True})
    answers = [
        send(ann, name, 1)
        for name in (
            "no-such-person",
            gone.username,
            f"{bob.username}@example.org",
            "",
            "\u00fc",
            "a" * 200,
        )
    ]
    assert {error(answer) for answer in answers} == {(404, "unknown_recipient")}
    assert len({answer.text for answer in answers}) == 1
    assert error(send(ann, ann.username, 1)) == (422, "own_wallet")


@pytest.mark.parametrize(
    "credits", [0, -1, "0.5", "10000.000001", 0.5, "1e3", None, True, "9" * 30]
)
def test_bad_amounts_are_refused(root: Person, ann: Person, bob: Person, credits: object) -> None:
    assert send(ann, bob.username, credits).status_code == 422
    assert (ann.available(), bob.available()) == ("100", "100")


def test_limits_of_a_day_and_an_hour(serve: Any) -> None:
    own = serve(
        transfers={"max_credits": 10, "max_credits_per_day": 15}, limits={"transfers_per_hour": 4}
    )
    root, ann, bob = own.person(admin=True), own.person(), own.person()
    gift(root, ann)
    assert error(send(ann, bob.username, 11)) == (422, "transfer_size")
    assert send(ann, bob.username, 10).status_code == 201
    refused = send(ann, bob.username, 6)
    assert error(refused) == (402, "transfer_day_limit")
    assert refused.json()["error"]["available"] == "5"
    assert send(ann, bob.username, 5).status_code == 201
    send(ann, bob.username, 1)
    often = send(ann, bob.username, 1)
    assert error(often) == (429, "too_many_transfers")
    assert 0 < int(often.headers["Retry-After"]) <= 3600
    assert bob.available() == "115"


def test_the_organisation_pays_for_its_members(ann: Person, bob: Person, org: str) -> None:
    """By the body or the header; the member's own credits stay; the usage says who and what."""
    body = {**QUESTION, "payer": f"org:{org}"}
    first = bob.client.post("/api/chat/message", json=body).json()
    assert (first["charged"], first["payer"]) == ("1", f"org:{org}")
    assert first["balance"]["available"] == "100"
    assert bob.ask("mine").json()["payer"] is None
    header = {"X-Payer": f"org:{org}"}
    second = bob.client.post("/api/chat/message", json=QUESTION, headers=header).json()
    again = f"/api/chat/conversations/{second['conversation_id']}/retry"
    assert bob.client.post(again, json={"payer": f"org:{org}"}).json()["charged"] == "1"
    ann.client.post("/api/chat/message", json=body).raise_for_status()
    assert bob.available() == "99"
    shown = ann.client.get(f"/api/orgs/{org}").json()
    assert shown["balance"]["available"] == "26"
    assert {row["username"]: row["used"] for row in shown["members"]} == {
        ann.username: "1",
        bob.username: "3",
    }
    lines = ann.client.get(f"/api/orgs/{org}/usage").json()["items"]
    assert {(row["username"], row["messages"], row["credits"]) for row in lines} == {
        (ann.username, 1, "1"),
        (bob.username, 3, "3"),
    }
    own = bob.client.get(f"/api/orgs/{org}/usage").json()["items"]
    assert {row["username"] for row in own} == {bob.username}
    assert [row["username"] for row in bob.client.get(f"/api/orgs/{org}").json()["members"]] == [
        bob.username
    ]
    long = {"from": "2020-01-01"}
    assert ann.client.get(f"/api/orgs/{org}/usage", params=long).status_code == 422


def test_whose_limit_it_was(ann: Person, bob: Person, org: str) -> None:
    """A month that is used up, an empty pool: 402 that says which, and nothing is held."""
    path = f"/api/orgs/{org}/members/{bob.username}"
    ann.client.patch(path, json={"monthly_limit": "1.5"}).raise_for_status()
    body = {**QUESTION, "payer": f"org:{org}"}
    assert bob.client.post("/api/chat/message", json=body).status_code == 200
    refused = bob.client.post("/api/chat/message", json=body)
    assert error(refused) == (402, "budget_reached")
    facts = refused.json()["error"]
    assert (facts["reason"], facts["limit_source"]) == ("budget", "member")
    assert (facts["needed"], facts["available"]) == ("1", "0.5")
    assert facts["hint"]
    ann.client.patch(path, json={"role": "member"}).raise_for_status()
    assert error(bob.client.post("/api/chat/message", json=body))[0] == 402
    cleared = ann.client.patch(path, json={"monthly_limit": None}).json()["members"]
    assert [row["monthly_limit"] for row in cleared] == [None, None]
    assert bob.client.post("/api/chat/message", json=body).status_code == 200
    dear = {**body, "model": "gemma-3-12b-it"}
    empty = bob.client.post("/api/chat/message", json=dear)
    assert error(empty) == (402, "out_of_credits")
    assert empty.json()["error"]["limit_source"] == "org"
    assert ann.client.get(f"/api/orgs/{org}").json()["balance"]["held"] == "0"


def test_strangers_and_bad_payers(server: Server, ann: Person, bob: Person, org: str) -> None:
    eve = server.person()
    for payer, expected in (
        (f"org:{org}", (404, "org_not_found")),
        ("org:99999999", (404, "org_not_found")),
        ("org:0", (422, "invalid_payer")),
        ("org:1e3", (422, "invalid_payer")),
        (f"user:{ann.id}", (422, "invalid_payer")),
        ("", (422, "invalid_payer")),
    ):
        for path in ("message", "quote"):
            body = {**QUESTION, "payer": payer}
            assert error(eve.client.post(f"/api/chat/{path}", json=body)) == expected
            answer = eve.client.post(
                f"/api/chat/{path}", json=QUESTION, headers={"X-Payer": payer or "x"}
            )
            assert error(answer) == expected
    both = {**QUESTION, "payer": f"org:{org}"}
    clash = bob.client.post("/api/chat/message", json=both, headers={"X-Payer": "org:1234"})
    assert error(clash) == (422, "invalid_payer")
    assert eve.available() == "100"


def test_64_sends_of_8_members_on_a_pool_for_ten(serve: Any) -> None:
    """T1 over HTTP: exactly as many answers as the pool is good for."""
    own = serve()
    root, people = own.person(admin=True), [own.person() for _ in range(8)]
    gift(root, people[0])
    org = people[0].client.post("/api/orgs", json={"name": "Ten"}).json()["id"]
    people[0].client.post(f"/api/orgs/{org}/fund", json={"credits": 10})
    for person in people[1:]:
        body = {"username": person.username}
        people[0].client.post(f"/api/orgs/{org}/members", json=body).raise_for_status()
    statuses: list[int] = []

    def ask(person: Person) -> None:
        body = {**QUESTION, "payer": f"org:{org}"}
        statuses.append(person.client.post("/api/chat/message", json=body).status_code)

    crowd = [threading.Thread(target=ask, args=(people[n % 8],)) for n in range(64)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert sorted(statuses) == [200] * 10 + [402] * 54
    shown = people[0].client.get(f"/api/orgs/{org}").json()
    assert shown["balance"]["total"] == "0"
    assert sum(int(row["used"]) for row in shown["members"]) == 10


def test_a_member_who_is_removed_mid_answer(serve: Any) -> None:
    """The answer ends and is paid by the pool, the history stays, and no second one begins."""
    own = serve(script={"tokens": 30, "tokens_per_second": 30})
    root, ann, bob = own.person(admin=True), own.person(), own.person()
    gift(root, ann)
    org = ann.client.post("/api/orgs", json={"name": "Quick"}).json()["id"]
    ann.client.post(f"/api/orgs/{org}/fund", json={"credits": 10})
    ann.client.post(f"/api/orgs/{org}/members", json={"username": bob.username})
    body = {**QUESTION, "payer": f"org:{org}"}
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(bob.client.post("/api/chat/message", json=body))
    )
    asking.start()
    while not bob.client.get("/api/chat/status").json()["running"]:
        time.sleep(0.01)
    assert ann.client.get(f"/api/orgs/{org}").json()["balance"]["held"] == "1"
    assert ann.client.delete(f"/api/orgs/{org}").status_code == 409
    assert ann.client.delete(f"/api/orgs/{org}/members/{bob.id}").status_code == 204
    assert error(bob.client.post("/api/chat/message", json=body)) == (404, "org_not_found")
    assert bob.client.get(f"/api/orgs/{org}").status_code == 404
    asking.join()
    assert (answers[0].status_code, answers[0].json()["charged"]) == (200, "1")
    assert ann.client.get(f"/api/orgs/{org}").json()["balance"] == {
        "total": "9",
        "held": "0",
        "available": "9",
        "debt": "0",
    }
    (line,) = ann.client.get(f"/api/orgs/{org}/usage").json()["items"]
    assert (line["username"], line["credits"]) == (bob.username, "1")
    assert bob.available() == "100"
    # Back in the same month, what was used still counts.
    again = {"username": bob.username, "monthly_limit": 1}
    rows = ann.client.post(f"/api/orgs/{org}/members", json=again).json()["members"]
    assert [row["used"] for row in rows if row["username"] == bob.username] == ["1"]
    assert error(bob.client.post("/api/chat/message", json=body)) == (402, "budget_reached")


def test_roles(server: Server, ann: Person, bob: Person, org: str) -> None:
    """Members spend, admins look after members, owners run it; an owner is always there."""
    eve = server.person()
    base = f"/api/orgs/{org}"

    def member(person: Person) -> str:
        return f"{base}/members/{person.username}"

    for answer in (
        bob.client.patch(base, json={"name": "Mine"}),
        bob.client.post(f"{base}/members", json={"username": eve.username}),
        bob.client.patch(member(bob), json={"monthly_limit": None}),
        bob.client.delete(member(ann)),
        bob.client.post(f"{base}/allocate", json={"username": bob.username, "credits": 5}),
        bob.client.post(f"{base}/transfer-ownership", json={"username": bob.username}),
        bob.client.delete(base),
    ):
        assert error(answer) == (403, "org_role")
    assert error(ann.client.delete(member(ann))) == (409, "last_owner")
    assert error(ann.client.patch(member(ann), json={"role": "member"})) == (409, "last_owner")
    assert ann.client.patch(member(bob), json={"role": "admin"}).status_code == 200
    added = bob.client.post(f"{base}/members", json={"username": eve.username})
    assert added.status_code == 201
    double = bob.client.post(f"{base}/members", json={"username": eve.username})
    assert error(double) == (409, "already_member")
    for answer in (
        bob.client.patch(member(eve), json={"role": "admin"}),
        bob.client.patch(member(bob), json={"role": "owner"}),
        bob.client.patch(member(ann), json={"monthly_limit": 0}),
        bob.client.delete(member(ann)),
    ):
        assert error(answer) == (403, "org_role")
    assert bob.client.delete(member(eve)).status_code == 204
    assert error(bob.client.delete(member(eve))) == (404, "not_a_member")
    allocated = bob.client.post(f"{base}/allocate", json={"username": bob.username, "credits": 5})
    assert allocated.json()["available"] == "25"
    assert bob.available() == "105"
    handed = ann.client.post(f"{base}/transfer-ownership", json={"username": bob.username})
    assert {row["username"]: row["role"] for row in handed.json()["members"]} == {
        bob.username: "owner",
        ann.username: "admin",
    }
    assert error(ann.client.delete(base)) == (403, "org_role")
    assert ann.client.delete(member(ann)).status_code == 204
    assert bob.client.delete(base).status_code == 204
    assert bob.available() == "130"
    assert bob.client.get(base).status_code == 404
    assert bob.client.get("/api/orgs").json()["items"] == []
    (closed, allocation) = bob.client.get(
        "/api/billing/transactions", params={"type": "allocation"}
    ).json()["items"]
    assert (closed["credits"], allocation["credits"]) == ("25", "5")


def test_keys_of_organisations(ann: Person, bob: Person, org: str) -> None:
    """T12: each of the three ways that credits move acts once for a key."""
    for path, body in (
        ("fund", {"credits": 2}),
        ("allocate", {"credits": 3, "username": bob.username}),
    ):
        answers = [
            ann.client.post(
                f"/api/orgs/{org}/{path}", json=body, headers={"Idempotency-Key": path}
            ).json()
            for _ in range(3)
        ]
        assert answers[0] == answers[1] == answers[2]
        clash = ann.client.post(
            f"/api/orgs/{org}/{path}",
            json={**body, "credits": 9},
            headers={"Idempotency-Key": path},
        )
        assert error(clash) == (409, "idempotency_conflict")
    assert ann.client.get(f"/api/orgs/{org}").json()["balance"]["total"] == "29"
    assert (ann.available(), bob.available()) == ("118", "103")
    made = [
        ann.client.post("/api/orgs", json={"name": "Once"}, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert made[0].json()["id"] == made[1].json()["id"]
    for name in ("", "  ", "x" * 65, "a\x00b"):
        assert ann.client.post("/api/orgs", json={"name": name}).status_code == 422


def test_the_sum_of_a_members_role_is_read_with_the_message(
    server: Server, ann: Person, bob: Person, org: str
) -> None:
    """A suspended member is nobody's guest either: their token ends with the suspension."""
    number = int(bob.id)
    server.app.db.write(lambda s: users.set_suspended(s, user_id=number, suspended=True))
    body = {**QUESTION, "payer": f"org:{org}"}
    assert bob.client.post("/api/chat/message", json=body).status_code in (401, 403)
