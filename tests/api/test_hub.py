"""Signing in with Hugging Face, against a provider of ours that can be told to lie."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pyotp
import pytest
from sqlmodel import Session, select

from chat_app.accounts import openid, users
from chat_app.accounts.hub_tables import HubAccount, HubAnswer
from chat_app.accounts.tables import User
from chat_app.audit.tables import EventRow
from chat_app.clock import MICROS_PER_SECOND
from chat_app.flows import hub as flow
from chat_app.flows import recover
from tests.api.conftest import PASSWORD, Person, Serve, Server
from tests.fakes import openid as fake
from tests.fakes.openid import Hub

HOME = "http://chat.example.org"
_number = itertools.count(1)


@pytest.fixture(scope="module")
def provider() -> Iterator[Hub]:
    with fake.serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def space(serve: Serve, provider: Hub) -> Server:
    """A server in a Space; without a frame, so that its cookies work without https."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fake.ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("OPENID_PROVIDER_URL", provider.url)
        return serve(server={"public_url": HOME, "framed_by": ""})


@pytest.fixture
def hub(provider: Hub) -> Hub:
    """The provider, honest again, with somebody new signed in there."""
    provider.honest()
    number = next(_number)
    provider.person = {
        "sub": f"subject-{number}",
        "preferred_username": f"hugger{number}",
        "email": f"hugger{number}@hub.example",
        "email_verified": True,
    }
    return provider


def begin(client: httpx.Client) -> str:
    """The address that a click on the button leads to."""
    answer = client.get("/api/auth/hub/start")
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def back(client: httpx.Client, **query: str) -> str:
    """Come back from Hugging Face; where the page goes then."""
    answer = client.get("/api/auth/hub/callback", params=query)
    assert answer.status_code == 303, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.headers["location"]


def link(person: Person, hub: Hub) -> str:
    """Link the account of Hugging Face to a person's; where the page goes then."""
    lead = person.client.post("/api/auth/hub/link", json={"password": PASSWORD})
    assert lead.status_code == 200, lead.text
    return back(person.client, **hub.agree(lead.json()["url"]))


def sign_in(space: Server, hub: Hub) -> tuple[str, httpx.Client]:
    client = space.client()
    return back(client, **hub.agree(begin(client))), client


def set_password(space: Server, name: str) -> None:
    """By a link, as a mail has it."""
    token = recover.operator_link(space.app, login=name).rpartition("=")[2]
    body = {"token": token, "password": PASSWORD}
    answer = space.client().post("/api/auth/password/reset", json=body)
    assert answer.status_code == 204, answer.text


def me(client: httpx.Client) -> dict[str, Any]:
    shown: dict[str, Any] = client.get("/api/auth/me").raise_for_status().json()
    return shown


def accounts(space: Server) -> int:
    with space.app.db.read() as session:
        return len(session.exec(select(User.id)).all())


def assert_refused(space: Server, hub: Hub) -> None:
    before = accounts(space)
    place, client = sign_in(space, hub)
    assert place == "/?hub=hub_refused"
    assert client.get("/api/auth/me").status_code == 401
    assert accounts(space) == before


def test_a_new_person_gets_an_account_and_comes_back_to_it(space: Server, hub: Hub) -> None:
    """By the stable id: name and address may change there, the account stays."""
    address = begin(space.client())
    asked = dict(parse_qsl(urlsplit(address).query))
    assert address.startswith(f"{hub.url}/oauth/authorize?")
    assert asked["redirect_uri"] == f"{HOME}/api/auth/hub/callback"
    place, client = sign_in(space, hub)
    assert place == "/"
    first = me(client)
    assert first["username"] == hub.person["preferred_username"]
    assert first["email"] == hub.person["email"]
    assert client.get("/api/billing/balance").json()["available"] == "100"
    standing = client.get("/api/auth/hub").json()
    assert (standing["offered"], standing["linked"]) == (True, True)
    before = accounts(space)
    hub.person |= {"preferred_username": "renamed", "email": "other@hub.example"}
    place, again = sign_in(space, hub)
    assert place == "/"
    assert me(again)["id"] == first["id"]
    assert me(again)["email"] == first["email"]
    assert again.get("/api/auth/hub").json()["name"] == "renamed"
    assert accounts(space) == before
    assert again.get("/api/billing/balance").json()["available"] == "100"


