"""Every handler of the page, called by its number by everybody who can reach the port."""

import inspect
import secrets
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pytest
from pyotp import TOTP
from sqlmodel import col, update

from chat_app.accounts import users
from chat_app.accounts.permissions import AdminsOnly, NotPermitted, may
from chat_app.accounts.tables import SignInSession
from chat_app.errors import NotSignedIn
from chat_app.flows.staff import SecondFactorRequired
from tests.api.matrix import CALLERS, STAFF
from tests.apps import PASSWORD
from tests.ui.conftest import Site, Visitor

pytestmark = pytest.mark.usefixtures("drills_here")
# Who may run which handler. A new handler fails the test until it stands here.
MATRIX = {
    "open_page": "anyone",
    "load": "anyone",
    "leave": "anyone",
    "write": "anyone",  # without a user they do nothing
    "settle": "anyone",
    "send": "user",
    "turn": "user",
    "open_one": "user",
    "stop": "user",
    "start_new": "user",
    "start_temporary": "user",
    "quote": "user",
    "choose": "user",  # the credits tab's; the admin tab's is in STAFF_TWINS
    "show": "user",
    "open_tab": "user",
    "older": "user",
    "history_older": "user",
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
    "tick": "machine.read",
    "review": "credits.adjust",
    "confirm": "credits.adjust",
    "forgive_review": "credits.adjust",
    "forgive_confirm": "credits.adjust",
    "suspend": "users.suspend",
    "sign_out": "users.logout",
    "change_role": "users.role",
    "people_yes": "users.read",
    "people_no": "users.read",
    "back": "users.read",
    "invoices_open": "user",
    "invoices_older": "user",
    "invoices_share": "user",
    "invoices_link": "user",
    "statement_period": "user",
    "details_save": "user",
    "backups_show": "backups.make",
    "backups_make": "backups.make",
    "backups_drill": "backups.make",
    "admin_invoices_show": "invoices.read",
    "admin_invoices_choose": "invoices.read",
    "admin_invoices_issue": "invoices.write",
    "admin_invoices_review": "invoices.write",
    "admin_invoices_confirm": "invoices.write",
    "admin_invoices_link": "invoices.write",
    "admin_invoices_back": "invoices.read",
    "tax_rates_show": "invoices.read",
    "tax_rates_add": "invoices.write",
    "tax_rates_remove": "invoices.write",
    "close": "users.read",
    "monitoring_show": "machine.read",
    "monitoring_look": "machine.read",
    "revenue_show": "books.read",
    "revenue_range": "books.read",
    "revenue_rows_show": "books.read",
    "revenue_ask": "books.write",
    "revenue_close": "books.write",
    "predictions_show": "books.read",
    "models_show": "machine.read",
    "models_train": "machine.write",
    "models_ask": "machine.write",
    "models_change": "machine.write",
    "fraud_show": "fraud.read",
    "fraud_choose": "fraud.read",
    "fraud_points": "fraud.read",
    "fraud_bad": "fraud.write",
    "fraud_good": "fraud.write",
    "books_show": "books.read",
    "books_events": "audit.read",
    "books_older": "audit.read",
    "books_prove": "books.read",
    "books_reconcile": "books.write",
    "plan_show": "user",
    "plan_act": "user",
    "redeem_show": "user",
    "redeem_code": "user",
    "topup_save": "user",
    "topup_stop": "user",
    "shop_show": "shelves.read",
    "shop_edit": "shelves.read",
    "shop_close": "shelves.read",
    "shop_save": "shelves.write",
    "codes_make": "shelves.write",
    "codes_act": "shelves.write",
    "limits_show": "user",
    "forecast_show": "user",
    "limits_save": "user",
    "calculator_show": "user",
    "calculator_count": "user",
    "prices_show": "prices.read",
    "prices_choose": "prices.read",
    "prices_look": "prices.read",
    "prices_publish": "prices.write",
    "prices_offer": "models.write",
    "prices_close": "prices.read",
    "alerts_open": "user",
    "alerts_save": "user",
    "hooks_add": "user",
    "hooks_act": "user",
    "messages_show": "messages.read",
    "messages_act": "messages.write",
    "announce_review": "messages.write",
    "announce_send": "messages.write",
    "announce_back": "messages.write",
    "announce_end": "messages.write",
    "payments_show": "payments.read",
    "payments_open": "payments.read",
    "payments_review": "payments.refund",
    "payments_refund": "payments.refund",
    "payments_back": "payments.read",
    "payments_close": "payments.read",
}
STAFF_TWINS = {"choose": "users.read", "show": "users.read", "open_tab": "machine.read"}


WORDS = "herons at dawn"
MODEL = "smollm2-135m-instruct"


@dataclass
class Cast:
    """The eight callers; the owner and the mate are members of the boss's organisation."""

    people: dict[str, Visitor]
    things: dict[str, str]  # what the owner has, by its kind
    secrets: set[str]  # what only the owner may read


