"""Small forms of weights for a GPU: close to what they stand for, kept once, made again."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chat_app.llm.native import plain, proof, small, weights
from chat_app.llm.native.int8 import all_logits
from chat_app.llm.native.linear import Float8, eighths
from chat_app.llm.native.model import Model
from tests.llm.native.conftest import CPU, Pair, make, text

# Sides that suit the matrix units.
EVEN = {"hidden_size": 64, "intermediate_size": 128}
# Of a random model that makes much of every error; single matrices are held tighter below.
APART = {"float8": 0.2, "nf4": 0.5}


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(tmp_path_factory.mktemp("even"), "gemma3", **EVEN)


def load(folder: Path, pair: Pair, form: small.Small) -> Model:
    return weights.load(folder, pair.shape, format=form, device=CPU, positions=512)


@pytest.fixture(params=["float8", "nf4"])
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_logits_stay_close_and_the_form_is_kept(even: Pair, tmp_path: Path, form: Any) -> None:
    folder = tmp_path / "model"
    shutil.copytree(even.folder, folder)
    tokens = text(1, 40)
    expected = even.logits(tokens)
    made = all_logits(load(folder, even, form), tokens)
    apart = float((made.float() - expected).norm() / expected.norm())
    assert 0 < apart < APART[form], apart
    kept = small.place(folder, form)
    assert len(list(kept.iterdir())) == even.shape.layers
    times = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert torch.equal(all_logits(load(folder, even, form), tokens), made)
    assert times == {path: path.stat().st_mtime_ns for path in kept.iterdir()}


def test_a_damaged_or_old_form_is_made_again(even: Pair, tmp_path: Path, form: Any) -> None:
    folder = tmp_path / "model"
    shutil.copytree(even.folder, folder)
    tokens = text(2, 20)
    made = all_logits(load(folder, even, form), tokens)
    kept = small.place(folder, form)
    file = kept / "2.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    old = kept.with_name(f"{form}-other")
    old.mkdir()
    assert torch.equal(all_logits(load(folder, even, form), tokens), made)
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name]


def test_without_room_on_the_disk_it_loads_all_the_same(
    even: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(even.folder, folder)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(small, "save_file", full)
    load(folder, even, "float8")
    assert not list((folder / "native").iterdir())


def test_8_bit_floats_have_a_scale_for_each_row() -> None:
    """One row's size does not coarsen another's."""
    torch.manual_seed(1)
    weight = torch.randn(32, 64)
    x = torch.randn(3, 64) * torch.tensor([[1e-4], [1.0], [1e4]])
    steps, scale = eighths(weight)
    linear = Float8(steps, scale[:, 0])
    together = linear(x)
    expected = x @ weight.T
    for row in range(3):
        assert torch.equal(linear(x[row : row + 1])[0], together[row])
        apart = (together[row].float() - expected[row]).norm() / expected[row].norm()
        assert apart < 0.06


def test_matrices_with_odd_sides_stay_as_they_are(tmp_path: Path) -> None:
    pair = make(tmp_path, "llama", intermediate_size=100)
    tokens = text(3, 20)
    made = all_logits(load(tmp_path, pair, "float8"), tokens)
    expected = pair.logits(tokens)
    assert float((made.float() - expected).norm() / expected.norm()) < 0.1


@pytest.mark.parametrize("wrong", ["norm", "join", "gated", "store", "attend"])
def test_wrong_kernels_are_found_before_they_are_used(gemma: Pair, wrong: str) -> None:
    names = ("norm", "join", "gated", "store", "attend")
    maths: Any = SimpleNamespace(**{name: getattr(plain, name) for name in names})
    assert not proof.differs(maths, gemma.shape, torch.float32, CPU)
    right = getattr(plain, wrong)

    def broken(*values: Any, **named: Any) -> Any:
        out = right(*values, **named)
        last = out[-1] if isinstance(out, tuple) else out
        last[(-1,) * last.dim()] = float("nan")
        return out

    setattr(maths, wrong, broken)
    assert proof.differs(maths, gemma.shape, torch.float32, CPU)
