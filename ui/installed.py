"""The page as an installed app: manifest, icons, the service worker, the page for no network.

The worker keeps two static files and never anything that belongs to somebody. It carries the
hash of what it keeps, so that a new version of the program replaces it at once.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from chat_app import __version__
from ui.theme import STATIC

if TYPE_CHECKING:
    from fastapi import FastAPI

ICONS = {
    "icon.svg": "image/svg+xml",
    "icon-180.png": "image/png",
    "icon-192.png": "image/png",
    "icon-512.png": "image/png",
    "icon-maskable.png": "image/png",
}
_DAY = "public, max-age=86400"
# Asked for at each visit, so that a new version arrives with the first one after it.
_ALWAYS = "no-cache"


def manifest() -> dict[str, object]:
    """What a browser has to know to install the page."""
    sizes = {"icon.svg": "any", "icon-192.png": "192x192", "icon-512.png": "512x512"}
    icons = [
        {"src": f"/icons/{name}", "sizes": size, "type": ICONS[name], "purpose": "any"}
        for name, size in sizes.items()
    ]
    mask = {"src": "/icons/icon-maskable.png", "sizes": "512x512", "type": "image/png"}
    return {
        "id": "/",
        "name": "ML Chat Billing",
        "short_name": "Chat",
        "description": "A chat that shows its price before you send.",
        "lang": "en",
        "start_url": "/",
        "scope": "/",
        "display": "standalone",
        "background_color": "#faf9f7",
        "theme_color": "#4f46e5",
        "icons": [*icons, {**mask, "purpose": "maskable"}],
    }


def worker() -> str:
    """The service worker of this version."""
    digest = hashlib.sha256(__version__.encode())
    for name in ("worker.js", "offline.html", "icon.svg"):
        digest.update((STATIC / name).read_bytes())
    text = (STATIC / "worker.js").read_text(encoding="utf-8")
    return text.replace("VERSION", digest.hexdigest()[:16])


def install(web: "FastAPI") -> None:
    """Serve them from `web`, before Gradio, which has a manifest of its own."""
    from fastapi import Response
    from fastapi.responses import JSONResponse

    def file(name: str, kind: str, caching: str) -> Response:
        return Response((STATIC / name).read_bytes(), 200, {"Cache-Control": caching}, kind)

    @web.get("/manifest.json", include_in_schema=False)
    def the_manifest() -> Response:
        kind = "application/manifest+json"
        return JSONResponse(manifest(), 200, {"Cache-Control": _ALWAYS}, kind)

    @web.get("/sw.js", include_in_schema=False)
    def the_worker() -> Response:
        headers = {"Cache-Control": _ALWAYS}
        return Response(worker(), 200, headers, "text/javascript; charset=utf-8")

    @web.get("/offline", include_in_schema=False)
    def the_offline_page() -> Response:
        return file("offline.html", "text/html; charset=utf-8", _DAY)

    def icon(name: str) -> Callable[[], Response]:
        return lambda: file(name, ICONS[name], _DAY)

    for name in ICONS:
        web.add_api_route(f"/icons/{name}", icon(name), include_in_schema=False)
