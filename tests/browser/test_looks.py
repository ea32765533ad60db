"""Accessibility, small screens, and text that tries to be more than text."""

import secrets
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot
from tests.effort import effort

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
READY = {
    "Chat": "#chat-log .foot",
    "Credits": "#credits-transactions table",
    "History": "#history-list .hit",
    "Analytics": "#analytics-models table",
    "Account": "#account-session-list .line",
    "Admin": "#admin-users table",
}


DARK = "(dark) => { document.body.classList.toggle('dark', dark); }"
OPEN_ALL = """() => {
  document.querySelectorAll('#account-page [hidden]').forEach((part) => { part.hidden = false; });
  document.querySelectorAll('#account-page details').forEach((part) => { part.open = true; });
}"""


def sections(robot: Robot, tab: str) -> list[str]:
    """The names of a tab's sections, also of those behind the overflow menu."""
    # What the bar has no room for has no button in it; the copy that it measures has them all.
    buttons = robot.page.locator(f"#{tab.lower()}-sections > .tab-wrapper .visually-hidden button")
    return [text.strip() for text in buttons.all_text_contents()]


def look(robot: Robot, place: str) -> dict[str, list[str]]:
    """What is wrong there: by daylight all rules, and with `--full` those about contrast in the
    dark.
    """
    found = {f"{place}, light": serious(robot.page)}
    if not effort(full=True, quick=False):
        return found
    robot.page.evaluate(DARK, True)
    found[f"{place}, dark"] = serious(robot.page, only="color-contrast")
    robot.page.evaluate(DARK, False)
    return found


def serious(page: Any, *, only: str = "") -> list[str]:
    """What axe finds that keeps people out."""
    from axe_playwright_python.base import AXE_SCRIPT

    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], **({"runOnly": [only]} if only else {})}
    run = "options => axe.run(document, options).then((found) => found.violations)"
    found = page.evaluate(run, options)
    return [
        f"{item['id']}: {item['help']} {[node['html'][:160] for node in item['nodes'][:3]]}"
        for item in found
        if item["impact"] in {"serious", "critical"}
    ]


def test_axe_finds_nothing_serious(robot: Make) -> None:
    """Each tab and each of its sections, with data in it, light and dark: one sign-in."""
    root = robot(color_scheme="light", reduced_motion="reduce")
    root.visit()
    root.page.wait_for_selector("#login-submit", state="visible")
    problems = look(root, "Login")
    root.sign_in("root")
    root.pick("SmolLM2")
    root.send("hello")
    root.page.wait_for_selector("#chat-log .foot")
    for tab, ready in READY.items():
        root.tab(tab)
        root.page.locator(ready).first.wait_for()
        root.page.wait_for_timeout(500)
        problems |= look(root, tab)
        for section in sections(root, tab)[1 :: effort(1, 2)]:
            root.section(tab.lower(), section)
            root.page.wait_for_timeout(300)
            problems |= look(root, f"{tab}, {section}")
    root.tab("Account")
    root.page.evaluate(OPEN_ALL)
    problems |= look(root, "Account, all parts")
    assert len(problems) > effort(40, 12)
    assert {place: found for place, found in problems.items() if found} == {}


def test_a_phone_shows_everything_without_sideways_scrolling(robot: Make) -> None:
    """390 px wide, every tab, and the conversation list in a drawer."""
    root = robot(viewport={"width": 390, "height": 844})
    wide = "document.documentElement.scrollWidth"
    root.visit()
    root.page.wait_for_selector("#login-submit", state="visible")
    assert root.page.evaluate(wide) <= 390
    root.sign_in("root")
    root.pick("SmolLM2")
    root.send("hello")
    root.page.wait_for_selector("#chat-log .foot")
    for tab, ready in READY.items():
        root.tab(tab)
        root.page.locator(ready).first.wait_for()
        assert root.page.evaluate(wide) <= 390, tab
    for section in sections(root, "Admin")[1 :: effort(1, 4)]:
        root.section("admin", section)
        root.page.wait_for_timeout(300)
        assert root.page.evaluate(wide) <= 390, section
    root.section("admin", "Overview")
    cells = root.page.locator("#admin-users tbody tr").first.locator("td").all()
    boxes = [cell.bounding_box() for cell in cells[:-1]]
    # Every line of a row begins at its left, also below a cell of two parts.
    assert len({box["x"] for box in boxes if box}) == 1
    assert all(one["y"] < two["y"] for one, two in pairwise(boxes) if one and two)
    root.tab("Chat")
    root.page.click("#chat-menu")
    root.page.locator("#conversation-list [data-pick]").first.wait_for()
    root.page.click("#new-chat")
    root.page.wait_for_selector("#chat-side", state="hidden")
    root.page.set_viewport_size({"width": 390, "height": 420})  # what a keyboard leaves
    root.page.fill("#chat-input textarea", "a line\n" * 9)
    send = root.page.locator("#chat-send").bounding_box()
    assert send
    assert send["y"] + send["height"] <= 420
    assert root.page.evaluate("document.documentElement.scrollHeight") <= 420


@pytest.mark.full  # test_hostile.py shows more of it in every run
def test_hostile_text_stays_text(robot: Make, tmp_path: Path) -> None:
    """XSS: from the model, from the user, in every list; no script, no outside request."""
    hostile = {"LLM__SCRIPT__FAULT": "hostile"}
    with servers.serving(tmp_path / "data", **ADMIN, **hostile) as server:
        eve = robot(at=server.url)
        eve.page.add_init_script("window.alert = () => { window.pwned = true; };")
        eve.register(f"eve-{secrets.token_hex(3)}")
        eve.pick("SmolLM2")
        for text in (
            "<img src=x onerror=alert(1)><script>alert(1)</script>",
            "${alert(1)} {{constructor.constructor('alert(1)')()}}",
            "[click](javascript:alert(1)) <a href='javascript:alert(1)'>x</a>",
            "![x](http://evil.example/pixel.png) <iframe src=http://evil.example></iframe>",
        ):
            before = eve.page.locator("#chat-log .foot").count()
            eve.send(text)
            eve.page.locator("#chat-log .foot").nth(before).wait_for()
        for tab in ("Credits", "History", "Analytics", "Chat"):
            eve.tab(tab)
            eve.page.wait_for_timeout(600)
        eve.tab("History")
        eve.page.fill("#history-search input, #history-search textarea", "alert")
        eve.page.locator("#history-list mark").first.wait_for()
        eve.page.reload()
        eve.page.locator("#chat-log .foot").first.wait_for()
        assert eve.page.evaluate("window.pwned") is None
        assert eve.page.locator("#chat-log script, #chat-log iframe").count() == 0
        assert eve.page.locator("#chat-log a[href^='javascript']").count() == 0
        # The policy stops remote images; that the browser says so is the proof that it did.
        assert any("img-src" in said for said in eve.violations)
        eve.violations.clear()
