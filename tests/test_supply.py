"""What the program is made of, and that it calls nobody by itself (bar 42)."""

import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from chat_app import __main__ as commands
from chat_app.flows.sbom import normal
from chat_app.llm import catalogue
from tests import servers

# Python runs this before anything else. uvloop has its own sockets, which no hook sees.
WATCH = """
import os, sys
sys.modules["uvloop"] = None
LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", "None"}
def watch(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = args[1]
        host = where[0] if isinstance(where, tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host not in LOCAL:
        with open(os.environ["CALLS"], "a") as file:
            print(event, host, file=file)
sys.addaudithook(watch)
"""


def part(folder: Traversable, name: str) -> dict[str, Any]:
    """One of the published schemas."""
    found: dict[str, Any] = json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text())
    return found


def test_the_bill_is_valid_and_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the published schema; every installed package and offered model is in it."""
    target = tmp_path / "bom.json"
    assert commands.main(["sbom", "--out", str(target)]) == 0
    bill = json.loads(target.read_text())
    folder = files("cyclonedx.schema") / "_res"
    known = [
        (f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", part(folder, name))
        for name in ("spdx", "jsf-0.82")
    ]
    registry = jsonschema_rs.Registry(known)
    jsonschema_rs.validate(part(folder, "bom-1.6"), bill, registry=registry)
    found = {item["name"]: item.get("version") for item in bill["components"]}
    for item in distributions():
        if normal(item.name) != "ml-chat-billing":
            assert normal(item.name) in found, item.name
    for entry in catalogue.offered():
        assert entry.name in found
    refs = {item["bom-ref"] for item in bill["components"]}
    for row in bill["dependencies"]:
        assert set(row["dependsOn"]) <= refs
    assert commands.main(["sbom"]) == 0
    assert json.loads(capsys.readouterr().out)["bomFormat"] == "CycloneDX"


def test_importing_and_starting_calls_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start, page, account, answer: not a single name is looked up outside this machine."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(WATCH)
    calls = tmp_path / "calls"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    monkeypatch.setenv("CALLS", str(calls))
    reach = "import socket; socket.getaddrinfo('192.0.2.1', 9)"
    subprocess.run([sys.executable, "-c", reach], env=os.environ, check=True)
    assert calls.read_text() == "socket.getaddrinfo 192.0.2.1\n", "the watch does not watch"
    calls.write_text("")
    with servers.serving(tmp_path / "data") as server:
        person = servers.Person(server, "ann")
        person.send().raise_for_status()
        httpx.get(server.url, timeout=60).raise_for_status()
        person.close()
        assert server.terminate() == 0
    assert calls.read_text() == ""
