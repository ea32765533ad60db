"""Fitting a conversation into a model: what is left out, and how it is made harmless.

Runs in the worker with the model's own tokenizer. It knows no backend: counting is passed in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chat_app.llm.engine import IMAGE_TOKENS, ChatMessage, ContextOverflow, Image

# When the conversation is over the limit, it is cut to this share in one go: cutting a little
# every turn would change the beginning of every prompt and make the prefix cache useless.
KEEP_SHARE = 0.6
# What a chat template adds to a message, at most, in the families we know.
_TEMPLATE_TOKENS = 8

Count = Callable[[Sequence[ChatMessage]], int]
CountText = Callable[[str], int]


@dataclass(frozen=True)
class Fitted:
    """Messages that fit, their exact number of tokens, and how many were left out."""

    messages: tuple[ChatMessage, ...]
    prompt_tokens: int
    dropped_messages: int


def fit(
    messages: Sequence[ChatMessage], *, count: Count, count_text: CountText, limit_tokens: int
) -> Fitted:
    """The newest whole exchanges that fit into `limit_tokens`, with the system prompt.

    The same conversation, one turn longer, begins with the same messages until the limit is
    reached again. Raises ContextOverflow when the last turn alone does not fit.
    """
    whole = tuple(messages)
    tokens = count(whole)
    if tokens <= limit_tokens:
        return Fitted(whole, tokens, 0)
    system = tuple(message for message in whole if message.role == "system")
    turns = exchanges([message for message in whole if message.role != "system"])

    def size(some: Sequence[ChatMessage]) -> int:
        images = sum(len(message.images) for message in some) * IMAGE_TOKENS
        return images + sum(count_text(message.content) + _TEMPLATE_TOKENS for message in some)

    sizes = [size(turn) for turn in turns]
    base = size(system)
    first = _first_kept(sizes, base=base, limit=limit_tokens)
    while True:
        kept = system + tuple(message for turn in turns[first:] for message in turn)
        tokens = count(kept)
        if tokens <= limit_tokens:
            return Fitted(kept, tokens, len(whole) - len(kept))
        if first >= len(turns) - 1:
            raise ContextOverflow(prompt_tokens=tokens, limit_tokens=limit_tokens)
        first += 1


def exchanges(messages: Sequence[ChatMessage]) -> list[list[ChatMessage]]:
    """Messages grouped so that each group begins with a user's turn (or is the first)."""
    groups: list[list[ChatMessage]] = []
    for message in messages:
        if message.role == "user" or not groups:
            groups.append([])
        groups[-1].append(message)
    return groups


def _first_kept(sizes: list[int], *, base: int, limit: int) -> int:
    """Index of the first exchange that stays, found by living through the conversation."""
    first, held = 0, base
    for index, size in enumerate(sizes):
        held += size
        if held > limit:
            while first < index and held > limit * KEEP_SHARE:
                held -= sizes[first]
                first += 1
    return first


def harmless(text: str, markers: Sequence[str]) -> str:
    """The text without the power to open or close a turn, and without broken characters."""
    text = text.encode("utf-8", errors="replace").decode()
    for marker in markers:
        text = text.replace(marker, f"{marker[0]} {marker[1:]}")
    return text


def fold_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """For templates that know no system role: its text goes before the first user's turn."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    rest = [message for message in messages if message.role != "system"]
    if not system:
        return rest
    for index, message in enumerate(rest):
        if message.role == "user":
            rest[index] = replace(message, content=f"{system}\n\n{message.content}")
            return rest
    return [ChatMessage("user", system), *rest]


def render(messages: Sequence[ChatMessage], family: str, *, image_tokens: int = 0) -> str:
    """The prompt's text in the family's turn format, for files that bring no template.

    With images, each is written as so many placeholders between its marks.
    """
    if family == "gemma3":
        return _gemma(messages, image_tokens)
    turns = [f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


def _gemma(messages: Sequence[ChatMessage], image_tokens: int) -> str:
    names = {"assistant": "model"}
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    picture = f"\n\n<start_of_image>{'<image_soft_token>' * image_tokens}<end_of_image>\n\n"
    text, lead = "<bos>", f"{system.lstrip()}\n\n" if system else ""
    rest = [message for message in messages if message.role != "system"]
    if lead and not any(message.role == "user" for message in rest):
        rest, lead = [ChatMessage("user", system), *rest], ""
    for message in rest:
        text += f"<start_of_turn>{names.get(message.role, message.role)}\n"
        if message.role == "user":
            text, lead = text + lead, ""
        text += f"{picture * len(message.images)}{message.content.strip()}<end_of_turn>\n"
    return text + "<start_of_turn>model\n"


def number(image: Image) -> int:
    """What stands for each of an image's tokens in a prompt: below zero, made of its content.

    So prompts that differ in an image differ in their tokens, and the cache tells them apart.
    """
    return -1 - int(image.digest[:15], 16)


def shown(messages: Sequence[ChatMessage]) -> dict[int, str]:
    """The files of the images in these messages, by their numbers."""
    return {number(image): image.path for message in messages for image in message.images}
