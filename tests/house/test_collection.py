"""Every process finds the same tests: CI's workers compare what they have collected."""

import ast
from collections.abc import Iterator

import pytest

from tests.house import tree

CHANGING = {
    "time", "time_ns", "monotonic", "perf_counter", "now", "utcnow", "today",
    "random", "randint", "choice", "shuffle", "uuid4", "token_hex", "token_urlsafe", "urandom",
    "getpid", "mkdtemp",
}  # fmt: skip


def changing(source: str) -> Iterator[int]:
    """Lines of `source` whose test cases are named by a clock, by chance or by the process."""
    module = ast.parse(source)
    bound = {
        target.id: statement.value
        for statement in module.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        for decorator in getattr(node, "decorator_list", ()):
            if not ast.unparse(decorator).startswith("pytest.mark.parametrize"):
                continue
            used = list(ast.walk(decorator))
            for name in used[:]:
                if isinstance(name, ast.Name) and name.id in bound:
                    used += ast.walk(bound[name.id])
            if any(isinstance(each, ast.Call) and _last(each.func) in CHANGING for each in used):
                yield decorator.lineno


def _last(called: ast.expr) -> str:
    return ast.unparse(called).rsplit(".", 1)[-1]


def test_cases_are_the_same_in_every_process() -> None:
    files = sorted((tree.ROOT / "tests").rglob("*.py"))
    found = [
        f"{path.relative_to(tree.ROOT)}:{line}"
        for path in files
        for line in changing(path.read_text(encoding="utf-8"))
    ]
    assert len(files) > 300
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        '@pytest.mark.parametrize("at", [int(time.time()) - 1])\ndef test(at): ...',
        '@pytest.mark.parametrize("at", [None, datetime.now(UTC)])\ndef test(at): ...',
        'NOW = time.time()\n@pytest.mark.parametrize("at", [NOW + 60])\ndef test(at): ...',
    ],
    ids=["clock", "date", "bound"],
)
def test_a_planted_clock_is_found(source: str) -> None:
    assert len(list(changing(source))) == 1
