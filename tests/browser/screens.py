"""Pictures for the documentation: `python -m tests.browser.screens [folder]` writes docs/img.

The demo model answers; `TEST_ENGINE=script` takes the script engine instead.
"""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import servers
from tests.browser.robot import ARGUMENTS, Robot

CHROMIUM = "/usr/bin/chromium"
FOLDER = servers.ROOT / "docs" / "img"
QUESTIONS = (
    "Explain double-entry bookkeeping in three sentences",
    "Give me five names for a small bakery",
    "Write a haiku about an honest invoice",
)


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
        root = Robot(browser, server.url, color_scheme="light")
        page = root.page
        root.visit()
        page.wait_for_selector("#login-submit", state="visible")
        page.wait_for_timeout(600)
        page.screenshot(path=folder / "login.png")
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
        page.screenshot(path=folder / "chat.png")
        waits = {
            "Credits": "#credits-transactions table",
            "History": "#history-list .hit",
            "Analytics": "#analytics-credits svg .bar",
            "Admin": "#admin-users table",
        }
        for tab, ready in waits.items():
            root.tab(tab)
            page.locator(ready).first.wait_for()
            if tab == "Admin":
                page.locator("#admin-users tbody tr", has_text="ada").locator("button").click()
            page.wait_for_timeout(900)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=folder / f"{tab.lower()}.png", full_page=True)
        root.close()
        for name, look in (
            ("chat-dark", {"color_scheme": "dark"}),
            ("chat-mobile", {"viewport": {"width": 390, "height": 844}}),
        ):
            other = Robot(browser, server.url, **look)
            other.sign_in("root")
            other.page.wait_for_selector("#chat-log .foot")
            other.page.wait_for_timeout(900)
            other.page.screenshot(path=folder / f"{name}.png")
            other.close()
        browser.close()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