def test_what_was_begun_elsewhere_is_refused(space: Server, hub: Hub) -> None:
    """Login CSRF: another browser's state, no cookie, a forged cookie, a state of nobody's."""
    asked = hub.asked.count("/oauth/token")
    mine, other = space.client(), space.client()
    given = hub.agree(begin(mine))
    begin(other)
    assert back(other, **given) == "/?hub=hub_stale"
    assert back(space.client(), **given) == "/?hub=hub_stale"
    forged = space.client()
    forged.cookies.set("chat_hub", f"in.{int(time.time())}.0.guess.mark", domain="127.0.0.1")
    assert back(forged, **given) == "/?hub=hub_stale"
    wrong = space.client()
    code = hub.agree(begin(wrong))["code"]
    assert back(wrong, code=code, state="x\ud7ff") == "/?hub=hub_stale"
    assert hub.asked.count("/oauth/token") == asked, "no code is tried for a state of nobody's"
    assert mine.get("/api/auth/me").status_code == 401


def test_an_answer_counts_once(space: Server, hub: Hub) -> None:
    """The same answer again, and twice at once, in a browser that kept its cookie."""
    client = space.client()
    given = hub.agree(begin(client))
    kept = client.cookies["chat_hub"]
    before = accounts(space)

    def come(_number: int) -> str:
        with httpx.Client(base_url=space.url, cookies={"chat_hub": kept}) as browser:
            return back(browser, **given)

    with ThreadPoolExecutor(4) as pool:
        places = sorted(pool.map(come, range(4)))
    assert places == ["/", *["/?hub=hub_stale"] * 3]
    assert come(0) == "/?hub=hub_stale"
    assert accounts(space) == before + 1
    fresh = space.client()
    state = hub.agree(begin(fresh))["state"]
    assert back(fresh, code=given["code"], state=state) == "/?hub=hub_refused", "a used code"


def test_two_tabs_of_a_new_person_make_one_account(space: Server, hub: Hub) -> None:
    before = accounts(space)
    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: sign_in(space, hub)[0], range(4)))
    assert places == ["/"] * 4
    assert accounts(space) == before + 1


def test_an_old_beginning_is_refused(
    space: Server, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = space.client()
    given = hub.agree(begin(client))
    now = space.app.clock.micros()
    late = now + (flow.VALID_SECONDS + 1) * MICROS_PER_SECOND
    monkeypatch.setattr(space.app.clock, "micros", lambda: late)
    assert back(client, **given) == "/?hub=hub_stale"


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": [fake.CLIENT, "another"], "azp": "another"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"exp": None},
        {"exp": "tomorrow"},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 300},
    ],
    ids=lambda claims: "-".join(f"{name}={str(value)[:12]}" for name, value in claims.items()),
)
def test_a_token_that_is_not_for_us_is_refused(
    space: Server, hub: Hub, claims: dict[str, Any]
) -> None:
    hub.claims = claims
    assert_refused(space, hub)


@pytest.mark.parametrize(("claim", "seconds"), [("exp", -120), ("iat", 3600)])
def test_a_token_of_another_time_is_refused(
    space: Server, hub: Hub, claim: str, seconds: int
) -> None:
    hub.claims = {claim: int(time.time()) + seconds}
    assert_refused(space, hub)


def test_only_the_published_key_signs(space: Server, hub: Hub) -> None:
    """Another key under the same name; the public key as a shared one; none at all."""
    hub.signer = fake.key()
    assert sign_in(space, hub)[0] == "/?hub=hub_refused"
    hub.algorithm = "HS256"
    assert sign_in(space, hub)[0] == "/?hub=hub_refused"
    hub.algorithm = "none"
    assert sign_in(space, hub)[0] == "/?hub=hub_refused"
    hub.signer, hub.algorithm = None, "RS256"
    assert sign_in(space, hub)[0] == "/"


