"""The sections Plan, Redeem & top-up, Packages & codes: what a press does, and for whom."""

from typing import Any

import pytest

from chat_app.credits import plans
from chat_app.credits.plans import Plan
from chat_app.money import MICRO, Money
from tests.ui.conftest import Site, Visitor


@pytest.fixture
def ann(site: Site) -> Visitor:
    with site.app.db.read() as session:
        offered = plans.list_plans(session)
    if not offered:
        offer = Plan("light", "<b>Light</b>", Money(900), 1000 * MICRO)
        site.app.db.write(lambda session: plans.create(session, offer, now=1))
    return site.person()


def press(person: Visitor, number: int, act: str, id: str = "", key: str = "k") -> str:
    """What the section shows after a button was pressed, or the refusal."""
    end, _ = person.call(number, [], {"act": act, "id": id, "key": key})
    return str(end["output"])


def available(person: Visitor) -> str:
    return str(person.client.get("/api/billing/balance").json()["available"])


def test_a_plan_is_asked_for_before_it_costs(site: Site, ann: Visitor) -> None:
    act = site.number("plan_act")
    shown = press(ann, act, "ask-choose", "light")
    assert "Pay 9.00 USD now and every month?" in shown
    assert "<b>Light</b>" not in shown  # names are text
    assert available(ann) == "100"
    for _ in range(2):  # a double click
        assert "your plan" in press(ann, act, "choose", "light")
    assert available(ann) == "1100"
    assert "Yes, end it" in press(ann, act, "ask-cancel")
    assert "ends with this period" in press(ann, act, "cancel", key="c")
    assert "The next 1,000 credits come on" in press(ann, act, "resume", key="r")
    assert "paused" in press(ann, act, "pause", key="p")
    assert "not on offer" in press(site.person(), act, "choose", "gold")


def test_a_code_is_made_by_an_administrator_and_redeemed_by_a_user(
    site: Site, ann: Visitor
) -> None:
    boss = site.person(admin=True)
    end, _ = boss.call(site.number("codes_make"), ["50", "2", "1", "1", "2099-12-31", "key"])
    shown = str(end["output"])
    assert "2 made" in shown
    listed = boss.client.get("/api/admin/codes").json()["items"][:2]
    assert {code["expires_at"] for code in listed} == {"2100-01-01T00:00:00Z"}
    code = shown.partition("expires_at")[2].split(",")[0].replace("\\n", " ").split()[-1]
    redeem = site.number("redeem_code")
    end, _ = ann.call(redeem, [f" {code.lower()} ", "one"])
    assert "50 credits added" in str(end["output"])
    end, _ = ann.call(redeem, [code, "two"])
    assert "redeemed this code already" in str(end["output"])
    assert available(ann) == "150"
    other = next(item for item in listed if item["hint"] != code[-4:])
    act = site.number("codes_act")
    assert "Yes, revoke" in press(boss, act, "ask-revoke", other["id"])
    assert "revoked" in press(boss, act, "revoke", other["id"])


def test_the_shelf_is_filled_by_the_form(site: Site) -> None:
    boss = site.person(admin=True)
    edit, save = site.number("shop_edit"), site.number("shop_save")
    press(boss, edit, "new-package")

    def sent(*fields: Any) -> str:
        end, _ = boss.call(save, [None, *fields])
        return str(end["output"])

    # The state of the form is kept by the server for this browser session.
    assert "Tiny" in sent("tiny", "Tiny", "1.00", "1,000", "", "30", True)
    assert "offered already" in sent("tiny", "Tiny", "1.00", "1,000", "", "30", True)
    assert "not a number" in sent("tiny2", "Tiny", "-1.00", "1,000", "", "", True)
    press(boss, edit, "edit-package", "tiny")
    sent("tiny", "Tiny", "2.50", "1000", "5", "", False)
    shelf = boss.client.get("/api/admin/packages").json()["items"]
    tiny = next(item for item in shelf if item["id"] == "tiny")
    assert (tiny["price"]["amount"], tiny["bonus_credits"]) == (250, "5")
    assert (tiny["valid_days"], tiny["active"]) == (None, False)


def test_a_top_up_is_switched_on_and_off(site: Site, ann: Visitor) -> None:
    ann.call(site.number("redeem_show"), [])  # the choices are those that this page was given
    end, _ = ann.call(site.number("topup_save"), ["50", "starter", "3"])
    assert "at most 3 times a day" in str(end["output"])
    end, _ = ann.call(site.number("topup_stop"), [])
    assert "Switch it on" in str(end["output"])
    end, _ = ann.call(site.number("topup_save"), ["much", "starter", "3"])
    assert "Credits are a whole number" in str(end["output"])
