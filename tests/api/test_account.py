"""The own account over HTTP: profile, data, and its end."""

import io
import json
import zipfile

from tests.api.conftest import PASSWORD, Person, Server


def erase(person: Person, **body: object) -> tuple[int, str]:
    """The status, and the code of a refusal."""
    answer = person.client.request("DELETE", "/api/auth/me", json=body)
    return answer.status_code, answer.json()["error"]["code"] if answer.content else ""


def test_the_profile_is_changed_in_parts(ann: Person) -> None:
    """No mass assignment: a role or a balance in the body is refused."""
    me = ann.client.patch("/api/auth/me", json={"display_name": " Ann  A. ", "language": "en"})
    assert (me.json()["display_name"], me.json()["language"]) == ("Ann A.", "en")
    me = ann.client.patch("/api/auth/me", json={"timezone": "Europe/Berlin"})
    shown = ann.client.get("/api/auth/me").json()
    assert shown == me.json()
    assert (shown["display_name"], shown["timezone"]) == ("Ann A.", "Europe/Berlin")
    for body in ({"role": "admin"}, {"suspended": False}, {"timezone": "Nowhere"}, {"id": "1"}):
        assert ann.client.patch("/api/auth/me", json=body).status_code == 422


def test_the_export_is_a_zip_of_the_own_things(ann: Person, bob: Person) -> None:
    ann.ask("what ann asked")
    bob.ask("what bob asked")
    answer = ann.client.get("/api/auth/me/export")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["cache-control"] == "no-store"
    assert f'filename="{ann.username}-' in answer.headers["content-disposition"]
    pack = zipfile.ZipFile(io.BytesIO(answer.content))
    whole = b"".join(pack.read(name) for name in pack.namelist())
    assert b"what ann asked" in whole
    assert b"what bob asked" not in whole
    assert json.loads(pack.read("profile.json"))["username"] == ann.username


def test_the_end_of_an_account(server: Server, ann: Person) -> None:
    """In this order: the password, what is left, and then nothing opens any more."""
    assert erase(ann, password="wrong") == (422, "wrong_current_password")
    assert erase(ann, password=PASSWORD) == (409, "credits_left")
    assert erase(ann, password=PASSWORD, confirm="yes")[0] == 422
    assert ann.client.get("/api/auth/me").status_code == 200
    assert erase(ann, password=PASSWORD, confirm="forfeit") == (204, "")
    assert ann.client.get("/api/auth/me").status_code == 401
    again = {"login": ann.username, "password": PASSWORD}
    assert server.client().post("/api/auth/login", json=again).status_code == 401
    assert server.person(ann.username).id != ann.id
