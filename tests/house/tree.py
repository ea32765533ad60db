"""The repository as files, for the tests that hold it together."""

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SKIPPED = {
    ".git", ".venv", "data", "models_cache", "build", "dist", "__pycache__", "node_modules",
}  # fmt: skip
TEXT = {".py", ".md", ".toml", ".txt", ".sh", ".css", ".js", ".html", ".svg", ".yml", ".yaml", ""}


def read(name: str) -> str:
    """A file of the repository as text."""
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads(read("pyproject.toml"))


def kept_files() -> list[Path]:
    """The text files that belong to the repository: what git keeps, or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / line for line in listed.stdout.splitlines()]
    else:  # an unpacked archive
        paths = [path for path in ROOT.rglob("*") if not _is_skipped(path.relative_to(ROOT))]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def _is_skipped(path: Path) -> bool:
    return any(
        part in SKIPPED or part.endswith((".egg-info", "_cache")) or part == ".hypothesis"
        for part in path.parts
    )


def import_everything() -> None:
    """Import every module of both packages but the entry points, the worker and migrations."""
    for name in ("chat_app", "ui"):
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not {"__main__", "migrations"} & set(found.name.split(".")):
                importlib.import_module(found.name)


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in the repository."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
