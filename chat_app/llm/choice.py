"""Which backend runs a model on this machine, and the sentence that says why.

It looks at the settings, the files that are there and the machine; it loads nothing.
"""

import importlib.util
import os
import platform
import warnings
from pathlib import Path

from chat_app.llm import loader
from chat_app.llm.backends.base import Spec
from chat_app.llm.catalogue import Entry
from chat_app.llm.engine import ModelNotReady
from chat_app.settings import Llm


def choose(entry: Entry, models_dir: Path, llm: Llm) -> Spec:
    """How to run this model here. Raises ModelNotReady when no backend can."""
    if llm.engine == "remote":
        raise ModelNotReady("No model server is set. Set remote_url in the section [llm].")
    here = loader.weights(entry, models_dir)
    gpu = gpu_name()
    if llm.engine == "llamacpp":
        return _llamacpp(entry, here, llm)
    wants_openvino = llm.engine == "openvino" or (
        llm.engine == "auto" and not (gpu and here.safetensors is not None)
    )
    files = here.openvino or (here.gguf if entry.family == "llama" else None)
    if wants_openvino and files is not None and openvino_here():
        kind = "its GGUF file" if files == here.gguf else "its converted files"
        why = f"{entry.name} runs on the CPU with OpenVINO, the fastest way for {kind}."
        if llm.engine == "openvino":
            why = f"{entry.name} runs on the CPU with OpenVINO, because the settings ask for it."
        return _spec(entry, files, "openvino", "cpu", llm, why=why)
    if llm.engine == "openvino":
        raise ModelNotReady(
            f"OpenVINO cannot run the files of {entry.name} on this machine. "
            "Set engine to auto in the section [llm], or choose another model.",
            model=entry.id,
        )
    if llm.engine == "auto" and not gpu and here.safetensors is None and llamacpp_here():
        return _llamacpp(entry, here, llm)
    path = here.safetensors or here.gguf
    if path is None:
        raise ModelNotReady(f"The weights of {entry.name} are not here. Pull them first.")
    backend, name = "native", "our own engine"
    if llm.engine == "transformers":
        backend = name = "transformers"
    place = f"the GPU {gpu}" if gpu else "the CPU, because no NVIDIA GPU was found"
    why = f"{entry.name} runs with {name} on {place}."
    return _spec(entry, path, backend, "cuda" if gpu else "cpu", llm, why=why)


def _llamacpp(entry: Entry, here: loader.Weights, llm: Llm) -> Spec:
    """The GGUF with llama.cpp. Raises ModelNotReady without the package or the file."""
    if not llamacpp_here():
        raise ModelNotReady(
            "llama.cpp is not installed. Install it with: pip install xllamacpp, "
            "or set engine to auto in the section [llm].",
            model=entry.id,
        )
    if here.gguf is None:
        raise ModelNotReady(
            f"llama.cpp reads GGUF files and there is none of {entry.name}. "
            "Set engine to auto in the section [llm], or choose another model.",
            model=entry.id,
        )
    reason = "because the settings ask for it"
    if llm.engine == "auto":
        reason = "because only its GGUF file is here and OpenVINO cannot run it"
    why = f"{entry.name} runs on the CPU with llama.cpp, {reason}."
    return _spec(entry, here.gguf, "llamacpp", "cpu", llm, why=why)


def threads(llm: Llm) -> int:
    """CPU threads of a worker: the setting, or one less than this process may use."""
    return llm.threads or max(1, cores() - 1)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 2


def openvino_here() -> bool:
    """OpenVINO GenAI is installed and made for this processor."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and importlib.util.find_spec("openvino_genai") is not None


def llamacpp_here() -> bool:
    """The extra `llamacpp` is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def gpu_name() -> str:
    """The name of the first NVIDIA GPU, empty when there is none or no driver for it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it renames itself
            import pynvml

        pynvml.nvmlInit()
    except Exception:
        return ""
    try:
        if not pynvml.nvmlDeviceGetCount():
            return ""
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        return name.decode() if isinstance(name, bytes) else str(name)
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()


def _spec(entry: Entry, path: Path, backend: str, device: str, llm: Llm, *, why: str) -> Spec:
    kind = "OpenVINO files" if backend == "openvino" else "safetensors"
    why += f" It reads {path.name if path.suffix == '.gguf' else kind}"
    if device == "cpu":
        why += f" and uses {threads(llm)} of {cores()} processor cores"
        if llm.threads:
            why += ", as the settings ask"
        elif cores() > 1:
            why += ", which leaves one for the rest"
    why += "."
    return Spec(
        model=entry.id,
        family=entry.family,
        path=str(path.resolve()),
        backend=backend,
        device=device,
        threads=threads(llm),
        context_tokens=entry.context_tokens,
        quantization=llm.quantization,
        why=why,
    )
