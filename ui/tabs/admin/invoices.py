"""Invoices for administrators: find one, open a draft, void it or write it off with a reason."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission, may
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits.invoices import pdf, register
from chat_app.credits.invoices.register import Invoice
from chat_app.errors import Invalid
from chat_app.flows import paperwork
from chat_app.money import Money
from ui import parts
from ui.guard import guard
from ui.shell import Shell
from ui.tabs.admin import taxes
from ui.tabs.credits.invoices import _CLICKS, state

PAGE = 25
STATUSES = [("All states", ""), *((name.capitalize(), name) for name in register.STATUSES)]
DEEDS = {"void": "Void", "uncollectible": "Mark as uncollectible"}


class NoInvoiceChosen(Invalid):
    """An action on an invoice without an invoice."""

    code = "no_invoice_chosen"
    message = "Choose an invoice in the table first."


@dataclass
class Invoices:
    """The section's components."""

    tab: gr.Tab
    search: gr.Textbox
    status: gr.Dropdown
    table: gr.HTML
    panel: gr.Column
    chosen: gr.State
    about: gr.HTML
    issue: gr.Button
    deed: gr.Dropdown
    reason: gr.Textbox
    review: gr.Button
    ending: gr.Row
    sure: gr.Column
    summary: gr.HTML
    confirm: gr.Button
    back: gr.Button
    rates: taxes.Taxes


def build() -> Invoices:
    """The layout, without any data."""
    with gr.Tab("Invoices", id="admin-invoices") as tab:
        inside = (*_documents(), taxes.build())
    return Invoices(tab, *inside)


def _documents() -> tuple[Any, ...]:
    with gr.Column(elem_classes="sheet"):
        gr.HTML('<div class="sheet-head"><h2>Invoices and credit notes</h2></div>')
        with gr.Row(elem_classes="filters"):
            search = gr.Textbox(
                label="Search",
                placeholder="Number, user or order",
                elem_id="admin-invoices-search",
                max_lines=1,
            )
            status = gr.Dropdown(
                STATUSES, value="", label="State", filterable=False, scale=0,
                elem_id="admin-invoices-status",
            )  # fmt: skip
        table = gr.HTML(parts.loading(4), elem_id="admin-invoice-list", js_on_load=_CLICKS)
        chosen = gr.State(None)
        with gr.Column(visible=False, elem_id="admin-invoice", elem_classes="inset") as panel:
            about = gr.HTML(elem_id="admin-invoice-about", js_on_load=_CLICKS)
            issue = gr.Button("Issue now", elem_id="admin-invoice-issue", scale=0, visible=False)
            with gr.Row(elem_classes="filters", visible=False) as ending:
                deed = gr.Dropdown(
                    [(name, value) for value, name in DEEDS.items()], value="void", label="Action",
                    filterable=False, scale=0, elem_id="admin-invoice-deed",
                )  # fmt: skip
                reason = gr.Textbox(
                    label="Reason",
                    placeholder="Stays with the invoice",
                    elem_id="admin-invoice-reason",
                    max_lines=1,
                )
                review = gr.Button("Review", elem_id="admin-invoice-review", scale=0)
            with gr.Column(visible=False, elem_id="admin-invoice-sure") as sure:
                summary = gr.HTML(elem_id="admin-invoice-summary")
                with gr.Row(elem_classes="filters"):
                    confirm = gr.Button(
                        "Confirm", variant="primary", elem_id="admin-invoice-confirm", scale=0
                    )
                    back = gr.Button("Back", elem_id="admin-invoice-back", scale=0)
    return (
        search, status, table, panel, chosen, about, issue, deed, reason, review, ending,
        sure, summary, confirm, back,
    )  # fmt: skip


def needs(c: Invoices) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "invoices.read", **taxes.needs(c.rates)}


