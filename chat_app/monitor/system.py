"""The machine: processor, memory, disk and GPUs at this moment.

It knows nothing of the program's work. What a machine does not have is empty and says why.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_app.settings import Settings

CPU_SECONDS = 0.1
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """One graphics processor. `utilization_percent` is None where the driver cannot tell."""

    name: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilization_percent: float | None


@dataclass(frozen=True)
class SystemStats:
    """One look at the machine. `gpu_reason` says why `gpus` is empty, else it is empty."""

    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    process_rss_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    load_1m: float
    gpus: tuple[Gpu, ...]
    gpu_reason: str = ""


def snapshot(settings: Settings) -> SystemStats:
    """Look at the machine. Takes `CPU_SECONDS`, so call it on a thread, not on an event loop.

    Memory is that of the container where one limits it; the disk is the data directory's.
    """
    import psutil

    used, total = memory()
    disk = shutil.disk_usage(existing(settings.data_dir))
    gpus, reason = find_gpus()
    return SystemStats(
        cpu_percent=psutil.cpu_percent(interval=CPU_SECONDS),
        memory_used_bytes=used,
        memory_total_bytes=total,
        process_rss_bytes=psutil.Process().memory_info().rss,
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        load_1m=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        gpus=gpus,
        gpu_reason=reason,
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists already."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The NVIDIA GPUs, and a sentence that says why there are none."""
    try:
        import pynvml
    except ImportError:
        return (), "The package nvidia-ml-py is not installed, so GPUs cannot be seen."
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"No NVIDIA GPU was found ({error}); models run on the processor."
    try:
        found = tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        return (), f"The NVIDIA driver gave no answer ({error}). Check it with nvidia-smi."
    finally:
        pynvml.nvmlShutdown()
    return found, "" if found else "The NVIDIA driver is here but sees no GPU."


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = nvml.nvmlDeviceGetName(handle)
    utilization: float | None
    try:
        utilization = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError:  # a slice of a shared GPU does not report it
        utilization = None
    return Gpu(
        name=name.decode() if isinstance(name, bytes) else name,
        memory_used_bytes=int(memory.used),
        memory_total_bytes=int(memory.total),
        utilization_percent=utilization,
    )


def memory() -> tuple[int, int]:
    """Used and total bytes: of the container if it has a limit below the machine's memory."""
    import psutil

    machine = psutil.virtual_memory()
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        cache = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, no limit ("max"), or not Linux
        return machine.total - machine.available, machine.total
    if limit >= machine.total:
        return machine.total - machine.available, machine.total
    return max(0, used - int(cache.get("inactive_file", 0))), limit
