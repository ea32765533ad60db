"""The page's scripts: each mend fits the Gradio that is pinned, and nothing else is served."""

import gzip
import json
import re
from pathlib import Path

import brotli
import gradio
import pytest

from tests.ui.conftest import Site
from ui.mends import MENDS, mended
from ui.scripts import Scripts

FOLDER = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"


def address(site: Site) -> str:
    """Where the page's scripts stand."""
    found = re.search(r'src="\.(/assets/\w{12}/)index-', site.visitor().client.get("/").text)
    assert found
    return found[1]


def test_each_mend_fits_once() -> None:
    """A Gradio that says it otherwise is served as it is, slowly: then the mend wants a look."""
    modules = [path.read_text() for path in FOLDER.glob("*.js")]
    for name, theirs, ours in MENDS:
        found = [text for text in modules if theirs in text]
        assert len(found) == 1, name
        assert found[0].count(theirs) == 1, name
        assert ours in mended(found[0]), name


def test_a_text_that_does_not_fit_stays_as_it_is() -> None:
    _, theirs, _ = MENDS[0]
    for text in ("export default 1", theirs + theirs):
        assert mended(text) == text


def test_files_come_packed_once_and_to_be_kept(site: Site) -> None:
    client, prefix = site.visitor().client, address(site)
    page = client.get("/").text
    names = re.findall(rf'href="\.{prefix}([\w.-]+\.js)"', page)
    assert len(names) > 30
    plain = client.get(prefix + names[0], headers={"Accept-Encoding": "identity"})
    assert plain.headers["content-type"].startswith("text/javascript")
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert "accept-encoding" in plain.headers["vary"].lower()
    for how, unpack in (("br", brotli.decompress), ("gzip", gzip.decompress)):
        with client.stream("GET", prefix + names[0], headers={"Accept-Encoding": how}) as answer:
            assert answer.headers["content-encoding"] == how
            assert unpack(b"".join(answer.iter_raw())) == plain.content
    for name in ("page.css", *names, *re.findall(rf'src="\.{prefix}([\w.-]+)"', page)):
        assert client.get(prefix + name).status_code == 200, name


@pytest.mark.parametrize(
    "name", ["nothing.js", "../index.html", "%2e%2e/index.html", "a/b.js", ".hidden", ""]
)
def test_nothing_else_is_served(site: Site, name: str) -> None:
    assert site.visitor().client.get(address(site) + name).status_code == 404


def test_a_page_of_another_version_works_on_and_keeps_nothing(site: Site) -> None:
    """While processes of two versions serve, a page of one may ask the other."""
    client, prefix = site.visitor().client, address(site)
    script = re.search(rf'src="\.{prefix}(page-\w+\.js)"', client.get("/").text)
    assert script
    ours = client.get(prefix + script[1])
    assert "immutable" in ours.headers["cache-control"]
    for path in (f"/assets/{'0' * 12}/{script[1]}", f"{prefix}page-{'0' * 12}.js"):
        answer = client.get(path)
        assert answer.text == ours.text
        assert answer.headers["cache-control"] == "no-store"


def test_another_text_has_another_address() -> None:
    """What is kept for a year must never be found again under a new version's name."""
    one, other = (Scripts(FOLDER, types={"button"}, script=text) for text in ("a()", "b()"))
    more = Scripts(FOLDER, types={"button", "chatbot"}, script="a()")
    assert one.script != other.script
    assert one.prefix == other.prefix != more.prefix
    assert set(one.modules) < set(more.modules)


def test_styles_are_one_file_and_are_not_asked_for_again(site: Site) -> None:
    client, prefix = site.visitor().client, address(site)
    sheet = client.get(prefix + "page.css").text
    core = next(path for path in FOLDER.glob("core-*.js") if "AppTree" in path.read_text())
    served = client.get(prefix + core.name).text
    joined = json.loads(re.search(r"filter\(f=>!(\[[^\]]*\])\.includes", served)[1])  # type: ignore[index]
    assert len(joined) > 20
    assert all((FOLDER / name).read_text() in sheet for name in joined)


def test_a_page_of_another_make_is_left_alone() -> None:
    made = Scripts(FOLDER, types={"button"}, script="")
    assert made.head("<html><head></head></html>") == "<html><head></head></html>"
