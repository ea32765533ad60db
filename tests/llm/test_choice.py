"""Which backend runs a model, and why."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from chat_app import settings
from chat_app.llm import catalogue, choice, loader, supervisor
from chat_app.llm.catalogue import File
from chat_app.llm.engine import ModelNotReady
from chat_app.settings import Llm
from tests.llm.conftest import ROOT


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "gpu_name", lambda: "")


def entry(model: str, path: Path) -> catalogue.Entry:
    return dataclasses.replace(catalogue.get(model), source=File(str(path)))


@pytest.fixture
def gguf(tmp_path: Path) -> catalogue.Entry:
    path = tmp_path / "w.gguf"
    path.write_bytes(b"GGUF")
    return entry("smollm2-135m-instruct", path)


@pytest.fixture
def folder(tmp_path: Path) -> catalogue.Entry:
    return entry("gemma-3-1b-it", tmp_path)


def test_auto_takes_openvino_for_a_llama_file(gguf: catalogue.Entry, tmp_path: Path) -> None:
    spec = choice.choose(gguf, tmp_path, Llm())
    assert (spec.backend, spec.device) == ("openvino", "cpu")
    assert "OpenVINO" in spec.why


def test_the_reason_names_the_file_and_the_threads(
    gguf: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "cores", lambda: 8)
    assert choice.choose(gguf, tmp_path, Llm()).why.endswith(
        "It reads w.gguf and uses 7 of 8 processor cores, which leaves one for the rest."
    )
    asked = choice.choose(gguf, tmp_path, Llm(threads=3))
    assert (asked.threads, "3 of 8 processor cores, as the settings ask." in asked.why) == (3, True)


def test_a_converted_copy_beside_it_changes_nothing(tmp_path: Path) -> None:
    demo = catalogue.get("smollm2-135m-instruct")
    assert isinstance(demo.source, catalogue.Package)
    (tmp_path / demo.id / "safetensors").mkdir(parents=True)
    (tmp_path / demo.id / demo.source.file).write_bytes(b"GGUF")
    assert choice.choose(demo, tmp_path, Llm()).backend == "openvino"
    assert choice.choose(demo, tmp_path, Llm(engine="transformers")).backend == "transformers"


def test_auto_prefers_converted_files_beside_the_weights(tmp_path: Path) -> None:
    gemma = catalogue.get("gemma-3-1b-it")
    folder = tmp_path / gemma.id
    (folder / "openvino").mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert choice.choose(gemma, tmp_path, Llm()).backend == "native"
    (folder / "openvino" / "openvino_model.xml").write_text("", encoding="utf-8")
    spec = choice.choose(gemma, tmp_path, Llm())
    assert (spec.backend, spec.path) == ("openvino", str(folder / "openvino"))
    assert "converted files" in spec.why
    assert choice.choose(gemma, tmp_path, Llm(engine="transformers")).backend == "transformers"


def test_a_gpu_goes_before_converted_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "gpu_name", lambda: "Some GPU")
    gemma = catalogue.get("gemma-3-1b-it")
    (tmp_path / gemma.id / "openvino").mkdir(parents=True)
    (tmp_path / gemma.id / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / gemma.id / "openvino" / "openvino_model.xml").write_text("", encoding="utf-8")
    assert choice.choose(gemma, tmp_path, Llm()).backend == "native"


def test_a_folder_that_is_already_converted_is_taken(
    folder: catalogue.Entry, tmp_path: Path
) -> None:
    (tmp_path / "openvino_model.xml").write_text("", encoding="utf-8")
    assert choice.choose(folder, tmp_path, Llm()).path == str(tmp_path)


def test_auto_takes_our_engine_for_safetensors_and_says_that_it_is_the_cpu(
    folder: catalogue.Entry, tmp_path: Path
) -> None:
    spec = choice.choose(folder, tmp_path, Llm())
    assert (spec.backend, spec.device) == ("native", "cpu")
    assert "because no NVIDIA GPU was found" in spec.why


def test_a_gpu_is_used_and_named(
    folder: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "gpu_name", lambda: "Some GPU")
    spec = choice.choose(folder, tmp_path, Llm())
    assert (spec.backend, spec.device) == ("native", "cuda")
    assert "Some GPU" in spec.why


def test_a_machine_without_openvino_converts_the_file(
    gguf: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "openvino_here", lambda: False)
    monkeypatch.setattr(choice, "llamacpp_here", lambda: False)
    assert choice.choose(gguf, tmp_path, Llm()).backend == "native"


def test_auto_takes_llamacpp_for_a_file_that_nothing_else_reads_as_it_is(
    gguf: catalogue.Entry, folder: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "openvino_here", lambda: False)
    monkeypatch.setattr(choice, "llamacpp_here", lambda: True)
    spec = choice.choose(gguf, tmp_path, Llm())
    assert (spec.backend, spec.device) == ("llamacpp", "cpu")
    assert "because only its GGUF file is here" in spec.why
    assert choice.choose(folder, tmp_path, Llm()).backend == "native"


def test_llamacpp_by_force_needs_its_package_and_a_gguf(
    gguf: catalogue.Entry, folder: catalogue.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "llamacpp_here", lambda: True)
    assert choice.choose(gguf, tmp_path, Llm(engine="llamacpp")).backend == "llamacpp"
    with pytest.raises(ModelNotReady, match="reads GGUF files"):
        choice.choose(folder, tmp_path, Llm(engine="llamacpp"))
    monkeypatch.setattr(choice, "llamacpp_here", lambda: False)
    with pytest.raises(ModelNotReady, match="pip install xllamacpp"):
        choice.choose(gguf, tmp_path, Llm(engine="llamacpp"))


def test_remote_without_an_address_says_what_is_missing(
    gguf: catalogue.Entry, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotReady, match="remote_url"):
        choice.choose(gguf, tmp_path, Llm(engine="remote"))


def test_openvino_by_force_refuses_what_it_cannot_read(
    folder: catalogue.Entry, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotReady, match="engine to auto"):
        choice.choose(folder, tmp_path, Llm(engine="openvino"))


def test_one_core_is_left_for_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    assert choice.threads(Llm()) == 7
    assert choice.threads(Llm(threads=3)) == 3


def test_the_web_process_imports_no_library_that_runs_models() -> None:
    code = (
        "import sys; from chat_app import settings; from chat_app.llm import build, loader\n"
        "build.create(settings.load())\n"
        "heavy = {'torch', 'transformers', 'openvino', 'openvino_genai', 'gguf', 'numpy',\n"
        "         'huggingface_hub', 'chat_app.llm.worker'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("engine", "sees"), [("auto", True), ("native", True), ("transformers", True)]
)
def test_images_are_for_ways_that_see(tmp_path: Path, engine: str, *, sees: bool) -> None:
    """A model that is not here yet says that, and not that it cannot see."""
    folder = tmp_path / "gemma-3-4b-it"
    made = supervisor.Supervisor(
        settings.load(data_dir=tmp_path, models_dir=tmp_path, llm={"engine": engine})
    )
    assert made.sees("gemma-3-4b-it")
    assert not made.sees("gemma-3-1b-it")
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert made.sees("gemma-3-4b-it") == sees


def test_converted_files_do_not_see(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-3-4b-it" / "openvino"
    folder.mkdir(parents=True)
    (folder.parent / "config.json").write_text("{}", encoding="utf-8")
    (folder / "openvino_model.xml").write_text("", encoding="utf-8")
    made = supervisor.Supervisor(settings.load(data_dir=tmp_path, models_dir=tmp_path))
    assert not made.sees("gemma-3-4b-it")


def servers(tmp_path: Path, engine: str) -> supervisor.Supervisor:
    """An engine with two addresses that nobody has asked yet."""
    return supervisor.Supervisor(
        settings.load(
            data_dir=tmp_path,
            models_dir=tmp_path,
            llm={"engine": engine, "remote_url": "http://127.0.0.1:9 http://127.0.0.1:19"},
        )
    )


def test_of_servers_those_see_that_do_not_deny_it(tmp_path: Path) -> None:
    made = servers(tmp_path, "remote")
    assert made.sees("gemma-3-4b-it")
    assert not made.sees("gemma-3-1b-it")
    known = made._servers
    assert known is not None
    first, second = known.servers
    for server in known.servers:
        server.up, server.models = True, {"gemma-3-4b-it": 0}
    known.blind(first, "gemma-3-4b-it")
    entry = catalogue.get("gemma-3-4b-it")
    assert made.sees("gemma-3-4b-it")
    assert known.pick(entry, "", images=True) is second
    known.blind(second, "gemma-3-4b-it")
    assert not made.sees("gemma-3-4b-it")
    assert known.pick(entry, "", images=True) is None


def known(tmp_path: Path, engine: str) -> supervisor.Supervisor:
    """The same, with one server that is up and the weights of a model on this machine."""
    folder = tmp_path / "gemma-3-1b-it"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    manifest = {"source": loader._identity(catalogue.get("gemma-3-1b-it")), "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    made = servers(tmp_path, engine)
    assert made._servers is not None
    server = made._servers.servers[0]
    server.up, server.models = True, {"gemma-3-1b-it": 0, "gemma-3-12b-it": 0}
    made._servers._checked = 1.0
    return made


def test_auto_takes_what_can_answer_now_and_says_why(tmp_path: Path) -> None:
    made = known(tmp_path, "auto")
    assert made._servers is not None
    server = made._servers.servers[0]
    here, there = "gemma-3-1b-it", "gemma-3-12b-it"
    assert made.state(here).backend == "remote"
    assert "because a configured server serves it" in made.why(here)
    server.up = False
    assert made.state(here).usable
    assert "with our own engine on the CPU" in made.why(here)
    assert "no configured server of it can be used right now" in made.why(here)
    # Nobody has this one here, so it says what is wrong with the servers.
    assert made.state(there).state == "broken"
    assert "No server for this model can be reached" in made.why(there)
    server.up = True
    assert made.state(here).backend == made.state(there).backend == "remote"


def test_remote_by_force_never_falls_back(tmp_path: Path) -> None:
    made = known(tmp_path, "remote")
    assert made._servers is not None
    made._servers.servers[0].up = False
    assert made.state("gemma-3-1b-it").state == "broken"
    assert made.state("gemma-3-1b-it").backend == "remote"
    assert "Try again" in made.why("gemma-3-1b-it")
