"""Public links of issued documents: given out, withdrawn, and never the same twice.

What is stored is a hash. The link itself follows from the installation's key, the document and
how often a link of it was withdrawn (`version`), so a withdrawn one opens nothing ever again.
"""

from collections.abc import Callable

from sqlmodel import Session, col, select

from chat_app.audit import log
from chat_app.credits.invoices.register import InvoiceState, UnknownInvoice
from chat_app.credits.invoices.tables import InvoiceRow


def share(
    session: Session, *, invoice_id: str, token: Callable[[int], str], hashed: Callable[[str], str]
) -> str:
    """Let the public link of an issued document open it; returns the link's secret.

    `token` makes the secret of a version, `hashed` what is stored of it. The same link until it
    is withdrawn. Raises UnknownInvoice, or InvoiceState for a draft.
    """
    row = _locked(session, invoice_id)
    if row.number is None:
        raise InvoiceState(status=row.status)
    secret = token(row.link_version)
    row.public_token_hash = hashed(secret)
    session.add(row)
    session.flush()
    return secret


def withdraw(session: Session, *, invoice_id: str, actor: str, now: int) -> bool:
    """Let the public link open nothing any more; False when there was none.

    Raises UnknownInvoice.
    """
    row = _locked(session, invoice_id)
    if row.public_token_hash is None:
        return False
    row.public_token_hash = None
    row.link_version += 1
    session.add(row)
    session.flush()
    log.record(
        session,
        type="invoice_link_withdrawn",
        actor=actor,
        now=now,
        invoice=row.id,
        number=row.number,
    )
    return True


def _locked(session: Session, invoice_id: str) -> InvoiceRow:
    row = session.exec(
        select(InvoiceRow)
        .where(col(InvoiceRow.id) == invoice_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        raise UnknownInvoice
    return row
