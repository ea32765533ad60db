"""Limits, the calculator and prices as the page does them, through Gradio's queue."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import Session

from chat_app.accounts import users
from chat_app.credits import ledger, moves
from chat_app.credits.accounts import Owner
from chat_app.credits.payments import orders, returns
from chat_app.credits.payments.provider import DisputeStanding
from chat_app.flows.prices import PriceJump
from chat_app.money import MICRO
from tests.apps import MODEL
from tests.ui.conftest import Site, Visitor
from ui.tabs.admin import prices as section
from ui.tabs.admin.prices import BadStartText, BadTierLine, NothingLookedAt


@pytest.fixture
def call(site: Site) -> Callable[..., Any]:
    """Run a handler by its name; its outputs as one text, or the words of its refusal."""

    def run(who: Visitor, name: str, *data: Any, event: Any = None) -> str:
        number = site.number(name)
        shown = [None if type(block).__name__ == "State" else value for block, value in
                 zip(site.demo.fns[number].inputs, data, strict=True)]  # fmt: skip
        end, _ = who.call(number, shown, event)
        if not end["success"]:
            return str(end["output"]["error"])
        return re.sub(r"<[^>]+>", " ", str(end["output"]["data"]))

    return run


def test_limits_are_saved_and_shown(site: Site, call: Callable[..., str]) -> None:
    person = site.person()
    assert "no limit" in call(person, "limits_show")
    shown = call(person, "limits_save", "5", "", "1,000.5")
    assert "1000.5 left" in shown.replace(",", "")
    stored = person.client.get("/api/billing/limits").json()
    assert (stored["per_answer"], stored["per_conversation"], stored["per_day"]) == (
        "5",
        None,
        "1000.5",
    )
    assert "zero or more" in call(person, "limits_save", "-1", "", "")
    assert "decimal" in call(person, "limits_save", "much", "", "")
    assert person.client.get("/api/billing/limits").json()["per_answer"] == "5"


def test_the_calculator_counts(site: Site, call: Callable[..., str]) -> None:
    person = site.person()
    assert "SmolLM2" in call(person, "calculator_show", None, 20, 300, 400, "")
    shown = call(person, "calculator_count", MODEL, 30, 300, 400, "600")
    for figure in ("30", "900", "3.3 days", "Standard", "20"):
        assert figure in shown, figure
    assert "for ever" in call(person, "calculator_count", MODEL, None, 1, 1, "")
    for wrong in (-1, 1e300):
        assert "messages a day" in call(person, "calculator_count", MODEL, wrong, 1, 1, "")


def test_a_price_is_looked_at_and_published(site: Site, call: Callable[..., str]) -> None:
    """What was looked at is what is published, and a jump asks for the checkbox (T21)."""
    admin = site.person(admin=True)
    assert "Gemma 3 12B" in call(admin, "prices_show")
    assert NothingLookedAt.message in call(admin, "prices_publish", None, True, "key-0")
    form = (None, "900", "", "", "", "10 messages: 450", "")
    assert "Choose a model" in call(admin, "prices_look", *form)
    call(admin, "prices_choose", event={"act": "choose", "id": "gemma-3-1b-it"})
    seen = call(admin, "prices_look", *form)
    assert "will cost 900 credits, now 10." in seen
    assert "More than 20 times" in seen
    assert PriceJump.message in call(admin, "prices_publish", None, False, "key-1")
    assert "with tiers" in call(admin, "prices_publish", None, True, "key-1")
    rows = admin.client.get("/api/admin/prices", params={"model": "gemma-3-1b-it"}).json()["items"]
    assert [row["price"]["per_message"] for row in rows] == ["900", "10"]
    assert rows[0]["price"]["tiers"][0]["from"] == 10
    assert "off the shelf" in call(admin, "prices_offer", None)
    assert not admin.client.get("/api/admin/models/gemma-3-1b-it").json()["offered"]


def form(tiers: str = "", start: str = "", **parts: str) -> Any:
    """The form's fields as a draft."""
    names = ("message", "given", "made", "image")
    return section._draft("m", *(parts.get(name, "") for name in names), tiers, start)


def test_the_form_is_read_as_it_is_written() -> None:
    draft = form("1,000 messages: 1 / 2\n\n2000 Messages: 0.5 1.5", given="2", made="4")
    assert draft.kind == "per_token"
    assert [(tier.from_amount, tier.output_per_million) for tier in draft.tiers] == [
        (1000, 2_000_000),
        (2000, 1_500_000),
    ]
    mixed = form("50.5 credits: 1 2 3", "2026-12-24 18:00", message="1", given="2", made="4")
    assert (mixed.kind, mixed.tiers[0].from_amount) == ("mixed", 50_500_000)
    assert mixed.valid_from == 1_798_135_200_000_000
    assert form(message="0.5", image="3").per_image == 3_000_000
    for wrong in ("messages: 1", "10 days: 1", "10 messages: 1 2", "1.5 messages: 1"):
        with pytest.raises(BadTierLine):
            form(wrong, message="1")
    with pytest.raises(BadStartText):
        form(start="soon", message="1")


