"""The main story, as a person lives it: once on the real demo model, else on the script engine.

The server fetches the demo model by itself when TEST_MODELS_DIR, or else the repository's
models_cache, has none. TEST_ENGINE=script tells the whole story without a model.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
DEMO = "SmolLM2"
LONG = "Write a long story in ten chapters about a small harbour, its people and its storms."


def name() -> str:
    """A new user name."""
    return f"ann-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def story_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server with the real demo model."""
    more = {
        "LLM__ENGINE": os.environ.get("TEST_ENGINE", "auto"),
        "LLM__SCRIPT__TOKENS": "90",
        "LLM__SCRIPT__TOKENS_PER_SECOND": "25",
        "LLM__MAX_OUTPUT_TOKENS": "400",
        "MODELS_DIR": os.environ.get("TEST_MODELS_DIR") or str(servers.ROOT / "models_cache"),
    }
    folder = tmp_path_factory.mktemp("story") / "data"
    with servers.serving(folder, **ADMIN, **more) as running:
        yield running


def test_the_whole_story(robot: Make, story_server: servers.Server) -> None:
    """Registers, chats, stops an answer, reloads mid-answer, tops up, signs out."""
    ann = robot(at=story_server.url)
    ann.register(name(), form=True)
    page = ann.page
    ann.pick(DEMO)
    assert ann.pill() == Decimal(100)

    ann.send("Hello there, who are you?")
    assert len(ann.answered(1, timeout=180_000)) > 5
    assert "1 credit" in page.locator("#chat-log .foot").last.inner_text()
    assert ann.pill() == ann.balance() == Decimal(99)

    ann.send(LONG)
    page.wait_for_function("document.querySelectorAll('#chat-log .bot').length >= 2")
    page.click("#chat-stop")
    ann.answered(2)
    assert ann.pill() == ann.balance()

    ann.send(LONG)
    page.wait_for_function("document.querySelectorAll('#chat-log .bot').length >= 3")
    page.reload()
    ann.settled()
    ann.answered(3, timeout=180_000)
    assert ann.pill() == ann.balance()
    assert page.locator("#chat-log .user").count() == 3

    before = ann.balance()
    ann.tab("Credits")
    page.locator("#credits-packages label", has_text="Starter").click()
    page.click("#credits-buy")
    page.wait_for_selector("#credits-result .badge.good")
    assert ann.balance() == before + 500
    assert ann.pill() == ann.balance()
    assert "Purchase" in page.inner_text("#credits-transactions")

    page.click("#sign-out")
    page.wait_for_selector("#login-submit", state="visible")
    assert page.locator("#credits-pill .pill").count() == 0
    page.reload()
    page.wait_for_selector("#login-submit", state="visible")


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[servers.Server]:
    """Answers of ten seconds: however long a page takes to load, the answer is not done."""
    more = {"LLM__SCRIPT__TOKENS": "200", "LLM__SCRIPT__TOKENS_PER_SECOND": "20"}
    with servers.serving(tmp_path / "data", **more) as running:
        yield running


def test_reload_goes_on_with_a_running_answer(robot: Make, slow_server: servers.Server) -> None:
    """It is shown again, still growing, and completes; it is paid once."""
    ann = robot(at=slow_server.url)
    ann.register(name())
    ann.pick(DEMO)
    ann.send("go on")
    ann.page.wait_for_function("document.querySelectorAll('#chat-log .bot').length >= 1")
    ann.page.reload()
    ann.page.wait_for_selector("#chat-stop", state="visible")
    assert ann.answered(1).startswith("w0 w1")
    assert "w199" in ann.page.inner_text("#chat-log")
    assert ann.pill() == ann.balance() == Decimal(99)


def test_a_double_click_sends_once(robot: Make) -> None:
    """T12: two clicks, one message, one charge."""
    ann = robot()
    ann.register(name())
    ann.pick(DEMO)
    ann.page.fill("#chat-input textarea", "only once")
    ann.page.dblclick("#chat-send")
    ann.answered(1)
    ann.page.wait_for_timeout(500)
    assert ann.page.locator("#chat-log .user").count() == 1
    assert ann.balance() == Decimal(99)


@pytest.mark.full
def test_two_tabs_do_not_mix(robot: Make) -> None:
    """Each tab keeps its own conversation while both stream."""
    ann = robot()
    ann.register(name())
    ann.pick(DEMO)
    first, second = ann.page, ann.open()
    second.goto(ann.url)
    ann.page = second
    ann.pick(DEMO)
    ann.page = first
    ann.send("message of the first tab")
    ann.page = second
    ann.send("message of the second tab")
    for page, own in ((first, "first"), (second, "second")):
        page.locator("#chat-log .foot").first.wait_for()
        shown = page.locator("#chat-log .user").all_inner_texts()
        assert len(shown) == 1
        assert own in shown[0]
    assert ann.balance() == Decimal(98)


