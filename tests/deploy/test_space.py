"""The Hugging Face Space: its files are complete, and start with nothing but requirements.txt."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml

from chat_app import settings
from chat_app.accounts import openid
from tests.house import pins, tree
from tests.nginx import free_ports

SPACE = tree.ROOT / "deploy" / "space"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"space_{name}", SPACE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the Space."""
    made = tmp_path_factory.mktemp("space")
    module("assemble").assemble(made)
    return made


def front_matter() -> dict[str, Any]:
    head = tree.read("deploy/space/README.md").split("---\n")[1]
    content: dict[str, Any] = yaml.safe_load(head)
    return content


def test_the_front_matter_is_what_the_hub_asks_for() -> None:
    """The SDK installs Gradio by itself: its version has to be the one that is tested here."""
    head = front_matter()
    assert head["sdk"] == "gradio"
    pinned = next(
        line.split("==")[1]
        for line in tree.read("constraints.txt").splitlines()
        if line.startswith("gradio==")
    )
    assert head["sdk_version"] == pinned
    asked = next(item for item in pins.wanted() if item.name == "gradio")
    assert asked.specifier.contains(head["sdk_version"])
    assert isinstance(head["python_version"], str), "3.10 without quotes is 3.1"
    assert tuple(map(int, head["python_version"].split("."))) >= (3, 11)
    assert (SPACE / head["app_file"]).is_file()
    assert len(head["short_description"]) <= 60
    # `openid` and `profile` are always given; what else is asked for is what the program asks for.
    assert head["hf_oauth"] is True
    assert {"openid", "profile", *head["hf_oauth_scopes"]} == set(openid.SCOPES)


def test_the_files_are_complete(folder: Path) -> None:
    """What the program reads is there, and nothing that it does not need."""
    there = {one.name for one in folder.iterdir()}
    assert there == {
        "README.md", "app.py", "chat_app", "ui", "launch.py", "settings.toml", "requirements.txt"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "import app, launch; launch.read_settings(launch.arguments([]))"],
        cwd=folder, env={**_clean(), "PYTHONPATH": str(folder)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in (tree.ROOT / "ui" / "static").rglob("*"):
        if path.is_file():
            assert (folder / path.relative_to(tree.ROOT)).is_file(), path.name


def test_the_space_sets_what_a_frame_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its host makes the public address, hence secure cookies; SPACE_ID makes them partitioned."""
    monkeypatch.setenv("SPACE_HOST", "somebody-chat.hf.space")
    made = module("app").environment(tmp_path)
    ours = {name for name in made if name.startswith(settings.PREFIX)}
    assert ours <= settings.known_names()
    assert made["CHAT_APP_SERVER__PUBLIC_URL"] == "https://somebody-chat.hf.space"
    assert made["CHAT_APP_SERVER__HOST"] == "0.0.0.0"
    assert made["CHAT_APP_SERVER__PORT"] == "7860"
    monkeypatch.setenv("CHAT_APP_SERVER__PORT", "7000")
    assert module("app").environment(tmp_path)["CHAT_APP_SERVER__PORT"] == "7000"


def test_it_begins_anew_and_goes_on_when_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The old server is ended only after the new year is written, and its data are gone."""
    app = module("app")
    seen: list[str] = []
    monkeypatch.setattr(app.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(app, "RESET_HOURS", 1e-9)
    monkeypatch.setattr(app.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(app.signal, "signal", lambda *_given: None)
    fills: Iterator[bool] = iter([False, True])

    class Server:
        returncode = 3

        def __init__(self, data_dir: Path) -> None:
            self.name = data_dir.name
            data_dir.mkdir(exist_ok=True)
            seen.append(f"start {self.name}")

        def poll(self) -> int | None:
            return 3 if self.name == "1" else None

    def fill(data_dir: Path) -> bool:
        data_dir.mkdir()
        seen.append(f"fill {data_dir.name}")
        return next(fills)

    monkeypatch.setattr(app, "start", Server)
    monkeypatch.setattr(app, "fill", fill)
    monkeypatch.setattr(app, "end", lambda server: seen.append(f"end {server.name}"))
    assert app.main() == 3
    assert seen == ["start 0", "fill 1", "fill 1", "end 0", "start 1"]
    assert [one.name for one in tmp_path.iterdir()] == ["1"]


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CHAT_APP_")}


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_it_starts_in_a_clean_environment(folder: Path, tmp_path: Path) -> None:
    """Only requirements.txt is installed, and Gradio at the SDK's version, as the hub does it."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-r", str(folder / "requirements.txt"),
         f"gradio=={front_matter()['sdk_version']}"],
        check=True,
    )  # fmt: skip
    [port] = free_ports(1)
    env = {
        **{name: value for name, value in _clean().items() if name != "PYTHONPATH"},
        "SPACE_ID": "somebody/chat",
        "SPACE_HOST": "somebody-chat.hf.space",
        "CHAT_APP_SERVER__PORT": str(port),
        "CHAT_APP_LLM__ENGINE": "script",
    }
    process = subprocess.Popen([python, "app.py"], cwd=folder, env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for _ in range(900):
                try:
                    client.get("/readyz").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert process.poll() is None
                    time.sleep(1)
            entered = client.get("/", headers={"X-Forwarded-For": "198.18.0.1"})
            assert entered.status_code == 303
            words = entered.headers["set-cookie"]
            assert re.search(r"SameSite=None; Partitioned", words)
            assert "Secure" in words
            page = client.get("/", headers={"Cookie": words.split(";")[0]})
            assert "demo-banner" in page.text
            assert "huggingface.co" in page.headers["content-security-policy"]
            assert "x-frame-options" not in page.headers
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
