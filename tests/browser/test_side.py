"""The side column with a real browser: places, menus, sharing, drafts and the waiting message."""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.browser.robot import Robot
from tests.browser.test_help import told
from tests.browser.test_hostile import FORM, IMAGE, TRAP, inert
from tests.browser.test_looks import serious
from tests.effort import effort

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
DAY = 86_400
FOCUSED = "document.activeElement"
TITLES = {"Bread without yeast": 0, "Trains to Riga": 1, "A haiku": 4, IMAGE[:60]: 400}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Answers of a minute, however slow the machine: a test ends those that it does not need."""
    folder = tmp_path_factory.mktemp("side") / "data"
    more = {"LLM__SCRIPT__TOKENS": "200", "LLM__SCRIPT__TOKENS_PER_SECOND": "2"}
    with servers.serving(folder, **more) as running:
        yield running


def bring(one: Robot) -> list[str]:
    """Conversations of several days, imported: their ids in the order of TITLES."""
    talks = []
    for title, days in TITLES.items():
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * DAY))
        said = (("user", f"Tell me about {title}"), ("assistant", "**Zebras** and more"))
        messages = [{"role": role, "content": text, "created_at": at} for role, text in said]
        form = "ml-chat-billing/conversation/1"
        talks.append({"format": form, "title": title, "messages": messages})
    made = call(one, "POST", "conversations/import", talks)
    return [item["id"] for item in made["items"]]


def call(one: Robot, method: str, path: str, body: Any = None) -> Any:
    """The REST API with the browser's cookie."""
    answer = one.context.request.fetch(
        f"{one.url}/api/chat/{path}",
        method=method,
        headers={"Origin": one.url, "Content-Type": "application/json"},
        **({"data": json.dumps(body)} if body is not None else {}),
    )
    assert answer.ok, answer.text()
    return answer.json() if answer.body() else None


def patient(one: Robot) -> Any:
    """The page, with time for a machine that does a lot else."""
    one.page.set_default_timeout(60_000)
    return one.page


def end_answers(one: Robot) -> None:
    """End what is being written as another device would, not by the button of the page."""
    for reply in call(one, "GET", "status")["running"]:
        call(one, "POST", f"replies/{reply}/stop")


def names(one: Robot, section: str) -> list[str]:
    """The rows below a heading of the list."""
    part = one.page.locator("#side section", has=one.page.get_by_text(section, exact=True))
    return [text.strip() for text in part.locator(".name").all_inner_texts()]


def menu(one: Robot, title: str, *entries: str) -> None:
    """Open a row's menu and choose from it, and from what it opens."""
    row = one.page.locator("#side-rows li", has_text=title).last
    row.hover()
    row.locator(".dots").click()
    for entry in entries:
        one.page.get_by_role("menuitem", name=entry).click()