def test_keys_may_be_rotated(space: Server, hub: Hub) -> None:
    """A key of a new name is looked up; known ones are not asked for each time."""
    assert sign_in(space, hub)[0] == "/"
    asked = hub.asked.count("/oauth/jwks")
    assert sign_in(space, hub)[0] == "/"
    assert hub.asked.count("/oauth/jwks") == asked
    hub.rotate()
    assert sign_in(space, hub)[0] == "/"
    assert hub.asked.count("/oauth/jwks") == asked + 1
    # One who signs with a key of a name that nobody published is asked about once, and refused.
    hub.kid, hub.signer = "unknown", fake.key()
    assert sign_in(space, hub)[0] == "/?hub=hub_refused"
    hub.rotate()


def test_an_address_alone_opens_no_account(space: Server, hub: Hub) -> None:
    """Whoever has the address at Hugging Face is not who has it here, and is told what to do."""
    here = space.person()
    hub.person["email"] = f"{here.username}@example.org".upper()
    before = accounts(space)
    place, client = sign_in(space, hub)
    assert place == "/?hub=hub_email_taken"
    assert client.get("/api/auth/me").status_code == 401
    assert accounts(space) == before
    with space.app.db.read() as session:
        assert session.get(HubAccount, hub.person["sub"]) is None


def test_an_address_that_is_not_confirmed_there_is_nobodys_here(space: Server, hub: Hub) -> None:
    """The account works without it; its real owner can have it, and no free credits come."""
    hub.person["email_verified"] = False
    place, client = sign_in(space, hub)
    assert place == "/"
    assert client.get("/api/billing/balance").json()["available"] == "0"
    with space.app.db.read() as session:
        assert users.find(session, hub.person["email"]) is None
    body = {"username": "real-owner", "email": hub.person["email"], "password": PASSWORD}
    assert space.client().post("/api/auth/register", json=body).status_code == 201


def test_without_an_address_there_is_no_account(space: Server, hub: Hub) -> None:
    """It may stand in the answer about the user instead, but of the same one."""
    del hub.person["email"]
    assert sign_in(space, hub)[0] == "/?hub=hub_no_email"
    hub.token_has_email = False
    hub.userinfo = {"sub": "somebody-else", "email": "else@hub.example", "email_verified": True}
    assert sign_in(space, hub)[0] == "/?hub=hub_refused"
    hub.userinfo = {**hub.userinfo, "sub": hub.person["sub"]}
    place, client = sign_in(space, hub)
    assert place == "/"
    assert me(client)["email"] == "else@hub.example"


def test_names_are_made_to_fit(space: Server, hub: Hub) -> None:
    """A name that is taken, odd, too short or reserved gets a neighbour."""
    taken = space.person().username
    names = {
        taken: f"{taken}-2",
        "Zoë  東京 x": "Zo-x",
        "东京": "hf-user",
        "erased-1": "hf-erased-1",
    }
    for wanted, made in names.items():
        hub.person |= {
            "sub": f"name-{wanted}",
            "preferred_username": wanted,
            "email": f"name{next(_number)}@hub.example",
        }
        place, client = sign_in(space, hub)
        assert place == "/"
        assert me(client)["username"] == made


def test_a_suspended_user_stays_outside(space: Server, hub: Hub) -> None:
    _, client = sign_in(space, hub)
    number = int(me(client)["id"])
    space.app.db.write(lambda s: users.set_suspended(s, user_id=number, suspended=True))
    place, again = sign_in(space, hub)
    assert place == "/?hub=account_suspended"
    assert again.get("/api/auth/me").status_code == 401


def test_whoever_says_no_is_told_so(space: Server, hub: Hub) -> None:
    client = space.client()
    state = hub.agree(begin(client))["state"]
    assert back(client, error="access_denied", state=state) == "/?hub=hub_denied"


def test_a_provider_that_is_down_is_a_refusal(space: Server, hub: Hub) -> None:
    """The page says so; nothing hangs and nothing is half made."""
    client = space.client()
    given = hub.agree(begin(client))
    hub.broken = True
    assert back(client, **given) == "/?hub=hub_unavailable"
    hub.broken = False
    assert sign_in(space, hub)[0] == "/"


