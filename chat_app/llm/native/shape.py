"""The measures of a model, read from its `config.json`: what the forward pass needs, no more."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

    def cache_values(self, *, near: bool) -> int:
        """Elements that one token keeps in the cache, over the layers of one kind."""
        layers = sum(bool(window) == near for window in self.windows)
        return 2 * layers * self.kv_heads * self.head_size


def read(folder: Path) -> Shape:
    """The shape of the text model in this folder. Raises Unsupported."""
    from transformers import AutoConfig

    return of(AutoConfig.from_pretrained(folder).get_text_config())


def of(config: Any) -> Shape:
    """The shape that a transformers configuration describes. Raises Unsupported."""
    kind = config.model_type
    if kind not in ("gemma3_text", "llama"):
        raise Unsupported(f"The engine does not know models of the kind {kind}.")
    gemma = kind == "gemma3_text"
    _check(config, gemma)
    kinds = config.layer_types if gemma else ["full_attention"] * config.num_hidden_layers
    ropes = config.rope_parameters if gemma else {"full_attention": config.rope_parameters}
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    scalar = config.query_pre_attn_scalar if gemma else head_size
    return Shape(
        gemma=gemma,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=head_size,
        vocabulary=config.vocab_size,
        epsilon=config.rms_norm_eps,
        attention_scale=scalar**-0.5,
        embedding_scale=config.hidden_size**0.5 if gemma else 1.0,
        windows=tuple(config.sliding_window if k == "sliding_attention" else 0 for k in kinds),
        ropes=tuple(_rope(ropes[k]) for k in kinds),
        tied=bool(config.tie_word_embeddings),
        positions=config.max_position_embeddings,
    )


def _check(config: Any, gemma: bool) -> None:
    wanted: dict[str, object] = (
        {"hidden_activation": "gelu_pytorch_tanh"} if gemma else {"hidden_act": "silu"}
    )
    wanted |= {"attention_bias": False, "attn_logit_softcapping": None}
    wanted |= {"final_logit_softcapping": None, "mlp_bias": False}
    for name, value in wanted.items():
        if getattr(config, name, value) not in (value, False if value is None else value):
            raise Unsupported(f"The engine does not know {name} = {getattr(config, name)!r}.")


def _rope(parameters: dict[str, Any]) -> Rope:
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return Rope(parameters["rope_theta"])
    if kind == "linear":
        return Rope(parameters["rope_theta"], parameters["factor"])
    raise Unsupported(f"The engine does not know rotary positions of the kind {kind}.")
