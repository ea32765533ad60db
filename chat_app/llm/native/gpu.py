"""What this engine makes of a GPU: the form of the weights that fits, and how it decodes there.

Every choice comes with a sentence for the operator. Whatever a GPU, a driver or a library cannot
do costs speed, never the product.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from chat_app.llm.backends.base import LoadRefused
from chat_app.llm.native import small
from chat_app.llm.native.cache import BLOCK_TOKENS, blocks, near_need
from chat_app.llm.native.graphs import Decoder, Maths
from chat_app.llm.native.linear import Eighths
from chat_app.llm.native.memory import Memory
from chat_app.llm.native.model import Model
from chat_app.llm.native.shape import Shape

Form = Literal["bfloat16", "float8", "nf4"]
Works = Callable[[Form], bool]
_log = logging.getLogger("chat_app.llm.native")
_GIB = 1024**3
# The CUDA libraries and their workspaces.
_LIBRARY_BYTES = _GIB
# Bytes of a matrix' element: nf4 has its blocks' scales besides.
_ELEMENT_BYTES: dict[Form, float] = {"bfloat16": 2.0, "float8": 1.001, "nf4": 0.52}
_NAMES: dict[Form, str] = {
    "bfloat16": "bfloat16",
    "float8": "8-bit floats",
    "nf4": "4 bits (nf4)",
}
# A form that leaves room for fewer whole contexts than this gives way to a smaller one.
_WANTED_CONTEXTS = 4
# Of 4 bits no more can be asked.
_ROUGHLY = 0.2
_FLOAT8_SINCE = (8, 9)
_GRAPHS_SINCE = (8, 0)


@dataclass(frozen=True)
class Card:
    """A GPU as it is now. `capability` as CUDA counts it."""

    free_bytes: int
    capability: tuple[int, int]


def card() -> Card:
    """The GPU of this process."""
    return Card(int(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_capability())


def weights_bytes(shape: Shape, form: Form) -> int:
    """What the model takes in this form; embedding and head are never smaller than bfloat16."""
    return int(shape.matrix_values * _ELEMENT_BYTES[form]) + shape.word_values * 2


def work_bytes(shape: Shape, *, slots: int, chunk_tokens: int) -> int:
    """What steps need beside weights and cache: libraries, graphs, a piece of a prompt."""
    # Logits a few times over, what each slot has seen, and the widest rows of a piece.
    picking = slots * shape.vocabulary * 14
    reading = chunk_tokens * (6 * shape.inner + 16 * shape.hidden) * 2
    return _LIBRARY_BYTES + picking + reading


def context_bytes(shape: Shape, *, context_tokens: int, chunk_tokens: int) -> int:
    """The cache of one answer as long as it can be."""
    near = min(near_need(shape.window, chunk_tokens), blocks(context_tokens))
    wide = blocks(context_tokens) * shape.cache_values(near=False)
    return 2 * BLOCK_TOKENS * (wide + near * shape.cache_values(near=True))


def form(
    shape: Shape,
    wanted: str,
    here: Card,
    *,
    slots: int,
    context_tokens: int,
    chunk_tokens: int,
    works: Works | None = None,
) -> tuple[Form, str]:
    """The form of the weights and why. `wanted` as `llm.quantization`. Raises LoadRefused."""
    one = context_bytes(shape, context_tokens=context_tokens, chunk_tokens=chunk_tokens)
    fixed = work_bytes(shape, slots=slots, chunk_tokens=chunk_tokens)
    allowed, reason = _allowed(wanted, here)
    smallest, broken = allowed[-1], set[Form]()
    for contexts in (_WANTED_CONTEXTS, 1):
        for each in allowed:
            need = weights_bytes(shape, each) + fixed + contexts * one
            if need > here.free_bytes or each in broken:
                continue
            if not (works or computes)(each):
                broken.add(each)
                continue
            if not reason and each != allowed[0]:
                reason = f"because {_NAMES[allowed[0]]} would not fit beside the cache"
            why = f", {reason}" if reason else ""
            return each, f"Its weights are in {_NAMES[each]}{why}."
    if broken:
        names = " and ".join(sorted(_NAMES[each] for each in broken))
        raise LoadRefused(
            "load_failed",
            f"This GPU or a library for it cannot compute with {names}. "
            "Set quantization to none in the section [llm], or choose a smaller model.",
        )
    need = weights_bytes(shape, smallest) + fixed + one
    hint = "Unload another model or choose a smaller one."
    if smallest != "nf4":
        hint = "Set quantization to auto in the section [llm], or unload another model."
    raise LoadRefused(
        "not_enough_memory",
        f"This model needs about {need / _GIB:.1f} GiB of free GPU memory in "
        f"{_NAMES[smallest]} and there are {here.free_bytes / _GIB:.1f} GiB. {hint}",
    )


def computes(form: Form, device: str = "cuda") -> bool:
    """A small matrix in this form gives about the right result here."""
    if form == "bfloat16":
        return True
    try:
        place = torch.device(device)
        weight, x = (torch.randn(64, 64, device=place, dtype=torch.bfloat16) for _ in range(2))
        expected = x.float() @ weight.float().T
        got = small.linear(weight, form, place, None)(x).float()
        # As a comparison that fails for numbers that are none.
        return bool((got - expected).norm() < _ROUGHLY * expected.norm())
    except Exception:
        _log.exception("%s cannot be used", _NAMES[form])
        return False


def _allowed(wanted: str, here: Card) -> tuple[list[Form], str]:
    """Forms from the best to the smallest, and a reason if the settings decide."""
    float8 = here.capability >= _FLOAT8_SINCE
    if wanted == "none":
        return ["bfloat16"], "because the settings want them as they are"
    if wanted == "nf4":
        return ["nf4"], "because the settings ask for it"
    if wanted == "int8":
        if float8:
            return ["float8"], "because the settings ask for 8 bits"
        return ["bfloat16", "nf4"], "because this GPU is too old for 8-bit floats"
    return (["bfloat16", "float8", "nf4"] if float8 else ["bfloat16", "nf4"]), ""


def eighths() -> Eighths:
    """What makes inputs 8-bit floats: our kernel, in one pass, if it works here."""
    from chat_app.llm.native import linear

    try:
        from chat_app.llm.native import kernels

        x = torch.randn(3, 96, device="cuda", dtype=torch.bfloat16)
        got, expected = kernels.eighths(x), linear.eighths(x)
        back, other = (steps.float() * scale for steps, scale in (got, expected))
        if bool((back - other).abs().max() <= x.float().abs().max() / 16):
            return kernels.eighths
    except Exception:
        _log.exception("our kernel for 8-bit floats cannot be used")
    return linear.eighths


def decoder(
    model: Model, memory: Memory, *, slots: int, context_tokens: int, maths: Maths | None = None
) -> tuple[Decoder | None, str]:
    """How it decodes: by graphs, by our kernels without graphs, or as on a CPU; and why."""
    shape = memory.shape
    try:
        problem = _unsuited(memory, shape)
        if not problem:
            maths = maths or _kernels()
            dtype = memory.keys[0].dtype
            from chat_app.llm.native import proof

            if wrong := proof.differs(maths, shape, dtype, memory.device):
                problem = f"its kernels compute another {wrong} than PyTorch on this GPU"
        if problem or maths is None:
            return None, f"It decodes without our kernels, more slowly, because {problem}."
        made = Decoder(model, memory, slots=slots, context_tokens=context_tokens, maths=maths)
        made.warm(1, greedy=False)
    except Exception as error:
        _log.exception("our kernels cannot be used")
        return None, f"It decodes without our kernels, more slowly: {_short(error)}."
    try:
        made.capture()
    except Exception as error:
        _log.exception("no graphs can be captured")
        return _without_graphs(made, error)
    return made, f"It decodes up to {slots} answers at once by CUDA graphs."


def _kernels() -> Maths:
    from chat_app.llm.native import kernels

    return kernels


def _without_graphs(made: Decoder, error: Exception) -> tuple[Decoder | None, str]:
    made.give_up_graphs()
    try:
        made.warm(1, greedy=False)
    except Exception as worse:
        _log.exception("our kernels cannot be used after all")
        return None, f"It decodes without our kernels, more slowly: {_short(worse)}."
    return made, f"It decodes without CUDA graphs, more slowly: {_short(error)}."


def _unsuited(memory: Memory, shape: Shape) -> str:
    size = shape.head_size
    if size < 16 or size & (size - 1):
        return f"they do not know heads of {size} elements"
    if memory.device.type == "cuda" and torch.cuda.get_device_capability() < _GRAPHS_SINCE:
        return "this GPU is too old for them"
    return ""


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[0][:200].rstrip(".")
