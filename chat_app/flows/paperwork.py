"""Paperwork: invoices as files and links, billing details, statements, receipts.

Files are rendered outside of any transaction, from what was frozen in one.
"""

import asyncio
import hashlib
import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.credits import statements
from chat_app.credits.invoices import details, files, links, page, pdf, register, sellers
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.register import Invoice, UnknownInvoice
from chat_app.credits.payments import orders
from chat_app.credits.receipts import receipts
from chat_app.credits.statements import Head
from chat_app.errors import Conflict, NotFound


class NotIssued(Conflict):
    """A draft has no file and no link."""

    code = "invoice_not_issued"
    message = "This is a draft without a number. Pay the order, then the invoice has a file."


@dataclass(frozen=True)
class Ready:
    """An issued document with its file's hash and the path of its public page."""

    invoice: Invoice
    pdf_sha256: str
    hosted_path: str


async def generate(app: App, *, user_id: int, invoice_id: str) -> Ready | Invoice:
    """Make an invoice ready to be sent: its file and its public link. The same again and again.

    `invoice_id` may be an order's id: a paid one that has no invoice gets it now, one that is
    not paid yet gets a draft, which has neither. Raises UnknownInvoice.
    """
    invoice = await asyncio.to_thread(_of, app, user_id, invoice_id)
    if invoice is None:
        invoice = await app.db.awrite(lambda s: _for_order(app, s, user_id, invoice_id))
    if invoice.number is None:
        return invoice
    content = await file(app, invoice=invoice)
    path = await app.db.awrite(lambda session: _share(app, session, invoice))
    return Ready(replace(invoice, shared=True), hashlib.sha256(content).hexdigest(), path)


async def new_link(app: App, *, actor_id: int, invoice_id: str, user_id: int | None = None) -> str:
    """Another public link in place of the old one, which opens nothing any more; its path.

    `user_id` is whose invoice it must be; None for staff. Raises UnknownInvoice or NotIssued.
    """
    actor = f"user:{actor_id}"

    def story(session: Session) -> str:
        invoice = register.get(session, invoice_id=invoice_id, user_id=user_id)
        if invoice.number is None:
            raise NotIssued
        now = app.clock.micros()
        links.withdraw(session, invoice_id=invoice_id, actor=actor, now=now)
        return _share(app, session, invoice)

    return await app.db.awrite(story)


async def withdraw_link(
    app: App, *, actor_id: int, invoice_id: str, user_id: int | None = None
) -> bool:
    """Let the public link open nothing any more; False when there was none.

    `user_id` is whose invoice it must be; None for staff. Raises UnknownInvoice.
    """

    def story(session: Session) -> bool:
        register.get(session, invoice_id=invoice_id, user_id=user_id)
        now = app.clock.micros()
        return links.withdraw(session, invoice_id=invoice_id, actor=f"user:{actor_id}", now=now)

    return await app.db.awrite(story)


async def file(app: App, *, invoice: Invoice) -> bytes:
    """The PDF: stored when it is first asked for, and these bytes ever after.

    Raises NotIssued or InvoiceDamaged.
    """

    return await asyncio.to_thread(rendered, app, invoice=invoice)


def rendered(app: App, *, invoice: Invoice) -> bytes:
    """`file` on the calling thread."""
    if invoice.number is None:
        raise NotIssued
    with app.db.read() as session:
        stored = files.load(session, invoice_id=invoice.id)
    if stored is not None:
        return stored
    made = pdf.render(invoice.document, sha256=invoice.document_sha256)
    now = app.clock.micros()
    return app.db.write(
        lambda session: files.keep(session, invoice_id=invoice.id, content=made, now=now)
    )


def get(app: App, *, user_id: int, invoice_id: str) -> Invoice:
    """The user's invoice; raises UnknownInvoice."""
    with app.db.read() as session:
        return register.get(session, invoice_id=invoice_id, user_id=user_id)


def hosted(app: App, *, token: str) -> Invoice:
    """The invoice behind a public link; raises UnknownInvoice."""
    with app.db.read() as session:
        return register.by_token(session, token_hash=_hash(token))


