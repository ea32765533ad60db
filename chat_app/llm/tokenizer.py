"""Text to tokens and back for folders of safetensors, without the library that runs models."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chat_app.llm import prompt as prompts
from chat_app.llm.engine import ChatMessage


class Tokenizer:
    """The tokenizer of one folder: `tokenizer.json`, the chat template, the end tokens."""

    def __init__(
        self, folder: Path, family: str, *, image_tokens: int = 0, image_token: int = -1
    ) -> None:
        """Raises OSError when the folder lacks a file, ValueError when one is damaged.

        Of a model that sees: how many tokens an image takes, and their placeholder's number.
        """
        from tokenizers import Tokenizer as Fast

        if not (folder / "tokenizer.json").exists():
            raise FileNotFoundError("The file tokenizer.json is missing.")
        try:
            self._fast = Fast.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library has no class of its own for it
            raise ValueError("The file tokenizer.json is damaged.") from error
        self._family = family
        self._image_tokens, self._image_token = image_tokens, image_token
        self._config = _json(folder / "tokenizer_config.json")
        self._template = self._chat_template(folder)
        self.ends = frozenset(self._end_tokens(folder))

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The prompt's tokens, template included; an image's are its number (`prompt.py`)."""
        ids = self.ids(self.rendered(messages))
        images = [image for message in messages for image in message.images]
        if not images:
            return ids
        numbers = [prompts.number(image) for image in images for _ in range(self._image_tokens)]
        places = [at for at, token in enumerate(ids) if token == self._image_token]
        if len(places) != len(numbers):
            raise ValueError("The tokenizer does not know how images are written.")
        for at, number in zip(places, numbers, strict=True):
            ids[at] = number
        return ids

    def rendered(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt as text."""
        if self._template is None:
            return prompts.render(messages, self._family, image_tokens=self._image_tokens)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(
            self._template.render(
                messages=turns,
                add_generation_prompt=True,
                bos_token=self._special("bos_token"),
                eos_token=self._special("eos_token"),
            )
        )

    def ids(self, text: str) -> list[int]:
        """Tokens of a bare text."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """The text of some tokens, without special ones."""
        return str(self._fast.decode(tokens, skip_special_tokens=True))

    def _chat_template(self, folder: Path) -> Any:
        # Gemma's own template refuses conversations that ours puts in order.
        if self._family == "gemma3":
            return None
        file = folder / "chat_template.jinja"
        text = file.read_text(encoding="utf-8") if file.exists() else None
        text = text or self._config.get("chat_template")
        if not isinstance(text, str):
            return None
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)

    def _special(self, name: str) -> str:
        token = self._config.get(name) or ""
        return str(token["content"] if isinstance(token, dict) else token)

    def _end_tokens(self, folder: Path) -> set[int]:
        ends = _json(folder / "generation_config.json").get("eos_token_id")
        found = set(ends if isinstance(ends, list) else [ends])
        found.add(self._fast.token_to_id(self._special("eos_token")))
        return {int(end) for end in found if end is not None}


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The file {path.name} is damaged.") from error
    return loaded
