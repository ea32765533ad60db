"""Invoices: the list with files and links, statements of a period, and the billing details."""

import asyncio
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import from_micros
from chat_app.credits.invoices import details, pdf, register
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.register import Invoice
from chat_app.flows import paperwork
from chat_app.money import Money
from ui import parts
from ui.guard import guard
from ui.shell import Shell

PAGE = 25
HIDDEN = "hidden"
PERIODS = [
    ("This month", "month"),
    ("Last month", "last"),
    ("This year", "year"),
    ("Last year", "last_year"),
    ("Everything", "all"),
]
_KINDS = {"paid": "good", "open": "warn", "uncollectible": "bad"}
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""


@dataclass
class Invoices:
    """The section's components."""

    tab: gr.Tab
    table: gr.HTML
    more: gr.Button
    cursor: gr.State
    rows: gr.State
    link: gr.HTML
    period: gr.Dropdown
    files: gr.HTML
    name: gr.Textbox
    address: gr.Textbox
    country: gr.Textbox
    vat_id: gr.Textbox
    email: gr.Textbox
    save: gr.Button


def build() -> Invoices:
    """The layout, without any data."""
    with gr.Tab("Invoices", id="credits-invoices") as tab:
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Invoices</h2></div>')
            table = gr.HTML(parts.loading(3), elem_id="credits-invoice-list", js_on_load=_CLICKS)
            link = gr.HTML(elem_id="credits-invoice-link", js_on_load=_CLICKS)
            more = gr.Button(
                "Show older", size="sm", visible=HIDDEN, elem_id="credits-invoices-more"
            )
            cursor, rows = gr.State(None), gr.State([])
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Statement</h2></div>')
            with gr.Row(elem_classes="filters"):
                period = gr.Dropdown(
                    PERIODS,
                    value="month",
                    label="Period (UTC)",
                    filterable=False,
                    scale=0,
                    elem_id="credits-statement-period",
                )
            files = gr.HTML(elem_id="credits-statement-files")
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Billing details</h2></div>'
                '<p class="hint">They are printed on your next invoice. Earlier ones stay as they '
                "are.</p>"
            )
            with gr.Row(elem_classes="filters"):
                name = gr.Textbox(label="Name or company", elem_id="credits-billing-name")
                email = gr.Textbox(label="E-mail for invoices", elem_id="credits-billing-email")
            with gr.Row(elem_classes="filters"):
                address = gr.Textbox(
                    label="Address", lines=3, max_lines=6, elem_id="credits-billing-address"
                )
            with gr.Row(elem_classes="filters"):
                country = gr.Textbox(
                    label="Country",
                    placeholder="Two letters, such as EE",
                    elem_id="credits-billing-country",
                    max_lines=1,
                )
                vat_id = gr.Textbox(
                    label="VAT id, for businesses",
                    placeholder="Only its check digits are checked",
                    elem_id="credits-billing-vat",
                    max_lines=1,
                )
                save = gr.Button("Save", variant="primary", elem_id="credits-billing-save", scale=0)
    return Invoices(
        tab, table, more, cursor, rows, link, period, files, name, address, country, vat_id,
        email, save,
    )  # fmt: skip


