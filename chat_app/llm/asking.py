"""What a model server is asked for one answer: the body of the request, in its own names.

vLLM, SGLang and llama.cpp are asked for more than OpenAI's protocol has. It sends nothing.
"""

import asyncio
import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chat_app.llm import prompt
from chat_app.llm.backends.base import MARKERS, Spec
from chat_app.llm.engine import ChatMessage, Request, Sampling
from chat_app.llm.sse import Trouble

_GREEDY_BELOW = 1e-3


async def body(
    request: Request,
    messages: Sequence[ChatMessage],
    spec: Spec,
    *,
    name: str,
    kind: str,
    max_tokens: int,
    share_prefixes: bool,
) -> dict[str, Any]:
    """The request for `messages` to a server of a kind, which calls the model `name`.

    Raises Trouble for sampling that is no number and for an image that is gone.
    """
    return {
        "model": name,
        "messages": await _shown(messages, spec),
        "max_tokens": max_tokens,
        **_extras(request.user_scope, kind, share_prefixes=share_prefixes),
        **_sampling(request.sampling, kind),
    }


def clean(messages: Sequence[ChatMessage], spec: Spec) -> list[dict[str, str]]:
    """The texts as they are sent, without the power to open or close a turn."""
    markers = MARKERS[spec.family]
    return [
        {"role": message.role, "content": prompt.harmless(message.content, markers)}
        for message in messages
    ]


async def _shown(messages: Sequence[ChatMessage], spec: Spec) -> list[dict[str, Any]]:
    """The messages as they are sent: images as data URLs before their text."""
    turns: list[dict[str, Any]] = list(clean(messages, spec))
    for turn, message in zip(turns, messages, strict=True):
        if message.images:
            try:
                urls = [await asyncio.to_thread(_data_url, image.path) for image in message.images]
            except OSError as error:
                raise Trouble(
                    "engine_error", f"an image cannot be read: {error}", again=False, blame="none"
                ) from error
            parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            turn["content"] = [*parts, {"type": "text", "text": turn["content"]}]
    return turns


def _data_url(path: str) -> str:
    kind = "png" if path.endswith(".png") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def _extras(user_scope: str, kind: str, *, share_prefixes: bool) -> dict[str, Any]:
    """What a server of this kind is asked beyond the messages."""
    options: dict[str, Any] = {"include_usage": True}
    extras: dict[str, Any] = {"stream": True, "stream_options": options}
    if kind in ("vllm", "sglang"):
        options["continuous_usage_stats"] = True
        extras["cache_salt"] = user_scope or "nobody"
    elif kind == "llamacpp":
        extras["timings_per_token"] = True
        extras["cache_prompt"] = share_prefixes
    return extras


def _sampling(sampling: Sampling, kind: str) -> dict[str, Any]:
    """The server's names. Raises Trouble for what is no number."""
    numbers = (sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty)
    if not all(math.isfinite(number) for number in numbers):
        raise Trouble("engine_error", "sampling needs finite numbers", again=False, blame="none")
    greedy = sampling.temperature < _GREEDY_BELOW
    found: dict[str, Any] = {"temperature": 0.0 if greedy else sampling.temperature}
    if not greedy:
        found["top_p"] = sampling.top_p
    if sampling.seed is not None:
        found["seed"] = sampling.seed % 2**31
    penalty = sampling.repetition_penalty
    if kind == "llamacpp":
        found |= {"top_k": max(0, sampling.top_k), "min_p": sampling.min_p}
        found |= {"repeat_penalty": penalty, "repeat_last_n": 2**16}
    elif kind:
        found |= {"top_k": sampling.top_k if sampling.top_k > 0 else -1, "min_p": sampling.min_p}
        found |= {"repetition_penalty": penalty}
    return found
