"""Limits on spending, the outlook of a balance and estimates, over REST."""

import pytest

from tests.api.conftest import MODEL, Person


def test_limits_are_set_shown_and_enforced(ann: Person, bob: Person) -> None:
    """The refusal names the limit, who set it and what to do; nobody else is touched."""
    shown = ann.client.get("/api/billing/limits").json()
    assert (shown["per_day"], shown["spent_today"], shown["plan"]) == (None, "0", None)
    body = {"per_answer": "5", "per_conversation": 10, "per_day": "1.5"}
    put = ann.client.put("/api/billing/limits", json=body)
    assert put.status_code == 200
    assert put.json()["per_conversation"] == "10"
    assert ann.ask().json()["charged"] == "1"
    refused = ann.ask()
    assert refused.status_code == 402
    error = refused.json()["error"]
    assert error["code"] == "over_spend_guard"
    assert {name: error[name] for name in ("reason", "limit_source", "needed", "available")} == {
        "reason": "per_day",
        "limit_source": "user",
        "needed": "1",
        "available": "0.5",
    }
    assert error["hint"]
    assert ann.available() == "99"
    assert bob.ask().status_code == 200
    shown = ann.client.get("/api/billing/limits").json()
    assert (shown["spent_today"], shown["messages_this_month"]) == ("1", 1)
    # What is left out of a PUT is no limit.
    assert ann.client.put("/api/billing/limits", json={}).json()["per_day"] is None
    assert ann.ask().status_code == 200


@pytest.mark.parametrize(
    "wrong", [{"per_day": -1}, {"per_day": 0.5}, {"per_day": "NaN"}, {"per_year": 1}]
)
def test_limits_that_are_none_are_refused(ann: Person, wrong: dict[str, object]) -> None:
    assert ann.client.put("/api/billing/limits", json=wrong).status_code == 422


def test_a_balance_has_an_outlook_once_there_is_something_to_go_by(ann: Person) -> None:
    found = ann.client.get("/api/billing/balance").json()
    assert (found["burn_per_day"], found["days_left"], found["runs_out_at"]) == (None, None, None)


def test_an_estimate_names_the_costs_and_the_package(ann: Person) -> None:
    query = {"model": MODEL, "messages_per_day": 40, "budget": "300"}
    found = ann.client.get("/api/billing/estimate", params=query).json()
    assert (found["per_message"], found["per_day"], found["per_month"]) == ("1", "40", "1200")
    assert (found["days_left"], found["messages_per_day_for_budget"]) == (2.5, 10)
    assert (found["package"]["id"], found["packages"]) == ("standard", 1)
    for wrong in ({"model": "no"}, {"messages_per_day": -1}, {"budget": "much"}):
        answer = ann.client.get("/api/billing/estimate", params={**query, **wrong})
        assert answer.status_code in (404, 422)
