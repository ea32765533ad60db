"""The page's scripts and styles: Gradio's own, mended and packed once, and all asked for at once.

Left alone, the page finds out in five steps, one after the other, which of 80 files it needs, and
Gradio packs each file anew for everybody. Here they stand under an address that says which version
they are, the page names them all in its head, and their styles are one file. Knows nothing of what
the page shows.
"""

import asyncio
import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Match

from ui.mends import MENDS, mended

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_ADDRESS = re.compile(r"^/assets/[0-9a-f]{12}/")
_QUALITY = 5  # of brotli: a twentieth smaller than Gradio's 4; 11 would take a second for all
_IMPORTED = re.compile(r"""(?:from|import)\s*["'`]\./([\w.-]+\.js)["'`]""")
_FIRST = re.compile(r'src="\./assets/([\w.-]+\.js)"')
# A module that is asked for later, and the numbers of the files that it needs.
_LATER = re.compile(r"import\(`\./([\w.-]+\.js)`\)[^\[\]]*?,__vite__mapDeps\(\[([\d,]*)\]")
_PART = re.compile(r"\b(\w+):\{[^{}]*?component:\(\)=>\w+\(\(\)=>import\(`\./([\w.-]+\.js)`")
_TABLE = re.compile(r"m\.f=(\[[^\]]*\])")
_TABLE_FIRST = "const __vite__mapDeps"  # with it a module begins
_SHELL = ("Index-", "core-", "Blocks-")
_LOOKUP = "=>i.map(i=>d[i]);"


class Scripts:
    """Gradio's folder of scripts and styles, and the page's own script.

    `types` are those of the page's components: what they need is asked for early.
    """

    def __init__(self, folder: Path, *, types: Iterable[str], script: str) -> None:
        self.folder = folder
        index = (folder.parent / "index.html").read_text(encoding="utf-8")
        self.first = found[1] if (found := _FIRST.search(index)) else ""
        digest = hashlib.sha256(repr(MENDS).encode() + index.encode())
        digest.update(repr(sorted(types)).encode())
        self.prefix = f"/assets/{digest.hexdigest()[:12]}/"
        self.modules, styles = self._needed(frozenset(types))
        # Addresses within a style are relative to it, so it lies where they did.
        sheet = b"".join((folder / name).read_bytes() + b"\n" for name in styles)
        own = hashlib.sha256(script.encode()).hexdigest()[:12]
        self.script, self.sheet = f"page-{own}.js", "page.css"
        self._plain: dict[str, bytes] = {self.script: script.encode(), self.sheet: sheet}
        self._packed: dict[tuple[str, str], bytes] = {}
        self._joined = json.dumps([f"./{name}" for name in styles], separators=(",", ":"))

    def plain(self, name: str) -> bytes | None:
        """A file as it is served; None where there is none of this name."""
        if name not in self._plain:
            path = self.folder / name
            if not re.fullmatch(r"[\w@-][\w@.-]*", name) or not path.is_file():
                return None
            data = path.read_bytes()
            self._plain[name] = self._served(data.decode()).encode() if _is_script(name) else data
        return self._plain[name]

    def packed(self, name: str, how: str) -> bytes:
        """The same as `br` or `gzip`, made once."""
        if (name, how) not in self._packed:
            data = self.plain(name) or b""
            self._packed[name, how] = _pack(data, how)
        return self._packed[name, how]

    def head(self, html: str) -> str:
        """The page with our address in its head, and everything that it will need."""
        start = html.find('<script type="module"')
        end = html.find("</head>", start)
        if start < 0 or end < 0:
            return html
        links = "".join(
            f'<link rel="modulepreload" crossorigin href=".{self.prefix}{name}">'
            for name in self.modules
        )
        styles = f'<link rel="stylesheet" href=".{self.prefix}{self.sheet}">'
        script = f'<script defer src=".{self.prefix}{self.script}"></script>'
        theirs = html[start:end].replace('"./assets/', f'".{self.prefix}')
        return html[:start] + script + theirs + links + styles + html[end:]

    def _served(self, text: str) -> str:
        # Styles that are in the one sheet are not waited for one by one.
        lookup = f"=>i.map(i=>d[i]).filter(f=>!{self._joined}.includes(f));"
        return mended(text).replace("`./assets/", f"`.{self.prefix}").replace(_LOOKUP, lookup)

    def _needed(self, types: frozenset[str]) -> tuple[list[str], list[str]]:
        """The modules and styles that such a page asks for, one after another."""
        modules: dict[str, None] = {}
        styles: dict[str, None] = {}

        def follow(name: str) -> None:
            path = self.folder / name
            if name in modules or not path.is_file():
                return
            modules[name] = None
            text = path.read_text(encoding="utf-8")
            for one in _IMPORTED.findall(text):
                follow(one)
            found = _TABLE.search(text) if text.startswith(_TABLE_FIRST) else None
            if found is None:
                return
            table = json.loads(found[1])
            parts = {module for part, module in _PART.findall(text) if part in types}
            shell = name == self.first or name.startswith("Index-")
            for later, numbers in _LATER.findall(text):
                if later in parts or (shell and later.startswith(_SHELL)):
                    files = [table[int(number)] for number in numbers.split(",") if number]
                    styles.update(
                        dict.fromkeys(file[2:] for file in files if file.endswith(".css"))
                    )
                    follow(later)

        follow(self.first)
        # The page's first style stands in its head already.
        index = (self.folder.parent / "index.html").read_text(encoding="utf-8")
        return list(modules), [name for name in styles if name not in index]


