"""What a person wrote makes their next turn fast, and nobody else's."""

from pathlib import Path

import pytest

from chat_app.llm.engine import ChatMessage
from tests.llm.conftest import GEMMA, Stage, done, stage

pytestmark = pytest.mark.weights
STORY = "The fox looks at the river and the river looks back at the fox. " * 28


def told(here: Stage, number: int, scope: str, *more: ChatMessage) -> tuple[float, int, int]:
    """Milliseconds to the first token, cached tokens, all tokens of the prompt."""
    messages = (ChatMessage("user", f"Story {number}. {STORY}"), *more)
    request = here.request(messages=messages, max_tokens=2, user_scope=scope)
    usage = done(here.run(here.events(request))).usage
    return usage.ttft_ms, usage.cached_tokens, usage.prompt_tokens


@pytest.mark.full
def test_a_second_turn_starts_soon_for_its_own_person_alone(gemma_weights: Path) -> None:
    turn = (ChatMessage("assistant", "And then?"), ChatMessage("user", "Tell me more."))
    cold, again, other = [], [], []
    with stage(GEMMA, engine="native", threads=1) as here:
        told(here, 0, "warm-up")
        for number in range(1, 4):
            first, cached, size = told(here, number, "ann")
            assert cached < 16 * 2, "only what all stories begin with"
            cold.append(first)
            time, cached, _ = told(here, number, "ann", *turn)
            assert cached >= size // 16 * 16 - 16 >= 400
            again.append(time)
            time, cached, _ = told(here, number, f"bob {number}", *turn)
            assert cached == 0
            other.append(time)
    # The positive control shows that the clock would tell: 5 to 10 % when it is quiet. The best
    # and the worst of three, because a busy machine is slow at one time and not at another.
    assert min(warm / first for warm, first in zip(again, cold, strict=True)) < 0.3
    assert max(strange / first for strange, first in zip(other, cold, strict=True)) > 0.6
