"""`/v1` with a second client that is not ours either: OpenAI's Node SDK, where it is installed."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import MODEL, Person, Server

NODE = Path(__file__).parent / "openai_node"
EIGHT = "w0 w1 w2 w3 w4 w5 w6 w7 "


@pytest.fixture(scope="module")
def node() -> str:
    """Node with OpenAI's SDK, where somebody has installed it."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    if not (NODE / "node_modules" / "openai").is_dir():
        pytest.skip("the SDK is not installed: npm install in tests/api/openai_node")
    return program


def test_the_official_node_client_goes_all_the_way(
    node: str, server: Server, ann: Person, root: Person
) -> None:
    taken = {"credits": -60, "reason": "so that 50 are too many"}
    root.client.post(f"/api/admin/users/{ann.id}/credits", json=taken).raise_for_status()
    told = {
        "url": f"{server.url}/v1",
        "key": ann.tokens["access_token"],
        "model": MODEL,
        "dear": "gemma-3-12b-it",
    }
    done = subprocess.run(
        [node, "client.mjs"], cwd=NODE, input=json.dumps(told), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saw: dict[str, Any] = json.loads(done.stdout)
    assert MODEL in saw["models"]
    assert saw["text"] == saw["streamed"] == saw["helped"] == EIGHT
    assert saw["requestId"] == saw["id"]
    assert (saw["charged"], saw["credits"]["charged"], saw["credits"]["available"]) == (
        "1", "1", "38",
    )  # fmt: skip
    assert saw["usage"]["total_tokens"] == 10
    kinds = {name: (error["kind"], error["code"]) for name, error in saw["errors"].items()}
    assert kinds == {
        "model": ("NotFoundError", "model_not_found"),
        "field": ("BadRequestError", "unsupported_parameter"),
        "stranger": ("AuthenticationError", "invalid_api_key"),
        "credits": ("APIError", "insufficient_quota"),
    }
    assert saw["errors"]["field"]["param"] == "n"
    assert saw["errors"]["credits"]["status"] == 402
    assert ann.available() == "37"
