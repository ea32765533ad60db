"""REST: invoices and their files, billing details, statements, receipts."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import Field

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, errors_in
from chat_app.api.views import MoneyOut, Page, Shown, TransactionOut
from chat_app.clock import rfc3339
from chat_app.credits import statements
from chat_app.credits.invoices import details, register
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.register import Invoice
from chat_app.credits.receipts import receipts
from chat_app.credits.statements import Head
from chat_app.flows import paperwork
from chat_app.money import format_credits

router = APIRouter(prefix="/billing", tags=["billing"])
admin_router = APIRouter(prefix="/admin", tags=["admin"])

Finding = Annotated[SignedIn, Depends(deps.allowed("invoices.read"))]
Closing = Annotated[SignedIn, Depends(deps.allowed("invoices.write"))]

Status = Annotated[
    Literal["draft", "open", "paid", "void", "uncollectible"] | None,
    Query(description="Only invoices in this state."),
]
_PDF: dict[int | str, dict[str, Any]] = {200: {"content": {"application/pdf": {}}}}


class TaxOut(Shown):
    """One rate; `rate_bp` in hundredths of a percent."""

    jurisdiction: str
    category: str
    treatment: str
    rate_bp: int
    base: MoneyOut
    tax: MoneyOut


class LineOut(Shown):
    """A line; `amount` contains the tax where there is one."""

    description: str
    quantity: int
    amount: MoneyOut


class PartyOut(Shown):
    """The seller or the buyer, as printed."""

    name: str
    address: list[str]
    country: str
    vat_id: str
    email: str


class InvoiceOut(Shown):
    """An invoice or a credit note. `number` is null for a draft, `credited` what notes took off.

    `shared`: there is a public link.
    """

    id: str
    kind: str
    status: str
    number: str | None
    payment_id: str | None
    corrects_id: str | None
    net: MoneyOut
    tax: MoneyOut
    total: MoneyOut
    credited: MoneyOut
    due_on: str | None
    reason: str | None
    issued_at: str | None
    created_at: str
    pdf_url: str | None
    shared: bool

    @classmethod
    def of(cls, invoice: Invoice) -> "InvoiceOut":
        """What is shown of an invoice."""
        return cls(**_shown(invoice))


class InvoiceDetailOut(InvoiceOut):
    """An invoice with everything that it says."""

    seller: PartyOut
    buyer: PartyOut
    lines: list[LineOut]
    taxes: list[TaxOut]
    notes: list[str]
    document_sha256: str

    @classmethod
    def of(cls, invoice: Invoice) -> "InvoiceDetailOut":
        """The whole document."""
        return cls(**_whole(invoice))


class GeneratedOut(InvoiceDetailOut):
    """An invoice that is ready to be sent. Both are null for a draft."""

    pdf_sha256: str | None = None
    hosted_url: str | None = None


class DetailsIn(Body):
    name: Annotated[deps.Text, Field(max_length=120)] = ""
    address: Annotated[deps.Text, Field(max_length=400, description="Lines, at most six.")] = ""
    country: Annotated[
        deps.Text, Field(max_length=2, description="Two letters, such as EE; GR for Greece.")
    ] = ""
    vat_id: Annotated[
        deps.Text, Field(max_length=32, description="Checked for form and check digits only.")
    ] = ""
    email: Annotated[deps.Text, Field(max_length=254)] = ""


class DetailsOut(Shown):
    """What the next invoice says of the buyer."""

    name: str
    address: str
    country: str
    vat_id: str
    email: str

    @classmethod
    def of(cls, found: BillingDetails) -> "DetailsOut":
        """The stored details."""
        return cls(
            name=found.name,
            address=found.address,
            country=found.country,
            vat_id=found.vat_id,
            email=found.email,
        )


class ReasonIn(Body):
    reason: Annotated[deps.Text, Field(max_length=200)]


class SumOut(Shown):
    """All movements of one type."""

    type: str
    count: int
    credits: str


class StatementOut(Shown):
    """A statement: `items` are the movements, oldest first. `from` is null for the beginning."""

    from_: Annotated[str | None, Field(alias="from")]
    to: str
    opening_balance: str
    closing_balance: str
    sums: list[SumOut]
    items: list[TransactionOut]


class ReceiptFactsOut(Shown):
    """What was charged for an answer; no word of it. `transfer_sha256` ties it to the ledger."""

    version: int
    id: str
    reply_id: str
    user_id: str
    model: str
    price_version: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    credits: str
    settled_at: str
    transfer_sha256: str


class ReceiptOut(Shown):
    """Signed: the JSON of `algorithm`, `key_id` and `receipt` with sorted keys and no spaces."""

    algorithm: str
    key_id: str
    receipt: ReceiptFactsOut
    signature: str


class ReceiptKeyOut(Shown):
    """A public key in base64url; it signs what was settled from `since` on."""

    id: str
    algorithm: str
    public: str
    since: str


@router.get("/invoices", responses=errors_in(401, 404, 422))
def list_invoices(
    app: deps.App,
    who: deps.CurrentUser,
    status: Status = None,
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[InvoiceOut]:
    """The caller's invoices and credit notes, newest first."""
    with app.db.read() as session:
        rows, following = register.listed(
            session, user_id=deps.user_id(who), status=status, limit=limit, cursor=cursor
        )
    return Page(items=[InvoiceOut.of(row) for row in rows], next_cursor=following)


