"""The administrator's live page: a verdict, every model's work, and nothing that runs."""

from typing import Any

import pytest

from tests.flows.test_figures import server
from tests.ui.conftest import Site

LOADED = {
    "pid": 1,
    "backend": "native",
    "device": "cuda",
    "running": 3,
    "waiting": 2,
    "memory_bytes": 2 * 2**30,
    "load_seconds": 4.26,
    "figures": {"kv_used_share": 0.31, "prefix_asked_tokens": 400, "prefix_hit_tokens": 300},
}
DID = {
    "tokens_per_second": 142.5,
    "busy_share": 0.87,
    "answers_done": 40,
    "answers_cancelled": 2,
    "answers_failed": 6,
    "failure_codes": {"<b>odd": 6},
    "engine_ms_mean": 1200.0,
    "queue_ms_p50": 12.0,
    "queue_ms_p95": 14_000.0,
    "ttft_ms_p50": 210.0,
    "ttft_ms_p95": 840.0,
}


def opened(site: Site) -> dict[str, str]:
    """What an administrator sees on opening the tab, by element id."""
    end, _ = site.person(admin=True).call(number(site), [])
    assert end["success"], end
    outputs = site.demo.fns[number(site)].outputs
    values = zip(outputs, end["output"]["data"], strict=True)
    return {block.elem_id: str(value) for block, value in values if block.elem_id}


def number(site: Site) -> int:
    """The handler that opens the Admin tab's machine."""
    return next(
        found
        for found, fn in site.demo.fns.items()
        if fn.fn
        and fn.fn.__name__ == "open_tab"
        and any(block.elem_id == "admin-verdict" for block in fn.outputs)
    )


def test_a_quiet_site_is_well(site: Site) -> None:
    seen = opened(site)
    assert "All is well." in seen["admin-verdict"]
    assert "is answered by the script engine" in seen["admin-models"]


def test_model_servers_are_in_a_table(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    there = server("open", models=["a", "<i>b"], left_out=["a"])
    stats = {**site.app.engine.stats(), "servers": [there]}
    monkeypatch.setattr(site.app.engine, "stats", lambda: stats)
    seen = opened(site)
    for words in (
        "Model servers",
        "10.0.0.7:8000",
        "vLLM",
        "left out",
        "asked again in 11 s",
        "<s><code>a</code></s>",
        "&lt;i&gt;b",
        "1 counted here",
        "engine crashed, 4 s ago",
    ):
        assert words in seen["admin-models"], words


def test_what_each_model_does_is_readable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stats: dict[str, Any] = {
        "running": 3,
        "waiting": 2,
        "models": {"gemma-3-1b-it": LOADED},
        "recent": {"gemma-3-1b-it": DID},
    }
    monkeypatch.setattr(site.app.engine, "stats", lambda: stats)
    seen = opened(site)
    for words in (
        "Gemma 3 1B",
        "native on cuda, loaded in 4.3 s",
        "3 running",
        "2 waiting",
        "142.5 tok/s",
        "87%",
        "1.2 s each",
        "210 ms",
        "840 ms p95",
        "14.0 s p95",
        "40 done",
        "6 failed",
        "2.0 GiB",
        "31% of KV cache used",
        "75% of prompts reused",
    ):
        assert words in seen["admin-work"], words
    assert "<b>odd" not in seen["admin-work"] + seen["admin-verdict"]
    assert "This needs you." in seen["admin-verdict"]
    assert "6 of the last 48 answers" in seen["admin-verdict"]
    assert "people wait up to 14 s" in seen["admin-verdict"]
    assert "142 tok/s" in seen["admin-health"]