def bind(c: Invoices, app: App, _shell: Shell, tab: gr.Tab) -> None:
    """Wire the section. It loads when its own tab is opened; `tab` is the one it stands in."""

    def look(user: User, cursor: str | None) -> tuple[list[list[str]], str | None]:
        with app.db.read() as session:
            found, following = register.listed(
                session, user_id=_id(user), limit=PAGE, cursor=cursor
            )
        return [_row(invoice) for invoice in found], following

    async def listed(user: User, cursor: str | None = None, before: Any = ()) -> dict[Any, Any]:
        rows, following = await asyncio.to_thread(look, user, cursor)
        cells = [*before, *rows]
        return {
            c.table: _table(cells),
            c.rows: cells,
            c.cursor: following,
            c.more: gr.update(visible=True if following else HIDDEN),
            c.link: "",
        }

    def shown(found: BillingDetails) -> dict[Any, Any]:
        return {
            c.name: found.name,
            c.address: found.address,
            c.country: found.country,
            c.vat_id: found.vat_id,
            c.email: found.email,
        }

    @guard(app, "user")
    async def invoices_open(user: User, period: str) -> dict[Any, Any]:
        """The newest invoices, the links of a statement and the details."""

        def stored() -> BillingDetails:
            with app.db.read() as session:
                return details.get(session, user_id=_id(user))

        return {
            **await listed(user),
            **shown(await asyncio.to_thread(stored)),
            c.files: _files(period, from_micros(app.clock.micros()).date()),
        }

    @guard(app, "user")
    async def invoices_older(user: User, cursor: str | None, rows: list[Any]) -> dict[Any, Any]:
        """The next page below the shown ones."""
        return await listed(user, cursor, rows)

    @guard(app, "user")
    async def invoices_share(user: User, event: gr.EventData) -> dict[Any, Any]:
        """Make the public link of the invoice whose button was pressed."""
        pressed = str((getattr(event, "_data", None) or {}).get("id", ""))[:64]
        done = await paperwork.generate(app, user_id=_id(user), invoice_id=pressed)
        if isinstance(done, Invoice):
            raise paperwork.NotIssued
        return {c.link: _link(done.invoice, done.hosted_path)}

    @guard(app, "user")
    async def invoices_link(user: User, event: gr.EventData) -> dict[Any, Any]:
        """Another public link in place of the shown one, or none."""
        data = getattr(event, "_data", None) or {}
        own, pressed = _id(user), str(data.get("id", ""))[:64]
        if data.get("act") == "renew":
            path = await paperwork.new_link(app, actor_id=own, invoice_id=pressed, user_id=own)
            invoice = await asyncio.to_thread(paperwork.get, app, user_id=own, invoice_id=pressed)
            gr.Info("The old link opens nothing any more.", duration=4)
            return {c.link: _link(invoice, path)}
        await paperwork.withdraw_link(app, actor_id=own, invoice_id=pressed, user_id=own)
        gr.Info("Withdrawn. The link opens nothing any more.", duration=4)
        return {c.link: ""}

    @guard(app, "user")
    async def statement_period(_user: User, period: str) -> dict[Any, Any]:
        """The links for another period."""
        return {c.files: _files(period, from_micros(app.clock.micros()).date())}

    @guard(app, "user")
    async def details_save(
        user: User, name: str, address: str, country: str, vat_id: str, email: str
    ) -> dict[Any, Any]:
        """Keep the billing details."""
        texts = [(text or "")[:500] for text in (name, address, country, vat_id, email)]
        kept = await paperwork.put_details(app, user_id=_id(user), given=BillingDetails(*texts))
        gr.Info("Saved. Your next invoice has these details.", duration=4)
        return shown(kept)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    paper = [c.table, c.rows, c.cursor, c.more, c.link]
    form = [c.name, c.address, c.country, c.vat_id, c.email]
    c.tab.select(invoices_open, [c.period], [*paper, *form, c.files], **quiet)
    c.more.click(invoices_older, [c.cursor, c.rows], paper, **quiet)
    c.table.click(invoices_share, None, [c.link], **quiet)
    c.link.click(invoices_link, None, [c.link], **quiet)
    c.period.change(statement_period, [c.period], [c.files], **quiet)
    c.save.click(details_save, form, form, **quiet)


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return parts.empty("No invoices yet", "Buy credits, and the invoice is here at once.")
    heads = ["Number", "Date", "State", "Total>", "Files"]
    return parts.table(heads, rows, caption="Your invoices and credit notes")


def _row(invoice: Invoice) -> list[str]:
    total = str(Money(invoice.total_minor, invoice.currency))
    note = invoice.kind == "credit_note"
    id = parts.esc(invoice.id)
    files = "as soon as it is paid"
    if invoice.number:
        number = parts.esc(invoice.number)
        files = (
            f'<span class="actions"><a href="/api/billing/invoices/{id}/pdf" download '
            f'aria-label="PDF of {number}">PDF</a>'
            f'<button data-act="share" data-id="{id}" aria-label="Public link of {number}">'
            "Link</button></span>"
        )
    return [
        f"<b>{parts.esc(invoice.number or 'Draft')}</b>",
        pdf.day(invoice.document["issued_on"]),
        state(invoice),
        f'<span class="plus">−{parts.esc(total)}</span>' if note else parts.esc(total),
        files,
    ]


def _link(invoice: Invoice, path: str) -> str:
    number, id = parts.esc(invoice.number), parts.esc(invoice.id)
    return (
        f'<p class="hint">Whoever has this link can see {number}: '
        f'<a href="{parts.esc(path)}" target="_blank" rel="noopener">open and copy it</a></p>'
        f'<div class="actions files"><button data-act="renew" data-id="{id}" '
        f'aria-label="New link of {number}">New link</button>'
        f'<button data-act="withdraw" data-id="{id}" '
        f'aria-label="Withdraw the link of {number}">Withdraw</button></div>'
    )


def state(invoice: Invoice) -> str:
    """The state as a badge."""
    if invoice.kind == "credit_note":
        return parts.badge("credit note")
    if invoice.credited_minor:
        whole = invoice.credited_minor == invoice.total_minor
        return parts.badge("credited" if whole else "partly credited")
    return parts.badge(invoice.status, _KINDS.get(invoice.status, ""))


def _files(period: str, today: date) -> str:
    since, until = _days(period, today)
    window = f"from={since}&amp;to={until}" if since else f"to={until}"
    links = "".join(
        f'<a href="/api/billing/statement?{window}&amp;format={form}" download '
        f'aria-label="Statement as {form.upper()}">{form.upper()}</a>'
        for form in ("pdf", "csv", "json")
    )
    return f'<div class="actions files">{links}</div>'


def _days(period: str, today: date) -> tuple[date | None, date]:
    """The first day of a period and the one after its last."""
    month, tomorrow = today.replace(day=1), today + timedelta(days=1)
    year = month.replace(month=1)
    return {
        "last": ((month - timedelta(days=1)).replace(day=1), month),
        "year": (year, tomorrow),
        "last_year": (year.replace(year=year.year - 1), year),
        "all": (None, tomorrow),
    }.get(period, (month, tomorrow))


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