def bind(  # noqa: PLR0915 - one section, many small handlers
    c: Invoices, app: App, _shell: Shell, tab: gr.Tab
) -> None:
    """Wire the section. It loads when its own tab is opened; `tab` is the one it stands in."""
    taxes.bind(c.rates, app, c.tab)

    def look(q: str, status: str) -> str:
        with app.db.read() as session:
            found, following = register.listed(
                session, q=(q or "")[:200], status=status or None, limit=PAGE
            )
        if not found:
            return parts.empty("No invoice matches", "Try another number or state.")
        heads = ["Number", "Customer", "Date", "State", "Total>", ""]
        note = '<p class="hint">More than these match: search for one.</p>' if following else ""
        return parts.table(heads, [_row(one) for one in found], caption="Invoices") + note

    def find(invoice_id: str | None) -> Invoice:
        if not invoice_id:
            raise NoInvoiceChosen
        with app.db.read() as session:
            return register.get(session, invoice_id=invoice_id)

    def opened(invoice: Invoice, role: str) -> dict[Any, Any]:
        writes = may(role, "invoices.write")
        ends = writes and invoice.kind == "invoice" and invoice.status in {"open", "uncollectible"}
        return {
            c.about: _about(invoice, links=writes),
            c.panel: gr.update(visible=True),
            c.issue: gr.update(visible=writes and invoice.status == "draft"),
            c.ending: gr.update(visible=ends),
            c.sure: gr.update(visible=False),
            c.chosen: invoice.id,
            c.reason: "",
        }

    @guard(app, "invoices.read")
    async def admin_invoices_show(_admin: User, q: str, status: str) -> dict[Any, Any]:
        """The invoices that match."""
        return {c.table: await asyncio.to_thread(look, q, status)}

    @guard(app, "invoices.read")
    async def admin_invoices_choose(admin: User, event: gr.EventData) -> dict[Any, Any]:
        """Open the panel of the invoice whose button was pressed."""
        pressed = str((getattr(event, "_data", None) or {}).get("id", ""))[:64]
        return opened(await asyncio.to_thread(find, pressed), admin.role)

    @guard(app, "invoices.write")
    async def admin_invoices_issue(
        admin: User, invoice_id: str | None, q: str, status: str
    ) -> dict[Any, Any]:
        """Give a draft its number and a day on which it is due."""
        invoice = await asyncio.to_thread(find, invoice_id)
        done = await paperwork.open_draft(app, admin_id=_id(admin), invoice_id=invoice.id)
        gr.Info(f"{done.number} is open until {done.due_on}.", duration=4)
        return {**opened(done, admin.role), c.table: await asyncio.to_thread(look, q, status)}

    @guard(app, "invoices.write")
    async def admin_invoices_review(
        _admin: User, invoice_id: str | None, deed: str, reason: str
    ) -> dict[Any, Any]:
        """Say what would happen."""
        invoice = await asyncio.to_thread(find, invoice_id)
        cleaned = register.clean_reason(reason or "")
        return {
            c.summary: f"<p><b>{DEEDS.get(deed, '')}: {parts.esc(invoice.number)}</b>, "
            f"{Money(invoice.total_minor, invoice.currency)}<br>"
            f"Reason: {parts.esc(cleaned)}</p>",
            c.sure: gr.update(visible=True),
        }

    @guard(app, "invoices.write")
    async def admin_invoices_confirm(
        admin: User, invoice_id: str | None, deed: str, reason: str, q: str, status: str
    ) -> dict[Any, Any]:
        """Void it, or write it off."""
        invoice = await asyncio.to_thread(find, invoice_id)
        done = await paperwork.close_invoice(
            app,
            admin_id=_id(admin),
            invoice_id=invoice.id,
            to=deed if deed in DEEDS else "void",
            reason=reason or "",
        )
        gr.Info(f"{done.number} is {done.status} now.", duration=4)
        return {**opened(done, admin.role), c.table: await asyncio.to_thread(look, q, status)}

    @guard(app, "invoices.write")
    async def admin_invoices_link(admin: User, event: gr.EventData) -> dict[Any, Any]:
        """Another public link in place of the old one, or none."""
        data = getattr(event, "_data", None) or {}
        own, pressed = _id(admin), str(data.get("id", ""))[:64]
        path = ""
        if data.get("act") == "renew":
            path = await paperwork.new_link(app, actor_id=own, invoice_id=pressed)
        else:
            await paperwork.withdraw_link(app, actor_id=own, invoice_id=pressed)
        gr.Info("The old link opens nothing any more.", duration=4)
        invoice = await asyncio.to_thread(find, pressed)
        return {c.about: _about(invoice, links=True, path=path)}

    @guard(app, "invoices.read")
    async def admin_invoices_back(_admin: User) -> dict[Any, Any]:
        """Hide the confirmation."""
        return {c.sure: gr.update(visible=False)}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    filters = [c.search, c.status]
    panel = [c.about, c.panel, c.issue, c.ending, c.sure, c.chosen, c.reason]
    asked = [c.tab.select, c.search.change, c.status.change]
    gr.on(asked, admin_invoices_show, filters, [c.table], trigger_mode="always_last", **quiet)
    c.table.click(admin_invoices_choose, None, panel, **quiet).then(
        None, js=parts.reveal("admin-invoice"), api_visibility="private"
    )
    c.about.click(admin_invoices_link, None, [c.about], **quiet)
    c.issue.click(admin_invoices_issue, [c.chosen, *filters], [*panel, c.table], **quiet)
    c.review.click(
        admin_invoices_review, [c.chosen, c.deed, c.reason], [c.summary, c.sure], **quiet
    )
    c.confirm.click(
        admin_invoices_confirm,
        [c.chosen, c.deed, c.reason, *filters],
        [*panel, c.table],
        **quiet,
    )
    c.back.click(admin_invoices_back, None, [c.sure], **quiet)


