"""Accounts over HTTP: cookies, tokens, throttles, other sites' pages."""

import statistics
import threading
import time
from typing import Any

import httpx
import pytest

from tests.api.conftest import PASSWORD, Person, Serve, Server, first_admin

COOKIE = "chat_session"


def register(client: httpx.Client, name: str, **more: str) -> httpx.Response:
    body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD, **more}
    return client.post("/api/auth/register", json=body)


def login(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    return client.post("/api/auth/login", json={"login": name, "password": password})


def error(answer: httpx.Response) -> dict[str, Any]:
    shape: dict[str, Any] = answer.json()["error"]
    return shape


def test_a_new_account_has_its_welcome_credits_once(server: Server) -> None:
    client = server.client()
    made = register(client, "Welcome.One")
    assert made.status_code == 201
    assert made.json()["username"] == "Welcome.One"
    assert "password" not in made.text
    assert login(client, "welcome.one@example.org").status_code == 200
    assert client.get("/api/billing/balance").json() == {
        "total": "100",
        "held": "0",
        "available": "100",
        "debt": "0",
        # Nothing was used yet, so nobody knows how long it lasts.
        "burn_per_day": None,
        "days_left": None,
        "runs_out_at": None,
        "next_to_expire": None,
        "next_grant": None,
    }
    again = register(client, "welcome.one")
    assert (again.status_code, error(again)["code"]) == (409, "name_taken")


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"username": "a b"}, "invalid_username", "username"),
        ({"email": "nowhere"}, "invalid_email", "email"),
        ({"password": "short"}, "weak_password", "password"),
        ({"password": "Password1234"}, "weak_password", "password"),
        ({"password": "x" * 1025}, "weak_password", "password"),
        ({"role": "admin"}, "invalid", "role"),
        ({"username": "nul\x00"}, "invalid", "username"),
    ],
)
def test_bad_registrations_say_which_field(
    server: Server, changes: dict[str, str], code: str, param: str
) -> None:
    answer = register(server.client(), "fields", **changes)
    assert answer.status_code == 422
    assert (error(answer)["code"], error(answer)["param"]) == (code, param)


def test_the_cookie_is_for_the_browser_alone(server: Server) -> None:
    """Bar 19: a script cannot read it, another site's page does not send it."""
    client = server.client()
    register(client, "cookie")
    header = login(client, "cookie").headers["set-cookie"]
    assert header.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(header.split("; "))
    assert "Secure" not in header
    assert client.get("/api/auth/me").json()["username"] == "cookie"


