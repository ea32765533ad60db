"""Formulas and tabs get marks; money, code and everything else stays as it was written."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui import marks
from ui.marks import TAB

A, B, C, D = *marks.INLINE, *marks.DISPLAY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so $x$ is", f"so {A}x{B} is"),
        ("$a_1 + b$.", f"{A}a_1 + b{B}."),
        (r"\(a\) and \[b\]", f"{A}a{B} and {C}b{D}"),
        ("$$\nx = 1\n$$", f"{C}\nx = 1\n{D}"),
        ("- $$x$$", f"- {C}x{D}"),
        (r"| $3 | $x^2$ | \(y\) |", rf"| $3 | {A}x^2{B} | {A}y{B} |"),
        ("$5$, `$x$` and $y$", f"{A}5{B}, `$x$` and {A}y{B}"),
        ("```\n$x$\n```\n$y$", f"```\n$x$\n```\n{A}y{B}"),
        ("- ```\n  $x$\n  ```\n\n$y$", f"- ```\n  $x$\n  ```\n\n{A}y{B}"),
        ("a ` b $x$", f"a ` b {A}x{B}"),
        (
            "```make\nall:\n\tcc\n \t\tb\tc\n```\n\td",
            f"```make\nall:\n{TAB}cc\n {TAB}{TAB}b\tc\n```\n\td",
        ),
        ("~~~\n\ta", f"~~~\n{TAB}a"),
        ("````\n```\n$x$\n````\n$y$", f"````\n```\n$x$\n````\n{A}y{B}"),
    ],
)  # fmt: skip
def test_what_gets_marks(text: str, expected: str) -> None:
    assert marks.marked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "it costs $5 or $10", "from $5-$10", "$5 and 10$", "US$5 and US$6", r"\$5 = \$6",
        "$5 is\n\nnot $6", "$ x $", "$(CC) -o $@ $<", "$HOME/$USER and ${A}_${B}",
        "`$x$`", "``a ` $x$``", "```\n$x$", "~~~\n$x$\n```\n$y$", "$x\ny$", "$$ $$", "$$\n\n$$",
        r"\( \)", r"\[a", r"\\(a\\)", "a ` b", "- a\n  - b\n\n\tmake\n    code", "plain",
        "1. ```\n\tx\n\t```",
    ],
)  # fmt: skip
def test_what_stays_as_it_is(text: str) -> None:
    """Money, shells, Makefiles, code and what nobody closed."""
    assert marks.marked(text) == text


PIECES = [
    "$",
    "$$",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "`",
    "```",
    "\n",
    "\n\n",
    "\t",
    " ",
    "x",
    "5",
    "- ",
    "\\",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_nothing_is_lost(text: str) -> None:
    """Take the marks away and the words are those that came, in their order."""

    def bare(shown: str) -> str:
        for mark in (*marks.INLINE, *marks.DISPLAY, "$", "\\(", "\\)", "\\[", "\\]"):
            shown = shown.replace(mark, "")
        return shown.replace(TAB, "\t")

    shown = marks.marked(text)
    assert bare(shown) == bare(text)
    assert [shown.count(one) for one in (A, C)] == [shown.count(one) for one in (B, D)]


@pytest.mark.parametrize(
    "piece", ["$a ", "` ", "\\( ", "$$ ", "$x ` ", "`` ` ", "```\n", "~~~ a\n", "$a \\( "]
)
def test_a_hostile_text_takes_no_longer(piece: str) -> None:
    """Four times the text takes about four times as long, counted in steps of the program."""

    def steps(text: str) -> int:
        count = 0

        def trace(frame: object, _event: str, _arg: object) -> object:
            nonlocal count
            count += 1
            return trace

        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            marks.marked(text)
        finally:
            sys.settrace(None)
        return count

    short, long = steps(piece * 200), steps(piece * 800)
    assert long < 6 * short + 2000