def test_a_link_needs_the_password_and_the_same_browser(space: Server, hub: Hub) -> None:
    """An open session is not enough to leave a second way in; then it signs in, until unlinked."""
    ann = space.person()
    hub.person["email"] = f"{ann.username}@example.org"
    path = "/api/auth/hub/link"
    assert ann.client.post(path, json={"password": "wrong"}).status_code == 422
    lead = ann.client.post(path, json={"password": PASSWORD})
    assert lead.status_code == 200, lead.text
    given = hub.agree(lead.json()["url"])
    assert back(space.client(), **given) == "/?hub=hub_stale"
    assert back(ann.client, **given) == "/#account"
    assert ann.client.get("/api/auth/hub").json()["name"] == hub.person["preferred_username"]
    more = ann.client.post(path, json={"password": PASSWORD})
    assert more.json()["error"]["code"] == "hub_linked"
    place, client = sign_in(space, hub)
    assert (place, me(client)["id"]) == ("/", ann.id)
    with space.app.db.read() as session:
        told = session.exec(select(EventRow.type).where(EventRow.actor == f"user:{ann.id}"))
        assert "hub_linked" in told.all()
    bob = space.person()
    assert link(bob, hub) == "/?hub=hub_taken#account"
    unlink = "/api/auth/hub/unlink"
    assert ann.client.post(unlink, json={"password": "wrong"}).status_code == 422
    assert ann.client.post(unlink, json={"password": PASSWORD}).status_code == 204
    assert ann.client.post(unlink, json={"password": PASSWORD}).status_code == 404
    assert sign_in(space, hub)[0] == "/?hub=hub_email_taken"


