"""The composer and what stands under an answer, in a real browser under the production policy."""

import json
import secrets
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests import servers
from tests.browser.robot import Robot

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
MAKEFILE = "all: $(OBJ)\n\t$(CC) -o $@ $^\n\t\t@echo $(HOME)/$(USER)"
TEXT = f"""Bayes: $P(A\\mid B) = \\frac{{1}}{{2}}$ costs $5 or $10.

$$\\int_0^1 x\\,dx$$

Also \\(a_1\\) and
\\[ E = mc^2 \\]

- one
  - two
    - three, `$HOME/$USER`

```makefile
{MAKEFILE}
```

| Name | Price | Formula | Alphabet | Bravo | Charlie | Delta | Echo |
|---|---:|---|---|---|---|---|---|
| Wide | $3 | $x^2$ | alphabet | bravo | charlie | delta | echo |
"""


def name() -> str:
    return f"cam-{secrets.token_hex(4)}"


def begin(robot: Robot) -> Any:
    """A person in the chat, who has copied and pasted before."""
    robot.register(name())
    robot.settled()
    robot.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=robot.url)
    return robot.page


def put(robot: Robot, text: str) -> None:
    """A conversation with this answer, opened."""
    body = {
        "format": "ml-chat-billing/conversation/1",
        "title": "Formulas",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}],
    }
    headers = {"Content-Type": "application/json", "Origin": robot.url}
    path = f"{robot.url}/api/chat/conversations/import"
    assert robot.context.request.post(path, data=json.dumps(body), headers=headers).status == 201
    robot.page.reload()
    robot.settled()
    robot.page.locator("#chat-log .foot").first.wait_for()


def test_markdown_arrives_as_it_was_written(robot: Make) -> None:
    """Formulas are set by this site's own files; code, money, lists and tables stay whole."""
    cam = robot(viewport={"width": 390, "height": 844})
    page = begin(cam)
    put(cam, TEXT)
    log = page.locator("#chat-log .bot").first
    page.wait_for_function("document.querySelectorAll('#chat-log .katex').length === 5")
    assert log.locator(".katex-display").count() == 2
    assert log.locator(".katex-error").count() == 0
    assert "costs $5 or $10." in log.inner_text()
    assert log.locator("li li li code").inner_text() == "$HOME/$USER"
    page.wait_for_function("document.querySelector('#chat-log pre').textContent.includes('\\t')")
    assert log.locator("pre code").text_content().rstrip() == MAKEFILE
    assert log.locator(".code_wrap").get_attribute("data-lang") == "makefile"
    sizes = "node => [node.scrollWidth > node.clientWidth, document.documentElement.scrollWidth]"
    assert log.locator("table").evaluate(sizes) == [True, 390]
    log.locator(".code_wrap").hover()
    log.locator("button.copy_code_button").click()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.includes('CC'))")
    assert page.evaluate("navigator.clipboard.readText()").rstrip() == MAKEFILE
    log.locator("[data-copy]").click()
    log.locator("text=Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == TEXT


def test_the_price_while_typing_asks_nobody(robot: Make) -> None:
    """By message: no call for a key. The price, the hint with numbers, the price of the chat."""
    cam = robot()
    page = begin(cam)
    cam.pick("12B")
    page.wait_for_timeout(400)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#chat-input textarea").press_sequentially("what will it cost", delay=15)
    page.wait_for_selector("#chat-quote >> text=Likely 50, at most 50 credits")
    page.wait_for_selector("#chat-hint >> text=Gemma 3 4B would cost 25 instead of 50.")
    page.wait_for_timeout(900)
    assert asked == []
    cam.pick("Gemma 3 1B")
    page.wait_for_selector("#chat-quote >> text=Likely 10, at most 10 credits")
    page.click("#chat-send")
    page.wait_for_selector("#credits-pill [data-held] >> text=10 of 10 held")
    cam.answered(1)
    page.wait_for_selector("#chat-quote >> text=this chat 10")
    assert cam.pill() == Decimal(90)
    foot = page.locator("#chat-log .foot").inner_text().replace("\n", " ")
    assert "60 tokens" in foot
    page.click("#chat-log [data-receipt]")
    page.wait_for_selector("#pop >> text=The signature is valid.")
    assert "10 credits" in page.inner_text("#pop")
    with page.expect_download() as saved:
        page.click("#pop a[download]")
    assert json.loads(saved.value.path().read_text())["receipt"]["credits"] == "10"
    page.keyboard.press("Escape")
    assert page.locator("#pop").count() == 0


@pytest.mark.full
def test_a_price_by_token_is_asked_once_a_pause(
    robot: Make, server: servers.Server, request: pytest.FixtureRequest
) -> None:
    """The bound stands at once and is never below the quote, which comes after the pause."""
    root = robot()
    root.sign_in("root")
    price = {
        "model": "gemma-3-4b-it", "kind": "per_token",
        "input_per_million": "9000", "output_per_million": "9000",
    }  # fmt: skip
    back = {"model": "gemma-3-4b-it", "kind": "per_message", "per_message": 25, "per_image": 5}

    def publish(body: dict[str, Any]) -> None:
        answer = root.context.request.post(
            f"{server.url}/api/admin/prices",
            data=json.dumps(body),
            headers={"Content-Type": "application/json", "Origin": server.url},
        )
        assert answer.status in (200, 201), answer.text()

    request.addfinalizer(lambda: publish(back))
    publish(price)
    cam = robot()
    page = begin(cam)
    cam.pick("4B")
    page.wait_for_timeout(400)
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url.rpartition("/")[2]))
    most = """() => Number(/at most ([\\d.,]+)/.exec(
      document.querySelector('#chat-quote').textContent)?.[1].replace(/,/g, ''))"""
    page.fill("#chat-input textarea", "some words of mine " * 20)
    page.wait_for_selector("#chat-quote >> text=at most")
    bound = page.evaluate(most)
    page.wait_for_function(f"bound => ({most})() !== bound", arg=bound)
    assert page.evaluate(most) < bound
    assert asked == ["quote"]
    # An earlier question that is edited: what was said after it is no part of its price.
    page.click("#chat-send")
    cam.answered(1)
    (talk,) = cam.context.request.get(f"{cam.url}/api/chat/conversations").json()["items"]

    def quoted(**more: Any) -> float:
        body = {"model": "gemma-3-4b-it", "message": "a b c", "conversation_id": talk["id"], **more}
        answer = cam.context.request.post(
            f"{cam.url}/api/chat/quote",
            data=json.dumps(body),
            headers={"Content-Type": "application/json", "Origin": cam.url},
        )
        return float(answer.json()["maximum"])

    page.fill("#chat-input textarea", "a b c")
    page.wait_for_function(f"whole => ({most})() === whole", arg=quoted())
    page.locator("#chat-log .user [data-deed=edit]").click()
    page.wait_for_selector("#chat-images .editing")
    page.fill("#chat-input textarea", "a b c")
    page.wait_for_function(f"part => ({most})() === part", arg=quoted(parent_id="root"))
    page.press("#chat-input textarea", "Escape")
    page.wait_for_selector("#chat-images .editing", state="detached")
    page.fill("#chat-input textarea", "a b c")
    page.wait_for_function(f"whole => ({most})() === whole", arg=quoted())
    assert quoted(parent_id="root") < quoted()