def test_edit_switch_fork_and_reload(robot: Make) -> None:
    """An edited question is a branch: both stay, the switcher shows either, a fork is its own."""
    ann = robot()
    ann.register(name())
    ann.pick(DEMO)
    ann.send("the first words")
    ann.answered(1)
    page = ann.page
    page.locator("#chat-log .user [data-deed=edit]").click()
    page.wait_for_selector("#chat-images .editing")
    assert page.input_value("#chat-input textarea") == "the first words"
    ann.send("other words")
    versions = "document.querySelector('#chat-log .user .versions')?.textContent"
    page.wait_for_function(f"{versions} === '‹2/2›'")
    ann.answered(1)
    assert "other words" in page.inner_text("#chat-log .user")
    page.get_by_role("button", name="Previous version").click()
    page.wait_for_function(f"{versions} === '‹1/2›'")
    assert "the first words" in page.inner_text("#chat-log .user")
    page.get_by_role("button", name="Next version").click()
    page.wait_for_function(f"{versions} === '‹2/2›'")
    page.locator("#chat-log .bot [data-deed=fork]").click()
    page.wait_for_function(f"{versions} === undefined")
    assert "other words" in page.inner_text("#chat-log .user")
    page.wait_for_function(
        "document.querySelectorAll('#conversation-list [data-pick]').length === 2"
    )
    page.reload()
    ann.settled()
    page.wait_for_selector("#chat-log .user .turns")
    page.locator("#conversation-list [data-pick]").last.click()
    page.wait_for_function(f"{versions} === '‹2/2›'")
    assert ann.balance() == Decimal(98)


@pytest.fixture
def brief_server(tmp_path: Path) -> Iterator[servers.Server]:
    """Every answer ends at its length limit."""
    more = {"LLM__SCRIPT__TOKENS": "200", "LLM__MAX_OUTPUT_TOKENS": "20"}
    with servers.serving(tmp_path / "data", **more) as running:
        yield running


@pytest.mark.full
def test_compare_go_on_and_leave_nothing(robot: Make, brief_server: servers.Server) -> None:
    """Two columns until one is picked; a cut answer goes on; a temporary chat is in no list."""
    ann = robot(at=brief_server.url)
    ann.register(name())
    ann.pick(DEMO)
    page = ann.page
    box, drafts = "#chat-input textarea", "JSON.stringify(localStorage)"
    page.fill(box, "a secret")
    page.wait_for_function(f"{drafts}.includes('secret')")
    page.click("#chat-temporary")
    page.wait_for_selector("#chat-mode p")
    page.wait_for_function(f"document.querySelector('{box}').value === 'a secret'")
    assert "secret" not in page.evaluate(drafts)
    page.click("#chat-send")
    ann.answered(1)
    page.fill(box, "nobody's draft")
    page.wait_for_timeout(700)
    assert "draft:" not in page.evaluate(drafts)
    page.fill(box, "")
    assert page.evaluate("document.querySelector('[data-side]').dataset.open") == (
        "temporary:" + page.evaluate("document.querySelector('#chat-cost [data-c]').dataset.c")
    )
    page.wait_for_function(
        "document.querySelector('[data-deed=continue]').textContent.includes('at most 1 credit')"
    )
    page.locator("#chat-log [data-deed=continue]").click()
    ann.answered(2)
    assert page.locator("#chat-log .message.bot").count() == 1
    ann.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=ann.url)
    page.locator("#chat-log [data-copy]").click()  # one for both parts
    page.locator("text=Copied").wait_for()
    parts = " ".join(f"w{number}" for number in range(20))
    assert page.evaluate("navigator.clipboard.readText()").split() == (f"{parts} {parts}").split()
    assert page.locator("#conversation-list [data-pick]").count() == 0
    page.click("#new-chat")
    page.wait_for_selector("#chat-mode p", state="hidden")
    page.click("#chat-compare .compare")
    page.wait_for_function("document.querySelectorAll('#chat-compare option').length > 0")
    page.select_option("#chat-compare select", "gemma-3-1b-it")
    page.wait_for_selector("#chat-quote >> text=Gemma 3 1B: likely 10, at most 10 credits")
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.locator(box).press_sequentially("which one", delay=15)
    page.wait_for_selector("#chat-quote >> text=SmolLM2 135M (demo): likely 1, at most 1 credit")
    assert asked == []
    page.click("#chat-send")
    page.wait_for_function("document.querySelectorAll('#chat-log .beside button').length === 2")
    assert ann.balance() == Decimal(98 - 1 - 10)
    page.locator("#chat-log .beside button").last.click()
    page.wait_for_selector("#chat-log .beside", state="detached")
    assert "gemma-3-1b-it" in page.inner_text("#chat-log .foot")
    assert "2/2" in page.inner_text("#chat-log .foot")


@pytest.mark.full
def test_retry_replaces_the_answer(robot: Make) -> None:
    """The question stays, the answer comes anew, and both answers are paid."""
    ann = robot()
    ann.register(name())
    ann.pick(DEMO)
    ann.send("again please")
    ann.answered(1)
    ann.page.get_by_role("button", name=re.compile("retry", re.IGNORECASE)).last.click()
    ann.page.wait_for_selector("#chat-stop", state="visible")
    ann.answered(1)
    assert ann.page.locator("#chat-log .user").count() == 1
    assert ann.page.locator("#chat-log .foot").count() == 1
    assert ann.balance() == Decimal(98)


