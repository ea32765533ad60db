"""Two-factor sign-in over HTTP: set up, asked for, used once, and fresh before money moves."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from pyotp import TOTP

from chat_app.clock import ManualClock
from tests.api.conftest import PASSWORD, Person, Serve, Server


class Phone:
    """An authenticator that shows a code no one has seen, by moving the server's clock on."""

    def __init__(self, server: Server, secret: str) -> None:
        self.clock = server.app.clock
        assert isinstance(self.clock, ManualClock)
        self.totp = TOTP(secret)

    def code(self) -> str:
        assert isinstance(self.clock, ManualClock)
        self.clock.moment += timedelta(seconds=30)
        return self.totp.at(self.clock.micros() // 1_000_000)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    """A server whose clock is ours; five wrong codes are too many."""
    accounts = {"access_minutes": 60, "fresh_minutes": 20}
    served = serve(limits={"login_failures_per_15_minutes": 5}, accounts=accounts)
    served.app.clock = ManualClock()
    return served


def post(person: Person | httpx.Client, path: str, **body: Any) -> httpx.Response:
    client = person.client if isinstance(person, Person) else person
    return client.post(f"/api/auth/{path}", json=body)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def login(server: Server, person: Person, **more: str) -> httpx.Response:
    return post(server.client(), "login", login=person.username, password=PASSWORD, **more)


def enrolled(server: Server, person: Person) -> tuple[Phone, list[str]]:
    """Two-factor sign-in on; the authenticator and the backup codes."""
    made = post(person, "totp/enroll", password=PASSWORD).raise_for_status().json()
    phone = Phone(server, made["secret"])
    on = post(person, "totp/confirm", code=phone.code()).raise_for_status().json()
    return phone, on["backup_codes"]


def adjust(person: Person, credits: int = 1) -> httpx.Response:
    path = f"/api/admin/users/{person.id}/credits"
    return person.client.post(path, json={"credits": credits, "reason": "a test"})


def test_the_whole_story(server: Server) -> None:
    ann = server.person()
    other = login(server, ann).json()
    off = {"enabled": False, "backup_codes_left": 0, "verified_until": None}
    assert ann.client.get("/api/auth/totp").json() == off
    assert code_of(post(ann, "totp/confirm", code="123456")) == (409, "totp_not_enrolled")
    assert code_of(post(ann, "totp/verify", code="123456")) == (409, "totp_not_enrolled")
    wrong = post(ann, "totp/enroll", password="not it")
    assert code_of(wrong) == (422, "wrong_current_password")

    made = post(ann, "totp/enroll", password=PASSWORD)
    assert made.headers["cache-control"] == "no-store"
    assert made.json()["otpauth_uri"].startswith("otpauth://totp/")
    assert made.json()["secret"] in made.json()["otpauth_uri"]
    assert made.json()["qr_svg"].startswith("<svg")
    assert login(server, ann).status_code == 200, "it counts before it is confirmed"
    phone = Phone(server, made.json()["secret"])
    assert code_of(post(ann, "totp/confirm", code="000000")) == (422, "wrong_second_factor")
    on = post(ann, "totp/confirm", code=phone.code())
    codes = on.json()["backup_codes"]
    assert len(set(codes)) == 10
    assert code_of(post(ann, "totp/enroll", password=PASSWORD)) == (409, "totp_enabled")

    # Sign-ins from before it was on have ended, this one has not.
    bearer = {"Authorization": f"Bearer {other['access_token']}"}
    assert server.client().get("/api/auth/me", headers=bearer).status_code == 401
    seen = ann.client.get("/api/auth/totp").json()
    assert (seen["enabled"], seen["backup_codes_left"]) == (True, 10)
    assert seen["verified_until"] is not None

    assert code_of(login(server, ann)) == (401, "totp_required")
    used = phone.code()
    assert login(server, ann, totp=used).status_code == 200
    assert code_of(login(server, ann, totp=used)) == (401, "wrong_totp"), "used twice"
    assert login(server, ann, totp=codes[0]).status_code == 200
    assert code_of(login(server, ann, totp=codes[0])) == (401, "wrong_totp")
    wrong = post(server.client(), "login", login=ann.username, password="not it", totp=codes[1])
    assert code_of(wrong) == (401, "wrong_password"), "a code without the password"

    body = {"password": PASSWORD, "code": phone.code()}
    fresh = post(ann, "totp/backup-codes", **body).json()["backup_codes"]
    assert code_of(login(server, ann, totp=codes[1])) == (401, "wrong_totp")
    gone = post(ann, "totp/disable", password="not it", code=fresh[0])
    assert code_of(gone) == (422, "wrong_current_password")
    assert post(ann, "totp/disable", password=PASSWORD, code=fresh[0]).status_code == 204
    assert login(server, ann).status_code == 200
    titles = [item["title"] for item in ann.client.get("/api/notifications").json()["items"]]
    assert titles[:2] == ["Two-factor sign-in is off", "Two-factor sign-in is on"]


def test_guessing_codes_is_throttled_and_told(server: Server) -> None:
    """ASVS 6.1.1: the right password again and again does not clear the count."""
    ann = server.person()
    phone, codes = enrolled(server, ann)
    for _ in range(5):
        assert code_of(login(server, ann)) == (401, "totp_required")
        assert code_of(login(server, ann, totp="000000")) == (401, "wrong_totp")
    late = login(server, ann, totp=phone.code())
    assert code_of(late) == (429, "too_many_second_factors")
    assert int(late.headers["retry-after"]) > 0
    titles = [item["title"] for item in ann.client.get("/api/notifications").json()["items"]]
    assert titles.count("Somebody has your password and tries codes") == 1
    # The count drains with time.
    assert isinstance(server.app.clock, ManualClock)
    server.app.clock.moment += timedelta(hours=1)
    assert login(server, ann, totp=codes[0]).status_code == 200


def test_guessing_in_a_stolen_session_is_throttled(server: Server) -> None:
    ann = server.person()
    enrolled(server, ann)
    for _ in range(5):
        assert code_of(post(ann, "totp/verify", code="000000")) == (422, "wrong_second_factor")
    assert code_of(post(ann, "totp/verify", code="000000")) == (429, "too_many_second_factors")


def test_what_cannot_be_undone_asks_for_a_code_too(server: Server) -> None:
    """ASVS 7.5.1: with two-factor sign-in an open session and the password are not enough."""
    ann = server.person()
    phone, codes = enrolled(server, ann)
    change = {"email": f"new-{ann.username}@example.org", "password": PASSWORD}
    refused = ann.client.patch("/api/auth/me", json=change)
    assert code_of(refused) == (403, "second_factor_required")
    assert refused.json()["error"]["enrolled"] is True
    assert refused.json()["error"]["param"] == "code"
    wrong = ann.client.patch("/api/auth/me", json={**change, "code": "000000"})
    assert code_of(wrong) == (422, "wrong_second_factor")
    first = ann.client.patch("/api/auth/me", json={**change, "password": "x", "code": codes[0]})
    assert code_of(first) == (422, "wrong_current_password"), "a code is worth nothing alone"
    right = ann.client.patch("/api/auth/me", json={**change, "code": codes[0]})
    assert right.status_code == 200
    farewell = {"password": PASSWORD, "confirm": "forfeit"}
    gone = ann.client.request("DELETE", "/api/auth/me", json=farewell)
    assert code_of(gone) == (403, "second_factor_required")
    used = ann.client.request("DELETE", "/api/auth/me", json={**farewell, "code": codes[0]})
    assert code_of(used) == (422, "wrong_second_factor")
    assert ann.client.get("/api/auth/me").status_code == 200
    fresh = {**farewell, "code": phone.code()}
    assert ann.client.request("DELETE", "/api/auth/me", json=fresh).status_code == 204


def test_an_old_sign_in_exports_nothing_before_it_is_confirmed(server: Server) -> None:
    """ASVS 7.5.3: whoever finds an open browser does not carry everything away."""
    ann, bob = server.person(), server.person()
    _, codes = enrolled(server, bob)
    assert isinstance(server.app.clock, ManualClock)
    assert ann.client.get("/api/auth/me/export").status_code == 200
    server.app.clock.moment += timedelta(minutes=21)
    for one in (ann, bob):
        assert code_of(one.client.get("/api/auth/me/export")) == (403, "password_needed")
    assert code_of(post(ann, "confirm", password="wrong")) == (422, "wrong_current_password")
    assert code_of(post(bob, "confirm", password=PASSWORD)) == (403, "second_factor_required")
    assert code_of(ann.client.get("/api/auth/me/export")) == (403, "password_needed")
    assert post(ann, "confirm", password=PASSWORD).json()["confirmed_until"]
    assert post(bob, "confirm", password=PASSWORD, code=codes[0]).is_success
    for one in (ann, bob):
        assert one.client.get("/api/auth/me/export").status_code == 200
    server.app.clock.moment += timedelta(minutes=19)
    assert ann.client.get("/api/auth/me/export").status_code == 200
    server.app.clock.moment += timedelta(minutes=2)
    assert code_of(ann.client.get("/api/auth/me/export")) == (403, "password_needed")


def test_staff_without_it_move_money_on_this_machine(server: Server) -> None:
    """The default where the address is not https: an administrator without it may go on."""
    assert adjust(server.person(admin=True)).status_code == 200


def test_staff_with_it_need_a_fresh_code(server: Server) -> None:
    root = server.person(admin=True)
    phone, _ = enrolled(server, root)
    clock = phone.clock
    assert isinstance(clock, ManualClock)
    assert adjust(root).status_code == 200, "it was confirmed a moment ago"
    clock.advance(minutes=10, seconds=1)
    refused = adjust(root)
    assert code_of(refused) == (403, "second_factor_required")
    assert refused.json()["error"]["enrolled"] is True
    assert refused.json()["error"]["permission"] == "credits.adjust"
    # Looking needs none, and neither does what moves no money.
    assert root.client.get("/api/admin/users").status_code == 200
    fresh = login(server, root, totp=phone.code()).json()
    bearer = {"Authorization": f"Bearer {fresh['access_token']}"}
    assert (
        server.client(**bearer)
        .post(f"/api/admin/users/{root.id}/credits", json={"credits": 1, "reason": "a test"})
        .is_success
    )
    assert code_of(adjust(root)) == (403, "second_factor_required"), "another session's proof"
    until = post(root, "totp/verify", code=phone.code())
    assert until.json()["verified_until"]
    assert adjust(root).status_code == 200
    clock.advance(minutes=9, seconds=59)
    assert adjust(root).status_code == 200
    clock.advance(seconds=1)
    assert code_of(adjust(root)) == (403, "second_factor_required")


MONEY = [
    (
        "POST",
        "/api/admin/prices",
        {"model": "gemma-3-4b-it", "kind": "per_message", "per_message": 20},
    ),
    (
        "PUT",
        "/api/admin/models/gemma-3-4b-it",
        {"price": {"kind": "per_message", "per_message": 20}},
    ),
    ("PATCH", "/api/admin/users/{id}", {"role": "finance"}),
    ("POST", "/api/admin/users/{id}/credits", {"credits": 5, "reason": "a test"}),
    ("DELETE", "/api/admin/users/{id}/totp", None),
    ("POST", "/api/admin/payments/pay_x/refund", {"reason": "a test"}),
    ("POST", "/api/admin/codes", {"credits": 5}),
    ("PATCH", "/api/admin/packages/starter", {"position": 0}),
]


def test_over_https_no_money_moves_without_it(serve: Serve) -> None:
    """`auto` is `always` there, and what does not move money goes on."""
    server = serve(server={"public_url": "https://chat.example"})
    root, ann = server.person(admin=True), server.person()
    for method, path, body in MONEY:
        answer = root.client.request(method, path.replace("{id}", ann.id), json=body)
        assert code_of(answer) == (403, "second_factor_required"), path
        assert answer.json()["error"]["enrolled"] is False
        assert "Account › Two-factor" in answer.json()["error"]["message"]
    assert ann.available() == "100"
    looked = {"model": "gemma-3-4b-it", "kind": "per_message", "per_message": 20}
    preview = root.client.post("/api/admin/prices?preview=1", json=looked)
    assert preview.status_code == 200
    path = f"/api/admin/users/{ann.id}"
    assert root.client.patch(path, json={"suspended": True}).status_code == 200


def test_support_reaches_no_staff_and_gives_no_roles(server: Server) -> None:
    """Whoever can lock an administrator out could run the place."""
    helper = server.person(role="support")
    root, ann = server.person(admin=True), server.person()
    send = helper.client
    for answer in (
        send.patch(f"/api/admin/users/{root.id}", json={"suspended": True}),
        send.post(f"/api/admin/users/{root.id}/logout"),
        send.patch(f"/api/admin/users/{helper.id}", json={"role": "admin"}),
        send.patch(f"/api/admin/users/{ann.id}", json={"role": "support", "suspended": True}),
    ):
        assert code_of(answer) == (403, "not_permitted")
    assert send.patch(f"/api/admin/users/{ann.id}", json={"suspended": True}).status_code == 200
    assert send.get(f"/api/admin/users/{ann.id}").json()["role"] == "user"


def test_an_administrator_helps_who_lost_the_telephone(server: Server) -> None:
    root, ann = server.person(admin=True), server.person()
    enrolled(server, ann)
    path = f"/api/admin/users/{ann.id}/totp"
    assert root.client.delete(path).status_code == 204
    assert ann.client.get("/api/auth/me").status_code == 401, "whoever was signed in is not"
    assert login(server, ann).status_code == 200
    assert root.client.delete(path).status_code == 204
