"""The documents tell the truth: what the program has is in them, what is in them exists."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch
from chat_app import __main__ as commands
from chat_app import __version__, settings
from chat_app.llm import catalogue, watch
from chat_app.llm.engine import Failed
from tests.house import pages, tree

DOCS = sorted((tree.ROOT / "docs").glob("*.md"))
ALL = [tree.ROOT / "README.md", tree.ROOT / "CHANGELOG.md", *DOCS]


def fenced(text: str) -> list[str]:
    """The shell commands in a document's fences."""
    return [block.strip() for block in re.findall(r"```bash\n(.*?)```", text, re.S)]


def subcommands(
    parser: argparse.ArgumentParser, path: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its words, such as `models pull`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from subcommands(child, f"{path} {name}".strip())
            return
    yield path, parser


COMMANDS = dict(subcommands(commands.parser()))


@pytest.mark.parametrize("name", sorted(pages.PAGES))
def test_reference_page_is_the_programs(name: str) -> None:
    """Settings, environment names, error codes and routes: made, not remembered."""
    written = tree.read(f"docs/{name}")
    assert written == pages.PAGES[name](), "run: python -m tests.house.pages"


def test_every_environment_name_is_documented() -> None:
    assert settings.known_names() <= set(re.findall(r"CHAT_APP_\w+", tree.read("docs/settings.md")))


def test_every_environment_name_in_the_documents_exists() -> None:
    for path in ALL:
        for name in re.findall(r"CHAT_APP_[A-Z_0-9]+", path.read_text(encoding="utf-8")):
            assert name in settings.known_names(), f"{path.name}: {name}"


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_command_is_documented(words: str) -> None:
    page = tree.read("docs/commands.md")
    assert f"`{words}" in page
    for action in COMMANDS[words]._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                assert option in page, f"{words} {option}"


def test_documented_commands_exist() -> None:
    for path in ALL:
        for words in re.findall(r"python3? -m chat_app ([a-z][a-z -]*)", path.read_text("utf-8")):
            both = " ".join(words.split()[:2])
            first = both if both in COMMANDS else words.split()[0]
            assert first in COMMANDS, f"{path.name}: {words}"


def test_options_of_launch_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.arguments(["--help"])
    page = tree.read("docs/commands.md")
    for option in set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}:
        assert option in page


def test_codes_of_failed_answers_are_documented() -> None:
    """Codes that are no error class: what an accepted answer can end with."""
    pattern = r"Failed\(\s*\"(\w+)\"|failure=\"(\w+)\"|error_code=\"(\w+)\""
    codes = set(watch.SENTENCES)
    for path in [*tree.ROOT.glob("chat_app/llm/**/*.py"), *tree.ROOT.glob("chat_app/flows/*.py")]:
        for groups in re.findall(pattern, path.read_text(encoding="utf-8")):
            codes.add("".join(groups))
    assert len(codes) > 5
    codes |= set(re.findall(r"`(\w+)`", (Failed.__doc__ or "").partition("Codes:")[2]))
    assert codes == set(pages.ANSWERS)


def test_every_rule_of_the_books_is_documented() -> None:
    proofs = ("credits/verify.py", "credits/invoices/proof.py", "audit/seal.py")
    code = "".join(tree.read(f"chat_app/{path}") for path in proofs)
    rules = set(re.findall(r"\"(I\d+)\"", code))
    assert len(rules) > 10
    assert rules == set(re.findall(r"^\| (I\d+) \|", tree.read("docs/money.md"), re.M))


def test_readme_names_every_offered_model_with_price_and_licence() -> None:
    rows = [line for line in tree.read("README.md").splitlines() if line.startswith("| ")]
    for entry in catalogue.offered():
        (row,) = [row for row in rows if row.startswith(f"| {entry.name} |")]
        assert f"| {entry.credits_per_message} |" in row
        assert f"[{entry.license}]({entry.license_url})" in row


def test_readme_has_two_commands_and_ci_runs_the_second() -> None:
    run, test = fenced(tree.read("README.md"))
    assert run.endswith("launch.py")
    assert test.endswith("pytest")
    installing, _, testing = test.rpartition(" && ")
    assert re.search(
        rf"{re.escape(installing)}.+^{re.escape(testing)}", tree.read(".ci/run"), re.S | re.M
    )


def test_changelog_has_this_version() -> None:
    newest = re.search(r"^## \[(.+?)\]", tree.read("CHANGELOG.md"), re.M)
    assert newest is not None
    assert newest[1] == __version__ == tree.project()["project"]["version"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def headings(text: str) -> set[str]:
    """The anchors of a document, as the usual viewers make them from its headings."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    words = re.findall(r"^#+ (.+)$", text, re.M)
    plain = [re.sub(r"[^\w\- ]", "", word.lower()).replace(" ", "-") for word in words]
    return set(plain)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_links_lead_to_a_heading(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        there = path.parent / target if target else path
        if there.suffix == ".md":
            assert anchor in headings(there.read_text(encoding="utf-8")), f"{target}#{anchor}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_paths_in_the_text_exist(path: Path) -> None:
    """A file or folder of the program that a document names is there."""
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:chat_app|ui|tests|docs|deploy|benchmarks)/[\w./*-]*)`", text):
        assert list(tree.ROOT.glob(name.rstrip("/"))), f"{path.name}: {name}"


def test_every_room_is_in_the_tour() -> None:
    tour = tree.read("docs/house.md")
    for path in (tree.ROOT / "chat_app").iterdir():
        if path.is_dir() and list(path.glob("*.py")):
            assert f"`{path.name}`" in tour or f"`{path.name}/`" in tour, path.name


def test_no_machine_is_named_in_any_kept_file() -> None:
    """No path of somebody's machine and no host of a package index gets into the repository."""
    private = re.compile(
        r"(?<![\w.])/(?:home|Users|root|work|opt)/(?!s\b)\w|[a-z]:\\\\users|"
        r"--index-url|--extra-index-url|--find-links|index-url\s*=|pypi\.org|pythonhosted|localhost/simple",
        re.I,
    )
    for path in tree.kept_files():
        if path == Path(__file__).resolve() or path.suffix == ".svg":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not private.search(line), f"{path.relative_to(tree.ROOT)}:{number}: {line}"