@pytest.mark.full
def test_the_quote_stands_next_to_the_send_button(robot: Make) -> None:
    """It follows the model, and says so when the balance does not reach."""
    ann = robot()
    ann.register(name())
    ann.pick(DEMO)
    ann.page.fill("#chat-input textarea", "what will it cost")
    ann.page.wait_for_selector("#chat-quote >> text=Likely 1, at most 1 credit")
    ann.pick("12B")
    ann.page.wait_for_selector("#chat-quote >> text=at most 50 credits")
    for _ in range(2):
        ann.page.fill("#chat-input textarea", "spend it")
        ann.page.click("#chat-send")
        ann.page.wait_for_selector("#chat-stop", state="visible")
        ann.page.click("#chat-stop")
        ann.page.wait_for_selector("#chat-send", state="visible")
    assert ann.balance() == Decimal(0)
    ann.page.fill("#chat-input textarea", "no more")
    ann.page.wait_for_selector("#chat-quote .bad >> text=You have 0")
    ann.page.click("#chat-send")
    ann.page.wait_for_selector("text=Not enough credits")
    assert ann.page.input_value("#chat-input textarea") == "no more"


@pytest.mark.full
def test_history_finds_opens_exports_and_deletes(robot: Make) -> None:
    """Search, open in chat, export over the authorised route, delete with a second step."""
    ann = robot()
    ann.register(name())
    ann.pick(DEMO)
    ann.send("the zebra question")
    ann.answered(1)
    page = ann.page
    page.click("#new-chat")
    ann.tab("History")
    page.fill("#history-search input, #history-search textarea", "zebra")
    page.locator("#history-list mark", has_text="zebra").first.wait_for()
    link = page.locator("#history-list a", has_text="Markdown").first.get_attribute("href")
    assert "zebra" in ann.context.request.get(ann.url + link).text()
    page.locator("#history-list button", has_text="Open").first.click()
    page.locator("#chat-log .user", has_text="zebra").wait_for()
    ann.tab("History")
    page.locator("#history-list button", has_text="Delete").first.click()
    page.locator("#history-list button", has_text="Yes, delete").first.click()
    page.locator("#history-list", has_text="No message matches").wait_for()
    assert ann.context.request.get(ann.url + link).status == 404


def test_wrong_sign_in_is_told_in_place(robot: Make) -> None:
    """The sentence stands in the form; the page stays, and it greets nobody with a toast."""
    ann = robot()
    ann.visit()
    ann.page.wait_for_selector("#login-submit", state="visible")
    ann.page.wait_for_timeout(1500)
    assert ann.page.locator(".toast-body").count() == 0
    ann.page.click("#login-submit")
    ann.page.wait_for_selector("form[data-panel=login] .trouble >> text=Fill in every field")
    ann.page.fill("#login-username", "nobody")
    ann.page.fill("#login-password", "wrong password here")
    ann.page.click("#login-submit")
    ann.page.wait_for_selector("form[data-panel=login] .trouble >> text=is wrong")
    stored = ann.page.evaluate("JSON.stringify(localStorage)")
    assert "wrong password" not in stored


def test_an_administrator_adjusts_and_suspends(robot: Make) -> None:
    """Adjustment with a reason and a second step; suspension ends the sign-in."""
    user = name()
    ann, root = robot(), robot()
    ann.register(user)
    root.sign_in("root", form=True)
    root.tab("Admin")
    page = root.page
    page.fill("#admin-search input, #admin-search textarea", user)
    page.locator("#admin-users tbody tr", has_text=user).locator("button").click()
    field = "#admin-adjust-{0} input, #admin-adjust-{0} textarea"
    page.fill(field.format("credits"), "25")
    page.fill(field.format("reason"), "for a good idea")
    page.click("#admin-adjust-review")
    page.wait_for_selector("#admin-adjust-sure >> text=Add 25 credits")
    page.click("#admin-adjust-confirm")
    page.locator("#admin-users tbody tr", has_text="125").wait_for()
    assert ann.balance() == Decimal(125)
    page.click("#admin-suspend")
    page.locator("#admin-user-question", has_text=f"Suspend {user}?").wait_for()
    page.click("#admin-user-yes")
    page.locator("#admin-users tbody tr", has_text="suspended").wait_for()
    ann.page.fill("#chat-input textarea", "am I still here")
    ann.page.click("#chat-send")
    ann.page.locator("text=Please sign in to go on.").first.wait_for()


def test_users_see_no_admin_tab(robot: Make) -> None:
    """The right tabs for each."""
    ann = robot()
    ann.register(name())
    ann.settled()
    shown = ann.page.locator("#tabs > .tab-wrapper [role=tablist] button").all_inner_texts()
    assert [text.strip() for text in shown] == [
        "Chat",
        "Credits",
        "History",
        "Analytics",
        "Account",
    ]
