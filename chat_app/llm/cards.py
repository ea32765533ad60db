"""A model server's list of models, and what a piece of an answer looks like: only reading.

Servers write more into the list than OpenAI's protocol has, each in its own way.
"""

from typing import Any

from chat_app.llm.sse import Unreachable

NAMES = {"": "OpenAI's protocol", "vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}
KINDS = tuple(kind for kind in NAMES if kind)
_MOST_MODELS = 5000


def read(listed: Any) -> tuple[str, dict[str, int], dict[str, bool]]:
    """The kind of server, its models with their context, and which see, from its list.

    The kind is empty for one that is not known; of sight nothing is said where it says nothing.
    Raises Unreachable.
    """
    try:
        cards = [card for card in listed["data"] if card.get("available") is not False]
        kinds = {str(card.get("owned_by", "")).lower() for card in cards}
        found: dict[str, int] = {}
        sees = _abilities(listed)
        for card in cards[:_MOST_MODELS]:
            for name in (str(card["id"]), *map(str, card.get("aliases") or ())):
                found[name] = _context(card)
                if (seen := _sight(card)) is not None:
                    sees[name] = seen
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise Unreachable("its list of models cannot be read") from error
    return next((kind for kind in KINDS if kind in kinds), ""), found, sees


def _abilities(listed: Any) -> dict[str, bool]:
    """llama.cpp has a second list beside the one of the protocol."""
    return {
        str(card["name"]): "multimodal" in card["capabilities"]
        for card in listed.get("models") or ()
        if isinstance(card.get("capabilities"), list)
    }


def _context(card: dict[str, Any]) -> int:
    """Tokens of context by a model's card, 0 if it does not say."""
    known = card.get("max_model_len") or card.get("context_tokens") or card.get("context_length")
    return max(0, int(known or (card.get("meta") or {}).get("n_ctx") or 0))


def _sight(card: dict[str, Any]) -> bool | None:
    """Whether a model takes images by its card, None if it does not say."""
    if isinstance(card.get("sees_images"), bool):
        return bool(card["sees_images"])
    kinds = (card.get("architecture") or {}).get("input_modalities")
    return "image" in kinds if isinstance(kinds, list) else None


def says(choice: Any) -> bool:
    """A piece of an answer, or its end."""
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    return bool(choice.get("finish_reason") or (isinstance(delta, dict) and delta.get("content")))
