"""Confirming, forgetting and resetting over HTTP: one answer for known and unknown (bar 15)."""

import re
import time
from email import message_from_bytes, policy
from typing import Any

import httpx
import pytest

from chat_app.flows import deliver, recover
from tests.api.conftest import PASSWORD, Serve, Server

NEW = "a wholly different phrase"


@pytest.fixture(scope="module")
def strict(serve: Serve) -> Server:
    """One server that wants addresses confirmed."""
    return serve(accounts={"require_verified_email": True, "mail_pause_seconds": 0})


def register(client: httpx.Client, name: str, email: str = "") -> httpx.Response:
    """A new account."""
    body = {"username": name, "email": email or f"{name}@example.org", "password": PASSWORD}
    return client.post("/api/auth/register", json=body)


def mailed(server: Server, to: str, page: str) -> str:
    """The text of the newest mail to an address with a link to a page; empty without one.

    What is sent at once comes in any order.
    """
    recover.answer_wishes(server.app)
    deliver.deliver_due(server.app)
    files = (server.app.settings.data_dir / "outbox").glob("*.eml")
    found = ""
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
        mail = message_from_bytes(path.read_bytes(), policy=policy.default)
        body = mail.get_body(("plain",))
        if mail["To"] == to and body is not None and f"#{page}=" in body.get_content():
            found = body.get_content()
    return found


def token(words: str, page: str) -> str:
    """The token in the fragment of the mailed link."""
    found = re.search(rf"^[A-Z][\w ]+: http://\S+/#{page}=([\w-]{{43}})\r?$", words, re.M)
    assert found is not None, words
    return found[1]


def link(server: Server, to: str, page: str) -> str:
    """The token of the link that was mailed; the server's own jobs may be about to send it."""
    until = time.monotonic() + 10
    while not (words := mailed(server, to, page)) and time.monotonic() < until:
        time.sleep(0.05)
    return token(words, page)


def shape(answer: httpx.Response) -> tuple[int, object, set[str]]:
    """What a stranger can compare: status, body without its own names, names of headers."""
    body: Any = answer.json() if answer.content else None
    for name in ("id", "username", "email", "created_at"):
        if isinstance(body, dict) and name in body:
            body[name] = type(body[name]).__name__
    return answer.status_code, body, set(answer.headers)


def test_from_sign_up_to_welcome_credits(strict: Server) -> None:
    client = strict.client()
    made = register(client, "ann")
    assert (made.status_code, made.json()["email_verified"]) == (201, False)
    client.post("/api/auth/login", json={"login": "ann", "password": PASSWORD}).raise_for_status()
    assert client.get("/api/billing/balance").json()["available"] == "0"
    assert client.post("/api/auth/verify-email/resend").status_code == 202
    body = {"token": link(strict, "ann@example.org", "verify")}
    done = strict.client().post("/api/auth/verify-email", json=body)
    assert done.json() == {
        "username": "ann",
        "email": "ann@example.org",
        "email_verified": True,
        "credits_given": "100",
    }
    assert client.get("/api/billing/balance").json()["available"] == "100"
    assert client.get("/api/auth/me").json()["email_verified"] is True
    again = strict.client().post("/api/auth/verify-email", json=body)
    assert (again.status_code, again.json()["error"]["code"]) == (422, "invalid_link")
    assert client.post("/api/auth/verify-email/resend").status_code == 409


def test_a_stranger_cannot_tell_who_has_an_account(strict: Server) -> None:
    """Bar 15: register, login, me, resend and forgot for a known and an unknown address."""
    owner = strict.client()
    register(owner, "known").raise_for_status()
    body = {"token": link(strict, "known@example.org", "verify")}
    owner.post("/api/auth/verify-email", json=body).raise_for_status()
    seen: list[list[object]] = []
    for name, email in (("probe1", "Known@example.org"), ("probe2", "unknown@example.org")):
        client = strict.client()
        answers = [register(client, name, email)]
        for login, password in ((email, PASSWORD), (email, "wrong horse battery")):
            body = {"login": login, "password": f"{password} {name}"}
            answers.append(client.post("/api/auth/login", json=body))
        # Their own account works the same, by its name; by the address nobody gets in.
        body = {"login": email, "password": PASSWORD + "x"}
        answers.append(client.post("/api/auth/login", json=body))
        client.post("/api/auth/login", json={"login": name, "password": PASSWORD})
        answers.append(client.get("/api/auth/me"))
        resent = client.post("/api/auth/verify-email/resend")
        assert resent.json()["message"] == f"A mail is on its way to {email}. Open the link in it."
        assert resent.status_code == 202
        client.cookies.clear()
        answers.append(client.post("/api/auth/password/forgot", json={"email": email}))
        seen.append([shape(answer) for answer in answers])
    assert seen[0] == seen[1]
    assert [one[0] for one in seen[0]] == [201, 401, 401, 401, 200, 202]  # type: ignore[index]


def test_reset_over_http(strict: Server) -> None:
    person = strict.client()
    register(person, "bob").raise_for_status()
    person.post("/api/auth/login", json={"login": "bob", "password": PASSWORD}).raise_for_status()
    asked = strict.client().post("/api/auth/password/forgot", json={"email": "BOB@example.org"})
    assert asked.status_code == 202
    body = {"token": link(strict, "bob@example.org", "reset"), "password": NEW}
    weak = strict.client().post("/api/auth/password/reset", json={**body, "password": "short"})
    assert (weak.status_code, weak.json()["error"]["code"]) == (422, "weak_password")
    assert strict.client().post("/api/auth/password/reset", json=body).status_code == 204
    assert strict.client().post("/api/auth/password/reset", json=body).status_code == 422
    assert person.get("/api/auth/me").status_code == 401
    fresh = {"login": "bob", "password": NEW}
    assert strict.client().post("/api/auth/login", json=fresh).status_code == 200


@pytest.mark.parametrize("path", ["verify-email", "password/forgot", "password/reset"])
def test_another_sites_page_cannot_ask(strict: Server, path: str) -> None:
    answer = strict.client().post(
        f"/api/auth/{path}", json={}, headers={"Origin": "https://evil.example"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")


def test_an_operator_sees_why_somebody_got_nothing(serve: Serve) -> None:
    """T34: the reason stands with the account and in the log."""
    server = serve()
    root = server.person("root", admin=True)
    register(server.client(), "farm", "root+1@example.org").raise_for_status()
    (row,) = root.client.get("/api/admin/users", params={"q": "farm"}).json()["items"]
    assert (row["welcome_refused"], row["balance"]["available"]) == ("mailbox", "0")
    assert root.client.get(f"/api/admin/users/{row['id']}").json()["welcome_refused"] == "mailbox"
    (event,) = root.client.get("/api/admin/audit?type=free_credits_refused").json()["items"]
    assert event["facts"]["reason"] == "mailbox"
