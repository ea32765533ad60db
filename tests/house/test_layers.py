"""The stairs: imports only go down. The contracts are in pyproject.toml.

A contract that never fails proves nothing, so each is also shown a copy of the code with a
planted breach, and must name it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree

CONTRACTS = {contract["id"] for contract in tree.project()["tool"]["importlinter"]["contracts"]}

# Contract, file to add a line to, the line, and what the report must name.
BREACHES = [
    ("stairs", "chat_app/credits/breach.py", "import chat_app.chat", "chat_app.credits.breach"),
    ("stairs", "chat_app/accounts/breach.py", "import chat_app.credits", "accounts.breach"),
    ("stairs", "chat_app/llm/breach.py", "import chat_app.flows", "chat_app.llm.breach"),
    ("stairs", "chat_app/secrets.py", "import chat_app.db", "chat_app.secrets"),
    ("stairs", "chat_app/errors.py", "import chat_app.money", "chat_app.errors"),
    ("stairs", "chat_app/shared/breach.py", "import chat_app.accounts", "shared.breach"),
    ("stairs", "chat_app/jobs.py", "def f():\n    import chat_app.audit", "chat_app.jobs"),
    ("stairs", "chat_app/attic/__init__.py", "", "attic"),
    ("edges", "chat_app/api/breach.py", "import ui", "chat_app.api.breach"),
    ("edges", "ui/breach.py", "import chat_app.api.errors", "ui.breach"),
    ("no_ui_below", "chat_app/flows/breach.py", "import ui", "chat_app.flows.breach"),
    ("no_ui_below", "chat_app/api/breach.py", "import gradio", "chat_app.api.breach"),
    ("no_web_in_the_core", "chat_app/credits/breach.py", "import fastapi", "credits.breach"),
    ("no_web_in_the_core", "chat_app/schedule.py", "import starlette.responses", "schedule"),
    ("books", "chat_app/flows/breach.py", "import chat_app.credits.tables", "flows.breach"),
    ("books", "ui/breach.py", "from chat_app.credits.tables import Account", "ui.breach"),
]


def lint(folder: Path, *contracts: str) -> tuple[bool, str]:
    """Whether the contracts are kept in a folder, and the report."""
    chosen = [part for name in contracts for part in ("--contract", name)]
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()",
         "--no-cache", "--no-logo", *chosen],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return done.returncode == 0, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their contracts, to be broken."""
    for package in ("chat_app", "ui"):
        ignore = shutil.ignore_patterns("__pycache__", "static")
        shutil.copytree(tree.ROOT / package, tmp_path / package, ignore=ignore)
    shutil.copy(tree.ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_are_kept() -> None:
    kept, report = lint(tree.ROOT)
    assert kept, report
    assert f"{len(CONTRACTS)} kept, 0 broken" in report


def test_every_contract_has_a_breach() -> None:
    assert {breach[0] for breach in BREACHES} == CONTRACTS


@pytest.mark.parametrize(
    ("contract", "file", "line", "named"), BREACHES, ids=[f"{b[0]}-{b[1]}" for b in BREACHES]
)
def test_planted_breach_is_caught(
    copy: Path, contract: str, file: str, line: str, named: str
) -> None:
    path = copy / file
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as target:
        target.write(f"\n{line}\n")
    kept, report = lint(copy, contract)
    assert not kept
    assert named in report, report


def test_rooms_have_no_code_at_import() -> None:
    """A room's `__init__` is its docstring and nothing else, but for the edges' entry."""
    for path in tree.ROOT.glob("chat_app/*/__init__.py"):
        if path.parent.name not in {"api", "migrations"}:
            lines = path.read_text(encoding="utf-8").strip().splitlines()
            assert not any(re.match(r"(import|from|def|class) ", line) for line in lines), path
