"""The proof of the invoices: gapless, adding up, and as they were when they were issued.

What was issued is in the audit log with its hash, and the log is sealed; so a document that was
changed together with its own hash still shows. All problems are returned, not the first.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from chat_app.audit.seal import Problem
from chat_app.credits.invoices import documents
from chat_app.credits.sql import Books, Statement

_QUERIES = [
    (
        "I18",
        "The numbers of a series are not gapless.",
        """SELECT series, year, COUNT(*) AS found, MAX(sequence) AS newest FROM invoice
        WHERE number IS NOT NULL GROUP BY series, year
        HAVING COUNT(*) <> MAX(sequence) OR MIN(sequence) <> 1""",
    ),
    (
        "I18",
        "The newest number of a series is not the one that was given out last.",
        """SELECT s.series, s.year, s.last AS taken, COALESCE(MAX(i.sequence), 0) AS newest
        FROM invoice_series s LEFT JOIN invoice i ON i.series = s.series AND i.year = s.year
        GROUP BY s.series, s.year, s.last HAVING s.last <> COALESCE(MAX(i.sequence), 0)""",
    ),
    (
        "I18",
        "The credit notes of an invoice take off more than its total.",
        """SELECT i.id AS invoice, i.number, i.total_minor, SUM(c.total_minor) AS credited
        FROM invoice i JOIN invoice c ON c.corrects_id = i.id
        GROUP BY i.id, i.number, i.total_minor, i.kind
        HAVING SUM(c.total_minor) > i.total_minor OR i.kind <> 'invoice'""",
    ),
    (
        "I17",
        "A paid order has no paid invoice over its amount.",
        """SELECT p.id AS payment, p.amount_minor, i.number, i.status, i.total_minor
        FROM payment p LEFT JOIN invoice i ON i.payment_id = p.id AND i.kind = 'invoice'
         AND i.status <> 'void'
        WHERE p.paid_at IS NOT NULL AND p.paid_at >= (SELECT MIN(created_at) FROM seller)
         AND (i.id IS NULL OR i.status <> 'paid' OR i.total_minor <> p.amount_minor
          OR i.currency <> p.currency OR i.user_id <> p.user_id)""",
    ),
    (
        "I17",
        "Money went back for an order, and its credit notes do not say so.",
        """SELECT b.payment_id AS payment, SUM(b.gone) AS gone,
         (SELECT COALESCE(SUM(n.total_minor), 0) FROM invoice n
          WHERE n.payment_id = b.payment_id AND n.kind = 'credit_note') AS credited
        FROM (
          SELECT payment_id, amount_minor AS gone FROM refund WHERE state = 'succeeded'
          UNION ALL
          SELECT payment_id,
           CASE WHEN amount_minor < disputed_minor THEN amount_minor ELSE disputed_minor END
          FROM dispute WHERE state = 'lost'
        ) b GROUP BY b.payment_id
        HAVING SUM(b.gone) > (SELECT COALESCE(SUM(n.total_minor), 0) FROM invoice n
          WHERE n.payment_id = b.payment_id AND n.kind = 'credit_note')""",
    ),
    (
        "I17",
        "An invoice is paid, and its order is not.",
        """SELECT i.id AS invoice, i.number, p.id AS payment, p.status FROM invoice i
        LEFT JOIN payment p ON p.id = i.payment_id
        WHERE i.kind = 'invoice' AND i.status = 'paid' AND (p.id IS NULL OR p.paid_at IS NULL)""",
    ),
]
_NAMES = (
    "id", "kind", "status", "number", "series", "year", "sequence", "currency", "net_minor",
    "tax_minor", "total_minor", "document", "document_sha256",
)  # fmt: skip
_ISSUED = Statement(
    f"""SELECT {", ".join(_NAMES)} FROM invoice
    WHERE number IS NOT NULL AND id > :after ORDER BY id LIMIT 500"""  # noqa: S608 - constants
)
_PARTS = {
    "lines": Statement(
        """SELECT description, quantity, amount_minor FROM invoice_line
        WHERE invoice_id = :id ORDER BY position"""
    ),
    "taxes": Statement(
        """SELECT treatment, jurisdiction, category, rate_bp, base_minor, tax_minor
        FROM invoice_tax WHERE invoice_id = :id ORDER BY position"""
    ),
}
_FILES = Statement(
    """SELECT invoice_id, sha256, size, content FROM invoice_file
    WHERE invoice_id > :after ORDER BY invoice_id LIMIT 50"""
)
_EVENTS = Statement(
    """SELECT type, payload FROM event_log
    WHERE type IN ('invoice_issued', 'invoice_paid', 'invoice_void', 'invoice_uncollectible',
     'invoice_rendered', 'credit_note_issued') ORDER BY seq"""
)


def run(session: Session) -> list[Problem]:
    """Every discrepancy of the invoices; an empty list is a proof."""
    found = []
    for rule, sentence, query in _QUERIES:
        for row in session.execute(text(query)).mappings():
            facts = {name: int(v) if _whole(v) else v for name, v in row.items()}
            found.append(Problem(rule, sentence, facts))
    books = Books(session)
    logged, there = _logged(books), set()
    for row in _pages(books, _ISSUED):
        invoice = dict(zip(_NAMES, row, strict=True))
        there.add(invoice["id"])
        facts = {"invoice": invoice["id"], "number": invoice["number"]}
        for sentence in _wrong(books, invoice, logged.get(invoice["id"], {})):
            found.append(Problem("I18", sentence, facts))
    for invoice_id, story in logged.items():
        if invoice_id not in there:
            facts = {"invoice": invoice_id, "number": story.get("number")}
            found.append(Problem("I18", "An invoice that was issued is gone.", facts))
    return [*found, *_files(books, logged)]


def _wrong(books: Books, invoice: dict[str, Any], story: dict[str, Any]) -> Iterator[str]:
    if documents.hash_of(invoice["document"]) != invoice["document_sha256"]:
        yield "The document of an invoice was changed."
        return
    document = documents.read(invoice["document"])
    if story.get("document_sha256") != invoice["document_sha256"]:
        yield "An invoice is not the one that the audit log says was issued."
    if story.get("status") != invoice["status"]:
        yield "The state of an invoice is not the one of the audit log."
    named = f"{invoice['series']}-{invoice['year']}-{invoice['sequence']:06d}"
    same = ("kind", "number", "currency", "net_minor", "tax_minor", "total_minor")
    if invoice["number"] != named or any(document[name] != invoice[name] for name in same):
        yield "An invoice and its document tell different stories."
    for part, query in _PARTS.items():
        rows = [tuple(row) for row in books.rows(query, id=invoice["id"])]
        if rows != [_values(part, line) for line in document[part]]:
            yield f"The {part} of an invoice are not those of its document."
    for problem in documents.problems(document):
        yield f"An invoice does not add up: {problem}."


def _values(part: str, line: dict[str, Any]) -> tuple[Any, ...]:
    names = {
        "lines": ("description", "quantity", "amount_minor"),
        "taxes": (
            "treatment", "jurisdiction", "category", "rate_bp", "base_minor", "tax_minor",
        ),
    }[part]  # fmt: skip
    return tuple(line[name] for name in names)


def _logged(books: Books) -> dict[str, dict[str, Any]]:
    """What the audit log says of each document that was issued: its hash, state and file."""
    found: dict[str, dict[str, Any]] = {}
    for type, payload in books.rows(_EVENTS):
        facts = json.loads(payload)
        story = found.setdefault(facts["invoice"], {})
        if type == "invoice_rendered":
            story["pdf_sha256"] = facts["pdf_sha256"]
        else:
            story |= facts
    return found


def _files(books: Books, logged: dict[str, dict[str, Any]]) -> Iterator[Problem]:
    seen = set()
    for invoice_id, sha256, size, content in _pages(books, _FILES):
        seen.add(invoice_id)
        true = hashlib.sha256(content).hexdigest()
        said = logged.get(invoice_id, {}).get("pdf_sha256")
        if (true, len(content), said) != (sha256, size, sha256):
            yield Problem("I18", "The PDF of an invoice was changed.", {"invoice": invoice_id})
    for invoice_id, story in logged.items():
        if "pdf_sha256" in story and invoice_id not in seen:
            yield Problem("I18", "The PDF of an invoice is gone.", {"invoice": invoice_id})


def _pages(books: Books, query: Statement) -> Iterator[Any]:
    after = ""
    while rows := books.rows(query, after=after):
        yield from rows
        after = rows[-1][0]


def _whole(value: object) -> bool:
    return not isinstance(value, (str, type(None)))
