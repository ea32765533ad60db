"""Every handler of the page, called by its number by everybody who can reach the port."""

import secrets
from typing import Any

import pytest

from chat_app.errors import NotSignedIn
from tests.ui.conftest import Site, Visitor
from ui.guard import AdminsOnly

# Who may run which handler. A new handler fails the test until it stands here.
MATRIX = {
    "open_page": "anyone",
    "load": "anyone",
    "leave": "anyone",
    "write": "anyone",  # without a user they do nothing
    "settle": "anyone",
    "send": "user",
    "retry": "user",
    "open_one": "user",
    "stop": "user",
    "start_new": "user",
    "quote": "user",
    "choose": "user",  # the credits tab's; the admin tab's is in ADMIN_ONLY_TWINS
    "show": "user",
    "open_tab": "user",
    "older": "user",
    "buy": "user",
    "act": "user",
    "send_show": "user",
    "send_review": "user",
    "send_confirm": "user",
    "send_back": "user",
    "org_show": "user",
    "org_make": "user",
    "org_fund": "user",
    "org_save": "user",
    "org_allocate": "user",
    "org_review_remove": "user",
    "org_review_close": "user",
    "org_confirm": "user",
    "org_back": "user",
    "tick": "admin",
    "review": "admin",
    "confirm": "admin",
    "suspend": "admin",
    "sign_out": "admin",
    "change_role": "admin",
    "people_yes": "admin",
    "people_no": "admin",
    "back": "admin",
    "invoices_open": "user",
    "invoices_older": "user",
    "invoices_share": "user",
    "statement_period": "user",
    "details_save": "user",
    "admin_invoices_show": "admin",
    "admin_invoices_choose": "admin",
    "admin_invoices_issue": "admin",
    "admin_invoices_review": "admin",
    "admin_invoices_confirm": "admin",
    "admin_invoices_back": "admin",
    "close": "admin",
    "books_show": "admin",
    "books_events": "admin",
    "books_older": "admin",
    "books_prove": "admin",
    "books_reconcile": "admin",
    "plan_show": "user",
    "plan_act": "user",
    "redeem_show": "user",
    "redeem_code": "user",
    "topup_save": "user",
    "topup_stop": "user",
    "shop_show": "admin",
    "shop_edit": "admin",
    "shop_close": "admin",
    "shop_save": "admin",
    "codes_make": "admin",
    "codes_act": "admin",
    "limits_show": "user",
    "limits_save": "user",
    "calculator_show": "user",
    "calculator_count": "user",
    "prices_show": "admin",
    "prices_choose": "admin",
    "prices_look": "admin",
    "prices_publish": "admin",
    "prices_offer": "admin",
    "prices_close": "admin",
    "alerts_open": "user",
    "alerts_save": "user",
    "hooks_add": "user",
    "hooks_act": "user",
    "messages_show": "admin",
    "messages_act": "admin",
    "announce_review": "admin",
    "announce_send": "admin",
    "announce_back": "admin",
    "payments_show": "admin",
    "payments_open": "admin",
    "payments_review": "admin",
    "payments_refund": "admin",
    "payments_back": "admin",
    "payments_close": "admin",
}
ADMIN_ONLY_TWINS = {"choose", "show", "open_tab"}


@pytest.fixture(scope="module")
def people(site: Site) -> dict[str, Visitor]:
    """One of each kind."""
    return {
        "anonymous": site.visitor(),
        "user": site.person(),
        "admin": site.person(admin=True),
    }


def handlers(site: Site) -> list[tuple[int, Any]]:
    """All handlers that run Python."""
    return [(number, fn) for number, fn in site.demo.fns.items() if fn.fn is not None]


def test_every_handler_is_guarded_private_and_in_the_matrix(site: Site) -> None:
    """Traps: handlers of hidden or "private" events run for anyone by their number."""
    assert len(handlers(site)) > 20
    for _, fn in handlers(site):
        name = fn.fn.__name__
        role = getattr(fn.fn, "guard_role", None)
        assert role is not None, f"{name} has no guard"
        expected = {MATRIX[name]} | ({"admin"} if name in ADMIN_ONLY_TWINS else set())
        assert role in expected, f"{name} is for {role}, the matrix says {expected}"
        assert fn.api_visibility == "private", name
    assert {fn.fn.__name__ for _, fn in handlers(site)} == set(MATRIX)


def test_admin_handlers_write_only_admin_components(site: Site) -> None:
    """What fills the Admin tab is for administrators: found by where it writes, not by name."""
    for _, fn in handlers(site):
        ids = {getattr(item, "elem_id", None) or "" for item in fn.outputs}
        if fn.fn.guard_role != "admin":
            assert not any(one.startswith("admin-") and one != "admin-tab" for one in ids), ids


@pytest.mark.parametrize("kind", ["anonymous", "user", "admin"])
def test_each_handler_refuses_whom_it_must(
    site: Site, people: dict[str, Visitor], kind: str
) -> None:
    """Over real HTTP, through the queue, with nothing but the number."""
    rank = {"anonymous": 0, "user": 1, "admin": 2}
    needed = {"anyone": 0, "user": 1, "admin": 2}
    refusals = {NotSignedIn.message, AdminsOnly.message}
    visitor = people[kind]
    for number, fn in handlers(site):
        data = [getattr(block, "value", None) for block in fn.inputs]
        end, _ = visitor.call(number, data)
        error = (end["output"] or {}).get("error")
        allowed = rank[kind] >= needed[fn.fn.guard_role]
        assert (error in refusals) != allowed, f"{kind} -> {fn.fn.__name__}: {error}"


def test_a_signed_out_cookie_ends_at_once(site: Site) -> None:
    """The next handler call of another tab is refused after the sign-out."""
    person = site.person()
    ok, _ = person.call(site.number("start_new"), [])
    assert ok["success"]
    cookie = person.client.cookies
    person.client.post("/api/auth/logout").raise_for_status()
    other = site.visitor()
    other.client.cookies = cookie
    end, _ = other.call(site.number("start_new"), [])
    assert end["output"]["error"] == NotSignedIn.message


def test_another_users_conversation_is_not_found(site: Site) -> None:
    """The id in the page is only a wish."""
    alice, eve = site.person(), site.person()
    model = "smollm2-135m-instruct"
    end, _ = alice.call(site.number("send"), ["secret plans", model, None, "k1", "", ""])
    assert end["success"], end
    row = alice.client.get("/api/chat/conversations").json()["items"][0]
    end, seen = eve.call(site.number("open_one"), [row["id"]])
    assert not end["success"]
    assert "does not exist" in end["output"]["error"]
    assert "secret plans" not in str(seen)
    pressed = {"act": "delete", "id": row["id"]}
    end, _ = eve.call(site.number("act"), ["", "", "0"], pressed)
    assert not end["success"]
    assert alice.client.get("/api/chat/conversations").json()["items"][0]["title"]


def test_the_same_key_is_charged_once(site: Site) -> None:
    """T12: a double click sends one message and pays for one answer."""
    person = site.person()
    before = person.client.get("/api/billing/balance").json()["available"]
    model = "smollm2-135m-instruct"
    for _ in range(2):
        person.session = secrets.token_hex(6)  # as the page was when the button was pressed
        end, _ = person.call(site.number("send"), ["hello", model, None, "same-key", "", ""])
        assert end["success"], end
    after = person.client.get("/api/billing/balance").json()["available"]
    assert (before, after) == ("100", "99")
    assert len(person.client.get("/api/chat/conversations").json()["items"]) == 1
