"""The bill of materials: what is installed here and which models are offered, as CycloneDX 1.6.

Reads the metadata of installed packages and the catalogue; reaches no network and no database.
"""

import platform
import re
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import Distribution, distributions
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from chat_app import __version__
from chat_app.llm import catalogue

NAME = "ml-chat-billing"
_OURS = f"pkg:pypi/{NAME}@{__version__}"


def make(*, now: datetime) -> dict[str, Any]:
    """The document, ready for JSON. `now` is aware."""
    packages = {normal(item.name): item for item in distributions() if item.metadata["Name"]}
    ours = packages.pop(NAME, None)
    refs = {name: _purl(name, item.version) for name, item in packages.items()}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": now.isoformat(timespec="seconds"),
            "component": {
                "type": "application",
                "bom-ref": _OURS,
                "name": NAME,
                "version": __version__,
                "purl": _OURS,
            },
            "properties": [
                {"name": "python:version", "value": platform.python_version()},
                {"name": "python:platform", "value": f"{platform.system()} {platform.machine()}"},
            ],
        },
        "components": [
            *(_package(name, item, refs[name]) for name, item in sorted(packages.items())),
            *(_model(entry) for entry in catalogue.offered()),
        ],
        "dependencies": [
            {"ref": _OURS, "dependsOn": _needs(ours, refs) if ours else sorted(refs.values())},
            *(
                {"ref": refs[name], "dependsOn": _needs(item, refs)}
                for name, item in sorted(packages.items())
            ),
        ],
    }


def normal(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version.replace('+', '%2B')}"


def _package(name: str, item: Distribution, ref: str) -> dict[str, Any]:
    told = item.metadata
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": ref,
        "name": name,
        "version": item.version,
        "purl": ref,
    }
    if "License-Expression" in told:
        made["licenses"] = [{"expression": told["License-Expression"]}]
    elif names := _licences(told.get_all("Classifier") or []):
        made["licenses"] = [{"license": {"name": text}} for text in names]
    if "Summary" in told:
        made["description"] = told["Summary"]
    return made


def _licences(classifiers: Iterable[str]) -> list[str]:
    """The licences among a package's classifiers, by their last words."""
    found = {
        text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")
    } - {"OSI Approved"}
    return sorted(found)


def _model(entry: catalogue.Entry) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{entry.id}",
        "name": entry.name,
        "licenses": [{"license": {"name": entry.license, "url": entry.license_url}}],
    }
    source = entry.source
    if isinstance(source, catalogue.Hub):
        made["version"] = source.revision
        made["purl"] = f"pkg:huggingface/{source.repo}@{source.revision}"
    elif isinstance(source, catalogue.Package):
        made["hashes"] = [{"alg": "SHA-256", "content": source.sha256}]
    return made


def _needs(item: Distribution, refs: dict[str, str]) -> list[str]:
    """What a package needs here, among what is installed."""
    found = set()
    for line in item.requires or []:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            ref = refs.get(normal(wanted.name))
            found |= {ref} if ref else set()
    return sorted(found)
