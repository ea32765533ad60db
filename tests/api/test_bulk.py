"""Credits for many at once: all rows or none, once, and a preview that changes nothing."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import Person, Server

BULK = "/api/admin/bulk/credits"


def give(root: Person, rows: list[dict[str, Any]], key: str = "", **query: str) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"rows": rows, "reason": "a present"}
    return root.client.post(BULK, json=body, params=query, headers=headers)


def give_csv(root: Person, text: str | bytes, **query: str) -> httpx.Response:
    return root.client.post(
        BULK, content=text, params=query, headers={"Content-Type": "text/csv; charset=utf-8"}
    )


def records(server: Server, root: Person) -> int:
    return len(root.client.get("/api/admin/audit", params={"limit": 100}).json()["items"])


def test_all_rows(server: Server, root: Person, ann: Person, bob: Person) -> None:
    rows = [
        {"username": bob.username, "credits": "2.5"},
        {"username": f"{ann.username}@example.org", "credits": -40, "reason": "too many"},
        {"username": bob.username, "credits": 1},
    ]
    answer = give(root, rows, key="bulk-1")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["applied"], told["possible"], told["total"]) == (True, True, "-36.5")
    assert [(row["row"], row["user_id"], row["available"]) for row in told["items"]] == [
        (1, bob.id, "102.5"),
        (2, ann.id, "60"),
        (3, bob.id, "103.5"),
    ]
    assert give(root, rows, key="bulk-1").json() == told
    assert (ann.available(), bob.available()) == ("60", "103.5")
    other = give(root, rows[:1], key="bulk-1")
    assert other.json()["error"]["code"] == "idempotency_conflict"
    (row,) = [
        item
        for item in ann.client.get("/api/billing/transactions").json()["items"]
        if item["credits"] == "-40"
    ]
    assert row["description"] == "too many"


def test_one_bad_row_and_nothing_is_done(root: Person, ann: Person, bob: Person) -> None:
    rows = [
        {"username": ann.username, "credits": 5},
        {"username": "nobody-of-this-name", "credits": 5},
        {"username": bob.username, "credits": -1000},
        {"username": bob.username, "credits": 0},
        {"username": bob.username, "credits": 1, "reason": '=HYPERLINK("x")'},
        {"username": bob.username, "credits": 1, "reason": " "},
    ]
    answer = give(root, rows)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "bulk_refused")
    assert [(row["row"], row["code"]) for row in error["rows"]] == [
        (2, "no_such_user"),
        (3, "out_of_credits"),
        (4, "nothing_to_adjust"),
        (5, "formula_in_reason"),
        (6, "reason_missing"),
    ]
    assert (ann.available(), bob.available()) == ("100", "100")


def test_a_preview_says_the_same_and_does_nothing(
    server: Server, root: Person, ann: Person, bob: Person
) -> None:
    rows = [
        {"username": ann.username, "credits": -60},
        {"username": ann.username, "credits": -60},
        {"username": bob.username, "credits": 5},
    ]
    before = records(server, root)
    told = give(root, rows, key="bulk-2", dry_run="1").json()
    assert (told["applied"], told["possible"]) == (False, False)
    assert [(row["available"], row["code"]) for row in told["items"]] == [
        ("40", None), (None, "out_of_credits"), ("105", None),
    ]  # fmt: skip
    assert (ann.available(), bob.available()) == ("100", "100")
    assert records(server, root) == before
    # The preview's refusal is not remembered for the act.
    assert give(root, rows[1:], key="bulk-2").status_code == 200
    assert (ann.available(), bob.available()) == ("40", "105")


def test_a_spreadsheets_csv(root: Person, ann: Person, bob: Person) -> None:
    text = f"\ufeffUsername;x\r\n{ann.username}"
    assert give_csv(root, text).json()["error"]["code"] == "bad_csv"
    text = f'\ufeffUsername,Credits,Reason\r\n{ann.username}, 1.5 ,"a, b"\r\n{bob.username},2,\r\n'
    told = give_csv(root, text, reason="a gift").json()
    assert [row["available"] for row in told["items"]] == ["101.5", "102"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "username,credits\r\n",
        "username,credits\r\nann,NaN\r\n",
        "username,credits\r\nann,1e3\r\n",
        "username,credits\r\nann\r\n",
        "username,credits\r\nann,1,2,3\r\n",
        "credits\r\n1\r\n",
        "username,credits,credits\r\nann,1,2\r\n" + "x,1,1\r\n" * 3,
        "username,credits\r\n" + "ann,1\r\n" * 1001,
        b"\xff\xfe",
        "username,credits\r\nann\x00,1\r\n",
        'username,credits\r\n"ann,1\r\n',
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_csv_is_refused(root: Person, text: str | bytes) -> None:
    answer = give_csv(root, text, reason="a gift")
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["code"] in ("bad_csv", "malformed", "bulk_refused")