def test_the_list_and_its_menus(robot: Make) -> None:
    """Groups, opening, pin, folder, rename, archive, search, delete; hostile titles are words.

    And a draft of a new chat is there again after a reload.
    """
    ann = robot(color_scheme="light")
    page = patient(ann)
    page.add_init_script(TRAP)
    ann.register(f"ann-{secrets.token_hex(3)}")
    page.wait_for_selector("#side-rows")  # before: a page still opening would show the newest
    bread, trains, *_ = bring(ann)
    page.fill("#chat-input textarea", "a thought")
    page.reload()  # the newest conversation is open now, and the thought was of none
    ann.settled()
    page.locator("#side section", has_text="Previous 7 days").wait_for()
    assert names(ann, "Today") == ["Bread without yeast"]
    assert names(ann, "Yesterday") == ["Trains to Riga"]
    assert page.locator("#side [data-pick]", has_text=IMAGE[:60]).count() == 1

    page.locator("#conversation-list").get_by_text("Trains to Riga").click()
    page.locator("#chat-log .user", has_text="Trains to Riga").wait_for()
    page.wait_for_selector(f"#side [data-pick={trains}][aria-current]")

    menu(ann, "Bread without yeast", "Pin to top")
    page.locator("#side section", has_text="Pinned").wait_for()
    menu(ann, "A haiku", "Move to folder", "New folder")
    page.fill(".side-box input", "<b>Verse</b>")
    page.keyboard.press("Enter")
    page.locator("#side .folder ul li", has_text="A haiku").wait_for()
    assert names(ann, "Folders") == ["<b>Verse</b>", "A haiku"]

    # By keyboard alone: the row, its menu, another name.
    page.locator(f"#side [data-pick={trains}]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#side-menu [role=menuitem]:focus")
    page.keyboard.press("Enter")
    page.wait_for_selector("#side .edit:focus")
    page.keyboard.type("Ferries to Turku")
    page.keyboard.press("Enter")
    page.locator("#side .name", has_text="Ferries to Turku").wait_for()
    page.locator(f"#side [data-pick={trains}]:focus").wait_for()

    menu(ann, "Ferries to Turku", "Archive")
    page.locator("#side .name", has_text="Ferries to Turku").wait_for(state="detached")
    page.keyboard.press("Control+k")
    page.wait_for_selector("#side-search:focus")
    page.keyboard.type("zebras")
    page.locator("#side mark", has_text=re.compile("zebras", re.I)).first.wait_for()
    assert page.locator("#side mark").count() == 4
    inert(page)
    page.keyboard.press("Escape")
    page.locator("#side section", has_text="Pinned").wait_for()
    menu(ann, "Bread without yeast", "Delete", "Keep")
    menu(ann, "Bread without yeast", "Delete", "Delete for good")
    page.locator("#side section", has_text="Pinned").wait_for(state="detached")
    assert ann.context.request.get(f"{ann.url}/api/chat/conversations/{bread}").status == 404
    page.locator("#side .folder > .dots").click()
    assert serious(page) == []
    page.get_by_role("menuitem", name="Delete").click()
    page.get_by_role("menuitem", name="Delete folder").click()
    page.locator("#side .folder").wait_for(state="detached")
    page.locator("#side section", has_text="Previous 7 days").wait_for()
    assert names(ann, "Previous 7 days") == ["A haiku"]
    page.click("#new-chat")
    page.wait_for_function("document.querySelector('#chat-input textarea').value === 'a thought'")
    shown = {item["id"]: item for item in call(ann, "GET", "conversations?archived=true")["items"]}
    assert shown[trains]["title"] == "Ferries to Turku"


