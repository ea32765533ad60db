"""Tax rates: what the next invoice takes, kept with their days by whoever writes invoices."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission, may
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import from_micros
from chat_app.credits.invoices import pdf, sellers
from chat_app.credits.invoices.rates import BadTaxRate, TaxRate
from chat_app.credits.invoices.tax import show_rate
from chat_app.flows import taxes
from ui import parts
from ui.guard import guard

_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""


@dataclass
class Taxes:
    """The components."""

    country: gr.Textbox
    percent: gr.Textbox
    first: gr.Textbox
    last: gr.Textbox
    source: gr.Textbox
    add: gr.Button
    table: gr.HTML


def build() -> Taxes:
    """The layout, without any data."""
    with gr.Column(elem_classes="sheet"):
        gr.HTML(
            '<div class="sheet-head"><h2>Tax rates</h2></div>'
            '<p class="hint">The next invoice takes the rate of its day; what was issued stays as '
            "it is. The built-in list is a help, not advice: confirm it for your business.</p>"
        )
        with gr.Row(elem_classes="filters tight"):
            country = gr.Textbox(
                label="Country",
                placeholder="EE: shows its rates",
                elem_id="admin-tax-country",
                max_lines=1,
            )
            percent = gr.Textbox(
                label="Rate in %",
                placeholder="25.5",
                elem_id="admin-tax-percent",
                max_lines=1,
            )
            first = gr.Textbox(
                label="From",
                placeholder="2027-01-01",
                elem_id="admin-tax-first",
                max_lines=1,
            )
            last = gr.Textbox(
                label="Last day",
                placeholder="empty: no end",
                elem_id="admin-tax-last",
                max_lines=1,
            )
            source = gr.Textbox(
                label="Source",
                placeholder="Law or notice",
                elem_id="admin-tax-source",
                max_lines=1,
            )
            add = gr.Button("Add rate", elem_id="admin-tax-add", scale=0)
        table = gr.HTML(parts.loading(2), elem_id="admin-tax-table", js_on_load=_CLICKS)
    return Taxes(country, percent, first, last, source, add, table)


def needs(c: Taxes) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    parts_of = (c.percent, c.first, c.last, c.source, c.add)
    return dict.fromkeys(parts_of, "invoices.write")


def bind(c: Taxes, app: App, tab: gr.Tab) -> None:
    """Wire the section. It loads when `tab`, in which it stands, is opened."""

    def look(country: str, role: str) -> str:
        place = (country or "").strip().upper()[:2]
        found = taxes.table(app, jurisdiction=place)
        with app.db.read() as session:
            home = sellers.newest(session).country
        today = from_micros(app.clock.micros()).date().isoformat()
        shown = [
            one
            for one in found
            if place or not one.built_in or one.first > today
            or (one.jurisdiction == home and one.covers(today))
        ]  # fmt: skip
        note = ""
        if not place:
            places = len({one.jurisdiction for one in found})
            note = (
                f'<p class="hint">Your own and planned rates, and those of your country. '
                f"{places} countries in all: enter one to see its rates.</p>"
            )
        if not shown:
            name = f"No rate of {place}" if place else "No rates of your own"
            return parts.empty(name, "Add one, and the invoices of its days take it.") + note
        heads = ["Country", "Rate>", "From", "Last day", "State", "Source", ""]
        rows = [_row(one, today, may(role, "invoices.write")) for one in shown]
        return parts.table(heads, rows, caption="Tax rates") + note

    @guard(app, "invoices.read")
    async def tax_rates_show(admin: User, country: str) -> dict[Any, Any]:
        """The rates of a country, or those that matter here."""
        return {c.table: await asyncio.to_thread(look, country, admin.role)}

    @guard(app, "invoices.write")
    async def tax_rates_add(
        admin: User, country: str, percent: str, first: str, last: str, source: str
    ) -> dict[Any, Any]:
        """Add a rate from its first day on."""
        added = await taxes.add(
            app,
            admin_id=admin.id or 0,
            jurisdiction=(country or "")[:2],
            rate_bp=rate_of(percent or ""),
            first=(first or "").strip()[:10],
            last=(last or "").strip()[:10] or None,
            source=(source or "")[:200],
        )
        gr.Info(
            f"{added.jurisdiction}: {show_rate(added.rate_bp)} from {pdf.day(added.first)}.",
            duration=4,
        )
        return {
            c.table: await asyncio.to_thread(look, added.jurisdiction, admin.role),
            c.percent: "",
            c.first: "",
            c.last: "",
            c.source: "",
        }

    @guard(app, "invoices.write")
    async def tax_rates_remove(admin: User, country: str, event: gr.EventData) -> dict[Any, Any]:
        """Take the planned rate back whose button was pressed."""
        pressed = str((getattr(event, "_data", None) or {}).get("id", ""))[:64]
        await taxes.remove(app, admin_id=admin.id or 0, rate_id=pressed)
        gr.Info("Removed. The rate before it goes on.", duration=4)
        return {c.table: await asyncio.to_thread(look, country, admin.role)}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    asked = [tab.select, c.country.change]
    gr.on(asked, tax_rates_show, [c.country], [c.table], trigger_mode="always_last", **quiet)
    form = [c.percent, c.first, c.last, c.source]
    c.add.click(tax_rates_add, [c.country, *form], [c.table, *form], **quiet)
    c.table.click(tax_rates_remove, [c.country], [c.table], **quiet)


def rate_of(text: str) -> int:
    """Hundredths of a percent of a text such as `25.5`; raises BadTaxRate."""
    whole, _, rest = text.strip().removesuffix("%").strip().partition(".")
    if not (f"{whole}{rest}".isascii() and whole.isdigit() and len(whole) < 4 and len(rest) <= 2):
        raise BadTaxRate
    if rest and not rest.isdigit():
        raise BadTaxRate
    return int(whole) * 100 + int(rest.ljust(2, "0") or "0")


def _row(rate: TaxRate, today: str, writes: bool) -> list[str]:
    planned = rate.first > today
    state = parts.badge("over")
    if planned:
        state = parts.badge("planned", "warn")
    elif rate.covers(today):
        state = parts.badge("in force", "good")
    remove = (
        f'<button data-act="remove" data-id="{rate.id}" aria-label="Remove the rate of '
        f'{parts.esc(rate.jurisdiction)} from {parts.esc(rate.first)}">Remove</button>'
    )
    return [
        f"<b>{parts.esc(rate.jurisdiction)}</b>",
        parts.esc(show_rate(rate.rate_bp)),
        pdf.day(rate.first),
        pdf.day(rate.last) if rate.last else "no end",
        state,
        "built-in list" if rate.built_in else parts.esc(rate.source),
        remove if planned and writes else "",
    ]