def _is_script(name: str) -> bool:
    return name.endswith(".js")


def _pack(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 9, mtime=0)
    import brotli

    packed: bytes = brotli.compress(data, quality=_QUALITY)
    return packed


class Route(BaseRoute):
    """Stands before all other routes: a page asks for fifty files.

    A page of another version, which another process made or which was open before, gets ours,
    not to be kept.
    """

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts

    def matches(self, scope: "Scope") -> tuple[Match, "Scope"]:
        """Only what is under an address with a version."""
        own = scope["type"] == "http" and _ADDRESS.match(scope["path"])
        return (Match.FULL if own else Match.NONE), {}

    async def handle(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """The file, packed as the browser takes it."""
        from starlette.responses import PlainTextResponse, Response

        name = _ADDRESS.sub("", scope["path"])
        current = scope["path"].startswith(self.scripts.prefix)
        if re.fullmatch(r"page-\w{12}\.js", name) and name != self.scripts.script:
            name, current = self.scripts.script, False
        data = self.scripts.plain(name) if scope["method"] in ("GET", "HEAD") else None
        if data is None:
            await PlainTextResponse("Not found", 404)(scope, receive, send)
            return
        headers = {"Vary": "Accept-Encoding"}
        if not current:
            headers["Cache-Control"] = "no-store"
        kind = _KINDS.get(Path(name).suffix)
        how = _encoding(scope) if kind else ""
        if how:
            data = await asyncio.to_thread(self.scripts.packed, name, how)
            headers["Content-Encoding"] = how
        await Response(data, 200, headers, kind)(scope, receive, send)


def _encoding(scope: "Scope") -> str:
    takes = next((value for name, value in scope["headers"] if name == b"accept-encoding"), b"")
    ways = {way.split(b";")[0].strip() for way in takes.split(b",")}
    return "br" if b"br" in ways else "gzip" if b"gzip" in ways else ""


def install(web: "FastAPI", *, types: Iterable[str], script: str) -> Scripts:
    """Serve them from `web`, before anything else of it."""
    import gradio

    folder = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    scripts = Scripts(folder, types=types, script=script)
    web.router.routes.insert(0, Route(scripts))
    return scripts