def hosted_html(app: App, *, token: str) -> str:
    """The public page of an invoice; raises UnknownInvoice."""
    invoice = hosted(app, token=token)
    return page.render(
        invoice.document, status=invoice.status, pdf_path=f"{hosted_path(token)}/pdf"
    )


def hosted_path(token: str) -> str:
    """The path of a public page."""
    return f"/api/billing/hosted/{token}"


def link_token(app: App, invoice_id: str, version: int = 0) -> str:
    """The secret of an invoice's link: from the installation's key, so that it is not stored.

    `version` is how many of its links were withdrawn.
    """
    what = f"invoice-link:{invoice_id}" + (f":{version}" if version else "")
    mac = hmac.digest(app.secrets.link_key, what.encode(), "sha256")
    return urlsafe_b64encode(mac).rstrip(b"=").decode()


async def put_details(app: App, *, user_id: int, given: BillingDetails) -> BillingDetails:
    """Keep billing details for the next invoice; raises BadBillingDetails or BadVatId."""
    clean = details.check(given)
    now = app.clock.micros()
    return await app.db.awrite(
        lambda session: details.put(session, user_id=user_id, given=clean, now=now)
    )


async def close_invoice(
    app: App, *, admin_id: int, invoice_id: str, to: str, reason: str
) -> Invoice:
    """Void an unpaid invoice or mark it uncollectible (`to`), with a reason.

    Raises InvoiceState, InvoiceReasonMissing or UnknownInvoice.
    """
    deed = {"void": register.void, "uncollectible": register.write_off}[to]
    return await app.db.awrite(
        lambda session: deed(
            session,
            invoice_id=invoice_id,
            reason=reason,
            actor=f"user:{admin_id}",
            now=app.clock.micros(),
        )
    )


async def open_draft(app: App, *, admin_id: int, invoice_id: str) -> Invoice:
    """Issue a draft before it is paid; raises InvoiceState or UnknownInvoice."""
    return await app.db.awrite(
        lambda session: register.open_draft(
            session, invoice_id=invoice_id, actor=f"user:{admin_id}", now=app.clock.micros()
        )
    )


async def receipt(app: App, *, user_id: int, receipt_id: str) -> receipts.Signed:
    """The signed receipt of the user's answer; raises UnknownReceipt or ReceiptKeyLost."""
    if not (receipt_id.isascii() and receipt_id.isdigit() and len(receipt_id) < 19):
        raise receipts.UnknownReceipt
    return await app.db.awrite(
        lambda session: receipts.issue(
            session,
            transfer_id=int(receipt_id),
            user_id=user_id,
            known=app.receipt_keys,
            now=app.clock.micros(),
        )
    )


def statement(app: App, *, user_id: int, since: int | None, until: int | None) -> Head:
    """The frame of a statement; without an end it goes up to now. Raises BadPeriod."""
    until = app.clock.micros() + 1 if until is None else until
    with app.db.read() as session:
        return statements.begin(session, user_id=user_id, since=since, until=until)


def statement_pdf(app: App, *, user_id: int, head: Head) -> bytes:
    """The statement on paper; raises StatementTooLong."""
    with app.db.read() as session:
        seller = sellers.newest(session)
        person = users.get(session, user_id)
    owner = f"{person.username}, {person.email}"
    return statements.as_pdf(app.db, head, owner=owner, seller=seller.name)


def _of(app: App, user_id: int, invoice_id: str) -> Invoice | None:
    with app.db.read() as session:
        try:
            return register.get(session, invoice_id=invoice_id, user_id=user_id)
        except UnknownInvoice:
            return None


def _share(app: App, session: Session, invoice: Invoice) -> str:
    token = links.share(
        session,
        invoice_id=invoice.id,
        token=lambda version: link_token(app, invoice.id, version),
        hashed=_hash,
    )
    return hosted_path(token)


def _for_order(app: App, session: Session, user_id: int, payment_id: str) -> Invoice:
    try:
        payment = orders.get(session, user_id=user_id, payment_id=payment_id)
    except NotFound as error:
        raise UnknownInvoice from error
    now = app.clock.micros()
    if payment.paid_at is None:
        return register.draft(session, payment_id=payment_id, now=now)
    return register.for_payment(session, payment_id=payment_id, now=now)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
