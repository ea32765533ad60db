"""Images through the transformers backend: what the library's own `generate` says of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_app.llm import prompt as prompts
from chat_app.llm.backends import transformers as backend_module
from chat_app.llm.backends.base import Seeing
from chat_app.llm.backends.transformers import Transformers
from chat_app.llm.engine import ChatMessage, Done, Event, Failed, Image, Request, Sampling
from chat_app.llm.worker import Desk
from tests.llm.native.test_image_prompts import save_tokenizer
from tests.llm.native.test_vision import Sighted, shown, sighted
from tests.llm.test_transformers import quiet, spec_of

__all__ = ["sighted"]

WORDS = 12


@pytest.fixture(scope="module")
def backend(sighted: Sighted) -> Iterator[Transformers]:
    """The tiny model that sees, in single precision, reading eight tokens at a time."""
    save_tokenizer(sighted.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_module.base, "cpu_flags", set)
        patch.setattr(backend_module, "CHUNK_TOKENS", {"cpu": 8})
        yield Transformers(spec_of(sighted.folder, context_tokens=512), quiet)


def theirs(pair: Sighted, backend: Transformers, messages: list[ChatMessage]) -> list[int]:
    """`generate` with the library's processor for pixels, on the whole prompt at once."""
    import torch
    from PIL import Image as Pil

    ids = torch.tensor([[511 if token < 0 else token for token in backend.encode(messages)]])
    images = [Pil.open(image.path) for message in messages for image in message.images]
    more: dict[str, Any] = {}
    if images:
        assert backend._pixels is not None
        more["pixel_values"] = backend._pixels(images=images, return_tensors="pt")["pixel_values"]
        more["token_type_ids"] = (ids == 511).int()
    with torch.inference_mode():
        out = pair.theirs.generate(
            ids, max_new_tokens=WORDS, do_sample=False, eos_token_id=-1, pad_token_id=0, **more
        )
    return [int(token) for token in out[0][ids.shape[1] :]]


def ours(backend: Transformers, talks: list[list[ChatMessage]]) -> list[list[int]]:
    """Greedy answers to all of these, in turns."""
    made: dict[str, list[int]] = {}
    for number, messages in enumerate(talks):
        backend.show(prompts.shown(messages))
        backend.add(str(number), backend.encode(messages), Sampling(temperature=0.0), WORDS)
        made[str(number)] = []
    ends, backend._ends = backend._ends, set()
    while backend._running:
        for step in backend.step():
            assert step.error is None, step.error
            made[step.id] += step.tokens
    backend._ends = ends
    return list(made.values())


def test_it_sees_what_their_processor_and_tower_see(
    backend: Transformers, sighted: Sighted, tmp_path: Path
) -> None:
    """One image, two, one of an earlier turn, none; also in turns with each other."""
    one, two = shown(tmp_path, 1), shown(tmp_path, 2)
    talks = [
        [ChatMessage("user", "What is it?", (one,))],
        [ChatMessage("user", "What is it?", (two,))],
        [ChatMessage("user", "And these?", (one, two))],
        [
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "Look: a long line before the picture comes.", (two,)),
            ChatMessage("assistant", "Noise."),
            ChatMessage("user", "And now, without one, in so many words?"),
        ],
        [ChatMessage("user", "No image at all.")],
    ]
    expected = [theirs(sighted, backend, messages) for messages in talks]
    assert ours(backend, talks) == expected
    assert expected[0] != expected[1], "another image is another answer"


def test_a_lost_image_ends_that_answer_alone(backend: Transformers, tmp_path: Path) -> None:
    messages = [ChatMessage("user", "What?", (Image(str(tmp_path / "gone.png"), "ab" * 32),))]
    backend.show(prompts.shown(messages))
    backend.add("lost", backend.encode(messages), Sampling(temperature=0.0), WORDS)
    backend.show({})
    backend.add("text", backend.encode([ChatMessage("user", "Hi")]), Sampling(), WORDS)
    steps = {step.id: step for step in backend.step()}
    assert isinstance(steps["lost"].error, FileNotFoundError)
    assert steps["text"].error is None
    backend.drop("text")


def test_the_desk_shows_it_images(backend: Transformers, tmp_path: Path) -> None:
    assert isinstance(backend, Seeing)
    assert backend.sees
    desk = Desk(backend, "gemma3")
    told = (ChatMessage("user", "What is <start_of_image> it?", (shown(tmp_path, 1),)),)
    desk.submit(Request("a", "m", told, 4, Sampling(temperature=0.0)))
    seen: list[Event] = []
    while not desk.idle:
        desk.turn()
        seen += [event for _, event in desk.events]
        desk.events.clear()
    assert isinstance(seen[-1], Done), seen
    assert seen[-1].usage.prompt_tokens == desk.count(told)
    assert not any(isinstance(event, Failed) for event in seen)


def test_files_without_a_tower_do_not_see(sighted: Sighted, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(sighted.folder / "model.safetensors")
    text = {name: each for name, each in tensors.items() if "vision" not in name}
    save_file(text, tmp_path / "model.safetensors")
    assert backend_module._has_tower(sighted.folder)
    assert not backend_module._has_tower(tmp_path)
