"""The front page: what arrives is what its reader will see, and it decides nothing."""

import re
import secrets
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.ui.conftest import Site, Visitor
from ui.front import MOST_KEPT, Front, arranged

NOTHING = {"__type__", "props"}  # what Gradio sends for an HTML that stays
ROOMS = {"chat-tab", "credits-tab", "history-tab", "analytics-tab", "account-tab"}


def tabs(visitor: Visitor) -> dict[str, Any]:
    """The visibility of the page's tabs as it arrives, by element id."""
    return {
        part["props"]["elem_id"]: part["props"]["visible"]
        for part in visitor.config()["components"]
        if part["type"] == "tabitem" and part["props"].get("elem_id", "").endswith("-tab")
    }


def front(site: Site) -> Front:
    """The route that the site has for its page."""
    web: Any = site.server.config.app
    while hasattr(web, "inner"):
        web = web.inner
    return next(route for route in web.routes if isinstance(route, Front))


@pytest.mark.parametrize(
    ("role", "shown"),
    [
        (None, {"login-tab"}),
        ("user", ROOMS),
        ("support", ROOMS | {"admin-tab"}),
        ("admin", ROOMS | {"admin-tab"}),
    ],
)
def test_the_page_arrives_with_the_tabs_of_its_reader(
    site: Site, role: str | None, shown: set[str]
) -> None:
    visitor = site.person(role=role) if role else site.visitor()
    found = tabs(visitor)
    assert {name for name, visible in found.items() if visible is True} == shown
    parts = {part["props"].get("elem_id"): part["props"] for part in visitor.config()["components"]}
    assert parts["page-loading"]["value"] == f'<i data-look="{role or ""}"></i>'
    assert parts["tabs"]["selected"] == ("chat" if role else "login")
    # Support staff may not change credits, so that part is not shown to them.
    assert (parts["admin-adjust-review"]["visible"] == "hidden") == (role == "support")


def test_the_first_event_arranges_what_did_not_arrive_so(site: Site) -> None:
    """A page that came for nobody, and one whose sign-in ended since it came."""
    number = site.number("open_page")
    names = [block.elem_id for block in site.demo.fns[number].outputs]

    def event(visitor: Visitor, worn: str) -> dict[str, Any]:
        end, _ = visitor.call(number, [worn])
        data = dict(zip(names, end["output"]["data"], strict=True))
        return {name: update for name, update in data.items() if set(update) - NOTHING}

    known, unknown = site.person(), site.visitor()
    worn = {role: f'<i data-look="{role}"></i>' for role in ("", "user")}
    assert set(event(known, worn["user"])) == {"credits-pill", "bell", "who"}
    assert event(unknown, worn[""]) == {}
    assert {name for name in event(known, worn[""]) if name in ROOMS} == ROOMS
    assert event(known, worn[""])["login-tab"]["visible"] == "hidden"
    left = event(unknown, worn["user"])
    assert {name for name in left if left[name].get("visible") == "hidden"} >= ROOMS
    assert left["login-tab"]["visible"] is True


def test_the_page_is_nobodys_own(site: Site) -> None:
    """T: what is kept for one reader is sent to another, so it carries nothing of either."""
    first, second = site.person(), site.person()
    page = first.client.get("/").text
    assert first.username not in page
    assert page == second.client.get("/").text
    assert page != site.visitor().client.get("/").text
    mine = first.client.cookies["chat_session"]
    assert mine not in page


def test_a_cookie_that_is_no_sign_in_is_nobody(site: Site) -> None:
    nobody = site.visitor().client.get("/").text
    for value in ("", "x" * 43, 'a"b', "\u00e4".encode("latin-1").decode("latin-1")):
        headers = {"Cookie": f"chat_session={value}".encode("latin-1")}
        answer = httpx.get(site.url, headers=headers)
        assert answer.status_code == 200
        assert answer.text == nobody


def test_few_pages_are_kept_and_each_has_its_address(site: Site) -> None:
    """The host is the visitor's to choose, so what is kept for each is bounded."""
    client = site.visitor().client
    for number in range(MOST_KEPT + 3):
        answer = client.get("/", headers={"Host": f"h{number}.example"})
        assert f'"root":"http://h{number}.example"' in answer.text
    assert len(front(site)._kept) == MOST_KEPT


def test_nobody_chooses_what_others_are_sent(site: Site) -> None:
    """Cache poisoning: headers that are not part of the key, or are there twice, say nothing."""
    host = f"p{secrets.token_hex(4)}.example"
    address = urlsplit(site.url)
    for evil in (
        "X-Gradio-Server: http://evil.example",
        "X-Forwarded-Host: evil.example\r\nX-Forwarded-Host:",
    ):
        with socket.create_connection((address.hostname, address.port)) as line:
            asked = f"GET /?a=1 HTTP/1.1\r\nHost: {host}\r\n{evil}\r\nConnection: close\r\n\r\n"
            line.sendall(asked.encode())
            while line.recv(1 << 16):
                pass
        page = site.visitor().client.get("/", headers={"Host": host}).text
        assert f'"root":"http://{host}"' in page
        assert "evil" not in page


def test_nothing_in_a_look_ends_the_script_that_it_stands_in() -> None:
    page = '<script>window.gradio_config = {"components":[{"id":1,"props":{"a":1}}]};</script>'
    made = arranged(page, {1: {"value": "</script><b>&'"}})
    assert made.count("</script>") == 1
    assert re.search(r'"value":"\\u003c/script\\u003e\\u003cb\\u003e\\u0026\\u0027"', made)
    assert arranged("<p>an error</p>", {1: {"value": 1}}) == "<p>an error</p>"
