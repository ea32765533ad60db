"""The machine's figures for the time series, without waiting: processor, memory, disk, GPUs.

`system.py` looks once for a person; this looks every few seconds and keeps what it needs between
two looks. What a machine does not have is left out.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chat_app.monitor import system

# A driver that has said no is asked again after this long.
GPU_PAUSE_SECONDS = 60.0
# A slice of a shared GPU does not report all of these.
_GPU_FIGURES: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    ("percent", lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
    ("watts", lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    ("celsius", lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, 0)),
)


class MachineProbe:
    """Looks at the machine and at this process."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._gpus = GpuProbe()
        self._process: Any = None

    def look(self, workers: Iterable[int] = ()) -> dict[str, float]:
        """The figures now. `workers` are processes of models; the first processor share is 0."""
        import psutil

        if self._process is None:
            self._process = psutil.Process()
            psutil.cpu_percent(interval=None)
            self._process.cpu_percent(interval=None)
        used, total = system.memory()
        disk = shutil.disk_usage(system.existing(self._data_dir))
        with self._process.oneshot():
            found = {
                "cpu.percent": psutil.cpu_percent(interval=None),
                "cpu.process_percent": self._process.cpu_percent(interval=None),
                "memory.used_bytes": used,
                "memory.percent": 100 * used / max(1, total),
                "memory.process_bytes": self._process.memory_info().rss,
                "memory.workers_bytes": sum(rss_of(pid) for pid in workers),
                "process.threads": self._process.num_threads(),
                "disk.free_bytes": disk.free,
                "disk.percent": 100 * (disk.total - disk.free) / max(1, disk.total),
            }
            if hasattr(self._process, "num_fds"):
                found["process.open_files"] = self._process.num_fds()
        found["swap.used_bytes"] = psutil.swap_memory().used
        if hasattr(os, "getloadavg"):
            found["cpu.load_1m"] = os.getloadavg()[0]
        return {**found, **self._gpus.look()}


class GpuProbe:
    """Keeps the driver's library open between looks; one that is missing is asked now and then."""

    def __init__(
        self, *, nvml: Callable[[], Any] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._import = nvml or _nvml
        self._now = now
        self._nvml: Any = None
        self._again = 0.0

    def look(self) -> dict[str, float]:
        """Each GPU's figures, and under `gpu.count` how many there are."""
        if self._nvml is None and not self._open():
            return {"gpu.count": 0.0}
        try:
            return self._figures(self._nvml)
        except Exception:  # every fault of a driver is the same: it cannot be seen
            self._nvml, self._again = None, self._now() + GPU_PAUSE_SECONDS
            return {"gpu.count": 0.0}

    def _open(self) -> bool:
        if self._now() < self._again:
            return False
        try:
            library = self._import()
            library.nvmlInit()
        except Exception:
            self._again = self._now() + GPU_PAUSE_SECONDS
            return False
        self._nvml = library
        return True

    def _figures(self, nvml: Any) -> dict[str, float]:
        count = int(nvml.nvmlDeviceGetCount())
        found = {"gpu.count": float(count)}
        for index in range(count):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            found[f"gpu.{index}.memory_used_bytes"] = float(memory.used)
            found[f"gpu.{index}.memory_percent"] = 100 * memory.used / max(1, memory.total)
            for name, read in _GPU_FIGURES:
                try:
                    found[f"gpu.{index}.{name}"] = float(read(nvml, handle))
                except nvml.NVMLError:
                    continue
        return found


def rss_of(pid: int) -> float:
    """The memory of a process in bytes; 0 of one that is gone."""
    import psutil

    try:
        return float(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0.0


def _nvml() -> Any:
    import pynvml

    return pynvml
