"""`/v1` on real weights with OpenAI's own client: a text, not only a protocol."""

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.api.conftest import serving
from tests.llm.conftest import DEMO

pytestmark = pytest.mark.weights


def test_a_real_answer_streamed_and_whole(demo_weights: Path, tmp_path: Path) -> None:
    """T17: the same seed gives the same text, tokens and price, in chunks and in one piece."""
    # Without the cache of answers, so that it is written twice and not repeated.
    llm = {"engine": "auto", "threads": 1, "cache": {"entries": 0}}
    with serving(tmp_path, llm=llm, models_dir=demo_weights) as served:
        ann = served.person()
        ai = OpenAI(
            base_url=f"{served.url}/v1", api_key=ann.tokens["access_token"], timeout=120,
            max_retries=0,
        )  # fmt: skip
        asked: dict[str, Any] = {
            "model": DEMO,
            "messages": [
                {"role": "system", "content": "You answer in English."},
                {"role": "user", "content": "What is the capital of France?"},
            ],
            "temperature": 0.7,
            "seed": 3,
            "max_completion_tokens": 24,
        }
        whole = ai.chat.completions.create(**asked)
        usage = {"include_usage": True}
        chunks = list(ai.chat.completions.create(**asked, stream=True, stream_options=usage))
        text = whole.choices[0].message.content or ""
        assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == text
        assert "Paris" in text
        assert whole.usage is not None
        last = chunks[-1].usage
        assert last is not None
        assert last.completion_tokens == whole.usage.completion_tokens
        assert last.prompt_tokens == whole.usage.prompt_tokens > 15
        assert ann.available() == "98"
        stopped = ai.chat.completions.create(**asked | {"stop": "Paris", "temperature": 0})
        assert "Paris" not in (stopped.choices[0].message.content or "")
        assert stopped.choices[0].finish_reason == "stop"