def test_settings_reach_the_answer_and_stay(robot: Make) -> None:
    """A preset of one's own, for the chat that the next message begins; feedback survives too."""
    cam = robot()
    page = begin(cam)
    cam.pick("SmolLM2")
    page.click("[data-pop=tune]")
    page.select_option("#tune-preset", label="Precise")
    assert page.input_value("#tune-temperature") == "0.2"
    page.fill("#tune-system", "Be a golem.")
    page.fill("#tune-max_tokens", "7")
    page.fill("#tune-name", "Golem")
    page.click("[data-tune-save]")
    page.wait_for_selector("#pop .said >> text=Saved: Golem")
    page.click("#pop button[type=submit]")
    page.wait_for_selector("#pop", state="detached")
    cam.pick("Gemma 3 1B")  # another model changes nothing of it
    cam.send("who are you")
    assert cam.answered(1).startswith("w0 w1 w2 w3 w4 w5 w6")
    assert "w7" not in page.inner_text("#chat-log .bot")
    page.click("#chat-log [data-vote=down]")
    page.locator("#pop .chips label", has_text="Too short").click()
    page.fill("#pop textarea", "seven words")
    page.click("#pop button[type=submit]")
    page.wait_for_selector("#pop", state="detached")
    page.reload()
    cam.settled()
    page.wait_for_selector("#chat-log [data-vote=down][aria-pressed=true]")
    page.wait_for_selector("[data-pop=tune][data-on]")
    page.click("[data-pop=tune]")
    assert page.input_value("#tune-system") == "Be a golem."
    assert "Golem" in page.locator("#tune-preset option").all_inner_texts()
    page.keyboard.press("Escape")
    talks = cam.context.request.get(f"{cam.url}/api/chat/conversations").json()["items"]
    talk = cam.context.request.get(f"{cam.url}/api/chat/conversations/{talks[0]['id']}").json()
    given = talk["messages"][1]["feedback"]
    assert (given["vote"], given["reasons"], given["note"]) == (
        "down",
        ["too_short"],
        "seven words",
    )
    page.click("#new-chat")
    page.wait_for_selector("[data-pop=tune]:not([data-on])")
    page.click("[data-pop=guard]")
    page.fill("#guard-per_conversation", "5")
    page.click("#pop button[type=submit]")
    page.wait_for_selector("#pop", state="detached")
    cam.send("too dear")
    page.wait_for_selector("text=your limit for this conversation leaves 5")
    assert page.input_value("#chat-input textarea") == "too dear"
