"""Admin › Monitoring in a real browser: ranges, memory and rules under the page's own policy."""

from collections.abc import Callable

from tests.browser.robot import Robot


def test_an_operator_looks_frees_and_changes_a_rule(robot: Callable[..., Robot]) -> None:
    root = robot()
    root.sign_in("root")
    root.settled()
    root.tab("Admin")
    root.section("admin", "Monitoring")
    page = root.page
    page.locator("#admin-monitoring-page .ranges").wait_for()
    page.click('[data-range="24h"]')
    page.wait_for_selector('[data-range="24h"][aria-pressed="true"]')
    page.click("[data-free]")
    said = page.locator("#admin-monitoring-page [data-said]")
    said.get_by_text("given back").wait_for()
    row = page.locator("[data-rule=disk_low]")
    row.locator("[name=threshold]").fill("2.5")
    row.locator("[data-act=save]").click()
    row.get_by_text("Saved").wait_for()
    row.locator("[data-act=usual]").click()
    row.get_by_text("As usual again").wait_for()
    assert row.locator("[name=threshold]").input_value() == "1"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
