"""Invoices in a real browser: details kept, a package bought, its file and its page opened."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.robot import Robot

pytestmark = pytest.mark.browser


@pytest.mark.full
def test_an_invoice_is_downloaded_and_shown_to_a_guest(robot: Callable[..., Robot]) -> None:
    """What the guest sees is the invoice, and nothing of the account."""
    person = robot(accept_downloads=True)
    person.register("invoiced")
    page = person.page
    person.tab("Credits")
    person.section("credits", "Invoices")
    page.get_by_text("No invoices yet").wait_for()
    page.fill("#credits-billing-name input, #credits-billing-name textarea", "Ada Öztürk & Co")
    page.fill("#credits-billing-country input, #credits-billing-country textarea", "ee")
    page.click("#credits-billing-save")
    page.get_by_text("Your next invoice has these details").wait_for()
    person.section("credits", "Overview")
    page.click("#credits-buy")
    page.locator("#credits-result .badge").wait_for()
    person.section("credits", "Invoices")
    row = page.locator("#credits-invoice-list tbody tr")
    with page.expect_download() as waiting:
        row.locator("a").click()
    assert waiting.value.suggested_filename.startswith("INV-")
    assert Path(waiting.value.path()).read_bytes().startswith(b"%PDF-")
    with page.expect_download() as waiting:
        page.locator("#credits-statement-files a", has_text="CSV").click()
    assert b"closing_balance" in Path(waiting.value.path()).read_bytes()
    row.locator("button").click()
    path = page.locator("#credits-invoice-link a").get_attribute("href")
    guest = robot(color_scheme="dark", viewport={"width": 390, "height": 844})
    guest.page.goto(guest.url + path)
    assert "Ada Öztürk & Co" in guest.page.inner_text("main")
    assert guest.page.evaluate("document.documentElement.scrollWidth") <= 390
