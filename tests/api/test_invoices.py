"""Invoices, statements and receipts over HTTP: exact, owned, unguessable, always the same."""

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from chat_app import __main__ as commands
from tests.api.conftest import Person, Server, serving


def own_invoice(owner: Person) -> tuple[str, str]:
    """The id of a paid invoice and the secret of its link."""
    payment = owner.client.post("/api/billing/add", json={"package_id": "starter"}).json()
    owner.client.post(f"/api/billing/payments/{payment['payment_id']}/confirm").raise_for_status()
    invoice = owner.client.get("/api/billing/invoices").json()["items"][0]["id"]
    ready = owner.client.post(f"/api/billing/invoices/{invoice}/generate").json()
    return invoice, ready["hosted_url"].rpartition("/")[2]


def test_an_invoice_from_order_to_link(server: Server, ann: Person, bob: Person) -> None:
    """Details, order, invoice, file, public page: the same bytes for owner and guest."""
    details = {"name": "Ada <b>GmbH</b>", "address": "Weg 1\n10117 Berlin", "country": "DE",
               "vat_id": "DE 136 695 976", "email": "books@ada.example"}  # fmt: skip
    kept = ann.client.put("/api/billing/details", json=details).json()
    assert (
        kept
        == {**details, "vat_id": "DE136695976"}
        == ann.client.get("/api/billing/details").json()
    )
    invoice_id, token = own_invoice(ann)
    path = f"/api/billing/invoices/{invoice_id}"
    shown = ann.client.get(path).json()
    assert shown["status"] == "paid"
    assert shown["buyer"]["name"] == details["name"]
    assert shown["total"] == {"amount": 500, "currency": "USD"}
    assert shown["lines"][0]["description"] == "Starter: 500 credits for AI chat"
    answer = ann.client.get(f"{path}/pdf")
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="{shown["number"]}.pdf"'
    )
    ready = [ann.client.post(f"{path}/generate").json() for _ in "12"]
    assert ready[0] == ready[1]
    assert ready[0]["pdf_sha256"] == hashlib.sha256(answer.content).hexdigest()
    guest = server.client()
    page = guest.get(ready[0]["hosted_url"])
    assert "Ada &lt;b&gt;GmbH&lt;/b&gt;" in page.text
    assert "<script" not in page.text
    assert page.headers["x-robots-tag"] == "noindex, nofollow"
    assert guest.get(f"{ready[0]['hosted_url']}/pdf").content == answer.content
    for wrong in (token[:-1], token + "A", token[::-1], invoice_id, "A" * 43):
        assert guest.get(f"/api/billing/hosted/{wrong}").status_code == 404
    assert bob.client.get("/api/billing/invoices").json()["items"] == []
    listed = ann.client.get("/api/billing/invoices", params={"status": "paid"}).json()["items"]
    assert [item["id"] for item in listed] == [invoice_id]


def test_the_link_is_not_in_the_database(server: Server, ann: Person) -> None:
    """A copy of the database opens no invoice."""
    _, token = own_invoice(ann)
    with server.app.db.read() as session:
        dump = str(session.connection().exec_driver_sql("SELECT * FROM invoice").fetchall())
    assert token not in dump
    assert hashlib.sha256(token.encode()).hexdigest() in dump


def test_a_link_is_withdrawn_and_another_made(
    server: Server, root: Person, ann: Person, bob: Person
) -> None:
    """The old one opens nothing ever again, whoever withdrew it."""
    invoice, first = own_invoice(ann)
    path, guest = f"/api/billing/invoices/{invoice}", server.client()

    def opens(token: str) -> int:
        found = {
            guest.get(f"/api/billing/hosted/{token}{part}").status_code for part in ("", "/pdf")
        }
        assert len(found) == 1
        return found.pop()

    def renew(person: Person, at: str = path) -> str:
        made = person.client.post(f"{at}/link").raise_for_status().json()
        return str(made["hosted_url"]).rpartition("/")[2]

    assert ann.client.get(path).json()["shared"] is True
    for verb in ("POST", "DELETE"):
        assert bob.client.request(verb, f"{path}/link").status_code == 404
    assert opens(first) == 200
    second = renew(ann)
    assert (opens(first), opens(second)) == (404, 200)
    again = ann.client.post(f"{path}/generate").json()
    assert again["hosted_url"].endswith(second)
    for _ in range(2):
        assert ann.client.delete(f"{path}/link").status_code == 204
    assert (opens(second), ann.client.get(path).json()["shared"]) == (404, False)
    third = ann.client.post(f"{path}/generate").json()["hosted_url"].rpartition("/")[2]
    fourth = renew(root, f"/api/admin/invoices/{invoice}")
    assert [opens(token) for token in (first, second, third, fourth)] == [404, 404, 404, 200]
    assert root.client.delete(f"/api/admin/invoices/{invoice}/link").status_code == 204
    assert (opens(fourth), len({first, second, third, fourth})) == (404, 4)
    order = ann.client.post("/api/billing/add", json={"package_id": "pro"}).json()["payment_id"]
    draft = ann.client.post(f"/api/billing/invoices/{order}/generate").json()["id"]
    refused = ann.client.post(f"/api/billing/invoices/{draft}/link")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "invoice_not_issued")


