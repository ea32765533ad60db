"""Admin › Monitoring: graphs of every range, faults and advice in words, and nothing that runs."""

from typing import Any

import pytest

from chat_app.flows import advice, monitoring
from chat_app.flows.monitoring import Monitor
from chat_app.jobs import JobState
from tests.ui.conftest import Site


def seen(site: Site, handler: str, **event: Any) -> dict[str, str]:
    """What an administrator sees, by element id."""
    number = next(
        found for found, fn in site.demo.fns.items() if fn.fn and fn.fn.__name__ == handler
    )
    end, _ = site.person(admin=True).call(number, [], **event)
    assert end["success"], end
    values = zip(site.demo.fns[number].outputs, end["output"]["data"], strict=True)
    return {block.elem_id: str(value) for block, value in values if block.elem_id}


def test_what_an_operator_sees_at_night(site: Site) -> None:
    app = site.app
    monitor = Monitor(app)
    app.telemetry.traffic.saw("/api/billing/balance", 200, 0.3)
    monitor.tick(wait=True)
    monitor.tick(wait=True)
    monitor.stop()
    page = seen(site, "monitoring_show")["admin-monitoring-page"]
    for words in ("No fault.", "Processor and memory", "Request time, p95", "Books proven", "live"):
        assert words in page, words
    rule = app.telemetry.judge.rules["disk_low"]
    edge = monitoring.Edge(rule, True, 5e8, app.clock.micros())
    app.db.write(lambda session: monitoring.tell(app, edge, session))
    app.db.write(lambda session: session.merge(JobState(name="<b>odd", error="<img src=x>")))
    shown = seen(site, "monitoring_show")
    page = shown["admin-monitoring-page"]
    assert "This needs you." in page
    assert "0.50 GB (below 1.00 GB for 1 min)" in page
    assert "1 failing" in page
    assert "<b>odd" not in page
    assert "<img" not in page
    assert shown["admin-monitoring-rules"].count("data-rule=") == len(app.telemetry.judge.rules)
    end = monitoring.Edge(rule, False, 5e9, app.clock.micros())
    app.db.write(lambda session: monitoring.tell(app, end, session))
    app.db.write(lambda session: session.delete(session.get(JobState, "<b>odd")))


@pytest.mark.parametrize("span", [*advice.RANGES, "nonsense"])
def test_every_range_is_drawn(site: Site, span: str) -> None:
    page = seen(site, "monitoring_look", event_data={"range": span})["admin-monitoring-page"]
    chosen = span if span in advice.RANGES else "1h"
    assert f'data-range="{chosen}" aria-pressed="true"' in page
    assert page.count('aria-pressed="true"') == 1
    assert len(page) < 150_000, "it is sent every quarter minute"
