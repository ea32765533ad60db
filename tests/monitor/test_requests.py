"""Requests by class: counts, and percentiles that are right to the width of a bucket."""

import random

import pytest

from chat_app.monitor import requests
from chat_app.monitor.requests import BOUNDS, Traffic, class_of, quantile


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "page"),
        ("/gradio_api/queue/join", "page"),
        ("/api/chat/message", "chat"),
        ("/v1/chat/completions", "openai"),
        ("/api/billing/balance", "billing"),
        ("/api/orgs", "billing"),
        ("/api/auth/login", "account"),
        ("/api/admin/users", "admin"),
        ("/api/performance/metrics", "admin"),
        ("/readyz", "ops"),
        ("/api/nonsense/" + "x" * 500, "account"),
    ],
)
def test_every_path_has_one_of_a_few_classes(path: str, name: str) -> None:
    assert class_of(path) == name
    assert name in requests.CLASSES


def test_what_came_since_is_taken_once() -> None:
    traffic = Traffic()
    traffic.saw("/api/chat/message", 200, 0.2)
    traffic.saw("/api/chat/message", 402, 0.004)
    traffic.saw("/", 500, 3.0)
    first = traffic.take()
    chat = first["chat"]
    assert (chat.requests, chat.refused, chat.failed) == (2, 1, 0)
    assert (first["page"].requests, first["page"].failed) == (1, 1)
    assert traffic.take()["chat"].requests == 0
    assert traffic.totals()["chat"].requests == 2
    traffic.saw("/api/chat/message", 0, 0.1)
    assert traffic.take()["chat"].requests == 1


def test_percentiles_are_those_of_the_values() -> None:
    """Against the values themselves: never farther off than the bucket is wide."""
    dice = random.Random(7)
    values = sorted(dice.lognormvariate(-2, 1.2) for _ in range(5000))
    traffic = Traffic()
    for value in values:
        traffic.saw("/", 200, value)
    buckets = traffic.totals()["page"].buckets
    edges = [0.0, *BOUNDS]
    for share in (0.5, 0.9, 0.95, 0.99):
        real = values[int(share * len(values))]
        low = max(edge for edge in edges if edge <= real)
        high = min(edge for edge in edges if edge > real)
        found = quantile(buckets, share)
        assert found is not None
        assert low <= found <= high


def test_percentiles_of_nothing_and_of_the_endless() -> None:
    assert quantile([0] * 13, 0.95) is None
    assert quantile([0] * 12 + [3], 0.95) == BOUNDS[-1]
