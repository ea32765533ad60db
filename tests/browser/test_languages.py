"""The page in German and Chinese, in a browser: nothing is left in English, nobody's text changes.

The page's script notes what it has no sentence for (`window.untold`), so whatever a visit shows is
checked without a list of it here.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
LOCALES = {"de": "de-DE", "zh": "zh-CN"}
# Names, units and figures; what Gradio itself says, in the browser's language.
SAME = re.compile(
    r"[−+-]?[\d.,:%/ -]*(?:[kMGT]?i?B|m?s|ms p95|USD|UTC|GPU|MRR|ARR|tok/s|USD for [\d,]+)?\.?"
    r"|ML Chat Billing|(?:Gemma|gemma|SmolLM2|smollm2).*|Plus|Pro|Starter|Standard|PDF|CSV|JSON"
    r"|XXXX.*|https?:.*|[\w.+-]+@[\w.-]+|[a-z]+(?:[._][a-z_]+)+|English|Deutsch|Apache-2.0"
    r"|(?:AUC|PSI|ECE|Log-loss|Brier|MASE|MAE|RMSE|sMAPE).*|Chrome, .*|script|queue: .*"
    r"|(?:processing|[\d.]+s) .*|Laden\.\.\.|Chat leeren|Optionsfeld|[A-Z]+-\d{4}-\d+|demo-.*"
    r"|Demo Works .*|\d{4}-\d\d.*|root|[\d.]+ [kMG]B ·|reconciled|journals posted|.* USD"
)


def untold(page: Any, *own: str) -> list[str]:
    """What the page has shown and could not say, but for people's own words."""
    page.wait_for_timeout(200)
    found: list[str] = page.evaluate("[...window.untold]")
    return [one for one in found if one not in own and not SAME.fullmatch(one)]


def said(page: Any, text: str) -> str:
    """The text in the page's language."""
    return str(page.evaluate("text => window.inTongue(text)", text))


def test_a_newcomer_reads_german_and_then_chinese(robot: Make) -> None:
    """By the browser's language first, by the list in the bar then; the account keeps it."""
    ann = robot(locale="de-DE")
    page, name = ann.page, f"ann-{secrets.token_hex(4)}"
    ann.register(name, form=True)
    assert page.evaluate("document.documentElement.lang") == "de"
    assert page.inner_text("#chat-send") == "Senden"
    ann.settled()
    page.fill("#chat-input textarea", "Archive")
    page.wait_for_function("document.querySelector('#chat-quote').innerText.includes('höchstens')")
    page.click("#chat-send")
    page.locator("#chat-log .foot a[data-receipt]").wait_for()
    assert "Beleg" in page.inner_text("#chat-log .foot")
    # Read out from what stands on the page in German already.
    page.wait_for_function("document.querySelector('#announce').innerText.includes('berechnet')")
    # What people write is theirs, also where it is a word that the page knows.
    assert page.inner_text("#chat-log .user .prose p") == "Archive"
    page.locator("#side-rows .name").first.wait_for()
    assert page.inner_text("#side-rows .name") == "Archive"
    page.click("#help-open")
    assert "Tastenkürzel" in page.inner_text("#help")
    page.keyboard.press("Escape")
    ann.tab("Guthaben")
    page.locator("#credits-packages label").first.wait_for()
    assert "Bewegungen" in page.inner_text("#credits-tab")
    assert page.eval_on_selector(
        "#credits-tab input[role=combobox]",
        "list => [list.value, Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value')"
        ".get.call(list)]",
    ) == ["All movements", "Alle Bewegungen"]
    assert untold(page, name, "Archive", f"{name}@example.org") == []

    with page.expect_navigation():
        page.select_option("#language", "zh")
    page.wait_for_function("document.querySelector('#chat-send')?.textContent.trim() === '发送'")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    me = ann.context.request.get(f"{ann.url}/api/auth/me").json()
    assert me["language"] == "zh"
    page.locator("#chat-log .foot").first.wait_for()
    assert untold(page, name, "Archive", f"{name}@example.org") == []

    # On another device, whose browser asks for English, the account's language counts.
    other = robot(locale="en-US")
    other.sign_in(name, form=True)
    other.page.wait_for_function(
        "document.querySelector('#chat-send')?.textContent.trim() === '发送'"
    )


def test_english_asks_for_nothing_more(robot: Make) -> None:
    """No catalogue, no walk over the page."""
    ann = robot(locale="en-US")
    asked: list[str] = []
    ann.page.on("request", lambda request: asked.append(request.url))
    ann.visit()
    ann.page.wait_for_selector("#login-submit", state="visible")
    assert not [url for url in asked if "/languages/" in url]
    assert ann.page.evaluate("[window.untold, document.documentElement.lang]") == [None, "en"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A server with a history, so that tables and figures have something to say."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("languages") / "data"
    command = [sys.executable, "-m", "chat_app", "simulate", "--users", "30", "--months", "4"]
    subprocess.run(
        [*command, "--fraud", "--data-dir", str(folder)],
        cwd=servers.ROOT,
        env=servers.environment(folder),
        check=True,
        capture_output=True,
    )
    with servers.serving(folder, **ADMIN, LLM__SCRIPT__TOKENS="20") as running:
        yield running


@pytest.mark.full
@pytest.mark.parametrize("language", sorted(LOCALES))
def test_every_tab_and_section_is_said(
    robot: Make, filled: servers.Server, language: str, tmp_path: Path
) -> None:
    """Each tab and each of its sections, with data in them."""
    root = robot(at=filled.url, locale=LOCALES[language])
    page = root.page
    root.sign_in("root")
    root.settled()
    left: dict[str, list[str]] = {}
    for tab in ("Credits", "History", "Analytics", "Account", "Admin"):
        page.evaluate("name => window.openTab('#tabs', name)", tab)
        page.wait_for_timeout(1500)
        bar = f"#{tab.lower()}-sections"
        names = page.eval_on_selector_all(
            f"{bar} > .tab-wrapper .tab-container.visually-hidden button",
            "all => all.map((one) => one.textContent.trim())",
        )
        for name in names:
            page.evaluate("([bar, name]) => window.openTab(bar, name)", [bar, name])
            page.wait_for_timeout(1500)
            left[f"{tab}/{name}"] = []
        left[tab] = untold(page)
    assert {where: words for where, words in left.items() if words} == {}
