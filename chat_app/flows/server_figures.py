"""Model servers elsewhere, for operators: as metrics, and what of them needs a person.

It reads what `Engine.stats` says under `servers` and nothing else.
"""

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from chat_app.monitor.prometheus import Metric

PREFIX = "chat_app_remote"
STATES = ("up", "down", "open", "half_open", "unknown")
_COUNTERS = {
    "answers": "Answers that came whole from a server.",
    "failures": "Attempts that failed by the server's doing.",
    "answers_counted_here": "Answers of which the server did not say how many tokens they took.",
    "odd_usage": "Answers with a usage that could not be true and was not believed.",
}


def place(url: str) -> str:
    """A server's short name: host, port and path."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


def troubles(servers: Sequence[dict[str, Any]]) -> list[tuple[Literal["warn", "bad"], str]]:
    """A level and a sentence with the next step for each server that takes no answers."""
    gone = [server for server in servers if server["state"] in ("down", "open", "half_open")]
    level: Literal["warn", "bad"] = "bad" if servers and len(gone) == len(servers) else "warn"
    found: list[tuple[Literal["warn", "bad"], str]] = []
    for server in gone:
        name, why = place(server["url"]), server["last_failure"] or "unreachable"
        if server["state"] == "down":
            sentence = f"The model server {name} is down ({why}). Start it, or look into its log."
        else:
            models = ", ".join(server["left_out"])
            sentence = (
                f"The model server {name} gets no answers of {models} ({why}). "
                "It is asked again by itself; look into its log."
            )
        found.append((level, sentence))
    return found


def metrics(servers: Sequence[dict[str, Any]]) -> list[Metric]:
    """The servers' figures, by server."""
    state = Metric(f"{PREFIX}_state", "gauge", "1 for the state in which a model server is.")
    running = Metric(f"{PREFIX}_running", "gauge", "Answers being written by a model server.")
    counters = {
        name: Metric(f"{PREFIX}_{name}_total", "counter", words)
        for name, words in _COUNTERS.items()
    }
    for server in servers:
        name = place(server["url"])
        for each in STATES:
            state.add(float(server["state"] == each), server=name, state=each)
        running.add(server["running"], server=name)
        for kind, metric in counters.items():
            metric.add(server[f"{kind}_total"], server=name)
    return [state, running, *counters.values()]