def test_https_binds_the_cookie_to_the_host(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    secure = serve(server={"public_url": "https://chat.example.org"})
    client = secure.client()
    register(client, "host")
    header = login(client, "host").headers["set-cookie"]
    assert header.startswith(f"__Host-{COOKIE}=")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(header.split("; "))
    assert "Domain" not in header
    monkeypatch.setenv("SPACE_ID", "somebody/chat")
    embedded = login(client, "host").headers["set-cookie"]
    assert {"Secure", "SameSite=None", "Partitioned"} <= set(embedded.split("; "))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_cannot_act_with_the_cookie(
    server: Server, headers: dict[str, str]
) -> None:
    person = server.person()
    client = server.client()
    assert login(client, person.username).status_code == 200
    for path in ("/api/billing/add", "/api/auth/logout-all", "/api/auth/logout", "/api/auth/login"):
        answer = client.post(path, json={"package_id": "starter"}, headers=headers)
        assert (answer.status_code, error(answer)["code"]) == (403, "cross_site"), path
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/auth/logout-all", headers=own).status_code == 204


def test_a_token_needs_no_origin(ann: Person) -> None:
    answer = ann.client.post(
        "/api/billing/add",
        json={"package_id": "starter"},
        headers={"Origin": "https://app.example"},
    )
    assert answer.status_code == 201


def test_unknown_accounts_and_wrong_passwords_look_alike(server: Server, ann: Person) -> None:
    """Bar 15: the same answer for both."""
    client = server.client()
    answers = [login(client, name, "wrong horse battery") for name in (ann.username, "nobody")]
    assert {answer.status_code for answer in answers} == {401}
    assert answers[0].json() == answers[1].json()
    assert "set-cookie" not in answers[0].headers


def test_unknown_accounts_take_as_long(serve: Serve) -> None:
    """Bar 15: the gap between medians of interleaved pairs is small, because both are hashed."""
    from chat_app.accounts.passwords import Passwords

    server = serve()
    client = server.client()
    register(client, "timing")
    hasher = Passwords(server.app.secrets.pepper, cost=8)
    calls: list[str | None] = []
    original = hasher.verify_now

    def counted(password: str, stored: str | None) -> bool:
        calls.append(stored)
        return original(password, stored)

    hasher.verify_now = counted  # type: ignore[method-assign]
    server.app.passwords = hasher
    took: dict[str, list[float]] = {"timing": [], "nobody": []}
    for _ in range(15):
        for name, times in took.items():
            began = time.perf_counter()
            login(client, name, "wrong horse battery")
            times.append(time.perf_counter() - began)
    assert calls.count(None) == 15
    assert len(calls) == 30
    medians = [statistics.median(times) for times in took.values()]
    print("medians known/unknown ms:", [round(1000 * value, 2) for value in medians])


def test_signing_out_ends_cookie_access_and_refresh_tokens(server: Server) -> None:
    for way in ("cookie", "bearer", "refresh"):
        person = server.person()
        browser = server.client()
        tokens = login(browser, person.username).json()
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        cookie = browser.cookies[COOKIE]
        if way == "cookie":
            browser.post("/api/auth/logout")
        elif way == "bearer":
            server.client(**bearer).post("/api/auth/logout")
        else:
            body = {"refresh_token": tokens["refresh_token"]}
            server.client().post("/api/auth/logout", json=body)
        for client in (server.client(**bearer), server.client(Cookie=f"{COOKIE}={cookie}")):
            assert client.get("/api/auth/me").status_code == 401, way
        body = {"refresh_token": tokens["refresh_token"]}
        assert server.client().post("/api/auth/refresh", json=body).status_code == 401
        assert person.client.get("/api/auth/me").status_code == 200


def test_signing_out_everywhere(server: Server) -> None:
    person = server.person()
    browser = server.client()
    login(browser, person.username)
    assert person.client.post("/api/auth/logout-all").status_code == 204
    for client in (person.client, browser):
        assert client.get("/api/auth/me").status_code == 401
    assert login(browser, person.username).status_code == 200


def test_refreshing_rotates_and_a_second_use_is_noticed(server: Server) -> None:
    """Bar 18, over HTTP: racing tabs get one successor."""
    person = server.person()
    client = server.client()
    body = {"refresh_token": person.tokens["refresh_token"]}
    answers: list[httpx.Response] = []
    barrier = threading.Barrier(5)

    def tab() -> None:
        barrier.wait()
        answers.append(client.post("/api/auth/refresh", json=body))

    tabs = [threading.Thread(target=tab) for _ in range(5)]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1
    fresh = {"Authorization": f"Bearer {answers[0].json()['access_token']}"}
    assert client.get("/api/auth/me", headers=fresh).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Basic YTpi", "bearer x.y.z", "Bearer é", "Token abc", "Bearer a b c"],
)
def test_strange_authorization_headers_are_refused(server: Server, header: str) -> None:
    client = server.client()
    answer = client.get("/api/auth/me", headers={"Authorization": header.encode()})  # type: ignore[dict-item]
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_sessions_are_listed_and_ended_one_by_one(server: Server) -> None:
    person = server.person()
    other = server.client(**{"User-Agent": "phone"})
    login(other, person.username)
    rows = person.client.get("/api/auth/sessions").json()["items"]
    assert (rows[0]["agent"], rows[0]["current"]) == ("phone", False)
    assert [row["current"] for row in rows] == [False, True]
    assert person.client.delete(f"/api/auth/sessions/{rows[0]['id']}").status_code == 204
    assert other.get("/api/auth/me").status_code == 401
    assert person.client.get("/api/auth/me").status_code == 200


