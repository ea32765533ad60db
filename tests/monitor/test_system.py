"""The look at the machine: real figures, and a reason where there is nothing to see."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from chat_app import settings
from chat_app.monitor import system


class NvmlError(Exception):
    """Stands for the driver's own error."""


def driver(**functions: object) -> ModuleType:
    """A GPU library with one GPU of 8 GB; functions replace its own."""
    module = ModuleType("pynvml")
    defaults: dict[str, object] = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda _handle: b"Test GPU",
        "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(used=2 * 10**9, total=8 * 10**9),
        "nvmlDeviceGetUtilizationRates": lambda _handle: SimpleNamespace(gpu=37),
    }
    for name, value in (defaults | functions).items():
        setattr(module, name, value)
    return module


def refuse(*_arguments: object) -> None:
    raise NvmlError("not supported")


def test_snapshot_has_plausible_figures(tmp_path: Path) -> None:
    stats = system.snapshot(settings.load(data_dir=tmp_path))
    assert 0 <= stats.cpu_percent <= 100
    assert 0 < stats.memory_used_bytes <= stats.memory_total_bytes
    assert 10**6 < stats.process_rss_bytes < stats.memory_total_bytes
    assert 0 < stats.disk_free_bytes <= stats.disk_total_bytes
    assert bool(stats.gpus) != bool(stats.gpu_reason)


def test_snapshot_before_the_first_start(tmp_path: Path) -> None:
    """The data directory need not be there yet, and is not made by looking."""
    data_dir = tmp_path / "not" / "yet"
    assert system.snapshot(settings.load(data_dir=data_dir)).disk_total_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    assert system.find_gpus() == ((system.Gpu("Test GPU", 2 * 10**9, 8 * 10**9, 37.0),), "")


def test_gpu_that_does_not_tell_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    library = driver(nvmlDeviceGetUtilizationRates=refuse, nvmlDeviceGetName=lambda _: "Slice")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    (gpu,), _ = system.find_gpus()
    assert (gpu.name, gpu.utilization_percent) == ("Slice", None)


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (None, "not installed"),
        (driver(nvmlInit=refuse), "No NVIDIA GPU was found"),
        (driver(nvmlDeviceGetCount=refuse), "nvidia-smi"),
        (driver(nvmlDeviceGetCount=lambda: 0), "sees no GPU"),
    ],
    ids=["no library", "no driver", "driver fails", "no gpu"],
)
def test_no_gpu_says_why(
    monkeypatch: pytest.MonkeyPatch, library: ModuleType | None, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    gpus, reason = system.find_gpus()
    assert gpus == ()
    assert words in reason
    assert reason.endswith(".")


def test_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container's limit counts, and pages that can be dropped are not used memory."""
    for name, text in {
        "memory.max": "1000000\n",
        "memory.current": "600000\n",
        "memory.stat": "anon 1\ninactive_file 200000\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(system, "_CGROUP", tmp_path)
    assert system.memory() == (400_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert system.memory()[1] == psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text(f"{10**18}\n")
    assert system.memory()[1] == psutil.virtual_memory().total