def test_tax_rates_are_added_shown_and_removed(site: Site, call: Callable[..., str]) -> None:
    """By whoever writes invoices; support looks on."""
    finance, support = site.person(role="finance"), site.person(role="support")
    shown = call(finance, "tax_rates_add", "fi", "26", "2099-01-01", "", "next law")
    assert "26 %" in shown
    assert "planned" in shown
    assert "25.5 %" in shown
    for wrong in ("", "x", "25.555", "-1", "101"):
        assert "two letters" in call(finance, "tax_rates_add", "EE", wrong, "2099-01-01", "", "")
    assert "covers" in call(finance, "tax_rates_add", "FI", "27", "2099-01-01", "", "")
    assert "Remove" not in call(support, "tax_rates_show", "")
    assert "next law" in call(support, "tax_rates_show", "")
    assert "role" in call(support, "tax_rates_add", "FI", "27", "2100-01-01", "", "")
    found = finance.client.get("/api/admin/tax-rates", params={"jurisdiction": "FI"}).json()
    pressed = {"act": "remove", "id": found["items"][0]["id"]}
    assert "planned" not in call(finance, "tax_rates_remove", "FI", event=pressed)


def test_links_of_invoices_are_made_anew_and_withdrawn(
    site: Site, call: Callable[..., str]
) -> None:
    person, finance = site.person(), site.person(role="finance")
    order = person.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    person.client.post(f"/api/billing/payments/{order['payment_id']}/confirm").raise_for_status()
    id = person.client.get("/api/billing/invoices").json()["items"][0]["id"]
    ready = person.client.post(f"/api/billing/invoices/{id}/generate").json()
    guest = site.visitor().client
    old = ready["hosted_url"].partition("/api/")[2]
    assert guest.get(f"/api/{old}").status_code == 200
    assert "copy it" in call(person, "invoices_share", event={"act": "share", "id": id})
    call(person, "invoices_link", event={"act": "renew", "id": id})
    assert guest.get(f"/api/{old}").status_code == 404
    assert person.client.get(f"/api/billing/invoices/{id}").json()["shared"] is True
    stranger = call(site.person(), "invoices_link", event={"act": "withdraw", "id": id})
    assert "could not be found" in stranger
    call(person, "invoices_link", event={"act": "withdraw", "id": id})
    assert person.client.get(f"/api/billing/invoices/{id}").json()["shared"] is False
    assert "public link" in call(finance, "admin_invoices_link", event={"act": "renew", "id": id})
    call(finance, "admin_invoices_link", event={"act": "withdraw", "id": id})
    assert person.client.get(f"/api/billing/invoices/{id}").json()["shared"] is False


def test_a_debt_is_forgiven_in_two_steps(site: Site, call: Callable[..., str]) -> None:
    person, finance, support = (site.person(role=role) for role in ("user", "finance", "support"))
    with site.app.db.read() as session:
        found = users.find(session, person.username)
    assert found is not None
    assert found.id is not None
    owner = found.id

    def story(session: Session) -> None:
        now = site.app.clock.micros()
        order = orders.create(
            session, user_id=owner, micro=500 * MICRO, now=now, scope="t", key=f"{owner}"
        )
        orders.fulfil(session, payment_id=order.id, now=now)
        ledger.adjust(
            session, user_id=owner, micro=-100 * MICRO, reason="none", actor="t", now=now,
            scope="t", key=f"none {owner}",
        )  # fmt: skip
        moves.move(
            session, source=Owner("user", owner), target=Owner("user", owner + 1),
            micro=40 * MICRO, code="transfer", now=now, scope="t", key=f"move {owner}", actor="t",
        )  # fmt: skip
        about = DisputeStanding(f"dp_{owner}", "", "open", 500, "USD", "fraudulent")
        returns.dispute(session, order, about, now=now)

    site.app.db.write(story)
    assert "Your role" in call(support, "forgive_review", owner, "", "mercy")
    assert "Choose a user" in call(finance, "forgive_review", owner, "", "mercy")
    chosen = next(
        number
        for number, fn in site.demo.fns.items()
        if fn.fn and fn.fn.__name__ == "choose" and fn.fn.guard_role == "users.read"
    )
    end, _ = finance.call(chosen, [], {"act": "choose", "id": str(owner)})
    assert "owes 40" in str(end["output"]["data"])
    assert "3 to 500" in call(finance, "forgive_review", owner, "", "")
    assert "at most what is owed" in call(finance, "forgive_review", owner, "41", "mercy")
    asked = call(finance, "forgive_review", owner, "15", "mercy")
    assert "15 credits of the 40 credits owed: 25 credits stay owed" in re.sub(r"\s+", " ", asked)
    for _ in range(2):
        shown = call(finance, "forgive_confirm", owner, "15", "mercy", "nonce-1", "")
        assert "owes 25" in shown
    shown = call(finance, "forgive_confirm", owner, "", "mercy", "nonce-2", "")
    assert "owes" not in shown
    assert person.client.get("/api/billing/balance").json()["debt"] == "0"
    types = [row["type"] for row in person.client.get("/api/billing/transactions").json()["items"]]
    assert types[:4] == ["repayment", "forgiveness"] * 2
