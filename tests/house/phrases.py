"""What the page says: sentences of its code as the catalogues of languages name them.

A sentence with parts filled in becomes a template: `f"{count} left"` is `{0} left`. Read from
source, so a sentence is found whether or not a test run shows it.
"""

import ast
import html
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_ATTRIBUTE = re.compile(r'(?:placeholder|title|aria-label|alt|data-head)="([^"]*)"')
_ODD = re.compile(r"[={}\\<>]|:.*;|;$|://|\(\)|^--|\]:")
_MARK = "\x00"
_CUT = "\x01"


def template(node: ast.AST) -> str | None:
    """The text of a literal, an f-string or a sum of both; filled-in parts are marked."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else _MARK for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        if left is None and right is None:
            return None
        return (_MARK if left is None else left) + (_MARK if right is None else right)
    return None


def pieces(text: str) -> Iterator[str]:
    """The text between the tags of HTML and in its attributes that people read."""
    if re.search(r"</?[a-z]|[\w-]+=\"", text):
        yield from (one for one in _ATTRIBUTE.findall(text))
        body = re.sub(r"^[^<>]*\"[^<>\"]*>", _CUT, re.sub(r"<[^<>]*>", _CUT, text))
        for part in re.sub(r"<[a-z][^<>]*$", _CUT, body).split(_CUT):
            if '="' not in part:
                yield part
    else:
        yield text


def named(text: str) -> str:
    """The form in which a catalogue names it: numbered parts, single spaces."""
    text = " ".join(html.unescape(text).split())
    count = iter(range(99))
    return re.sub(_MARK, lambda _: f"{{{next(count)}}}", text)


def is_words(text: str) -> bool:
    """Whether people would read it: no identifier, path, style or pattern."""
    bare = re.sub(r"\{\d+\}", "", text).strip()
    if not re.search(r"[A-Za-z]{2}", bare) or re.search(
        r"[={}\\<>]|:.*;|;$|://|\(\)|^--|\]:", bare
    ):
        return False
    if re.fullmatch(r"[a-z0-9_./:#\[\],>*@-]*", bare) or re.match(r"^[#.\[][\w-]", bare):
        return False
    return not re.fullmatch(r"[A-Z0-9_]+|[\w-]+/[\w/-]+|[a-z]+[A-Z]\w*", bare)


def python(path: Path) -> Iterator[str]:
    """The sentences in a module, in their order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _outer(tree):
        text = template(node)
        if text is None:
            continue
        for piece in pieces(text):
            words = named(piece)
            if is_words(words):
                yield words


def _outer(tree: ast.AST) -> Iterator[ast.AST]:
    """Strings that are no part of another and no docstring; what is filled in is walked too."""
    body = getattr(tree, "body", None)
    skip = None
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        skip = body[0]
    for child in ast.iter_child_nodes(tree):
        if child is skip and isinstance(skip.value, ast.Constant):
            continue
        if template(child) is not None and isinstance(child, ast.expr):
            yield child
            for inner in ast.walk(child):
                if isinstance(inner, ast.FormattedValue):
                    yield from _outer(inner)
                elif isinstance(inner, ast.BinOp):
                    for side in (inner.left, inner.right):
                        if template(side) is None:
                            yield from _outer(side)
                            if not isinstance(side, ast.Constant):
                                yield from ()
        else:
            yield from _outer(child)


def script(path: Path) -> Iterator[str]:
    """The sentences in a script, in their order."""
    for text in _literals(path.read_text(encoding="utf-8")):
        for piece in pieces(text):
            words = named(piece)
            if is_words(words):
                yield words


def _literals(source: str) -> Iterator[str]:
    at = 0
    before = ""
    while at < len(source):
        mark = source[at]
        if source.startswith("//", at):
            at = source.find("\n", at) % (len(source) + 1)
            continue
        if source.startswith("/*", at):
            at = source.find("*/", at) + 2
            continue
        if mark == "/" and before in "(,=:[!&|?{};" + "\n":
            found = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n])+/[a-z]*").match(source, at)
            if found:
                at = found.end()
                before = "/"
                continue
        if mark in "\"'":
            found = re.compile(rf"{mark}((?:\\.|[^{mark}\\\n])*){mark}").match(source, at)
            if found:
                yield _plain(found[1])
                at = found.end()
                before = mark
                continue
        if mark == "`":
            text, inner, at = _template(source, at + 1)
            yield text
            for code in inner:
                yield from _literals(code)
            before = "`"
            continue
        if not mark.isspace():
            before = mark
        at += 1


def _template(source: str, at: int) -> tuple[str, list[str], int]:
    text: list[str] = []
    inner: list[str] = []
    while source[at] != "`":
        if source.startswith("${", at):
            depth, begin = 1, at + 2
            at = begin
            while depth:
                if source[at] == "`":
                    _, _, at = _template(source, at + 1)
                    continue
                depth += {"{": 1, "}": -1}.get(source[at], 0)
                at += 1
            inner.append(source[begin : at - 1])
            text.append(_MARK)
        elif source[at] == "\\":
            text.append(_plain(source[at : at + 2]))
            at += 2
        else:
            text.append(source[at])
            at += 1
    return "".join(text), inner, at + 1


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)


def unique(found: Iterable[str]) -> list[str]:
    """Without repeats, in their order."""
    return list(dict.fromkeys(found))


def of_the_page() -> list[str]:
    """All sentences of the page's modules and scripts."""
    found: list[str] = []
    for path in sorted((ROOT / "ui").rglob("*")):
        if path.suffix == ".py" and path.parent.name != "languages":
            found += python(path)
        elif path.suffix == ".js" and path.name not in ("speak.js", "worker.js", "tongue.js"):
            found += script(path)
    return unique(found)


def bare(text: str) -> str:
    """A sentence without its parts and marks at the ends: pieces of markup end where tags do."""
    return re.sub(r"\s+", " ", re.sub(r"\{\d+\}", " ", text)).strip(" .,:;·>s")


def main() -> None:
    """Print what no catalogue has."""
    from ui import languages

    known = {bare(key) for key in languages.catalogue("de")}
    for one in of_the_page():
        if bare(one) not in known:
            sys.stdout.write(f"{one}\n")


if __name__ == "__main__":
    main()
