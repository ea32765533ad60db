"""No package is older than the version in which a known hole was closed.

The table is kept by hand: there is no service to ask where this is built. When an advisory
touches a package that is used here, its floor is raised here and in pyproject.toml.
"""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.house import tree

PINS = dict(
    line.split("==")
    for line in tree.read("constraints.txt").splitlines()
    if line and not line.startswith("#")
)
# name: (first safe version, why)
FLOORS = {
    "gradio": ("6.31", "CVE-2026-28414 file read, CVE-2026-28416 proxy, GHSA-j36p-7w88-g82j"),
    "starlette": ("1.0.1", "CVE-2026-48710 Host header forges the path, CVE-2025-62727 ranges"),
    "python-multipart": ("0.0.30", "CVE-2026-53539 quadratic forms, CVE-2024-53981"),
    "pyjwt": ("2.12", "CVE-2026-32597 unknown crit headers were ignored"),
    "transformers": ("5.3", "CVE-2026-4372 code of a model ran in spite of trust_remote_code"),
    "torch": ("2.6", "CVE-2025-32434 torch.load ran code in spite of weights_only"),
    "lightgbm": ("4.6", "CVE-2024-43598 overflow in the reader of model texts"),
}
# Packages that must not come in, directly or through another.
BANNED = {
    "litellm": "1.82.7 and 1.82.8 stole credentials at import",
    "passlib": "breaks with bcrypt 5",
    "python-jose": "CVE-2024-33663; PyJWT is used",
    "slowapi": "cannot see the page's events",
}


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_pin_is_not_below_its_floor(name: str) -> None:
    floor, why = FLOORS[name]
    assert Version(PINS[name]) >= Version(floor), why


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_no_older_version_may_be_installed(name: str) -> None:
    """What pyproject.toml asks for directly is itself at or above the floor."""
    asked = {
        re.sub(r"[-_.]+", "-", item.name).lower(): item
        for item in map(Requirement, tree.project()["project"]["dependencies"])
    }
    if name not in asked:
        assert name in {"starlette", "python-multipart"}, "it comes with FastAPI and Gradio"
        return
    lowest = [Version(part.version) for part in asked[name].specifier if part.operator != "<"]
    assert lowest
    assert min(lowest) >= Version(FLOORS[name][0])


def test_nothing_banned_is_pinned() -> None:
    assert set(PINS) & set(BANNED) == set()


def test_fonts_and_documents_need_no_markup_reader() -> None:
    """PDFs are made by fpdf2 from plain text; reportlab's paragraphs evaluate what they read."""
    assert "reportlab" not in PINS