@pytest.mark.full
def test_a_waiting_message_a_draft_and_an_answer_in_the_background(
    robot: Make, slow: servers.Server
) -> None:
    """Sent once when the answer ends; refused or not wanted, its words are in the composer."""
    ann = robot(at=slow.url)
    page, box = patient(ann), "#chat-input textarea"
    ann.register(f"ann-{secrets.token_hex(3)}")
    ann.pick("SmolLM2")
    ann.send("the first question")
    page.wait_for_selector("#chat-stop", state="visible")
    page.fill(box, "the waiting question")
    page.press(box, "Enter")
    page.locator("#chat-queued", has_text="the waiting question").wait_for()
    assert page.input_value(box) == ""
    page.click("#chat-queued button")
    assert page.input_value(box) == "the waiting question"
    page.click("#chat-queue")
    page.wait_for_selector("#chat-queued")
    end_answers(ann)
    page.locator("#chat-log .user", has_text="the waiting question").wait_for()
    assert page.locator("#chat-queued").count() == 0
    # It goes on without us, and says so when it is done.
    page.wait_for_selector("#chat-stop", state="visible")
    page.click("#new-chat")
    page.wait_for_selector("#side .dot.running")
    end_answers(ann)
    page.fill(box, "a thought that waits")
    page.wait_for_selector("#side .dot.done")
    page.locator("#conversation-list").get_by_text("the first question").click()
    page.locator("#chat-log .foot").nth(1).wait_for()
    assert page.locator("#side .dot").count() == 0
    assert page.input_value(box) == ""
    assert ann.balance() == 98
    page.click("#new-chat")
    page.wait_for_function(f"document.querySelector('{box}').value === 'a thought that waits'")
    page.reload()
    ann.settled()
    page.click("#new-chat")
    page.wait_for_function(f"document.querySelector('{box}').value === 'a thought that waits'")
    page.click("#sign-out")
    page.wait_for_selector("#login-submit", state="visible")
    assert "thought" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_shared_page_is_text_and_nothing_else(robot: Make, tmp_path: Path) -> None:
    """Bar 12: hostile words behind a link, read by a stranger: no script, no request outside."""
    ann = robot()
    page = patient(ann)
    ann.register(f"ann-{secrets.token_hex(3)}")
    page.wait_for_selector("#side-rows")
    page.locator("#side [data-all]").click()
    page.get_by_role("menuitem", name="Import").click()
    said = [{"role": "user", "content": IMAGE}]
    said += [{"role": "assistant", "content": f"{FORM}\n\n{IMAGE}\n\n![p](https://evil.example/p)"}]
    talk = {"format": "ml-chat-billing/conversation/1", "title": IMAGE, "messages": said}
    file = tmp_path / "talks.json"
    file.write_text(json.dumps([talk, {"nothing": 1}]))
    page.set_input_files(".side-box input[type=file]", file)
    page.locator(".side-box .said", has_text="Imported 1 conversation with 2 messages").wait_for()
    page.keyboard.press("Escape")
    menu(ann, "<img", "Share")
    page.get_by_label("Anyone with the link").check()
    link = page.locator(".side-box input[readonly]").input_value()
    if effort(full=True, quick=False):
        assert serious(page) == []

    bob = robot()
    bob.page.add_init_script(TRAP)
    answer = bob.page.goto(link)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    bob.page.wait_for_timeout(300)
    assert bob.page.evaluate("window.pwned") == []
    count = "document.querySelectorAll('script, img, iframe, form, input, base').length"
    assert bob.page.evaluate(count) == 0
    assert "alert(1)" in bob.page.inner_text("main")
    assert serious(bob.page) == []
    page.get_by_label("Private").check()
    page.get_by_role("button", name="Take it back").click()
    page.locator(".side-box .said", has_text="leads nowhere").wait_for()
    assert bob.page.goto(link).status == 404


def test_keys(robot: Make, slow: servers.Server) -> None:
    """Help, stop, copy, new chat, search, the box, from tab to tab; what is said aloud."""
    one = robot(at=slow.url)
    one.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=one.url)
    one.register(f"keys-{secrets.token_hex(3)}")
    page, keys = patient(one), one.page.keyboard
    one.pick("SmolLM2")
    assert page.locator("a, button, input").first.get_attribute("class") == "skip"
    page.locator(".skip").focus()
    keys.press("Enter")
    assert page.evaluate(f"{FOCUSED}.tagName") == "TEXTAREA"
    keys.type("a?")
    assert page.locator("#help[open]").count() == 0  # it was typed
    keys.press("Enter")
    told(page, "Answer started")
    page.wait_for_selector("#chat-stop", state="visible")
    page.wait_for_function("document.querySelector('#chat-cost .busy b')")
    page.click("#help-open")
    keys.press("Escape")  # closes the help, the answer goes on
    assert page.locator("#help[open]").count() == 0
    assert page.is_visible("#chat-stop")
    keys.press("Escape")
    told(page, "Answer finished. Charged 1 credit")
    page.locator("#chat-log .foot").get_by_text("stopped").wait_for()
    keys.press("Alt+c")
    told(page, "Answer copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("w0")
    keys.press("Control+k")
    page.wait_for_function(f"{FOCUSED}.id === 'side-search'")
    keys.press("Alt+i")
    page.wait_for_function(f"{FOCUSED}.tagName === 'TEXTAREA'")
    one.tab("Credits")
    page.locator("#credits-transactions table").wait_for()
    page.locator("#tabs > .tab-wrapper [role=tablist] button", has_text="Credits").focus()
    keys.press("ArrowRight")
    page.wait_for_selector("#history-tab", state="visible")
    assert page.evaluate(f"{FOCUSED}.textContent").strip() == "History"
    keys.press("Alt+n")
    page.wait_for_selector("#chat-log .hello", state="visible")
    page.click("#theme-toggle")
    page.click("#theme-toggle")
    told(page, "Theme: dark")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.reload()
    page.wait_for_function("document.body.classList.contains('dark')")
    assert page.evaluate("localStorage.look") == "dark"
