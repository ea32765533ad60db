"""The files of issued documents: stored once, checked whenever they are read."""

import hashlib

from sqlmodel import Session

from chat_app.audit import log
from chat_app.credits.invoices.tables import InvoiceFileRow
from chat_app.credits.sql import Books, Statement
from chat_app.errors import Unavailable

_KEEP = Statement(
    """INSERT INTO invoice_file (invoice_id, sha256, size, content, created_at)
    VALUES (:id, :sha256, :size, :content, :now) ON CONFLICT (invoice_id) DO NOTHING"""
)


class InvoiceDamaged(Unavailable):
    """The stored file is not the one that was given out first."""

    code = "invoice_damaged"
    message = "The file of this invoice is damaged. Tell the operator, who runs `verify`."


def load(session: Session, *, invoice_id: str) -> bytes | None:
    """The stored file, or None before it was made; raises InvoiceDamaged."""
    row = session.get(InvoiceFileRow, invoice_id)
    if row is None:
        return None
    if hashlib.sha256(row.content).hexdigest() != row.sha256:
        raise InvoiceDamaged(invoice=invoice_id)
    return row.content


def keep(session: Session, *, invoice_id: str, content: bytes, now: int) -> bytes:
    """Store the file; returns what is stored, which is what came first."""
    sha256 = hashlib.sha256(content).hexdigest()
    added = Books(session).change(
        _KEEP, id=invoice_id, sha256=sha256, size=len(content), content=content, now=now
    )
    if added:
        log.record(
            session,
            type="invoice_rendered",
            actor="system",
            now=now,
            invoice=invoice_id,
            pdf_sha256=sha256,
        )
        return content
    stored = load(session, invoice_id=invoice_id)
    assert stored is not None, "a file that is there already can be read"
    return stored
