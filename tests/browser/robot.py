"""A person with a browser, who knows the page only by its stable element ids."""

import re
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from tests.servers import PASSWORD

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TABS = ("Chat", "Credits", "History", "Analytics")


class Robot:
    """One browser context with one page. Collects requests to other hosts and policy breaks."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.url = url
        self.outside: list[str] = []
        self.violations: list[str] = []
        size = {"width": 1280, "height": 800}
        self.context = browser.new_context(**{"viewport": size, **context})
        self.page = self.open()

    def open(self) -> Any:
        """Another tab of the same browser."""
        page = self.context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", self._saw)
        page.on("requestfailed", self._stopped)
        page.on("console", self._heard)
        return page

    def close(self) -> None:
        """End the context."""
        self.context.close()

    def visit(self) -> None:
        """Open the site."""
        self.page.goto(self.url)

    def register(self, name: str, *, form: bool = False) -> None:
        """Create an account and arrive in the chat; with `form` through the page, which is loaded
        once more for it.
        """
        if not form:
            self._post("register", username=name, email=f"{name}@example.org", password=PASSWORD)
            return self.sign_in(name)
        self.visit()
        self.page.click("#register-open")
        self.page.fill("#register-username", name)
        self.page.fill("#register-email", f"{name}@example.org")
        self.page.fill("#register-password", PASSWORD)
        self.page.click("#register-submit")
        return self._arrive()

    def sign_in(self, name: str, *, form: bool = False) -> None:
        """Sign in and arrive in the chat; with `form` through the page."""
        if not form:
            # A page that is still opening would find itself signed in meanwhile, and open anew.
            self.page.goto("about:blank")
            self._post("login", login=name, password=PASSWORD)
        self.visit()
        if form:
            self.page.fill("#login-username", name)
            self.page.fill("#login-password", PASSWORD)
            self.page.click("#login-submit")
        self._arrive()

    def _arrive(self) -> None:
        self.page.wait_for_selector("#chat-input textarea", state="visible")

    def _post(self, route: str, **body: str) -> None:
        """What the form would send, with the cookie that comes back."""
        answer = self.context.request.post(
            f"{self.url}/api/auth/{route}", data=body, headers={"Origin": self.url}
        )
        assert answer.ok, answer.text()

    def settled(self) -> None:
        """Wait until the picker has models: then the page has loaded its data."""
        self.page.wait_for_function("document.querySelector('#chat-model input')?.value.length > 3")

    def pick(self, name: str) -> None:
        """Choose a model by a part of its name."""
        self.settled()
        self.page.click("#chat-model input")
        self.page.get_by_role("option", name=re.compile(name)).click()
        self.page.wait_for_function(
            "name => document.querySelector('#chat-model input').value.includes(name)", arg=name
        )

    def send(self, text: str) -> None:
        """Write a message and press Send."""
        self.page.fill("#chat-input textarea", text)
        self.page.click("#chat-send")

    def answered(self, count: int = 1, *, timeout: float = 60_000) -> str:
        """Wait for so many finished answers; the text of the last one."""
        foots = self.page.locator("#chat-log .foot")
        foots.nth(count - 1).wait_for(timeout=timeout)
        self.page.wait_for_selector("#chat-send", state="visible")
        pill = "document.querySelector('#credits-pill b').textContent.replace(/,/g, '')"
        self.page.wait_for_function(f"text => {pill} === text", arg=str(self.balance()))
        return str(self.page.locator("#chat-log .bot").last.inner_text())

    def tab(self, name: str) -> None:
        """Open a tab by its label, from the overflow menu if it is there."""
        self._open("#tabs", name)

    def section(self, tab: str, name: str) -> None:
        """Open a section of a tab that has several: `credits` or `admin`."""
        self._open(f"#{tab}-sections", name)

    def _open(self, tabs: str, name: str) -> None:
        bar = f"{tabs} > .tab-wrapper"
        button = self.page.locator(f"{bar} .tab-container[role=tablist] button", has_text=name)
        if not button.count():
            self.page.click(f"{bar} .overflow-menu > button")
            button = self.page.locator(f"{bar} .overflow-dropdown button", has_text=name)
        button.first.click()

    def pill(self) -> Decimal:
        """The available credits that the header shows."""
        return Decimal(self.page.inner_text("#credits-pill b").replace(",", ""))

    def balance(self) -> Decimal:
        """The available credits that the books say."""
        answer = self.context.request.get(f"{self.url}/api/billing/balance")
        return Decimal(answer.json()["available"])

    def _saw(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in {"http", "https", "ws", "wss"} and not self.url.endswith(parts.netloc):
            self.outside.append(request.url)

    def _stopped(self, request: Any) -> None:
        """The policy keeps a request from leaving the browser: then nobody was asked."""
        if "csp" in (request.failure or "").lower() and request.url in self.outside:
            self.outside.remove(request.url)

    def _heard(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.violations.append(message.text)
