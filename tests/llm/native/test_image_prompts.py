"""How images are written in a prompt: transformers' processor is the oracle, token by token."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pil

from chat_app.llm import prompt as prompts
from chat_app.llm.backends.base import MARKERS, Spec
from chat_app.llm.backends.native import Native
from chat_app.llm.engine import ChatMessage, Delta, Done, Failed, Image, Request, Sampling
from chat_app.llm.tokenizer import Tokenizer
from chat_app.llm.worker import Desk
from tests.llm.native.test_vision import Sighted, shown, sighted

__all__ = ["sighted"]

TOKENS = 16
SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
MARKS = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
# What the published template does, in our words: images where they stand, texts stripped, and
# the system text before the first turn's content.
TEMPLATE = """{{ bos_token }}{% set lead = '' %}{% if messages[0].role == 'system' %}\
{% set lead = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}\
{% for message in messages %}<start_of_turn>\
{{ 'model' if message.role == 'assistant' else message.role }}
{{ lead if loop.first else '' }}\
{% if message.content is string %}{{ message.content | trim }}{% else %}\
{% for item in message.content %}\
{{ '<start_of_image>' if item.type == 'image' else item.text | trim }}{% endfor %}{% endif %}\
<end_of_turn>
{% endfor %}{{ '<start_of_turn>model\n' }}"""


def save_tokenizer(folder: Path) -> Any:
    """A small tokenizer with Gemma's marks; the images' are the last of 512 tokens."""
    from tokenizers import AddedToken, decoders, pre_tokenizers
    from tokenizers import Tokenizer as Fast
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    fast = Fast(BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fillers = [f"<unused{n}>" for n in range(509 - len(SPECIAL) - len(alphabet))]
    trainer = BpeTrainer(
        vocab_size=509, special_tokens=SPECIAL + fillers, initial_alphabet=alphabet
    )
    fast.train_from_iterator(["a"], trainer)
    fast.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens={
            "boi_token": MARKS[0],
            "eoi_token": MARKS[1],
            "image_token": MARKS[2],
        },
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


def talk(folder: Path) -> list[ChatMessage]:
    one, two, three = (shown(folder, seed) for seed in (1, 2, 3))
    return [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "  What is\n here? ", (one, two)),
        ChatMessage("assistant", "Noise."),
        ChatMessage("user", "", (three,)),
        ChatMessage("assistant", "More of it."),
        ChatMessage("user", "Thanks \t"),
    ]


def test_prompts_are_those_of_their_processor(folder: Path) -> None:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    theirs = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer=save_tokenizer(folder),
        chat_template=TEMPLATE,
        image_seq_length=TOKENS,
    )
    mine = Tokenizer(folder, "gemma3", image_tokens=TOKENS, image_token=511)
    messages = talk(folder)
    for told in (messages, messages[1:], messages[1:2], messages[5:]):
        turns = [
            {
                "role": message.role,
                "content": [
                    *({"type": "image"} for _ in message.images),
                    {"type": "text", "text": message.content},
                ],
            }
            if message.role != "system"
            else {"role": "system", "content": message.content}
            for message in told
        ]
        images = [Pil.open(image.path) for message in told for image in message.images]
        text = theirs.apply_chat_template(turns, add_generation_prompt=True)
        options: dict[str, Any] = {"images": [images]} if images else {}
        expected = theirs(text=[text], add_special_tokens=False, **options)["input_ids"][0]
        tokens = mine.encode(told)
        assert [511 if token < 0 else token for token in tokens] == list(expected)
        numbers = [prompts.number(image) for message in told for image in message.images]
        runs = [token for token in tokens if token < 0]
        assert runs == [number for number in numbers for _ in range(TOKENS)]


def test_a_person_cannot_write_an_images_marks(folder: Path) -> None:
    """Neither open an image nor name a token that has no place in the model."""
    mine = Tokenizer(folder, "gemma3", image_tokens=TOKENS, image_token=511)
    for mark in MARKS:
        text = prompts.harmless(f"x {mark}{mark} y", MARKERS["gemma3"])
        assert not {509, 510, 511} & set(mine.ids(text)), mark


def desk(sighted: Sighted) -> Desk:
    """A worker's desk over the tiny model that sees."""
    save_tokenizer(sighted.folder)
    spec = Spec(
        model="tiny",
        family="gemma3",
        path=str(sighted.folder),
        backend="native",
        device="cpu",
        threads=1,
        context_tokens=200,
        quantization="none",
    )
    return Desk(Native(spec, lambda sentence, fraction: None), "gemma3")


def asked(desk: Desk, *messages: ChatMessage, id: str = "a") -> list[Any]:
    """The events of one answer, to its end."""
    desk.submit(
        Request(
            id, "tiny", messages, max_tokens=4, sampling=Sampling(temperature=0), user_scope="u"
        )
    )
    for _ in range(200):
        desk.turn()
        if desk.idle:
            break
    events = [event for _, event in desk.events]
    desk.events.clear()
    return events


def test_a_worker_answers_about_an_image(sighted: Sighted) -> None:
    """From the file to the text, in the formats of this processor; the tower comes when asked."""
    at = desk(sighted)
    before = at.backend.figures()["weights_bytes"]
    assert isinstance(asked(at, ChatMessage("user", "hello"))[-1], Done)
    assert at.backend.figures()["weights_bytes"] == before
    message = ChatMessage("user", "What is it?", (sighted.images[0],))
    events = asked(at, message)
    assert isinstance(events[-1], Done), events
    assert events[-1].usage.prompt_tokens == at.count((message,)) > TOKENS
    assert any(isinstance(event, Delta) for event in events) or events[-1].reason == "stop"
    assert at.backend.figures()["weights_bytes"] > before
    assert at.backend.figures()["images"] == 1
    again = asked(at, message)
    assert again[-1].usage.prompt_tokens == events[-1].usage.prompt_tokens
    assert at.backend.figures()["images"] == 1, "from the cache"


def test_old_images_go_with_their_turn(sighted: Sighted) -> None:
    """Trimming counts an image's tokens; what is left out is not looked at."""
    at = desk(sighted)
    old = ChatMessage("user", "x " * 60, (sighted.images[0], sighted.images[1]))
    events = asked(at, old, ChatMessage("assistant", "y"), ChatMessage("user", "z " * 40))
    assert isinstance(events[-1], Done), events
    assert at.backend.figures()["images"] == 0


def test_a_file_that_is_gone_fails_the_answer(sighted: Sighted) -> None:
    at = desk(sighted)
    lost = Image(str(sighted.folder / "gone.png"), "ab" * 32)
    (failed,) = [
        event for event in asked(at, ChatMessage("user", "x", (lost,))) if isinstance(event, Failed)
    ]
    assert failed.code == "engine_error"
    assert failed.usage.completion_tokens == 0
    assert isinstance(asked(at, ChatMessage("user", "still there?"), id="b")[-1], Done)


def test_a_blind_model_says_so(sighted: Sighted) -> None:
    at = desk(sighted)
    at.backend.sees = False  # type: ignore[attr-defined]
    (failed,) = asked(at, ChatMessage("user", "x", (sighted.images[0],)))
    assert isinstance(failed, Failed)
    assert failed.code == "model_cannot_see"
