"""The page as an installed app: manifest, icons, worker and offline page, under the shield."""

import struct
from pathlib import Path

import pytest

from tests.ui.conftest import Site
from ui import installed


def test_the_manifest_names_icons_that_are_there(site: Site) -> None:
    client = site.visitor().client
    answer = client.get("/manifest.json")
    assert answer.headers["content-type"] == "application/manifest+json"
    manifest = answer.json()
    assert manifest["display"] == "standalone"
    assert {icon["purpose"] for icon in manifest["icons"]} == {"any", "maskable"}
    for icon in manifest["icons"]:
        picture = client.get(icon["src"])
        assert picture.headers["content-type"] == icon["type"]
        if icon["type"] == "image/png":
            width, height = struct.unpack(">II", picture.content[16:24])
            assert f"{width}x{height}" == icon["sizes"]


def test_nothing_else_of_the_folder_is_served(site: Site) -> None:
    """An icon's address has no parameters."""
    client = site.visitor().client
    for path in ("/icons/app.js", "/icons/offline.html", "/icons/..%2fapp.js", "/icons/none.png"):
        assert client.get(path).status_code == 404
    named = client.get("/icons/icon.svg?name=app.js&kind=text/html")
    assert named.text.startswith("<svg")
    assert named.headers["content-type"] == "image/svg+xml"


def test_worker_and_offline_page_have_the_strict_policy(site: Site) -> None:
    client = site.visitor().client
    worker, page = client.get("/sw.js"), client.get("/offline")
    assert worker.headers["content-type"].startswith("text/javascript")
    assert worker.headers["cache-control"] == "no-cache"
    for answer in (worker, page):
        assert "'unsafe-eval'" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script" not in page.text


def test_a_new_version_is_a_new_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Browsers compare the bytes: another version or another page must change them."""
    before = installed.worker()
    monkeypatch.setattr(installed, "__version__", "99.0.0")
    after = installed.worker()
    assert before != after
    for name in ("worker.js", "offline.html", "icon.svg"):
        (tmp_path / name).write_bytes((installed.STATIC / name).read_bytes())
    (tmp_path / "offline.html").write_text("changed")
    monkeypatch.setattr(installed, "STATIC", tmp_path)
    assert installed.worker() != after
    assert "VERSION" not in after
