"""What constraints.txt must hold: every package the project needs, as installed here.

`python -m tests.house.pins > constraints.txt` writes it anew after a deliberate upgrade.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

from tests.house import tree


def normal(name: str) -> str:
    """The name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for, the dev extra included."""
    project = tree.project()["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
    return [Requirement(line) for line in lines]


def installed() -> dict[str, str]:
    """Name and version of all that is needed directly or through others, as installed here.

    A version's local part (`+cpu`) is left out: it names a build, not a release.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(item.name, frozenset(item.extras)) for item in wanted() if _applies(item, frozenset())]
    while todo:
        name, extras = todo.pop()
        if (normal(name), extras) in seen:
            continue
        seen.add((normal(name), extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[normal(name)] = package.version.partition("+")[0]
        for line in package.requires or []:
            item = Requirement(line)
            if _applies(item, extras):
                todo.append((item.name, frozenset(item.extras)))
    return found


def _applies(item: Requirement, extras: frozenset[str]) -> bool:
    return item.marker is None or any(
        item.marker.evaluate({"extra": extra}) for extra in extras or {""}
    )


if __name__ == "__main__":
    print("# The versions that are tested together. Written by: python -m tests.house.pins")
    for name, version in sorted(installed().items()):
        print(f"{name}=={version}")
