"""Languages: catalogues that fit each other and the code, and the files that the page asks for."""

import gzip
import json
import re

import pytest

from tests.house import phrases
from tests.house.test_errors import ERRORS, named
from tests.ui.conftest import Site
from ui import languages, theme

CATALOGUES = {name: languages.catalogue(name) for name in languages.TAGS}
# What is written for programs, in logs, or is no sentence of the page.
_OTHER = re.compile(
    r"%[sdY]|\.(py|js|css)\b|data-|^\(prefers|\[(open|contenteditable)|select, textarea|^image/"
    r"|noopener|<|^[a-z-]+( [a-z-]+)?$|DOMContentLoaded|Ed25519|SHA-"
)


def test_catalogues_have_the_same_sentences() -> None:
    first, *others = CATALOGUES.values()
    assert all(other.keys() == first.keys() for other in others)


@pytest.mark.parametrize("name", CATALOGUES)
def test_what_is_filled_in_is_filled_in_there_too(name: str) -> None:
    """A part that is left out or doubled would lose or repeat an amount."""
    parts = re.compile(r"\{\d\}")
    wrong = [
        key
        for key, said in CATALOGUES[name].items()
        if sorted(parts.findall(key)) != sorted(set(parts.findall(said))) or not said.strip()
    ]
    assert wrong == []


@pytest.mark.parametrize("name", CATALOGUES)
def test_every_refusal_is_said(name: str) -> None:
    """Each error of the program that has a fixed sentence has it in each language."""
    untold = [named(error) for error in ERRORS if error.message not in CATALOGUES[name]]
    assert untold == []


def test_nearly_every_sentence_of_the_page_is_said() -> None:
    """Read from the code, so that what no visit shows counts too; `tests.house.phrases` lists it.

    A few may wait for their translation; the browser's tour with `--full` allows none.
    """
    known = {phrases.bare(key) for key in CATALOGUES["de"]}
    found = [one for one in phrases.of_the_page() if " " in one and not _OTHER.search(one)]
    untold = [one for one in found if phrases.bare(one) not in known]
    assert len(found) > 1000
    assert len(untold) <= len(found) // 10, untold


def test_a_file_is_asked_for_by_its_hash_and_kept(site: Site) -> None:
    client = site.visitor().client
    for name in languages.TAGS:
        answer = client.get(languages.address(name))
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["content-encoding"] == "gzip"
        assert "immutable" in answer.headers["cache-control"]
        assert answer.text == languages.script(name)
        assert json.dumps("Sign in") in answer.text
        assert languages.address(name) in theme.script()
        plain = client.get(languages.address(name), headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
    assert client.get("/languages/de.json").status_code == 404
    assert client.get("/languages/de-0123456789abcdef.js").status_code == 404


def test_a_language_weighs_little() -> None:
    """What somebody who reads another language loads once."""
    for name in languages.TAGS:
        assert len(gzip.compress(languages.script(name).encode(), 9)) < 130_000