def test_a_new_password_ends_all_sign_ins_but_the_new_one(server: Server) -> None:
    person = server.person()
    other = server.client()
    login(other, person.username)
    new = "a different long phrase"
    answer = person.client.post("/api/auth/password/change", json={"current": PASSWORD, "new": new})
    assert answer.status_code == 200
    assert person.client.get("/api/auth/me").status_code == 401
    assert other.get("/api/auth/me").status_code == 401
    fresh = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert server.client().get("/api/auth/me", headers=fresh).status_code == 200
    assert login(other, person.username).status_code == 401
    assert login(other, person.username, new).status_code == 200


def test_failed_sign_ins_are_throttled_for_the_attacker_only(serve: Serve) -> None:
    """Bar 14: the owner gets in from another address; a proxy's word counts only when set."""
    server = serve(
        limits={"login_failures_per_15_minutes": 3}, server={"public_url": "http://chat.example"}
    )
    owner = server.person()
    attacker = server.client(**{"X-Forwarded-For": "1.2.3.4, 203.0.113.7"})
    statuses = [login(attacker, owner.username, "wrong horse").status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    late = login(attacker, owner.username.upper())
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= 900
    at_home = server.client(**{"X-Forwarded-For": "198.51.100.9"})
    assert login(at_home, owner.username).status_code == 200


def test_a_browser_that_signed_in_before_is_not_kept_out(serve: Serve) -> None:
    """Bar 14: behind the same address as the attacker, who has used it up."""
    server = serve(
        limits={"login_failures_per_15_minutes": 2}, server={"public_url": "http://chat.example"}
    )
    register(server.client(), "roamer")
    browser = server.client(**{"X-Forwarded-For": "198.51.100.9"})
    cookies = login(browser, "roamer").headers.get_list("set-cookie")
    (device,) = [text for text in cookies if text.startswith("chat_device=")]
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=31536000"} <= set(device.split("; "))
    browser.post("/api/auth/logout")
    cafe = {"X-Forwarded-For": "203.0.113.50"}
    statuses = [login(server.client(**cafe), "roamer", "wrong").status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert login(server.client(**cafe), "roamer").status_code == 429
    browser.headers.update(cafe)
    assert login(browser, "roamer").status_code == 200


def test_parallel_guesses_do_not_slip_through(serve: Serve) -> None:
    """T1 for passwords: attempts are counted before they are judged."""
    server = serve(limits={"login_failures_per_15_minutes": 4})
    owner = server.person()
    client = server.client()
    statuses: list[int] = []

    def guess() -> None:
        statuses.append(login(client, owner.username, "wrong horse").status_code)

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(401) == 4
    assert statuses.count(429) == 8


def test_new_accounts_of_one_address_are_limited(serve: Serve) -> None:
    """T34."""
    server = serve(limits={"registrations_per_hour_per_ip": 3})
    client = server.client()
    statuses = [register(client, f"farm{number}").status_code for number in range(5)]
    assert statuses == [201, 201, 201, 429, 429]
    assert register(client, "farm0").status_code == 429


def test_the_first_administrator_comes_through_the_link_once(serve: Serve) -> None:
    """Bar 8: no account works on a fresh start, and the link works once."""
    server = serve()
    client = server.client()
    for name, password in [("admin", "admin"), ("admin", "Admin123!"), ("root", "123456")]:
        assert login(client, name, password).status_code == 401
    token = first_admin(server)
    body = {"username": "boss", "email": "boss@example.org", "password": PASSWORD}
    wrong = client.post("/api/auth/setup", json={**body, "token": "x" * 43})
    assert (wrong.status_code, error(wrong)["code"]) == (403, "setup_closed")
    # Staff need a longer one than users, and the refusal says how long.
    weak = client.post(
        "/api/auth/setup", json={**body, "token": token, "password": "fourteen marks"}
    )
    assert (weak.status_code, error(weak)["code"]) == (422, "weak_password")
    assert "15 characters" in error(weak)["message"]
    made = client.post("/api/auth/setup", json={**body, "token": token})
    assert (made.status_code, made.json()["role"]) == (201, "admin")
    again = client.post("/api/auth/setup", json={**body, "username": "second", "token": token})
    assert again.status_code == 403
    login(client, "boss")
    assert client.get("/api/admin/dashboard").status_code == 200