@pytest.fixture(scope="module")
def cast(site: Site) -> Cast:
    people = {"anonymous": site.visitor()}
    people |= {name: site.person() for name in ("owner", "other", "mate", "boss")}
    people |= {role: site.person(role=role) for role in ("support", "finance", "admin")}
    boss, owner = people["boss"].client, people["owner"].client
    org = boss.post("/api/orgs", json={"name": "Boss Ltd"}).json()["id"]
    for name in ("owner", "mate"):
        who = {"username": people[name].username}
        boss.post(f"/api/orgs/{org}/members", json=who).raise_for_status()
    own = owner.post("/api/orgs", json={"name": "Heron Ltd"}).json()["id"]
    asked = owner.post("/api/chat/message", json={"model": MODEL, "message": WORDS}).json()
    order = owner.post("/api/billing/add", json={"package_id": "starter"}).json()["payment_id"]
    owner.post(f"/api/billing/payments/{order}/confirm").raise_for_status()
    invoice = owner.get("/api/billing/invoices").json()["items"][0]
    things = {
        "conversation": asked["conversation_id"],
        "reply": asked["reply_id"],
        "org": own,
        "invoice": invoice["id"],
    }
    email = f"{people['owner'].username}@example.org"
    return Cast(people, things, {WORDS, "Heron Ltd", email, str(invoice["number"])})


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
        expected = {MATRIX[name], STAFF_TWINS.get(name, MATRIX[name])}
        assert role in expected, f"{name} is for {role}, the matrix says {expected}"
        assert fn.api_visibility == "private", name
    assert {fn.fn.__name__ for _, fn in handlers(site)} == set(MATRIX)


def test_what_several_triggers_ask_for_is_one_event(site: Site) -> None:
    """Two events answer in any order, so an older answer could overwrite a newer one.

    One event with `always_last` waits for one answer at a time.
    """
    events: dict[tuple[Any, ...], list[Any]] = {}
    for _, fn in handlers(site):
        outputs = tuple(part._id for part in fn.outputs)
        events.setdefault((fn.fn, outputs), []).append(fn)
        if len(fn.targets) > 1 and outputs:
            assert fn.trigger_mode == "always_last", fn.fn.__name__
    twice = {fn.__name__ for (fn, outputs), found in events.items() if outputs and len(found) > 1}
    # What is done and not looked up: each has its key, or does the same however often.
    assert twice == {"send", "write", "settle", "redeem_code", "leave"}


def test_staff_handlers_alone_write_staff_components(site: Site) -> None:
    """What fills the Admin tab is for staff: found by where it writes, not by name.

    The page's load may hide parts from some of the staff; what it sends others is tested below.
    """
    for _, fn in handlers(site):
        ids = {getattr(item, "elem_id", None) or "" for item in fn.outputs}
        if fn.fn.guard_role in ("anyone", "user") and fn.fn.__name__ != "open_page":
            assert not any(one.startswith("admin-") and one != "admin-tab" for one in ids), ids


def may_run(caller: str, need: str) -> bool:
    """Whether a caller may run what asks for `anyone`, `user` or a permission."""
    if need in ("anyone", "user"):
        return caller != "anonymous" or need == "anyone"
    return caller in STAFF and may(caller, need)  # type: ignore[arg-type]


@pytest.mark.parametrize("caller", CALLERS)
def test_each_handler_refuses_whom_it_must(site: Site, cast: Cast, caller: str) -> None:
    """Bar 4: over real HTTP, through the queue, with nothing but the number."""
    refusals = {NotSignedIn.message, AdminsOnly.message, NotPermitted.message}
    visitor = cast.people[caller]
    for number, fn in handlers(site):
        data = [getattr(block, "value", None) for block in fn.inputs]
        end, seen = visitor.call(number, data)
        error = (end["output"] or {}).get("error")
        allowed = may_run(caller, fn.fn.guard_role)
        assert (error in refusals) != allowed, f"{caller} -> {fn.fn.__name__}: {error}"
        if caller != "owner" and caller not in STAFF:
            assert not [words for words in cast.secrets if words in f"{end}{seen}"], fn.fn.__name__


def test_no_handler_shows_or_changes_what_is_anothers(site: Site, cast: Cast) -> None:
    """The ids of the owner's things in every input and every press, from a member of the same
    organisation: nothing comes back, and nothing of it is different afterwards."""
    owner = cast.people["owner"].client
    watched = ("chat/conversations", "orgs", "billing/balance", "billing/invoices", "auth/me")

    def state() -> list[Any]:
        return [owner.get(f"/api/{path}").json() for path in watched]

    before = state()
    mate = cast.people["mate"]
    for number, fn in handlers(site):
        if not may_run("mate", fn.fn.guard_role) or fn.fn.__name__ in ("leave", "open_page"):
            continue
        values = [getattr(block, "value", None) for block in fn.inputs]
        texts = [at for at, value in enumerate(values) if value is None or isinstance(value, str)]
        for id in cast.things.values():
            data = [id if at in texts else value for at, value in enumerate(values)]
            end, seen = mate.call(number, data, {"act": "open", "id": id})
            leaked = [words for words in cast.secrets if words in f"{end}{seen}"]
            assert not leaked, f"{fn.fn.__name__} with {id}"
            if not texts and "event" not in inspect.signature(fn.fn).parameters:
                break  # it takes nothing, so one call is all there is
    assert state() == before