def test_the_second_factor_is_asked_for_all_the_same(space: Server, hub: Hub) -> None:
    ann = space.person()
    assert link(ann, hub) == "/#account"
    begun = ann.client.post("/api/auth/totp/enroll", json={"password": PASSWORD}).json()
    codes = pyotp.TOTP(begun["secret"])
    now = int(time.time())
    confirmed = ann.client.post("/api/auth/totp/confirm", json={"code": codes.at(now)})
    backup = confirmed.raise_for_status().json()["backup_codes"][0]
    place, client = sign_in(space, hub)
    assert place == "/?hub=second"
    assert client.get("/api/auth/me").status_code == 401
    wrong = client.post("/api/auth/hub/second", json={"code": "000000"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "wrong_totp")
    stranger = space.client().post("/api/auth/hub/second", json={"code": backup})
    assert stranger.json()["error"]["code"] == "hub_stale"
    half = client.cookies["chat_hub"]
    assert back(client, code="x", state="y") == "/?hub=hub_stale", "it is good for nothing else"
    client.cookies.set("chat_hub", half, domain="127.0.0.1")
    assert client.post("/api/auth/hub/second", json={"code": backup}).status_code == 200
    assert me(client)["id"] == ann.id


def test_an_account_without_a_password_says_how_to_get_one(space: Server, hub: Hub) -> None:
    """No password opens it, and the mail that sets one does."""
    _, client = sign_in(space, hub)
    name = me(client)["username"]
    for guess in ("", "nobody", PASSWORD):
        tried = space.client().post("/api/auth/login", json={"login": name, "password": guess})
        assert tried.status_code == 401
    asked = client.post("/api/auth/hub/unlink", json={"password": "anything"})
    assert asked.json()["error"]["code"] == "no_password"
    set_password(space, name)
    signed = space.client().post("/api/auth/login", json={"login": name, "password": PASSWORD})
    assert signed.status_code == 200


def test_erasing_forgets_who_it_was_there(space: Server, hub: Hub) -> None:
    """And whoever comes again is a new person, without a second welcome."""
    _, client = sign_in(space, hub)
    first = me(client)
    set_password(space, first["username"])
    _, client = sign_in(space, hub)
    sure = {"password": PASSWORD, "confirm": "forfeit"}
    gone = client.request("DELETE", "/api/auth/me", json=sure)
    assert gone.status_code == 204, gone.text
    with space.app.db.read() as session:
        assert session.get(HubAccount, hub.person["sub"]) is None
    _, again = sign_in(space, hub)
    assert me(again)["id"] != first["id"]
    assert again.get("/api/billing/balance").json()["available"] == "0"


def test_old_answers_are_forgotten(space: Server, hub: Hub) -> None:
    sign_in(space, hub)
    later = space.app.clock.micros() + 2 * flow.VALID_SECONDS * MICROS_PER_SECOND

    def story(session: Session) -> int:
        recover.forget(session, now=later)
        return len(session.exec(select(HubAnswer)).all())

    assert space.app.db.write(story) == 0


def test_guesses_of_codes_are_counted(
    space: Server, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs Hugging Face and us a request, so an address has only so many."""
    limits = space.app.settings.limits
    monkeypatch.setitem(limits.__dict__, "login_failures_per_15_minutes", 2)
    for expected in ("hub_refused", "hub_refused", "too_many_sign_ins"):
        client = space.client()
        state = hub.agree(begin(client))["state"]
        assert back(client, code="guess", state=state) == f"/?hub={expected}"


def test_in_a_frame_the_cookies_say_so(
    space: Server, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Space's profile: secure, for this host alone, in a partition of its own."""
    server = space.app.settings.server
    monkeypatch.setitem(server.__dict__, "framed_by", "https://huggingface.co")
    answer = space.client().get("/api/auth/hub/start")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-chat_hub=in.")
    wanted = {"Secure", "HttpOnly", "SameSite=None", "Partitioned", "Path=/"}
    assert wanted <= set(cookie.split("; "))
    kept = {"Cookie": cookie.partition(";")[0]}
    given = hub.agree(answer.headers["location"])
    done = space.client().get("/api/auth/hub/callback", params=given, headers=kept)
    assert done.headers["location"] == "/"
    names = [one.partition("=")[0] for one in done.headers.get_list("set-cookie")]
    assert names == ["__Host-chat_hub", "__Host-chat_session", "__Host-chat_device"]


def test_outside_a_space_nothing_of_it_is_there(
    space: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with only one of the two, and with an address that is not safe to send secrets to."""
    monkeypatch.setattr(space.app, "hub", None)
    for place in ("start", "callback"):
        answer = space.client().get(f"/api/auth/hub/{place}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "hub_absent")
    assert space.person().client.get("/api/auth/hub").json()["offered"] is False
    for name in (*fake.ENVIRONMENT, "OPENID_PROVIDER_URL"):
        monkeypatch.delenv(name, raising=False)
    assert openid.of_environment(micros=lambda: 0) is None
    monkeypatch.setenv("OAUTH_CLIENT_ID", "x")
    assert openid.of_environment(micros=lambda: 0) is None
    monkeypatch.setenv("SPACE_ID", "somebody/chat")
    assert openid.of_environment(micros=lambda: 0) is not None
    for unsafe in ("http://hub.example", "ftp://127.0.0.1", "nonsense", "https://"):
        monkeypatch.setenv("OPENID_PROVIDER_URL", unsafe)
        assert openid.of_environment(micros=lambda: 0) is None, unsafe


def test_a_provider_that_says_it_is_another_is_not_believed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one whose keys or codes would travel unprotected."""
    asked = openid.Provider(hub.url, client_id="x", client_secret="y", micros=lambda: 0)
    question = {"redirect": "r", "state": "s", "nonce": "n", "challenge": "c"}
    hub.issuer = "https://evil.example"
    with pytest.raises(openid.HubUnavailable):
        asyncio.run(asked.address(**question))
    hub.issuer = ""
    said = hub.description()
    for name in ("token_endpoint", "jwks_uri", "authorization_endpoint"):
        said_wrong = {**said, name: "http://evil.example"}
        monkeypatch.setattr(hub, "description", lambda it=said_wrong: it)
        with pytest.raises(openid.HubUnavailable):
            asyncio.run(asked.address(**question))
    monkeypatch.setattr(hub, "description", lambda: said)
    assert asyncio.run(asked.address(**question)).startswith(said["authorization_endpoint"])
