"""The page of a shared conversation: plain HTML without any script, for whoever has its link.

What models and people wrote is Markdown of strangers: no HTML of theirs passes, no image is
loaded, and links lead to the web or a mailbox alone. The policy allows nothing but the style.
"""

import base64
import hashlib
import re
from collections.abc import MutableMapping, Sequence
from functools import cache
from html import escape
from typing import Any

from chat_app.chat.shares import Said
from chat_app.clock import from_micros

_LINK = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_STYLE = """
:root { color-scheme: light dark; --ink: #1f1d1a; --muted: #625d56; --line: #e4e0d9;
  --back: #faf9f7; --soft: #f3f1ed; --brand: #4338ca; --bubble: #ecebfd; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --muted: #a3a3ad; --line: #34343c;
  --back: #131316; --soft: #232329; --brand: #a5b4fc; --bubble: #2b2a45; } }
* { box-sizing: border-box; } body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.62 ui-sans-serif, system-ui, sans-serif; overflow-wrap: anywhere; }
.bar { border-bottom: 1px solid var(--line); padding: 14px 20px; display: flex; gap: 12px;
  align-items: center; justify-content: space-between; font-size: 14.5px; }
.bar b { display: flex; gap: 10px; align-items: center; } .bar svg { flex: none; }
a { color: var(--brand); text-underline-offset: 3px; }
a.go { background: #4338ca; color: #fff; padding: 8px 16px; border-radius: 10px;
  text-decoration: none; white-space: nowrap; }
main { max-width: 780px; margin: 0 auto; padding: 36px 20px 72px; }
h1 { font-size: 28px; line-height: 1.25; letter-spacing: -0.02em; margin: 0 0 6px; }
.about { color: var(--muted); font-size: 14.5px; margin: 0 0 36px; }
.user { margin: 28px 0 20px auto; width: fit-content; max-width: 86%; background: var(--bubble);
  border-radius: 16px 16px 4px 16px; padding: 10px 16px; white-space: pre-wrap; }
.model, .note { font-size: 13px; color: var(--muted); margin: 0 0 4px; }
.note { white-space: normal; margin: 6px 0 0; }
.answer :is(h1, h2, h3, h4, h5, h6) { font-size: 18px; line-height: 1.35; margin: 1.3em 0 .4em; }
.answer > :first-child { margin-top: 0; } p, ul, ol, blockquote, pre, .wide { margin: 0 0 .9em; }
blockquote { border-left: 3px solid var(--line); padding-left: 14px; color: var(--muted); }
code { font: .9em ui-monospace, Consolas, monospace; background: var(--soft); padding: 2px 5px;
  border-radius: 6px; } pre { background: var(--soft); border-radius: 12px; padding: 14px 16px;
  overflow-x: auto; } pre code { background: none; padding: 0; overflow-wrap: normal; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 15px;
  overflow-wrap: normal; } th, td { text-align: left; padding: 7px 14px 7px 0;
  border-bottom: 1px solid var(--line); } hr { border: 0; border-top: 1px solid var(--line); }
.alone { text-align: center; padding-top: 14vh; } .alone p { color: var(--muted); }
:focus-visible { outline: 2px solid #6366f1; outline-offset: 2px; }
"""
_MARK = (
    '<svg viewBox="0 0 24 24" width="24" height="24" aria-hidden="true"><rect width="24" '
    'height="24" rx="7" fill="#4f46e5"/><path d="M7 8.5h10M7 12h10M7 15.5h6" stroke="#fff" '
    'stroke-width="1.8" stroke-linecap="round"/></svg>'
)


@cache
def policy() -> str:
    """The page's own content policy: its style and the icon of this site, nothing else."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def render(*, title: str, said: Sequence[Said], at: int) -> str:
    """The page of a conversation as it was at `at` (µs)."""
    name = escape(title) or "A conversation"
    talk = "".join(_question(item) if item.role == "user" else _answer(item) for item in said)
    return _page(
        title,
        f"<main><h1 dir=auto>{name}</h1><p class=about>Shared conversation, as it was on "
        f"{from_micros(at):%d %B %Y}. Answers are written by models and can be wrong.</p>"
        f"{talk}</main>",
    )


def refusal(sentence: str, *, sign_in: bool = False) -> str:
    """The page that says why there is nothing to see."""
    way = '<p><a class=go href="/">Sign in</a></p>' if sign_in else ""
    inner = f"<main class=alone><h1>Nothing to see here</h1><p>{escape(sentence)}</p>{way}</main>"
    return _page("Shared conversation", inner)


def html_of(markdown: str) -> str:
    """Markdown as HTML that is safe to show."""
    return str(_renderer().render(markdown))


@cache
def _renderer() -> Any:
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False, "maxNesting": 20})
    made.enable(["table", "strikethrough"]).disable(["image", "reference"])
    made.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    made.add_render_rule("link_open", _link_open)
    made.add_render_rule("table_open", lambda *_: "<div class=wide tabindex=0><table>\n")
    made.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return made


def _link_open(
    renderer: Any, tokens: Sequence[Any], at: int, options: Any, env: MutableMapping[str, Any]
) -> str:
    tokens[at].attrSet("rel", "noopener noreferrer nofollow ugc")
    tokens[at].attrSet("target", "_blank")
    return str(renderer.renderToken(tokens, at, options, env))


def _question(item: Said) -> str:
    images = "1 image, not shared" if item.images == 1 else f"{item.images} images, not shared"
    note = f"<p class=note>{images}</p>" if item.images else ""
    return f"<div class=user dir=auto>{escape(item.text)}{note}</div>"


def _answer(item: Said) -> str:
    return (
        f"<p class=model>{escape(item.model)}</p>"
        f"<div class=answer dir=auto>{html_of(item.text)}</div>"
    )


def _page(title: str, inner: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="robots" content="noindex, nofollow"><link rel="icon" href="/favicon.ico">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<header class=bar><b>{_MARK} ML Chat Billing</b><a class=go href="/">Start a chat</a>'
        f"</header>{inner}</body></html>"
    )
