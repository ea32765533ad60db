"""Buying on a hosted page and giving money back, with a browser and a stand-in for Stripe."""

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
