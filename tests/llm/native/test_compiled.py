"""Compiled steps: what PyTorch computes from the same matrices, whoever else is in the step."""

import fcntl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_app.llm.backends.base import cpu_flags
from chat_app.llm.engine import Sampling
from chat_app.llm.native import weights
from chat_app.llm.native.cache import Cache, Table
from chat_app.llm.native.linear import Int8, Linear, Packed, Plain, quantize
from chat_app.llm.native.memory import Gathered, Memory, Piece
from chat_app.llm.native.model import Layer, Model
from chat_app.llm.native.runner import Runner
from tests.house import tree
from tests.llm.native.conftest import CPU, GREEDY, Pair, finish, make, text

compiled = pytest.importorskip("chat_app.llm.native.compiled")
pytestmark = pytest.mark.skipif(
    not cpu_flags() >= compiled._FLAGS, reason="needs a processor with AVX-512 and VNNI"
)

CONTEXT = 256
LENGTHS = (1, 7, 8, 15, 16, 17, 33, 60, 100, 31, 9, 64, 48, 5, 130, 200)
"""Around the borders of blocks and of the window of 8."""
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma3", {"intermediate_size": 128}),
    "gemma-1-head-of-keys": (
        "gemma3", {"intermediate_size": 128, "num_key_value_heads": 1, "head_dim": 32}
    ),
    "gemma-untied": ("gemma3", {"intermediate_size": 128, "tie_word_embeddings": False}),
    "llama": ("llama", {"intermediate_size": 128}),
    "llama-3-share": (
        "llama",
        {"hidden_size": 192, "intermediate_size": 64, "num_attention_heads": 12,
         "num_key_value_heads": 4},
    ),
    "llama-5-share": (
        "llama",
        {"hidden_size": 320, "intermediate_size": 64, "num_attention_heads": 20,
         "num_key_value_heads": 4},
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def code() -> Any:
    return compiled.Code()


def exact(weight: torch.Tensor, eight: bool) -> Linear:
    """The matrix after rounding to its form, in float32."""
    if eight:
        steps, scale = quantize(weight)
        return Plain(steps.float() * scale[:, None])
    return Plain(weight.to(torch.bfloat16).float())


def packed(weight: torch.Tensor, eight: bool) -> Linear:
    return Int8(*quantize(weight)) if eight else Packed(weight.to(torch.bfloat16))


def formed(pair: Pair, linear: Any, *, eight: bool) -> Model:
    """The pair's model with its matrices in a form, as files in that form are loaded."""
    source, shape = weights.Source(pair.folder), pair.shape
    layers = []
    for index in range(shape.layers):
        parts = weights.fused(source, shape, index)
        linears = {
            name: linear(weight, eight and name in ("qkv", "gate_up"))
            for name, weight in parts.linears.items()
        }
        layers.append(Layer(**parts.norms, **linears))
    embedding = source.get("embed_tokens.weight")
    head = source.head()
    return Model(
        shape,
        embedding=embedding,
        layers=layers,
        norm=weights.final_norm(source, shape),
        head=linear(embedding if head is None or shape.tied else head, eight),
        device=CPU,
        work=torch.float32,
        positions=CONTEXT,
    )


@dataclass
class Bench:
    """One cache for a model: read prompts into it, then take steps either way."""

    model: Model
    cache: Cache
    memory: Memory

    def open(self, tokens: list[int]) -> Table:
        table = self.cache.open(tokens, CONTEXT, str(len(self.cache._tables)))
        assert table is not None
        self.cache.extend(table, len(tokens))
        piece = Piece(table, table.length, len(tokens))
        at = torch.arange(piece.start, piece.start + len(tokens))
        with torch.inference_mode():
            self.model.forward(torch.tensor(tokens), at, Gathered(self.memory, [piece]), at[-1:])
        self.cache.advance(table, tokens)
        return table

    def pieces(self, tables: Sequence[Table]) -> list[Piece]:
        for table in tables:
            self.cache.extend(table, 1)
        return [Piece(table, table.length, 1) for table in tables]

    @torch.inference_mode()
    def by_pytorch(self, tokens: list[int], pieces: list[Piece]) -> torch.Tensor:
        positions = torch.tensor([piece.start for piece in pieces])
        return self.model.forward(torch.tensor(tokens), positions, Gathered(self.memory, pieces))


def bench(pair: Pair, model: Model, dtype: torch.dtype = torch.bfloat16) -> Bench:
    cache = pair.cache()
    memory = Memory(
        pair.shape,
        wide_blocks=cache.wide.blocks,
        near_blocks=cache.near.blocks,
        dtype=dtype,
        device=CPU,
    )
    return Bench(model, cache, memory)


def compile_(code: Any, at: Bench) -> Any:
    return compiled.Compiled(code, at.model, at.memory, context_tokens=CONTEXT)


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind, changes = SHAPES[request.param]
    return make(tmp_path_factory.mktemp(request.param), kind, **changes)


@pytest.fixture(scope="module", params=[False, True], ids=["bfloat16", "int8"])
def eight(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def apart(got: torch.Tensor, right: torch.Tensor) -> float:
    return ((got - right).norm() / right.norm()).item()


def test_as_near_to_exact_numbers_as_pytorch(code: Any, pair: Pair, eight: bool) -> None:
    """Rows of many lengths, several steps one after another; every step from the same cache."""
    ours = bench(pair, formed(pair, packed, eight=eight))
    right = bench(pair, formed(pair, exact, eight=eight), torch.float32)
    step = compile_(code, ours)
    prompts = [text(60 + index, length) for index, length in enumerate(LENGTHS)]
    tables = [ours.open(prompt) for prompt in prompts]
    exactly = [right.open(prompt) for prompt in prompts]
    for turn in range(3):
        tokens = text(90 + turn, len(LENGTHS))
        pieces = ours.pieces(tables)
        theirs = ours.by_pytorch(tokens, pieces)
        for keys in (*ours.memory.keys, *ours.memory.values):
            for piece in pieces:  # what PyTorch has just written may not be what is read
                table = (
                    piece.table.wide if len(keys) == ours.cache.wide.blocks else piece.table.near
                )
                keys[table[piece.start // 16], :, piece.start % 16] = 0
        got = step.logits(tokens, pieces)
        wanted = right.by_pytorch(tokens, right.pieces(exactly))
        assert apart(got, wanted) < 1.2 * apart(theirs, wanted) + 1e-3
        for table, other, token in zip(tables, exactly, tokens, strict=True):
            ours.cache.advance(table, [token])
            right.cache.advance(other, [token])


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8, 13])
def test_an_answer_is_the_same_in_every_company(
    code: Any, pair: Pair, eight: bool, count: int
) -> None:
    """To the last bit, with every number of threads: nobody's text depends on who else is there."""
    at = bench(pair, formed(pair, packed, eight=eight))
    step = compile_(code, at)
    tables = [at.open(text(60 + index, length)) for index, length in enumerate(LENGTHS)]
    tokens, pieces = text(91, len(LENGTHS)), at.pieces(tables)
    everybody = step.logits(tokens, pieces)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            some = step.logits(tokens[-count:], pieces[-count:])
            assert torch.equal(some, everybody[-count:]), threads
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("cached", [0, 5, 16, 90])
def test_pieces_of_prompts(code: Any, pair: Pair, eight: bool, cached: int) -> None:
    """Of several answers, beside single tokens; only some of the rows are wanted."""
    ours = bench(pair, formed(pair, packed, eight=eight))
    right = bench(pair, formed(pair, exact, eight=eight), torch.float32)
    step = compile_(code, ours)
    counts = (1, 1, 23, 9)
    prompts = [text(60 + row, cached + row) for row in range(len(counts))]
    news = [text(80 + row, count) for row, count in enumerate(counts)]
    tokens = [token for new in news for token in new]
    wanted = [0, 1, 5, 24, 33]

    def pieces(at: Bench) -> list[Piece]:
        made = []
        for prompt, new in zip(prompts, news, strict=True):
            table = at.open(prompt) if prompt else at.cache.open(new, CONTEXT, str(len(made)))
            at.cache.extend(table, len(new))
            made.append(Piece(table, table.length, len(new)))
        return made

    def by_pytorch(at: Bench) -> torch.Tensor:
        parts = pieces(at)
        positions = [p for part in parts for p in range(part.start, part.start + part.count)]
        with torch.inference_mode():
            return at.model.forward(
                torch.tensor(tokens), torch.tensor(positions), Gathered(at.memory, parts),
                torch.tensor(wanted),
            )  # fmt: skip

    got, exactly = step.logits(tokens, pieces(ours), wanted), by_pytorch(right)
    theirs = by_pytorch(bench(pair, ours.model))
    assert got.shape == theirs.shape == (len(wanted), pair.shape.vocabulary)
    assert apart(got, exactly) < 1.2 * apart(theirs, exactly) + 1e-3


def runner(at: Bench, step: Any, *, quiet: int = 64) -> Runner:
    return Runner(
        at.model, at.cache, at.memory, ends=frozenset(), chunk_tokens=60, quiet_chunk_tokens=quiet,
        compiled=step,
    )  # fmt: skip


def test_a_text_is_the_same_whoever_asks_beside(code: Any, tmp_path: Path, eight: bool) -> None:
    """Answers come and go, long prompts are read in the same steps; greedy and sampled."""
    kind, changes = SHAPES["gemma"]
    pair = make(tmp_path, kind, **changes)
    model = formed(pair, packed, eight=eight)

    def written(company: int) -> dict[str, list[int]]:
        at = bench(pair, model)
        one = runner(at, compile_(code, at))
        for id, sampling in (("greedy", GREEDY), ("sampled", Sampling(temperature=1.0))):
            one.add(id, text(70, 64), sampling, 40, seed=5, scope=id)
            one.step()
            one.step()
        made: dict[str, list[int]] = {"greedy": [], "sampled": []}
        for turn in range(60):
            if turn % 4 == 0 and turn // 4 < company:
                one.add(f"{turn}", text(100 + turn, 90 + turn), GREEDY, 9, seed=1, scope=f"{turn}")
            for done in one.step():
                made.setdefault(done.id, []).extend(done.tokens)
        return {id: made[id] for id in ("greedy", "sampled")}

    alone = written(0)
    assert len(alone["sampled"]) > 35
    assert written(9) == alone


def test_few_tokens_are_compiled_and_many_are_not(code: Any, tmp_path: Path) -> None:
    kind, changes = SHAPES["gemma"]
    pair = make(tmp_path, kind, **changes)
    at = bench(pair, formed(pair, packed, eight=True))
    step = compile_(code, at)
    seen: list[int] = []
    inner = step.logits

    def counted(tokens: Sequence[int], *more: Any) -> torch.Tensor:
        seen.append(len(tokens))
        result: torch.Tensor = inner(tokens, *more)
        return result

    step.logits = counted
    one = runner(at, step)
    for index in range(3):
        one.add(str(index), text(70 + index, 20), GREEDY, 6, seed=1, scope=str(index))
    made = finish(one)
    assert seen == [3] * 5
    assert all(len(tokens) == 6 for tokens in made.values())
    one.add("x", text(75, step.most_rows), GREEDY, 3, seed=5, scope="none")
    finish(one)
    assert seen[5:] == [step.most_rows, 1, 1]


def test_more_rows_than_it_has_room_for_go_to_pytorch(code: Any, tmp_path: Path) -> None:
    kind, changes = SHAPES["gemma"]
    pair = make(tmp_path, kind, **changes)
    at = bench(pair, formed(pair, packed, eight=False))
    step = compile_(code, at)
    one = runner(at, step)
    for index in range(step.most_rows + 1):
        one.add(str(index), text(70 + index, 3), GREEDY, 5, seed=1, scope=str(index))
    assert {len(tokens) for tokens in finish(one).values()} == {5}


def test_what_it_was_not_made_for_it_refuses(code: Any, tmp_path: Path) -> None:
    kind, changes = SHAPES["gemma"]
    pair = make(tmp_path / "fits", kind, **changes)
    model = formed(pair, packed, eight=False)
    with pytest.raises(compiled.Unlike, match="in this form"):
        compile_(code, bench(pair, pair.ours))
    with pytest.raises(compiled.Unlike, match="in this form"):
        compile_(code, bench(pair, model, torch.float32))
    odd = make(tmp_path / "odd", kind, intermediate_size=96)
    with pytest.raises(compiled.Unlike, match="these measures"):
        compile_(code, bench(odd, formed(odd, packed, eight=False)))


@pytest.mark.parametrize("name", ["qkv", "out", "gate_up", "down", "head"])
def test_a_matrix_that_lies_otherwise_is_noticed(
    code: Any, tmp_path: Path, eight: bool, name: str
) -> None:
    """As it would with another release of PyTorch, or on a processor of another kind."""
    kind, changes = SHAPES["gemma"]
    pair = make(tmp_path, kind, **changes)
    at = bench(pair, formed(pair, packed, eight=eight))
    compile_(code, at)
    address = compiled._packed
    otherwise = at.model.head if name == "head" else getattr(at.model.layers[-1], name)

    def moved(linear: Any) -> int:
        place: int = address(linear)
        return place + 64 * (linear is otherwise)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_packed", moved)
        with pytest.raises(compiled.Unlike, match="something else came out"):
            compile_(code, at)


def test_other_processors_and_broken_compilers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "cpu_flags", lambda: {"avx2"})
    with pytest.raises(compiled.Unlike, match="AVX-512"):
        compiled.Code().wait()
    monkeypatch.undo()

    def broken(_here: Path) -> Path:
        raise PermissionError("no place to keep it")

    monkeypatch.setattr(compiled, "_kept", broken)
    with pytest.raises(compiled.Unlike, match=r"could not be compiled .*no place to keep it"):
        compiled.Code().wait()


def test_workers_that_start_together_take_turns(code: Any) -> None:
    """One compiles; the others wait, and then find what it has kept."""
    code.wait()
    kept = Path(compiled.numba.config.CACHE_DIR)
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = compiled.Code()
        other.join(0.3)
        assert other.is_alive()
    other.wait()


def test_without_libgomp_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.omppool", None)
    monkeypatch.delattr("numba.np.ufunc.omppool", raising=False)
    with pytest.raises(compiled.Unlike, match="libgomp"):
        compiled.Code().wait()


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert compiled._kept(tmp_path) == tmp_path / "__pycache__"
    monkeypatch.setattr(compiled.os, "access", lambda *_: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiled._kept(tmp_path) == tmp_path / ".cache" / "ml-chat-billing"


@pytest.mark.parametrize("before", ["", ", rows"])
def test_the_next_process_does_not_compile_again(code: Any, before: str) -> None:
    """Whether or not something has imported the function before."""
    code.wait()
    script = (
        "from numba.core import event\n"
        f"from chat_app.llm.native import compiled{before}\n"
        "with event.install_recorder('numba:compile') as seen:\n"
        "    compiled.Code().wait()\n"
        "print(len(seen.buffer))"
    )
    done = tree.run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"
