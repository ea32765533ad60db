"""The model servers elsewhere, in a table: which take answers, and what became of the last ones."""

from collections.abc import Sequence
from typing import Any

from chat_app.flows import server_figures
from chat_app.llm import cards
from ui import parts

_KINDS = {"up": "good", "down": "bad", "open": "bad", "half_open": "warn", "unknown": ""}
_WORDS = {"half_open": "being asked", "open": "left out", "unknown": "not asked yet"}
_HEADS = ["Server", "State", "Models", "Now>", "Answers>", "Failures>"]


def shown(servers: Sequence[dict[str, Any]]) -> str:
    """The heading and the table; nothing where no servers are configured."""
    if not servers:
        return ""
    rows = [[f"<div>{cell}</div>" for cell in _row(server)] for server in servers]
    table = parts.table(_HEADS, rows, caption="Model servers and their states")
    return f'<div class="sheet-head"><h2>Model servers</h2></div>{table}'


def _row(server: dict[str, Any]) -> list[str]:
    state = server["state"]
    badge = parts.badge(_WORDS.get(state, state), _KINDS.get(state, ""))
    if server["asked_again_seconds"] and state == "open":
        badge += f"<br><small>asked again in {server['asked_again_seconds']:.0f} s</small>"
    return [
        f"<b>{parts.esc(server_figures.place(server['url']))}</b>"
        f"<br><small>{parts.esc(cards.NAMES.get(server['kind'], ''))}</small>",
        badge,
        _models(server),
        f"{server['running']} running",
        f"{server['answers_total']:,}" + _counted(server),
        _failures(server),
    ]


def _models(server: dict[str, Any]) -> str:
    """What it serves of the catalogue; what it is left out for is struck through."""
    codes = {name: f"<code>{parts.esc(name)}</code>" for name in server["models"]}
    codes |= {name: f"<s>{codes[name]}</s>" for name in server["left_out"] if name in codes}
    nothing = "none of ours" if server["state"] == "up" else "–"
    return "<br>".join(codes.values()) or nothing


def _counted(server: dict[str, Any]) -> str:
    words = []
    if server["answers_counted_here_total"]:
        words.append(f"{server['answers_counted_here_total']:,} counted here")
    if server["odd_usage_total"]:
        words.append(f"{server['odd_usage_total']:,} with odd usage")
    return "".join(f"<br><small>{word}</small>" for word in words)


def _failures(server: dict[str, Any]) -> str:
    words = f"{server['failures_total']:,}"
    if server["last_failure"]:
        last = server["last_failure"].replace("_", " ")
        words += f"<br><small>{parts.esc(last)}, {_ago(server['last_failure_seconds'])}</small>"
    return words


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