def _row(invoice: Invoice) -> list[str]:
    return [
        f"<b>{parts.esc(invoice.number or 'Draft')}</b>",
        parts.esc(invoice.document["buyer"]["name"]),
        pdf.day(invoice.document["issued_on"]),
        state(invoice),
        _total(invoice),
        f'<button data-act="choose" data-id="{parts.esc(invoice.id)}" '
        f'aria-label="Manage {parts.esc(invoice.number or "draft")}">Manage</button>',
    ]


def _total(invoice: Invoice) -> str:
    shown = parts.esc(Money(invoice.total_minor, invoice.currency))
    return f'<span class="plus">−{shown}</span>' if invoice.kind == "credit_note" else shown


def _about(invoice: Invoice, *, links: bool, path: str = "") -> str:
    buyer = invoice.document["buyer"]
    facts = [
        f"{Money(invoice.total_minor, invoice.currency)}, of which "
        f"{Money(invoice.tax_minor, invoice.currency)} is tax",
        f"{buyer['name']}, {buyer['email']}",
        f"order {invoice.payment_id}",
    ]
    if invoice.due_on:
        facts.append(f"due {pdf.day(invoice.due_on)}")
    if invoice.credited_minor:
        facts.append(f"credited {Money(invoice.credited_minor, invoice.currency)}")
    if invoice.reason:
        facts.append(f"reason: {invoice.reason}")
    if invoice.shared:
        facts.append("has a public link")
    lines = "<br>".join(parts.esc(fact) for fact in facts)
    file = ""
    if invoice.number:
        id = parts.esc(invoice.id)
        file = f'<a href="/api/admin/invoices/{id}/pdf" download>PDF</a>'
        if links:
            file += f'<button data-act="renew" data-id="{id}">New public link</button>'
        if links and invoice.shared:
            file += f'<button data-act="withdraw" data-id="{id}">Withdraw the link</button>'
        file = f'<div class="actions files">{file}</div>'
    if path:
        file += (
            f'<p class="hint">Whoever has this link can see it: <a href="{parts.esc(path)}" '
            'target="_blank" rel="noopener">open and copy it</a></p>'
        )
    return f"<h3>{parts.esc(invoice.number or 'Draft')} {state(invoice)}</h3><p>{lines}</p>{file}"


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
