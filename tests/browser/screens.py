"""Pictures for the documentation: `python -m tests.browser.screens [folder]` writes docs/img.

The demo model answers; `TEST_ENGINE=script` takes the script engine instead. There are at most
fifteen pictures, each of a few colours and at most 150 KB.
"""

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import ARGUMENTS, Robot
from tests.browser.test_revenue import choose, company

CHROMIUM = "/usr/bin/chromium"
FOLDER = servers.ROOT / "docs" / "img"
MOST_BYTES = 150_000
SIZE = {"width": 1280, "height": 900}
TABS = {
    "Credits": "#credits-transactions table",
    "History": "#history-list .hit",
    "Analytics": "#analytics-credits svg .bar",
    "Account": "#account-session-list .line",
    "Admin": "#admin-users table",
}
QUESTIONS = (
    "Explain double-entry bookkeeping in three sentences",
    "Give me five names for a small bakery",
    "Write a haiku about an honest invoice",
)


def picture(page: Any, path: Path) -> None:
    """Photograph what is seen, with as many colours as fit."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colours in (256, 128, 64, 32):
        shot.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            return
    raise AssertionError(f"{path.name} is too large")


def revenue(browser: Any, folder: Path) -> None:
    """Photograph the revenue of a made-up company."""
    with tempfile.TemporaryDirectory() as data:
        company(Path(data) / "data")
        with servers.serving(Path(data) / "data", **ADMIN) as server:
            root = Robot(browser, server.url, color_scheme="light", viewport=SIZE)
            root.sign_in("root")
            root.tab("Admin")
            root.section("admin", "Revenue")
            root.page.locator("#admin-revenue-cards .card").first.wait_for()
            choose(root.page, "last_month")
            root.page.wait_for_timeout(900)
            root.page.evaluate("scrollTo(0, 0)")
            picture(root.page, folder / "revenue.png")
            root.close()


def main(folder: Path = FOLDER) -> None:
    """Chat a little and photograph every tab."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "ADMIN__USERNAME": "root",
        "ADMIN__EMAIL": "root@example.org",
        "ADMIN__PASSWORD": servers.PASSWORD,
        "LLM__SCRIPT__TOKENS_PER_SECOND": "0",
        "LLM__ENGINE": os.environ.get("TEST_ENGINE", "auto"),
        "MODELS_DIR": os.environ.get("TEST_MODELS_DIR") or str(servers.ROOT / "models_cache"),
    }
    with (
        tempfile.TemporaryDirectory() as data,
        servers.serving(Path(data) / "data", **settings) as server,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        root = Robot(browser, server.url, color_scheme="light", viewport=SIZE)
        page = root.page
        root.visit()
        page.wait_for_selector("#login-submit", state="visible")
        page.wait_for_timeout(600)
        picture(page, folder / "login.png")
        for person in ("ada", "grace", "linus"):
            servers.Person(server, person).close()
        root.sign_in("root")
        for question in QUESTIONS:
            second = "Gemma 3 1B" if settings["LLM__ENGINE"] == "script" else "SmolLM2"
            root.pick(second if question == QUESTIONS[1] else "SmolLM2")
            page.click("#new-chat")
            page.wait_for_timeout(400)
            root.send(question)
            root.answered(1, timeout=180_000)
            page.wait_for_timeout(400)
        picture(page, folder / "chat.png")
        page.click("#help-open")
        page.wait_for_timeout(300)
        picture(page, folder / "help.png")
        page.keyboard.press("Escape")
        for tab, ready in TABS.items():
            root.tab(tab)
            page.locator(ready).first.wait_for()
            page.wait_for_timeout(900)
            page.evaluate("scrollTo(0, 0)")
            picture(page, folder / f"{tab.lower()}.png")
        root.section("admin", "Setup")
        page.locator("#setup .findings").wait_for()
        page.wait_for_timeout(400)
        page.evaluate("scrollTo(0, 0)")
        picture(page, folder / "setup.png")
        root.close()
        for name, tab, look in (
            ("chat-dark", "Chat", {"color_scheme": "dark"}),
            ("analytics-dark", "Analytics", {"color_scheme": "dark"}),
            ("chat-mobile", "Chat", {"viewport": {"width": 390, "height": 844}}),
        ):
            other = Robot(browser, server.url, **look)
            other.sign_in("root")
            other.page.wait_for_selector("#chat-log .foot")
            if tab in TABS:
                other.tab(tab)
                other.page.locator(TABS[tab]).first.wait_for()
            other.page.wait_for_timeout(900)
            picture(other.page, folder / f"{name}.png")
            other.close()
        revenue(browser, folder)
        browser.close()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
