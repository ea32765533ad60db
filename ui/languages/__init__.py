"""Languages of the page: English is in the code, another one is a catalogue of its sentences.

The page asks for one file, the catalogue with the script that applies it, under a name with its
hash; whoever reads English asks for nothing. A catalogue knows sentences, not where they stand.
"""

import gzip
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

FOLDER = Path(__file__).parent
# The tag that browsers format dates by, and the language's own name.
TAGS = {"de": "de", "zh": "zh-CN"}
NAMES = {"en": "English", "de": "Deutsch", "zh": "简体中文"}
_YEAR = "public, max-age=31536000, immutable"


def catalogue(name: str) -> dict[str, str]:
    """English sentences and what they are in the language `name`, one of TAGS."""
    words: dict[str, str] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return words


@cache
def script(name: str) -> str:
    """The catalogue and what applies it, as one script without lines of comment."""
    lines = (FOLDER / "speak.js").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line.strip() for line in lines if not line.strip().startswith("//"))
    words = json.dumps(catalogue(name), ensure_ascii=False, separators=(",", ":"))
    return text.replace("LANGUAGE_TAG", json.dumps(TAGS[name])).replace("LANGUAGE_WORDS", words)


def address(name: str) -> str:
    """Where the page finds it: another catalogue has another address."""
    return f"/languages/{name}-{hashlib.sha256(script(name).encode()).hexdigest()[:16]}.js"


def addresses() -> dict[str, str]:
    """The address of each language."""
    return {name: address(name) for name in TAGS}


def chooser() -> str:
    """The list of languages in the bar; the script marks the one that is spoken."""
    options = "".join(
        f'<option value="{name}" lang="{name}">{own}</option>' for name, own in NAMES.items()
    )
    return (
        '<label id="language-box" translate="no" title="Language · Sprache · 语言">'
        '<svg viewBox="0 0 24 24" width="18" height="18" fill="none" stroke="currentColor" '
        'stroke-width="1.8" aria-hidden="true"><circle cx="12" cy="12" r="9"/>'
        '<path d="M3 12h18M12 3c5 5.500 5 12.500 0 18M12 3c-5 5.500-5 12.500 0 18"/></svg>'
        f'<select id="language" aria-label="Language · Sprache · 语言">{options}</select></label>'
    )


def install(web: "FastAPI") -> None:
    """Serve the files from `web`, packed where the browser takes it, to be kept for a year."""
    from fastapi import Request, Response

    def serve(name: str) -> None:
        plain = script(name).encode()
        packed = gzip.compress(plain, 9, mtime=0)

        async def the_language(request: Request) -> Response:
            takes = "gzip" in request.headers.get("accept-encoding", "")
            headers = {"Cache-Control": _YEAR, "Vary": "Accept-Encoding"}
            if takes:
                headers["Content-Encoding"] = "gzip"
            kind = "text/javascript; charset=utf-8"
            return Response(packed if takes else plain, 200, headers, kind)

        web.add_api_route(address(name), the_language, include_in_schema=False)

    for name in TAGS:
        serve(name)
