"""Own use, the outlook and files over REST."""

import csv
import io

from tests.api.conftest import Person


def test_own_use_the_outlook_and_the_files(ann: Person, bob: Person) -> None:
    for _ in range(2):
        assert ann.ask().status_code == 200
    shown = ann.client.get("/api/analytics/me", params={"offset_minutes": 120}).json()
    assert (shown["now"]["messages"], shown["now"]["credits"]) == (2, "2")
    assert shown["now"]["credits_per_answer"] == "1"
    assert [row["credits"] for row in shown["days"]] == ["2"]
    assert sum(map(sum, shown["hours"])) == 2
    assert bob.client.get("/api/analytics/me").json()["now"]["messages"] == 0
    file = ann.client.get("/api/analytics/me", params={"format": "csv"})
    assert file.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(file.text))
    assert (row["messages"], row["credits"]) == ("2", "2")
    refused = ann.client.get("/api/analytics/me", params={"from": "2020-01-01"})
    assert refused.json()["error"]["code"] == "bad_range"

    moves = ann.client.get("/api/billing/transactions.csv", params={"type": "message"})
    rows = list(csv.DictReader(io.StringIO(moves.text)))
    assert [row["credits"] for row in rows] == ["-1", "-1"]
    assert rows[0]["balance_after"] == "98"
    assert "transactions.csv" in moves.headers["content-disposition"]
    unknown = ann.client.get("/api/billing/transactions.csv", params={"type": "nothing"})
    assert unknown.status_code == 422

    seen = ann.client.get("/api/billing/forecast").json()
    assert (seen["balance"], seen["basis"], seen["used_days"]) == ("98", "insufficient", 1)
    assert set(seen["runs_out"]) == {"p10", "p50", "p90"}
    assert len(seen["days"]) >= 28
