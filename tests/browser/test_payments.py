"""Buying on a hosted page and giving money back, with a browser and a stand-in for Stripe."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot
from tests.fakes.stripe import server as standin
from tests.fakes.stripe.server import Fake

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with standin.running() as running:
        yield running


@pytest.fixture(scope="module")
def server(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server whose payments go through the stand-in."""
    folder = tmp_path_factory.mktemp("payments") / "data"
    more = {
        "PAYMENTS__PROVIDER": "stripe",
        "PAYMENTS__STRIPE_API_KEY": standin.API_KEY,
        "PAYMENTS__STRIPE_WEBHOOK_SECRET": standin.WEBHOOK_SECRET,
        "PAYMENTS__STRIPE_API_BASE": fake.url,
    }
    with servers.serving(folder, **ADMIN, **more) as running:
        fake.webhook_url = f"{running.url}/api/billing/webhooks/stripe"
        yield running


def buy(person: Robot, fake: Fake) -> None:
    """Choose a package and arrive at the payment page."""
    person.tab("Credits")
    person.page.wait_for_selector("#credits-shop-head >> text=Paid on the page of Stripe")
    person.page.locator("#credits-packages label", has_text="Starter").click()
    person.page.click("#credits-buy")
    person.page.wait_for_url(f"{fake.url}/c/pay/*")


@pytest.mark.full
def test_a_customer_pays_on_the_hosted_page_and_an_admin_refunds(robot: Make, fake: Fake) -> None:
    ann = robot()
    ann.register("paying-ann")
    buy(ann, fake)
    page: Any = ann.page
    page.click("#decline")
    page.wait_for_selector("#declined")
    page.click("#back")
    page.wait_for_selector("#credits-cards .card", state="visible")
    assert ann.balance() == Decimal(100)
    buy(ann, fake)
    page.click("#pay")
    # Back from there, on the credits, which are there.
    page.wait_for_selector("#credits-transactions >> text=500 credits for 5.00 USD")
    assert ann.balance() == Decimal(600)

    root = robot()
    root.sign_in("root")
    root.tab("Admin")
    root.section("admin", "Payments")
    page = root.page
    row = page.locator("#admin-payments-table tr", has=page.locator(".badge", has_text="paid"))
    row.get_by_role("button", name="Open").click()
    page.wait_for_selector("#admin-payment-about >> text=refundable")
    page.fill("#admin-refund-amount input, #admin-refund-amount textarea", "2")
    page.fill("#admin-refund-reason input, #admin-refund-reason textarea", "asked for it")
    page.click("#admin-refund-review")
    page.wait_for_selector("#admin-refund-summary >> text=Refund 2.00 USD")
    page.click("#admin-refund-confirm")
    page.wait_for_selector("#admin-payment-about >> text=Refund of 2.00 USD, 200 credits")
    assert ann.balance() == Decimal(400)
    fake.quiet()
    for person in (ann, root):
        person.outside = [url for url in person.outside if not url.startswith(fake.url)]


def test_a_plan_is_paid_on_the_page_and_its_card_is_kept_until_its_owner_says_no(
    robot: Make, fake: Fake, server: servers.Server
) -> None:
    """The button leads to the page and back; the same session may then charge and forget it."""
    root = robot()
    root.sign_in("root")
    body = {"id": "basic", "name": "Basic", "price": {"amount": 1000, "currency": "USD"}}
    made = root.context.request.post(
        f"{server.url}/api/admin/plans",
        data=json.dumps({**body, "credits": 1000}),
        headers={"Content-Type": "application/json", "Origin": server.url},
    )
    assert made.ok, made.text()
    ann = robot()
    ann.register("planning-ann")
    ann.tab("Credits")
    ann.section("credits", "Plan")
    page: Any = ann.page
    page.get_by_role("button", name="Choose", exact=True).click()
    page.get_by_role("button", name="Yes", exact=True).click()
    page.wait_for_url(f"{fake.url}/c/pay/*")
    page.click("#pay")
    page.wait_for_selector("#credits-cards .card", state="visible")
    fake.quiet()
    assert ann.balance() == Decimal(1100)
    ann.section("credits", "Plan")
    page.wait_for_selector("#credits-plan-body >> text=Visa ending in 4242")
    page.get_by_role("button", name="Stop keeping it").click()
    page.wait_for_selector("#credits-plan-body >> text=ending in", state="detached")
    assert not any(
        one["customer"] for one in fake.account.things.values() if one["object"] == "payment_method"
    )
    for person in (ann, root):
        person.outside = [url for url in person.outside if not url.startswith(fake.url)]
