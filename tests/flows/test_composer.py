"""The price while typing: the page's rule, Python's twin of it, and the server's quote."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_app.api.composer import RuleOut
from chat_app.chat.parameters import Parameters
from chat_app.credits import guards, pricing
from chat_app.credits.guards import Limits
from chat_app.credits.pricing import Price
from chat_app.flows import composer, message
from chat_app.flows.composer import Rule
from chat_app.llm.engine import IMAGE_TOKENS
from chat_app.money import MICRO, format_credits
from tests.apps import MODEL, answer, ask, in_loop, person, running_app
from tests.effort import effort
from tests.house import tree

SCRIPT = tree.ROOT / "ui" / "static" / "price.js"
_AMOUNT = st.integers(0, 200 * MICRO) | st.just(0)
_RATE = st.integers(0, 10**6 * MICRO)
PRICES = st.one_of(
    st.builds(lambda each: Price("m", 1, "per_message", each), _AMOUNT),
    st.builds(lambda a, b: Price("m", 1, "per_token", None, a, b), _RATE, _RATE),
    st.builds(
        lambda each, a, b, image: Price("m", 1, "mixed", each, a, b, image),
        _AMOUNT, _RATE, _RATE, _AMOUNT,
    ),
)  # fmt: skip
RULES = st.builds(
    lambda price, prompt, history, most, usual, guard: Rule(
        model="m", name="M", price=price, prompt_tokens=prompt + history,
        history_tokens=history, max_tokens=most, usual_tokens=usual, per_answer=guard, spent=0,
        available=0, others=(), settings=Parameters(),
    ),
    PRICES, st.integers(0, 20_000), st.integers(0, 20_000), st.integers(1, 10_000),
    st.none() | st.integers(1, 20_000), st.none() | st.integers(0, 400 * MICRO),
)  # fmt: skip
TEXTS = st.text(max_size=60) | st.sampled_from(["", "ä" * 9, "😀", "a b c"])


def most(rule: Rule, tokens: int, images: int) -> int:
    """What `message.quote` says at most for a prompt that the server counted."""
    longest = rule.max_tokens
    if rule.per_answer is not None:
        longest = max(
            1,
            pricing.longest(
                rule.price, prompt_tokens=tokens, max_tokens=longest, limit=rule.per_answer,
                images=images,
            ),
        )  # fmt: skip
    return pricing.maximum(rule.price, prompt_tokens=tokens, max_tokens=longest, images=images)


@settings(max_examples=effort(400, 100))
@given(RULES, TEXTS, st.integers(0, 3), st.data())
def test_the_bound_is_never_below_the_quote(
    rule: Rule, text: str, images: int, data: st.DataObject
) -> None:
    """Whatever the server counts, up to a token a byte: the page never promises less."""
    size = len(text.encode())
    own = data.draw(st.integers(0, size + rule.tokens_per_message))
    counted = rule.prompt_tokens + own + images * IMAGE_TOKENS
    assert composer.bound(rule, size=size, images=images) >= most(rule, counted, images)


def shown(rule: Rule) -> dict[str, Any]:
    """The rule as the page gets it."""
    return RuleOut.of(rule).model_dump(mode="json", by_alias=True)


@pytest.fixture(scope="module")
def node() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed; tests/browser asks the page itself")
    return program


def test_the_page_has_the_same_rule(node: str, tmp_path: Path) -> None:
    """Both languages, the same cases, the same microcredits; and what is likely is never more."""
    cases: list[tuple[Rule, str, int]] = []

    @settings(max_examples=effort(300, 120), database=None)
    @given(RULES, TEXTS, st.integers(0, 3))
    def gather(rule: Rule, text: str, images: int) -> None:
        cases.append((rule, text, images))

    gather()
    program = tmp_path / "ask.cjs"
    program.write_text(
        f"require({json.dumps(str(SCRIPT))});\n"
        "const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
        "const price = globalThis.chatPrice;\n"
        "console.log(JSON.stringify(cases.map(([rule, text, images]) => {\n"
        "  const given = { bytes: price.size(text), images };\n"
        "  const both = [price.maximum(rule, given), price.likely(rule, given)];\n"
        "  return [...both.map(String), price.history(rule, given), price.show(both[0])];\n"
        "})));\n"
    )
    asked = json.dumps([[shown(rule), text, images] for rule, text, images in cases])
    done = subprocess.run(
        [node, str(program)], input=asked, capture_output=True, text=True, check=True, timeout=60
    )
    said = json.loads(done.stdout)
    assert len(said) == len(cases) >= 100
    for (rule, text, images), (bound, likely, history, words) in zip(cases, said, strict=True):
        expected = composer.bound(rule, size=len(text.encode()), images=images)
        assert int(bound) == expected
        assert int(likely) <= expected
        assert 0 <= history <= 100
        assert words.replace(",", "") == format_credits(expected)


@in_loop
async def test_the_rule_bounds_real_quotes(tmp_path: Path) -> None:
    """A conversation with a history, an own system prompt and a guard; by token and by message."""
    async with running_app(tmp_path) as app:
        alice = await person(app)
        for model, kind in ((MODEL, "per_token"), ("gemma-3-4b-it", "mixed")):
            app.db.write(
                lambda session, model=model, kind=kind: pricing.publish(  # type: ignore[misc]
                    session, model_id=model, kind=kind, per_image=MICRO,
                    per_message=None if kind == "per_token" else MICRO,
                    input_per_million=9_000 * MICRO, output_per_million=30_000 * MICRO,
                    now=app.clock.micros(),
                )
            )  # fmt: skip
        begun = await ask(app, alice, "one two three", system="Be short.", max_tokens=50)
        await answer(app, alice, begun)
        for guard in (None, MICRO, 1):
            limits = Limits(per_answer=guard)
            await app.db.awrite(
                lambda session, limits=limits: guards.put(  # type: ignore[misc]
                    session, user_id=alice, limits=limits, now=app.clock.micros()
                )
            )
            for model, images in ((MODEL, 0), ("gemma-3-4b-it", 2)):
                where = {"user_id": alice, "model": model, "conversation_id": begun.conversation_id}
                rule = await composer.rule(app, **where)
                assert rule.max_tokens == 50
                assert rule.settings == Parameters(system="Be short.", max_tokens=50)
                for text in ("x", "some words " * 9, "ä ö ü"):
                    quote = await message.quote(app, **where, text=text, images=images)
                    size = len(text.encode())
                    assert composer.bound(rule, size=size, images=images) >= quote.maximum
                    # The words that stand in for the question count as one of its own.
                    exact = replace(rule, tokens_per_message=0)
                    words = len(text.split()) - 1
                    assert rule.prompt_tokens + words + images * IMAGE_TOKENS == quote.prompt_tokens
                    assert composer.bound(exact, size=words, images=images) >= quote.maximum