@pytest.mark.parametrize(
    ("role", "tabs"),
    [
        ("support", {"Overview", "Monitoring", "Payments", "Invoices", "Messages", "Fraud",
                     "Model versions"}),
        ("finance", {"Overview", "Monitoring", "Models & prices", "Packages & codes", "Payments",
                     "Invoices", "Revenue", "Predictions", "Fraud", "Model versions",
                     "Audit & books"}),
        ("admin", {"Overview", "Setup", "Monitoring", "Models & prices", "Packages & codes",
                   "Payments", "Invoices", "Revenue", "Predictions", "Messages", "Fraud",
                   "Model versions", "Audit & books", "Backups"}),
    ],
)  # fmt: skip
def test_staff_see_their_sections(site: Site, cast: Cast, role: str, tabs: set[str]) -> None:
    """And nobody else is sent anything about the Admin tab's parts."""
    number = site.number("open_page")
    parts = {block._id: block for block in site.demo.fns[number].outputs}

    def sent(caller: str) -> dict[Any, Any]:
        end, _ = cast.people[caller].call(number, [""])
        data = end["output"]["data"]
        updates = zip(parts.values(), data, strict=True)
        return {block: update for block, update in updates if set(update) > {"__type__"}}

    shown = sent(role)
    sections = {
        block.label: block
        for block in site.demo.blocks.values()
        if isinstance(block, gr.Tab) and str(block.id or "").startswith("admin-")
    }
    hidden = {label for label, block in sections.items() if block in shown}
    assert set(sections) - hidden == tabs
    assert all(shown[sections[label]]["visible"] == "hidden" for label in hidden)
    mine = {block.elem_id for block in shown if getattr(block, "elem_id", None)}
    assert "admin-tab" in mine
    assert ("admin-adjust-review" in mine) == (role == "support")
    assert ("admin-suspend" in mine) == (role == "finance")
    for caller in ("anonymous", "other"):
        ids = {getattr(block, "elem_id", None) or "" for block in sent(caller)}
        assert not [one for one in ids if one.startswith("admin-")]


def test_the_page_asks_for_a_fresh_code_before_money_moves(site: Site) -> None:
    """The toast says where to enter one; the books do not change."""
    root, ann = site.person(role="admin"), site.person()
    made = root.client.post("/api/auth/totp/enroll", json={"password": PASSWORD}).json()
    code = TOTP(made["secret"]).now()
    root.client.post("/api/auth/totp/confirm", json={"code": code}).raise_for_status()
    with site.app.db.read() as session:
        found = users.find(session, root.username)
        other = users.find(session, ann.username)
    assert found is not None
    assert other is not None
    site.app.db.write(
        lambda s: s.exec(
            update(SignInSession)
            .where(col(SignInSession.user_id) == found.id)
            .values(second_factor_at=1)
        )
    )
    number = next(n for n, fn in site.demo.fns.items() if fn.fn and fn.fn.__name__ == "confirm")
    end, _ = root.call(number, [other.id, "5", "a gift", "nonce", ""])
    assert end["output"]["error"] == SecondFactorRequired.message
    assert "Account › Two-factor" in SecondFactorRequired.message
    assert ann.client.get("/api/billing/balance").json()["available"] == "100"


def test_a_signed_out_cookie_ends_at_once(site: Site) -> None:
    """The next handler call of another tab is refused after the sign-out."""
    person = site.person()
    ok, _ = person.call(site.number("start_new"), [None])
    assert ok["success"]
    cookie = person.client.cookies
    person.client.post("/api/auth/logout").raise_for_status()
    other = site.visitor()
    other.client.cookies = cookie
    end, _ = other.call(site.number("start_new"), [None])
    assert end["output"]["error"] == NotSignedIn.message


def test_another_users_conversation_is_not_found(site: Site) -> None:
    """The id in the page is only a wish."""
    alice, eve = site.person(), site.person()
    model = "smollm2-135m-instruct"
    end, _ = alice.call(site.number("send"), ["secret plans", model, None, "k1", "", ""])
    assert end["success"], end
    row = alice.client.get("/api/chat/conversations").json()["items"][0]
    end, seen = eve.call(site.number("open_one"), [row["id"], None])
    assert not end["success"]
    assert "does not exist" in end["output"]["error"]
    assert "secret plans" not in str(seen)
    pressed = {"act": "delete", "id": row["id"]}
    end, _ = eve.call(site.number("act"), ["", "", "", "0", "", None], pressed)
    assert not end["success"]
    assert "does not exist" in end["output"]["error"]
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