def test_tax_rates_are_kept_by_the_operator(root: Person) -> None:
    rates = "/api/admin/tax-rates"
    rate = {"jurisdiction": "QX", "rate_bp": 1850, "valid_from": "2098-01-01", "source": "law"}
    made = root.client.post(rates, json=rate)
    assert (made.status_code, made.json()) == (
        201,
        {**rate, "id": made.json()["id"], "category": "standard", "valid_to": None,
         "built_in": False},
    )  # fmt: skip
    assert root.client.get(rates, params={"jurisdiction": "qx"}).json()["items"] == [made.json()]
    assert root.client.post(rates, json=rate).json()["error"]["code"] == "tax_rate_overlap"
    for bad in ({"rate_bp": 10_001}, {"rate_bp": 18.5}, {"valid_from": "tomorrow"}):
        assert root.client.post(rates, json={**rate, **bad}).status_code == 422
    at = f"{rates}/{made.json()['id']}"
    assert [root.client.delete(at).status_code for _ in "12"] == [204, 404]
    begun = next(one for one in root.client.get(rates).json()["items"] if one["built_in"])
    assert root.client.delete(f"{rates}/{begun['id']}").json()["error"]["code"] == "tax_rate_begun"


@pytest.mark.parametrize(
    "bad",
    [
        {"vat_id": "DE136695977", "country": "DE"},
        {"country": "DEU"},
        {"vat_id": "DE136695976"},
        {"email": "x"},
        {"name": 5},
        {"iban": "EE"},
    ],
)
def test_bad_details_are_refused(ann: Person, bad: dict[str, object]) -> None:
    assert ann.client.put("/api/billing/details", json=bad).status_code == 422


def test_an_unpaid_order_has_a_draft_that_an_administrator_opens(
    server: Server, root: Person, ann: Person
) -> None:
    order = ann.client.post("/api/billing/add", json={"package_id": "pro"}).json()["payment_id"]
    draft = ann.client.post(f"/api/billing/invoices/{order}/generate").json()
    assert (draft["status"], draft["number"], draft["hosted_url"]) == ("draft", None, None)
    no_file = ann.client.get(f"/api/billing/invoices/{draft['id']}/pdf")
    assert (no_file.status_code, no_file.json()["error"]["code"]) == (409, "invoice_not_issued")
    path = f"/api/admin/invoices/{draft['id']}"
    opened = root.client.post(f"{path}/open").json()
    assert opened["status"] == "open"
    assert opened["number"].startswith("INV-")
    assert root.client.post(f"{path}/uncollectible", json={"reason": "x"}).status_code == 422
    gone = root.client.post(f"{path}/uncollectible", json={"reason": "never paid"}).json()
    assert (gone["status"], gone["reason"]) == ("uncollectible", "never paid")
    ann.client.post(f"/api/billing/payments/{order}/confirm")
    assert ann.client.get(f"/api/billing/invoices/{draft['id']}").json()["status"] == "paid"
    found = root.client.get("/api/admin/invoices", params={"q": ann.username}).json()["items"]
    assert [item["number"] for item in found] == [opened["number"]]
    assert ann.client.post("/api/billing/invoices/pay_nothing/generate").status_code == 404


