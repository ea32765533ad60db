"""Steps of few tokens, of answers that are written or short prompts, compiled for this processor.

The function is in `rows.py`. It reads the matrices as they lie packed for PyTorch's products, so
they are in memory once; longer prompts are read by PyTorch. Where matrices lie otherwise than
expected, or what comes out differs, PyTorch does all the work and the engine says so.
"""

import fcntl
import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chat_app.llm.backends.base import cpu_flags
from chat_app.llm.native import rows
from chat_app.llm.native.cache import BLOCK_TOKENS, TRASH, Table, blocks
from chat_app.llm.native.linear import Int8, Linear, Packed
from chat_app.llm.native.memory import Gathered, Memory, Piece
from chat_app.llm.native.model import Model

_FLAGS = {"avx512f", "avx512bw", "avx512_vnni"}
_SOURCES = ("rows.py", "tiles.py")
_SIGNATURE = "void(int64, int64, int64, int64, float32, float32)"
# Of the logits' directions. Right ones differ by what 8 bits and bfloat16 round.
_LEAST_ALIKE = 0.98
_PROOF_ROWS = 5


class Unlike(Exception):
    """It cannot be used here. The sentence says why."""


class Code(threading.Thread):
    """Gets the function from where it is kept, or compiles it, which takes some 15 seconds.

    In a thread of its own, because weights can be read meanwhile.
    """

    def __init__(self) -> None:
        super().__init__(name="compiled", daemon=True)
        self._step: Callable[..., None] | None = None
        self._why = ""
        self.start()

    def run(self) -> None:
        """See Thread."""
        try:
            self._step = _get()
        except Unlike as error:
            self._why = str(error)
        except Exception as error:  # whatever a compiler may raise: PyTorch can do the work
            self._why = f"Its steps could not be compiled ({type(error).__name__}: {error})."

    def wait(self) -> Callable[..., None]:
        """`rows.step`, when it is there. Raises Unlike."""
        self.join()
        if self._step is None:
            raise Unlike(self._why)
        return self._step


def _get() -> Callable[..., None]:
    if not cpu_flags() >= _FLAGS:
        raise Unlike("Its steps are not compiled, which needs AVX-512 with VNNI.")
    # The threads that wait for their next piece of work awake, as PyTorch's do.
    numba.config.THREADING_LAYER = "omp"
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError as error:
        raise Unlike("Its steps are not compiled, because libgomp is not installed.") from error
    # Numba looks at the time of one file alone; what it keeps is found by the content of all.
    here = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for name in _SOURCES:
        digest.update((here / name).read_bytes())
    kept = _kept(here) / f"compiled-{digest.hexdigest()}"
    kept.mkdir(parents=True, exist_ok=True)
    numba.config.CACHE_DIR = str(kept)
    with (kept / "lock").open("w") as lock:
        # Several workers may start at once: one compiles, the others get what it has kept.
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = {"parallel": True, "nogil": True, "cache": True, "error_model": "numpy"}
        step: Callable[..., None] = numba.njit(_SIGNATURE, **options)(rows.step)
    return step


def _kept(here: Path) -> Path:
    """Beside the code, or where this person's programs keep such things."""
    beside = here / "__pycache__"
    if os.access(beside if beside.exists() else here, os.W_OK):
        return beside
    return Path.home() / ".cache" / "ml-chat-billing"


