"""Marks in a text for the page: what its Markdown reader would damage arrives whole.

Gradio looks for the delimiters of formulas before it reads Markdown, in code and across
paragraphs too: with the usual ones, `$5 … $10` and a Makefile become formulas. So formulas get
marks of their own from Unicode's private use, code is left alone, and a dollar is money unless it
can be nothing else. Leading tabs of a block of code become spaces there, so they get marks as
well, which the page's script turns back.
"""

import re

INLINE = ("\ue000", "\ue001")
DISPLAY = ("\ue002", "\ue003")
# An em quad and an invisible variation selector: blank until the script has seen it.
TAB = "\u2001\ufe00"
DELIMITERS = [
    {"left": DISPLAY[0], "right": DISPLAY[1], "display": True},
    {"left": INLINE[0], "right": INLINE[1], "display": False},
]
# Each way begins with one plain character: then the search skips what cannot begin a token.
_TOKEN = re.compile(r"``*|~~~~*|\n[ \t]*\n|\\[()\[\]\\$`]|\$\$?")
_BEFORE_FENCE = re.compile(r"[ \t]*(?:(?:[-*+>]|\d{1,9}[.)])[ \t]+)*")
_LEADING = re.compile(r"^( *)(\t+)", re.MULTILINE)
_CLOSED_BY = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}
_WORD = re.compile(r"\w", re.ASCII)
_MOST = 4_000
_Token = tuple[str, str, int, int]


def marked(text: str) -> str:
    """The text with its marks; the same object when it needs none."""
    if not ("$" in text or "\\(" in text or "\\[" in text or ("\t" in text and _fenced(text))):
        return text
    tokens = _tokens(text)
    parts, at, index = [], 0, 0
    unclosed: set[str] = set()
    following = _Following(tokens)
    while index < len(tokens):
        kind, mark, start, end = tokens[index]
        if kind == "fence":
            index, until = _after_fence(text, tokens, index)
            if mark[0] in "`~":  # in a list the indentation belongs to the list
                parts += [text[at:end], _with_tabs(text[end:until])]
                at = until
            continue
        if kind == "code":
            index = _after_code(tokens, index, unclosed)
            continue
        last = _end(text, tokens, index, following) if kind == "mark" else None
        if last is None:
            index += 1
            continue
        until = tokens[last][2]
        left, right = DISPLAY if mark in ("$$", "\\[") else INLINE
        parts += [text[at:start], left, text[end:until], right]
        at, index = tokens[last][3], last + 1
    return "".join([*parts, text[at:]]) if parts else text


def _tokens(text: str) -> list[_Token]:
    """What may begin or end something: its kind, itself, where it begins and ends."""
    found = []
    for piece in _TOKEN.finditer(text):
        mark, start, end = piece[0], piece.start(), piece.end()
        match mark[0]:
            case "\n":
                kind = "gap"
            case "\\" if mark[1] in "\\$`":
                continue
            case "`" | "~":
                before = text[text.rfind("\n", 0, start) + 1 : start] if len(mark) > 2 else None
                if before is not None and _BEFORE_FENCE.fullmatch(before):
                    kind, mark, start = "fence", before + mark, start - len(before)
                elif mark[0] == "`":
                    kind = "code"
                else:
                    continue
            case _:
                kind = "mark"
        found.append((kind, mark, start, end))
    return found


def _fenced(text: str) -> bool:
    return "```" in text or "~~~" in text


def _with_tabs(code: str) -> str:
    return (
        _LEADING.sub(lambda found: found[1] + TAB * len(found[2]), code) if "\t" in code else code
    )


def _after_fence(text: str, tokens: list[_Token], index: int) -> tuple[int, int]:
    """The token after a block of code, and where its closing line begins; or the end of all."""
    fence = tokens[index][1].lstrip(" \t>-*+.)0123456789")
    for later in range(index + 1, len(tokens)):
        kind, other, start, end = tokens[later]
        closing = other.strip(" \t>")
        if kind == "fence" and closing.startswith(fence) and set(closing) == {fence[0]}:
            stop = text.find("\n", end)
            if not text[end : stop if stop >= 0 else len(text)].strip():
                return later + 1, start
    return len(tokens), len(text)


def _after_code(tokens: list[_Token], index: int, unclosed: set[str]) -> int:
    """The token after a span of code, or the next one when nothing closes it."""
    mark = tokens[index][1]
    if mark not in unclosed:
        for later in range(index + 1, len(tokens)):
            kind, other, _, _ = tokens[later]
            if kind == "code" and other == mark:
                return later + 1
            if kind in ("gap", "fence"):
                return index + 1
        unclosed.add(mark)  # and no later one is closed either: nobody looks again
    return index + 1


class _Following:
    """Where the next token of a kind is. Asked with rising places, so all of it is one pass."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.known: dict[str, int] = {}

    def after(self, index: int, wanted: str) -> int:
        """The first token after `index` that is `wanted`, a mark or "gap"; their number if none."""
        found = self.known.get(wanted, 0)
        while found <= index or (found < len(self.tokens) and wanted not in self.tokens[found][:2]):
            found += 1
        self.known[wanted] = found
        return found


def _end(text: str, tokens: list[_Token], index: int, following: _Following) -> int | None:
    """The token that ends the formula which begins here, or None when it is none."""
    _, mark, start, end = tokens[index]
    if mark == "$":
        if not _opens(text, start, end):
            return None
        last = index + 1
        while last < len(tokens) and tokens[last][1][:1] == "\\":
            last += 1
    else:
        last = following.after(index, _CLOSED_BY.get(mark, ""))
        if following.after(index, "gap") < last:
            return None
    if last >= len(tokens) or tokens[last][1] != _CLOSED_BY.get(mark):
        return None
    first, after = tokens[last][2:]
    if first - end > _MOST:
        return None
    fine = _closes(text, end, first, after) if mark == "$" else text[end:first].strip()
    return last if fine else None


def _opens(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    return bool(after.strip()) and not (before and _WORD.match(before))


def _closes(text: str, start: int, first: int, last: int) -> bool:
    """Whether a dollar ends a formula: on the same line, against a word, and no sum of money."""
    inner, after = text[start:first], text[last : last + 1]
    if "\n" in inner or inner[-1:].isspace() or (after and (_WORD.match(after) or after in "({")):
        return False
    return not re.search(r"\s", inner) or bool(re.search(r"[\\^_={}<>+*]", inner))
