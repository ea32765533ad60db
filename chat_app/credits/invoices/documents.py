"""Documents: everything that an invoice or a credit note says, as plain JSON.

A document is made once and frozen: PDF, page and API are views of it, and its hash is in the
audit log. Amounts are minor units of its currency. Knows no database.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from chat_app.audit.log import canonical
from chat_app.clock import from_micros
from chat_app.credits.invoices import tax
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.sellers import Seller
from chat_app.credits.invoices.tax import TaxLine

Document = dict[str, Any]
VERSION = 1
NOTES = {
    "reverse_charge": (
        "Reverse charge: the customer accounts for the VAT (Article 196 of Directive 2006/112/EC)."
    ),
    "outside": "Not taxed here: the place of supply is the customer's country.",
}


@dataclass(frozen=True)
class Line:
    """A line of a document; `amount_minor` is what the whole line costs."""

    description: str
    amount_minor: int
    quantity: int = 1


@dataclass(frozen=True)
class Paid:
    """How and when it was paid."""

    provider: str
    reference: str
    at: int


def make(
    *,
    kind: str,
    number: str | None,
    at: int,
    seller: Seller,
    buyer: BillingDetails,
    currency: str,
    lines: list[Line],
    taxes: list[TaxLine],
    due_on: str | None = None,
    paid: Paid | None = None,
    corrects: Document | None = None,
    reason: str | None = None,
) -> Document:
    """The document. A draft has no number; `at` is the time of issue in µs."""
    net = sum(line.base_minor for line in taxes)
    duty = sum(line.tax_minor for line in taxes)
    treatments = {line.rule.treatment for line in taxes}
    notes = [text for name, text in NOTES.items() if name in treatments]
    if reason:
        notes.insert(0, f"Reason: {reason}")
    if seller.note:
        notes.append(seller.note)
    return {
        "version": VERSION,
        "kind": kind,
        "number": number,
        "issued_on": day_of(at),
        "due_on": due_on,
        "currency": currency,
        "seller": {
            "name": seller.name,
            "address": seller.address.splitlines(),
            "country": seller.country,
            "registration": seller.registration,
            "vat_id": seller.vat_id,
            "email": seller.email,
        },
        "buyer": {
            "name": buyer.name,
            "address": buyer.address.splitlines(),
            "country": buyer.country,
            "vat_id": buyer.vat_id,
            "email": buyer.email,
        },
        "lines": [
            {
                "description": line.description,
                "quantity": line.quantity,
                "amount_minor": line.amount_minor,
            }
            for line in lines
        ],
        "taxes": [
            {
                "treatment": line.rule.treatment,
                "jurisdiction": line.rule.jurisdiction,
                "category": line.rule.category,
                "rate_bp": line.rule.rate_bp,
                "base_minor": line.base_minor,
                "tax_minor": line.tax_minor,
            }
            for line in taxes
        ],
        "taxed": any(line.rule.treatment != "none" for line in taxes),
        "net_minor": net,
        "tax_minor": duty,
        "total_minor": net + duty,
        "paid": None
        if paid is None
        else {"provider": paid.provider, "reference": paid.reference, "on": day_of(paid.at)},
        "corrects": None
        if corrects is None
        else {"number": corrects["number"], "issued_on": corrects["issued_on"]},
        "notes": notes,
    }


def text_of(document: Document) -> str:
    """The bytes that are frozen, as text."""
    return canonical(document)


def hash_of(text: str) -> str:
    """The hash that the audit log keeps."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(text: str) -> Document:
    """A stored document."""
    document: Document = json.loads(text)
    return document


def problems(document: Document) -> list[str]:
    """Every way in which the document does not add up; empty when it does."""
    found = []
    lines = sum(line["amount_minor"] for line in document["lines"])
    if lines != document["total_minor"]:
        found.append("its lines do not add up to its total")
    if document["net_minor"] + document["tax_minor"] != document["total_minor"]:
        found.append("net and tax do not add up to its total")
    for name, part in (("net_minor", "base_minor"), ("tax_minor", "tax_minor")):
        if sum(line[part] for line in document["taxes"]) != document[name]:
            found.append(f"its tax lines do not add up to {name}")
    if document["kind"] == "invoice":
        for line in document["taxes"]:
            gross = line["base_minor"] + line["tax_minor"]
            if tax.inside(gross, line["rate_bp"]) != line["tax_minor"]:
                found.append("the tax of a line is not that of its rate")
    return found


def day_of(micros: int) -> str:
    """The UTC day of an instant, ISO."""
    return from_micros(micros).date().isoformat()