class Compiled:
    """A model and its cache as the function wants them. Used by one thread."""

    def __init__(self, code: Code, model: Model, memory: Memory, *, context_tokens: int) -> None:
        """Waits for the code and proves it on this model. Raises Unlike."""
        _fits(model, memory)
        self._step = code.wait()
        self.most_rows = rows.MOST_ROWS
        self._model = model
        self._threads = int(numba.config.NUMBA_NUM_THREADS)
        self._kept: list[NDArray[np.generic]] = []
        shape, most = model.shape, rows.MOST_ROWS
        self._scales = np.float32(shape.epsilon), np.float32(shape.attention_scale)
        width = blocks(context_tokens)
        self._x = self._floats(most, shape.hidden)
        self._positions, self._wanted = self._longs(most), self._longs(most)
        self._wide, self._near = self._longs(most, width), self._longs(most, width)
        heads, kv, size = shape.heads, shape.kv_heads, shape.head_size
        padded = kv * -(-(heads // kv) // rows.SHARE) * rows.SHARE
        threads = self._threads
        self._table = self._longs(rows.NUMBERS + rows.LAYER * shape.layers)
        self._logits = rows.LOGITS
        numbers = {
            rows.LAYERS: shape.layers,
            rows.HIDDEN: shape.hidden,
            rows.INNER: shape.inner,
            rows.HEADS: heads,
            rows.KV_HEADS: kv,
            rows.SIZE: size,
            rows.WORDS: shape.vocabulary,
            rows.GELU: int(shape.gemma),
            rows.EIGHT: int(isinstance(model.head, Int8)),
            rows.WINDOW: shape.window,
            rows.BLOCK: BLOCK_TOKENS,
            rows.MOST_TOKENS: width * BLOCK_TOKENS,
            rows.MOST_BLOCKS: width,
            rows.X: _at(self._x),
            rows.GIVEN: _at(self._floats(most, shape.hidden)),
            rows.STEPS: _at(self._floats(most)),
            rows.QKV: _at(self._floats(most, heads + 2 * kv, size)),
            rows.QUERY: _at(self._floats(most, padded, size)),
            rows.SEEN: _at(self._floats(most, heads, size)),
            rows.Y: _at(self._floats(most, shape.hidden)),
            rows.INNER_X: _at(self._floats(most, shape.inner)),
            rows.SUMS: _at(self._floats(threads, most, rows.WIDTH)),
            rows.SCORES: _at(self._floats(most, padded, width * BLOCK_TOKENS)),
            rows.PARTIAL: _at(self._floats(threads, rows.ROOM)),
            rows.POSITIONS: _at(self._positions),
            rows.WANTED: _at(self._wanted),
            rows.WIDE: _at(self._wide),
            rows.NEAR: _at(self._near),
            rows.FIRST_NORM: _vector(model.layers[0].before_attention),
            rows.HEAD: _packed(model.head),
            rows.HEAD_SCALE: _scale(model.head),
        }
        for place, number in numbers.items():
            self._table[place] = number
        following = [*(layer.before_attention for layer in model.layers[1:]), model.norm]
        for index, layer in enumerate(model.layers):
            fields = {
                rows.QKV_W: _packed(layer.qkv),
                rows.QKV_SCALE: _scale(layer.qkv),
                rows.OUT_W: _packed(layer.out),
                rows.GATE_W: _packed(layer.gate_up),
                rows.GATE_SCALE: _scale(layer.gate_up),
                rows.DOWN_W: _packed(layer.down),
                rows.AFTER_ATTENTION: _vector(layer.after_attention),
                rows.BEFORE_MLP: _vector(layer.before_mlp),
                rows.AFTER_MLP: _vector(layer.after_mlp),
                rows.FOLLOWING: _vector(following[index]),
                rows.HEADS_NORM: _vector(layer.heads_norm),
                rows.KEYS: memory.keys[index].data_ptr(),
                rows.VALUES: memory.values[index].data_ptr(),
                rows.TURNS: model.turns[shape.ropes[index]].data_ptr(),
                rows.IS_NEAR: int(shape.windows[index] > 0),
            }
            for place, number in fields.items():
                self._table[rows.NUMBERS + rows.LAYER * index + place] = number
        self._prove(memory)

    def _floats(self, *sizes: int) -> NDArray[np.float32]:
        array = np.zeros(sizes, np.float32)
        self._kept.append(array)
        return array

    def _longs(self, *sizes: int) -> NDArray[np.int64]:
        array = np.zeros(sizes, np.int64)
        self._kept.append(array)
        return array

    def _prove(self, memory: Memory) -> None:
        """The same tokens by PyTorch, at a place of the cache that nobody reads."""
        table = Table(b"", 1, wide=[TRASH], near=[TRASH])
        positions = range(_PROOF_ROWS)
        pieces = [Piece(table, position, 1) for position in positions]
        tokens = [(7919 * (position + 1)) % self._model.shape.vocabulary for position in positions]
        with torch.inference_mode():
            expected = self._model.forward(
                torch.tensor(tokens), torch.tensor(positions), Gathered(memory, pieces)
            )
            # One row and several are computed differently.
            first, others = self.logits(tokens[:1], pieces[:1]), self.logits(tokens, pieces)
            alike = F.cosine_similarity(torch.cat([first, others]), expected[[0, *positions]])
        # Not `<`: numbers that are none must not pass.
        if not alike.min() >= _LEAST_ALIKE:
            raise Unlike("Its steps are not compiled, because something else came out.")

    def logits(
        self, tokens: Sequence[int], pieces: Sequence[Piece], wanted: Sequence[int] | None = None
    ) -> Tensor:
        """`[len(wanted), vocabulary]` float32 after those rows of these pieces' tokens.

        All go into the cache, at most `most_rows`. Without `wanted`, after all.
        """
        model, count = self._model, len(tokens)
        x = F.embedding(torch.tensor(tokens), model.embedding).float()
        np.multiply(x.numpy(), np.float32(model.scale), out=self._x[:count])
        first = 0
        for piece in pieces:
            last, end = first + piece.count, piece.start + piece.count
            here = blocks(end)
            self._positions[first:last] = range(piece.start, end)
            self._wide[first:last, :here] = piece.table.wide[:here]
            if model.shape.window:
                self._near[first:last, :here] = piece.table.near[:here]
            first = last
        chosen = range(count) if wanted is None else wanted
        self._wanted[: len(chosen)] = chosen
        out = torch.empty(len(chosen), model.shape.vocabulary)
        self._table[self._logits] = out.data_ptr()
        threads = min(torch.get_num_threads(), self._threads)
        numba.set_num_threads(threads)
        self._step(_at(self._table), count, len(chosen), threads, *self._scales)
        return out


def _fits(model: Model, memory: Memory) -> None:
    shape = model.shape
    kind = type(model.head)
    formats = all(
        type(layer.qkv) is type(layer.gate_up) is kind
        and type(layer.out) is type(layer.down) is Packed
        for layer in model.layers
    )
    across = shape.heads * shape.head_size
    looking = across + 2 * shape.kv_heads * shape.head_size
    sizes = (shape.hidden, shape.inner, shape.vocabulary, across, looking)
    if kind not in (Int8, Packed) or not formats or memory.keys[0].dtype != torch.bfloat16:
        raise Unlike("Its steps are not compiled for weights in this form.")
    if any(size % 64 for size in sizes) or shape.head_size > 512:
        raise Unlike("Its steps are not compiled for a model of these measures.")


def _at(array: NDArray[np.generic]) -> int:
    return int(array.ctypes.data)


def _packed(linear: Linear) -> int:
    assert isinstance(linear, Int8 | Packed), "it was looked at before"
    return int(torch.ops.mkldnn.data_ptr(linear.packed))


def _scale(linear: Linear) -> int:
    return _vector(linear.scale) if isinstance(linear, Int8) else 0


def _vector(tensor: Tensor | None) -> int:
    if tensor is None:
        return 0
    assert tensor.dtype == torch.float32, "as all vectors between matrices on a CPU"
    assert tensor.is_contiguous(), "as files are"
    return tensor.data_ptr()