def test_a_statement_in_three_forms(ann: Person) -> None:
    own_invoice(ann)
    ann.ask()
    whole = ann.client.get("/api/billing/statement").json()
    assert (whole["from"], whole["opening_balance"]) == (None, "0")
    assert whole["closing_balance"] == ann.available()
    assert [item["type"] for item in whole["items"]] == ["welcome", "purchase", "message"]
    assert {item["type"]: item["credits"] for item in whole["sums"]} == {
        "message": "-1", "purchase": "500", "welcome": "100",
    }  # fmt: skip
    rows = ann.client.get("/api/billing/transactions").json()["items"]
    assert whole["items"] == rows[::-1]
    answer = ann.client.get("/api/billing/statement", params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert lines[-1]["balance_after"] == ann.available()
    assert len(lines) == 5
    paper = ann.client.get("/api/billing/statement", params={"format": "pdf"})
    assert paper.content.startswith(b"%PDF-")
    old = {"from": "2020-01-01", "to": "2020-02-01"}
    assert ann.client.get("/api/billing/statement", params=old).json()["items"] == []
    for bad in ({"format": "xls"}, {"from": "2021-01-01", "to": "2020-01-01"}, {"from": "x"}):
        assert ann.client.get("/api/billing/statement", params=bad).status_code == 422


def test_a_receipt_is_checked_without_the_server(
    server: Server, ann: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ann.ask("my secret plans").json()
    file = tmp_path / "receipt.json"
    given = ann.client.get(f"/api/billing/receipts/{answer['receipt_id']}")
    assert given.content == ann.client.get(f"/api/billing/receipts/{answer['receipt_id']}").content
    file.write_bytes(given.content)
    receipt = given.json()["receipt"]
    assert receipt["reply_id"] == answer["reply_id"]
    assert receipt["credits"] == answer["charged"]
    assert receipt["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert "secret" not in given.text
    published = server.client().get("/api/billing/receipt-keys")
    keys = tmp_path / "keys.json"
    keys.write_bytes(published.content)
    nowhere = ["--data-dir", str(tmp_path / "nothing")]
    for key in (str(keys), published.json()["items"][0]["public"]):
        code = commands.main(["verify-receipt", str(file), "--key", key, *nowhere])
        assert code == commands.OK
        assert "signature is right" in capsys.readouterr().out
    assert not (tmp_path / "nothing").exists()
    assert commands.main(["verify-receipt", str(file), *nowhere]) == commands.WRONG_USE
    data = ["--data-dir", str(server.app.settings.data_dir)]
    assert commands.main(["verify-receipt", str(file), *data]) == commands.OK
    file.write_text(json.dumps(given.json() | {"receipt": receipt | {"credits": "0"}}))
    assert commands.main(["verify-receipt", str(file), *data]) == commands.PROBLEMS
    file.write_text("no JSON")
    assert commands.main(["verify-receipt", str(file), *data]) == commands.PROBLEMS
    assert commands.main(["verify-receipt", str(tmp_path / "none"), *data]) == commands.WRONG_USE
    file.write_bytes(given.content)
    assert commands.main(["verify-receipt", str(file), "--key", "x", *data]) == commands.WRONG_USE


def test_files_and_receipts_are_the_same_after_a_restart(tmp_path: Path) -> None:
    def look(ann: Person, receipt: str, invoice: str, token: str) -> list[bytes]:
        return [
            ann.client.get(path).content
            for path in (
                f"/api/billing/invoices/{invoice}/pdf",
                f"/api/billing/hosted/{token}",
                f"/api/billing/receipts/{receipt}",
            )
        ]

    with serving(tmp_path) as server:
        ann = server.person("ann")
        receipt = ann.ask().json()["receipt_id"]
        invoice, token = own_invoice(ann)
        before = look(ann, receipt, invoice, token)
    other = {"name": "Another Seller", "tax": "seller", "country": "EE"}
    with serving(tmp_path, business=other) as server:
        client = server.client(Authorization=f"Bearer {ann.tokens['access_token']}")
        again = Person(client, "ann", ann.id, ann.tokens)
        assert look(again, receipt, invoice, token) == before
        number, _ = own_invoice(again)
        shown = client.get(f"/api/billing/invoices/{number}").json()
        assert shown["seller"]["name"] == "Another Seller"
        assert (shown["net"]["amount"], shown["tax"]["amount"]) == (403, 97)
