"""Revenue over REST: what was sold and used, as the money ledger tells it."""

import csv
import io
from decimal import Decimal
from typing import Any

from chat_app.clock import MICROS_PER_SECOND
from chat_app.flows import revenue
from tests.api.conftest import Person, Server

DAY = 86_400 * MICROS_PER_SECOND


def get(root: Person, path: str, **query: str) -> Any:
    answer = root.client.get(f"/api/admin/revenue/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def write(server: Server) -> None:
    """As if the day were over."""
    later, rules = server.app.clock.micros() + 2 * DAY, revenue.rules_of(server.app)
    while server.app.db.write(lambda s: revenue.write_next(s, rules=rules, now=later)):
        pass


def test_from_the_payment_to_the_last_cent(server: Server, root: Person) -> None:
    """An order is paid and partly used; every table tells the same."""
    person = server.person()
    order = person.client.post("/api/billing/add", json={"package_id": "standard"}).json()
    paid = person.client.post(f"/api/billing/payments/{order['payment_id']}/confirm")
    assert paid.status_code == 200, paid.text
    unknown = root.client.get(f"/api/admin/revenue/trace/{order['payment_id']}")
    assert unknown.json()["error"]["code"] == "nothing_posted"
    write(server)
    trace = get(root, f"trace/{order['payment_id']}")
    assert trace["entries"][0]["kind"] == "sale"
    assert trace["balances"]["cash:offline USD"] == order["amount"]["amount"]
    assert sum(trace["balances"].values()) == 0
    journal = get(root, "journal", account="cash", limit="1")
    assert len(journal["items"]) == 1
    assert journal["items"][0]["lines"][0]["account"].startswith("cash")
    found = get(root, "recognition")
    assert found["written_to"] >= trace["entries"][-1]["day"]
    for month in found["months"]:
        left = month["recognized"] + month["refunded"] - month["other"]
        assert month["closing"] == month["opening"] + month["billed"] - left
    earned = sum(month["recognized"] for month in found["months"])
    assert sum(sum(row.values()) for row in found["waterfall"].values()) == earned


def test_metrics_tax_receivables_and_cohorts(server: Server, root: Person) -> None:
    """Without plans there is no MRR, whatever is sold; prepaid credits are no receivable."""
    write(server)
    metrics = get(root, "metrics", currency="USD")
    assert (metrics["mrr_minor"], metrics["nrr"]) == (0, None)
    assert len(metrics["months"]) == 12
    assert get(root, "cohorts") == {"items": []}
    aged = get(root, "receivables")
    assert aged["total"]["total"] == sum(row["total"] for row in aged["items"])
    taxes = get(root, "tax", **{"from": "2020-01-01"})
    assert all(row["tax_minor"] == 0 for row in taxes["items"])


def test_costs_and_closing(server: Server, root: Person) -> None:
    """A cost is booked once for its key; only complete months close, and then for good."""
    body = {"day": "2020-01-31", "kind": "gpu", "amount_minor": 1234, "currency": "USD"}

    def book(**more: object) -> Any:
        return root.client.post(
            "/api/admin/revenue/costs", json=body | more, headers={"Idempotency-Key": "gpu-1"}
        )

    first, again = book(), book()
    assert (first.status_code, again.json()) == (201, first.json())
    other = book(amount_minor=1)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert book(day="2020-02-31").status_code == 422
    for period, code in (("2020-13", "unknown_period"), ("2999-01", "period_not_complete")):
        refused = root.client.post(f"/api/admin/revenue/periods/{period}/close")
        assert refused.json()["error"]["code"] == code
    write(server)
    closed = root.client.post("/api/admin/revenue/periods/2020-01/close")
    assert closed.status_code == 200, closed.text
    late = root.client.post("/api/admin/revenue/costs", json=body)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "period_closed")


def test_reports_add_up_and_hold_no_formula(server: Server, root: Person) -> None:
    """The same rows as JSON, CSV and PDF; totals are those of the rows and of the ledger."""
    person = server.person()
    person.ask()
    write(server)
    used = root.client.get("/api/admin/reports/usage").json()
    assert used["columns"][0] == "day"
    credits = sum(Decimal(row["credits"]) for row in used["items"])
    assert Decimal(used["totals"][""]["credits"]) == credits > 0
    assert person.username in {row["username"] for row in used["items"]}
    money = root.client.get("/api/admin/reports/financial").json()
    for sums in money["totals"].values():
        assert sums["debit_minor"] == sums["credit_minor"]
    for kind in ("usage", "financial", "revenue", "tax", "receivables", "reconciliation"):
        query = {"kind": kind, "from": "2024-01-01"}
        listed = root.client.get("/api/monitoring/report", params=query).json()
        table = root.client.get("/api/monitoring/report", params=query | {"format": "csv"})
        rows = list(csv.reader(io.StringIO(table.text)))
        assert rows[0] == listed["columns"]
        sums = len(listed["totals"]) if kind != "reconciliation" else 0
        assert len(rows) == 1 + len(listed["items"]) + sums
        paper = root.client.get("/api/monitoring/report", params=query | {"format": "pdf"})
        assert paper.content.startswith(b"%PDF")
    wrong = root.client.get("/api/admin/reports/usage", params={"from": "2031-01-01"})
    assert wrong.json()["error"]["code"] == "invalid_report"
