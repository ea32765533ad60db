"""One source of truth for packages: pyproject.toml; the other two files follow it."""

import platform
import re

import pytest
from packaging.requirements import Requirement

from tests.house import pins, tree

PINS = dict(
    line.split("==")
    for line in tree.read("constraints.txt").splitlines()
    if line and not line.startswith("#")
)
# A GPU build of torch brings these; they are not part of what is tested on every machine.
GPU_ONLY = re.compile(r"(nvidia|cuda|triton|pytorch-triton)\b")


def test_requirements_txt_is_what_the_project_needs() -> None:
    """Hugging Face Spaces installs from requirements.txt."""
    lines = [
        line
        for line in tree.read("requirements.txt").splitlines()
        if line and not line.startswith("#")
    ]
    assert lines == tree.project()["project"]["dependencies"]


@pytest.mark.parametrize("item", pins.wanted(), ids=lambda item: item.name)
def test_what_is_asked_for_is_pinned_and_fits(item: Requirement) -> None:
    version = PINS[pins.normal(item.name)]
    assert item.specifier.contains(version, prereleases=True)


def test_constraints_are_plain_names_and_versions() -> None:
    for name, version in PINS.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"\d+(\.\w+)*", version), f"{name}: {version}"


def test_everything_installed_is_pinned_at_its_version() -> None:
    """Also what comes along with the packages that are asked for."""
    loose = {
        name: version
        for name, version in pins.installed().items()
        if PINS.get(name) != version and not (name not in PINS and GPU_ONLY.match(name))
    }
    assert loose == {}, (
        "install with -c constraints.txt, or write the file anew (tests/house/pins.py)"
    )


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux",
    reason="some packages exist for Linux on x86_64 alone",
)
def test_no_pin_is_left_over() -> None:
    assert set(PINS) - set(pins.installed()) == set()