@router.get("/invoices/{id}", responses=errors_in(401, 404))
def show_invoice(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> InvoiceDetailOut:
    """An invoice with its lines and taxes."""
    return InvoiceDetailOut.of(paperwork.get(app, user_id=deps.user_id(who), invoice_id=id))


@router.get(
    "/invoices/{id}/pdf",
    response_class=Response,
    responses={**_PDF, **errors_in(401, 404, 409, 503)},
)
async def invoice_pdf(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> Response:
    """The invoice as a file: the same bytes every time."""
    invoice = paperwork.get(app, user_id=deps.user_id(who), invoice_id=id)
    return _file(invoice, await paperwork.file(app, invoice=invoice))


@router.post("/invoices/{id}/generate", responses=errors_in(401, 403, 404, 503))
async def generate_invoice(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> GeneratedOut:
    """Make the file and a public link that nobody can guess. The same answer each time.

    The id of an order works too: a paid one without an invoice gets it, another one a draft.
    """
    done = await paperwork.generate(app, user_id=deps.user_id(who), invoice_id=id)
    if isinstance(done, Invoice):
        return GeneratedOut(**_whole(done))
    base = app.settings.server.public_url.rstrip("/")
    return GeneratedOut(
        **_whole(done.invoice),
        pdf_sha256=done.pdf_sha256,
        hosted_url=f"{base}{done.hosted_path}",
    )


@router.get("/hosted/{id}", response_class=HTMLResponse, responses=errors_in(404))
def hosted_invoice(app: deps.App, id: deps.Id) -> HTMLResponse:
    """An invoice for whoever has its link."""
    return HTMLResponse(
        paperwork.hosted_html(app, token=id), headers={"X-Robots-Tag": "noindex, nofollow"}
    )


@router.get("/hosted/{id}/pdf", response_class=Response, responses={**_PDF, **errors_in(404, 503)})
async def hosted_invoice_pdf(app: deps.App, id: deps.Id) -> Response:
    """The file, for whoever has the link."""
    invoice = paperwork.hosted(app, token=id)
    return _file(invoice, await paperwork.file(app, invoice=invoice))


@router.get("/details", responses=errors_in(401))
def show_details(app: deps.App, who: deps.CurrentUser) -> DetailsOut:
    """What the next invoice says of the caller."""
    with app.db.read() as session:
        return DetailsOut.of(details.get(session, user_id=deps.user_id(who)))


@router.put("/details", responses=errors_in(401, 403, 422))
async def put_details(app: deps.App, who: deps.CurrentUser, body: DetailsIn) -> DetailsOut:
    """Set it. Invoices that were issued before stay as they are."""
    given = BillingDetails(**body.model_dump())
    return DetailsOut.of(await paperwork.put_details(app, user_id=deps.user_id(who), given=given))


@router.get(
    "/statement",
    response_model=StatementOut,
    responses={
        200: {"content": {"text/csv": {}, "application/pdf": {}}},
        **errors_in(401, 422),
    },
)
def statement(
    app: deps.App,
    who: deps.CurrentUser,
    since: deps.Since,
    until: deps.Until,
    format: Annotated[Literal["json", "csv", "pdf"], Query(description="The form.")] = "json",
) -> Response:
    """Opening balance, every movement and closing balance of a period."""
    owner = deps.user_id(who)
    head = paperwork.statement(app, user_id=owner, since=since, until=until)
    if format == "pdf":
        content = paperwork.statement_pdf(app, user_id=owner, head=head)
        return Response(content, media_type="application/pdf", headers=_named("statement.pdf"))
    if format == "csv":
        return StreamingResponse(
            statements.as_csv(app.db, head),
            media_type="text/csv; charset=utf-8",
            headers=_named("statement.csv"),
        )
    return StreamingResponse(
        _statement_json(app, head),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@router.get("/receipt-keys")
def receipt_keys(app: deps.App) -> Page[ReceiptKeyOut]:
    """The public keys that receipts are checked with, oldest first."""
    return Page(
        items=[
            ReceiptKeyOut(
                id=key.id, algorithm="Ed25519", public=key.public, since=rfc3339(key.since)
            )
            for key in receipts.public_keys(app.receipt_keys)
        ]
    )


@router.get("/receipts/{id}", response_model=ReceiptOut, responses=errors_in(401, 404, 503))
async def receipt(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> Response:
    """The signed receipt of one of the caller's answers."""
    signed = await paperwork.receipt(app, user_id=deps.user_id(who), receipt_id=id)
    return Response(
        json.dumps(signed, indent=1).encode(),
        media_type="application/json",
        headers=_named(f"receipt-{id}.json"),
    )


@admin_router.get("/invoices", responses=errors_in(401, 403, 404, 422))
def search_invoices(
    *,
    app: deps.App,
    _who: Finding,
    status: Status = None,
    q: deps.Search = "",
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[InvoiceOut]:
    """All invoices and credit notes; `q` is a number, a user's name or an order's id."""
    with app.db.read() as session:
        rows, following = register.listed(session, status=status, q=q, limit=limit, cursor=cursor)
    return Page(items=[InvoiceOut.of(row) for row in rows], next_cursor=following)


@admin_router.get(
    "/invoices/{id}/pdf",
    response_class=Response,
    responses={**_PDF, **errors_in(401, 403, 404, 409, 503)},
)
async def admin_invoice_pdf(app: deps.App, _who: Finding, id: deps.Id) -> Response:
    """The file of anybody's invoice."""
    with app.db.read() as session:
        invoice = register.get(session, invoice_id=id)
    return _file(invoice, await paperwork.file(app, invoice=invoice))


@admin_router.post("/invoices/{id}/open", responses=errors_in(401, 403, 404, 409))
async def open_draft(app: deps.App, who: Closing, id: deps.Id) -> InvoiceOut:
    """Issue a draft before it is paid: it gets a number and a day on which it is due."""
    return InvoiceOut.of(await paperwork.open_draft(app, admin_id=deps.user_id(who), invoice_id=id))


@admin_router.post("/invoices/{id}/void", responses=errors_in(401, 403, 404, 409, 422))
async def void_invoice(app: deps.App, who: Closing, id: deps.Id, body: ReasonIn) -> InvoiceOut:
    """Take an unpaid invoice back. Its number stays taken."""
    return await _close(app, who, id, "void", body)


@admin_router.post("/invoices/{id}/uncollectible", responses=errors_in(401, 403, 404, 409, 422))
async def write_off_invoice(app: deps.App, who: Closing, id: deps.Id, body: ReasonIn) -> InvoiceOut:
    """Mark an open invoice as one that will not be paid."""
    return await _close(app, who, id, "uncollectible", body)


async def _close(app: deps.App, who: Closing, id: str, to: str, body: ReasonIn) -> InvoiceOut:
    return InvoiceOut.of(
        await paperwork.close_invoice(
            app, admin_id=deps.user_id(who), invoice_id=id, to=to, reason=body.reason
        )
    )


def _shown(invoice: Invoice) -> dict[str, Any]:
    def money(minor: int) -> MoneyOut:
        return MoneyOut(amount=minor, currency=invoice.currency)

    return {
        "id": invoice.id,
        "kind": invoice.kind,
        "status": invoice.status,
        "number": invoice.number,
        "payment_id": invoice.payment_id,
        "corrects_id": invoice.corrects_id,
        "net": money(invoice.net_minor),
        "tax": money(invoice.tax_minor),
        "total": money(invoice.total_minor),
        "credited": money(invoice.credited_minor),
        "due_on": invoice.due_on,
        "reason": invoice.reason,
        "issued_at": None if invoice.issued_at is None else rfc3339(invoice.issued_at),
        "created_at": rfc3339(invoice.created_at),
        "pdf_url": f"/api/billing/invoices/{invoice.id}/pdf" if invoice.number else None,
        "shared": invoice.shared,
    }


def _whole(invoice: Invoice) -> dict[str, Any]:
    document = invoice.document

    def money(minor: int) -> MoneyOut:
        return MoneyOut(amount=minor, currency=invoice.currency)

    return {
        **_shown(invoice),
        **{
            name: PartyOut(**{part: document[name][part] for part in PartyOut.model_fields})
            for name in ("seller", "buyer")
        },
        "lines": [
            LineOut(
                description=line["description"],
                quantity=line["quantity"],
                amount=money(line["amount_minor"]),
            )
            for line in document["lines"]
        ],
        "taxes": [
            TaxOut(
                jurisdiction=line["jurisdiction"],
                category=line["category"],
                treatment=line["treatment"],
                rate_bp=line["rate_bp"],
                base=money(line["base_minor"]),
                tax=money(line["tax_minor"]),
            )
            for line in document["taxes"]
        ],
        "notes": document["notes"],
        "document_sha256": invoice.document_sha256,
    }


def _statement_json(app: deps.App, head: Head) -> Iterator[str]:
    """The same shape as StatementOut, written piece by piece."""
    frame = {
        "from": None if head.since is None else rfc3339(head.since),
        "to": rfc3339(head.until),
        "opening_balance": format_credits(head.opening),
        "closing_balance": format_credits(head.closing),
        "sums": [
            {"type": item.type, "count": item.count, "credits": format_credits(item.credits)}
            for item in head.sums
        ],
    }
    yield json.dumps(frame)[:-1] + ', "items": ['
    for number, row in enumerate(statements.movements(app.db, head)):
        yield (", " if number else "") + TransactionOut.of(row).model_dump_json()
    yield "]}"


def _file(invoice: Invoice, content: bytes) -> Response:
    headers = _named(f"{invoice.number}.pdf")
    return Response(content, media_type="application/pdf", headers=headers)


def _named(name: str) -> dict[str, str]:
    return {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }
