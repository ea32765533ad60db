"""The measures of a model, read from its `config.json`: what the forward pass needs, no more."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WIDE, _NEAR = "full_attention", "sliding_attention"


class Unsupported(Exception):
    """The model has a part that this engine does not know. The sentence says which."""


@dataclass(frozen=True)
class Rope:
    """Rotary positions: the base of the frequencies and the factor that stretches positions."""

    theta: float
    factor: float = 1.0


@dataclass(frozen=True)
class Shape:
    """Sizes in elements. `windows[i]` is 0 where layer i sees everything before it."""

    gemma: bool
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    epsilon: float
    attention_scale: float
    embedding_scale: float
    windows: tuple[int, ...]
    ropes: tuple[Rope, ...]
    tied: bool
    positions: int

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def window(self) -> int:
        """Tokens that a layer with a window sees, its own included; 0 without such layers."""
        return max(self.windows)

    @property
    def matrix_values(self) -> int:
        """Elements of all layers' matrices."""
        across = (2 * self.heads + 2 * self.kv_heads) * self.head_size
        return self.layers * self.hidden * (across + 3 * self.inner)

    @property
    def word_values(self) -> int:
        """Elements of the embedding and of a head of its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def cache_values(self, *, near: bool) -> int:
        """Elements that one token keeps in the cache, over the layers of one kind."""
        layers = sum(bool(window) == near for window in self.windows)
        return 2 * layers * self.kv_heads * self.head_size


@dataclass(frozen=True)
class Sight:
    """Measures of the part that sees: sizes in elements, `side` and `patch` in pixels.

    An image is `tokens` tokens of the prompt; `token` is the number of their placeholder.
    """

    hidden: int
    inner: int
    heads: int
    layers: int
    side: int
    patch: int
    epsilon: float
    tokens: int
    token: int

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.side // self.patch

    @property
    def values(self) -> int:
        """Elements of all its matrices, the projection left out."""
        across = 4 * self.hidden + 2 * self.inner
        around = self.grid**2 + 3 * self.patch**2
        return self.hidden * (self.layers * across + around)


# What a configuration leaves out has these values (as in transformers, checked by a test). Files
# of the larger Gemmas name little more than what differs.
_GEMMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
_LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 1e4,
}
_SIGHT_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "num_channels": 3,
}
_OFF = {"attention_bias", "mlp_bias", "attn_logit_softcapping", "final_logit_softcapping"}


def read(folder: Path) -> Shape:
    """The shape of the text model in this folder.

    Raises Unsupported, and OSError or ValueError for a file that is missing or damaged.
    """
    # Not by transformers: importing it takes longer than loading a small model.
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return of(config.get("text_config", config))
    except OSError as error:
        raise FileNotFoundError("The file config.json is missing.") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError("The file config.json is damaged.") from error


def sight(folder: Path) -> Sight | None:
    """The part of the model in this folder that sees images, if it has one that is known here.

    Raises as `read` does, except Unsupported: such a model reads text.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return _sight(config)
    except OSError as error:
        raise FileNotFoundError("The file config.json is missing.") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError("The file config.json is damaged.") from error


def _sight(config: dict[str, Any]) -> Sight | None:
    if config.get("model_type") != "gemma3" or not config.get("vision_config"):
        return None
    known = _SIGHT_DEFAULTS | config["vision_config"]
    tokens = config.get("mm_tokens_per_image") or 256
    found = Sight(
        hidden=known["hidden_size"],
        inner=known["intermediate_size"],
        heads=known["num_attention_heads"],
        layers=known["num_hidden_layers"],
        side=known["image_size"],
        patch=known["patch_size"],
        epsilon=known["layer_norm_eps"],
        tokens=tokens,
        token=config.get("image_token_index", 262144),
    )
    side = math.isqrt(tokens)
    fits = side * side == tokens and found.grid % side == 0
    plain = known["hidden_act"] == "gelu_pytorch_tanh" and known["num_channels"] == 3
    return found if fits and plain else None


def of(config: dict[str, Any]) -> Shape:
    """The shape that the content of a `config.json` describes. Raises Unsupported."""
    kind = config.get("model_type")
    if kind not in ("gemma3_text", "llama"):
        raise Unsupported(f"The engine does not know models of the kind {kind}.")
    gemma = kind == "gemma3_text"
    known = (_GEMMA_DEFAULTS if gemma else _LLAMA_DEFAULTS) | config
    activation = ("hidden_activation", "gelu_pytorch_tanh") if gemma else ("hidden_act", "silu")
    if known[activation[0]] != activation[1]:
        raise Unsupported(f"The engine does not know {activation[0]} = {known[activation[0]]}.")
    for name in _OFF:
        if known.get(name):
            raise Unsupported(f"The engine does not know {name} = {known[name]}.")
    heads = known["num_attention_heads"]
    head_size = known.get("head_dim") or known["hidden_size"] // heads
    scalar = known["query_pre_attn_scalar"] if gemma else head_size
    kinds = _layers(known)
    ropes = {kind: _rope(known, kind) for kind in set(kinds)}
    return Shape(
        gemma=gemma,
        hidden=known["hidden_size"],
        inner=known["intermediate_size"],
        heads=heads,
        kv_heads=known.get("num_key_value_heads") or heads,
        head_size=head_size,
        vocabulary=known["vocab_size"],
        epsilon=known["rms_norm_eps"],
        attention_scale=scalar**-0.5,
        embedding_scale=known["hidden_size"] ** 0.5 if gemma else 1.0,
        windows=tuple(known["sliding_window"] if kind == _NEAR else 0 for kind in kinds),
        ropes=tuple(ropes[kind] for kind in kinds),
        tied=bool(known["tie_word_embeddings"]),
        positions=known["max_position_embeddings"],
    )


def _layers(known: dict[str, Any]) -> list[str]:
    if known["model_type"] == "llama":
        return [_WIDE] * known["num_hidden_layers"]
    if types := known.get("layer_types"):
        return list(types)
    pattern = known.get("_sliding_window_pattern") or known["sliding_window_pattern"]
    count = known["num_hidden_layers"]
    return [_WIDE if (index + 1) % pattern == 0 else _NEAR for index in range(count)]


def _rope(known: dict[str, Any], kind: str) -> Rope:
    """The rotary positions of one kind of layer, in the new and in the old way of writing."""
    all_kinds = known.get("rope_parameters")
    if all_kinds:
        parameters = all_kinds.get(kind, all_kinds)
    elif kind == _NEAR:
        parameters = {"rope_theta": known["rope_local_base_freq"]}
    else:
        parameters = {"rope_theta": known["rope_theta"], **(known.get("rope_scaling") or {})}
    way = parameters.get("rope_type", parameters.get("type", "default"))
    if way not in ("default", "linear"):
        raise Unsupported(f"The engine does not know rotary positions of the kind {way}.")
    factor = parameters["factor"] if way == "linear" else 1.0
    return Rope(parameters.get("rope_theta", known["rope_theta"]), factor)
