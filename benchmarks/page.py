"""What the page costs to open: bytes, time until it can be used, and whom it asks.

python -m benchmarks.page [rounds]

A real `launch.py` with the script engine on loopback and a real Chromium. Cold is a new browser
profile, warm the same page again with its cache; the page can be used when Sign in, or the
message box, is there to be pressed. Medians of the rounds, beside the goals. The last line is a
page of Gradio with nothing but one text box, opened in turn with ours: what Gradio itself takes on
this machine. `busy` is the processor time of the page's main thread, which other work on the
machine does not change.
"""

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests import servers
from tests.browser.robot import ARGUMENTS

CHROMIUM = "/usr/bin/chromium"
GOALS = {"kilobytes": 600.0, "cold": 2.0, "warm": 0.7, "outside": 0.0}
USABLE = {"signed out": "#login-submit", "signed in": "#chat-input textarea"}
EMPTY = """
import sys
import gradio, uvicorn
from fastapi import FastAPI
web = FastAPI()
with gradio.Blocks() as demo:
    gradio.Textbox(elem_id="one", label="One")
gradio.mount_gradio_app(web, demo, path="/", ssr_mode=False)
uvicorn.run(web, port=int(sys.argv[1]), log_level="error")
"""


@contextmanager
def empty() -> Iterator[str]:
    """The address of a page with one text box, served by Gradio as it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, "-c", EMPTY, str(port)]) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@dataclass
class Load:
    """One opening: bytes over the wire (headers too), requests, times in seconds, foreign hosts."""

    bytes: int = 0
    requests: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    outside: int = 0


def opened(page: Any, url: str, ready: str) -> Load:
    """Open the page and wait until it can be used, then until nothing more arrives."""
    load, host = Load(), urlsplit(url).netloc
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def finished(event: dict[str, Any]) -> None:
        load.bytes += int(event["encodedDataLength"])
        load.requests += 1

    def asked(event: dict[str, Any]) -> None:
        parts = urlsplit(event["request"]["url"])
        load.outside += parts.scheme.startswith(("http", "ws")) and parts.netloc != host

    session.on("Network.loadingFinished", finished)
    session.on("Network.requestWillBeSent", asked)
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator(ready).wait_for(state="visible")
    load.seconds = time.perf_counter() - began
    found = session.send("Performance.getMetrics")["metrics"]
    load.busy = next(one["value"] for one in found if one["name"] == "TaskDuration")
    page.wait_for_timeout(1500)
    session.detach()
    return load


def round_of(browser: Any, url: str, cookies: list[Any], ready: str) -> tuple[Load, Load]:
    """A cold and a warm opening in a profile of their own."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_cookies(cookies)
    page = context.new_page()
    cold, warm = opened(page, url, ready), opened(page, url, ready)
    context.close()
    return cold, warm


def line(name: str, cold: list[Load], warm: list[Load]) -> bool:
    """Print a line; whether every goal is met."""
    found = {
        "kilobytes": statistics.median(load.bytes for load in cold) / 1000,
        "cold": statistics.median(load.seconds for load in cold),
        "warm": statistics.median(load.seconds for load in warm),
        "outside": float(max(load.outside for load in (*cold, *warm))),
    }
    requests = statistics.median(load.requests for load in cold)
    again = statistics.median(load.bytes for load in warm) / 1000
    print(
        f"{name:<12}{found['kilobytes']:>9.0f} KB{requests:>6.0f}{again:>9.0f} KB"
        f"{found['cold']:>9.2f} s{found['warm']:>9.2f} s{found['outside']:>9.0f}"
        f"{statistics.median(load.busy for load in cold):>9.2f} s"
        f"{statistics.median(load.busy for load in warm):>8.2f} s"
    )
    return all(found[goal] <= most for goal, most in GOALS.items())


def main() -> int:
    """Measure both pages; 1 when a goal was missed."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    rounds = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.serving(Path(folder) / "data") as server,
        empty() as bare,
        sync_playwright() as play,
    ):
        person = servers.Person(server, "ada")
        cookies = [
            {"name": item.name, "value": item.value, "url": server.url}
            for item in person.cookies.cookies.jar
        ]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        kinds = {
            "signed out": (server.url, [], USABLE["signed out"]),
            "signed in": (server.url, cookies, USABLE["signed in"]),
            "empty page": (bare, [], "#one textarea"),
        }
        pairs: dict[str, list[tuple[Load, Load]]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, (url, known, ready) in kinds.items():
                pairs[name].append(round_of(browser, url, known, ready))
        heads = f"{'first load':>12}{'req':>6}{'again':>12}{'cold':>11}{'warm':>11}{'outside':>9}"
        print(f"{'':<12}{heads}{'busy cold':>11}{'warm':>10}")
        met = {name: line(name, *map(list, zip(*pairs[name], strict=True))) for name in kinds}
        print(
            f"{'goal':<12}{GOALS['kilobytes']:>9.0f} KB{'':>6}{'':>12}"
            f"{GOALS['cold']:>9.2f} s{GOALS['warm']:>9.2f} s{GOALS['outside']:>9.0f}"
        )
        browser.close()
        person.close()
    return 0 if all(met[name] for name in USABLE) else 1


if __name__ == "__main__":
    sys.exit(main())
