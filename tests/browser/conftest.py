"""A real Chromium against a real `launch.py`. Skips where there is no Chromium, unless in CI."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.browser.robot import ARGUMENTS, Robot

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
ADMIN = {
    "ADMIN__USERNAME": "root",
    "ADMIN__EMAIL": "root@example.org",
    "ADMIN__PASSWORD": servers.PASSWORD,
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser program, started once for each module.

    Playwright keeps an event loop running in this thread, so it must end with the module:
    tests of other rooms have loops of their own.
    """
    if not Path(CHROMIUM).exists() and os.environ.get("CI", "").lower() != "true":
        pytest.skip("there is no Chromium here; install the package chromium to run these")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server with the script engine at a readable speed, shared by all that need no other."""
    folder = tmp_path_factory.mktemp("browser") / "data"
    more = {"LLM__SCRIPT__TOKENS": "60", "LLM__SCRIPT__TOKENS_PER_SECOND": "20"}
    with servers.serving(folder, **ADMIN, **more) as running:
        yield running


@pytest.fixture
def robot(chromium: Any, server: servers.Server) -> Iterator[Callable[..., Robot]]:
    """Makes people with a browser each; at the end none of them saw a broken page."""
    made: list[Robot] = []

    def make(*, at: str | None = None, **context: Any) -> Robot:
        made.append(Robot(chromium, at or server.url, **context))
        return made[-1]

    yield make
    for one in made:
        one.close()
    for one in made:
        assert one.outside == [], "the page asked another host for something"
        assert one.violations == [], "the page broke its own content policy"
