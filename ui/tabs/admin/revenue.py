"""Revenue: what recurs, what is earned and owed, costs, tax, and the months of the books.

A bar chooses the days; all below obeys it, and every figure opens the rows behind it.
"""

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.flows import revenue, revenue_rows
from chat_app.flows.revenue import NotWritten
from chat_app.revenue import spans
from chat_app.revenue.months import Month
from chat_app.revenue.spans import BadSpan, Span
from ui import parts
from ui.guard import guard
from ui.shell import Shell
from ui.tabs.admin import revenue_page as page
from ui.tabs.admin import revenue_rows as drawer

_RANGE = """
const read = (name) => element.querySelector(`[name=${name}]`)?.value || '';
let preset = 'month';
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-preset]');
  if (event.target.closest('[data-custom]')) {
    const days = element.querySelector('.days');
    days.hidden = !days.hidden;
    event.target.closest('[data-custom]').setAttribute('aria-expanded', String(!days.hidden));
  }
  if (button) {
    preset = button.dataset.preset;
    trigger('click', { preset, currency: read('currency') });
  }
  if (event.target.closest('[data-apply]')) {
    preset = '';
    trigger('click', { from: read('from'), to: read('to'), currency: read('currency') });
  }
});
element.addEventListener('change', (event) => {
  if (event.target.name === 'currency')
    trigger('click', { preset, from: read('from'), to: read('to'), currency: read('currency') });
});
"""
_CLICKS = """
element.addEventListener('click', (event) => {
  const figure = event.target.closest('[data-figure]');
  if (figure) trigger('click', { ...figure.dataset });
});
"""


@dataclass
class Revenue:
    """The components."""

    tab: gr.Tab
    range: gr.HTML
    page: gr.HTML
    rows: gr.HTML
    asked: gr.State
    next: gr.State
    ask: gr.Button
    confirm: gr.Row
    close: gr.Button
    closed: gr.HTML


def build() -> Revenue:
    """The layout, without any data."""
    with gr.Tab("Revenue", id="admin-revenue") as tab:
        span = gr.HTML(elem_id="admin-revenue-range", js_on_load=_RANGE)
        shown = gr.HTML(parts.loading(6), elem_id="admin-revenue-page", js_on_load=_CLICKS)
        rows = gr.HTML(elem_id="admin-revenue-rows", js_on_load=drawer.SCRIPT)
        with gr.Column(elem_classes="sheet"):
            gr.HTML(
                '<div class="sheet-head"><h2>Close a month</h2><span class="hint">Its figures are '
                "final then: what comes to light later counts for the day it is found</span></div>"
            )
            closed = gr.HTML(elem_id="admin-revenue-closed")
            ask = gr.Button("Close this month", elem_id="admin-revenue-ask", scale=0)
            with gr.Row(visible=False, elem_classes="filters") as confirm:
                gr.HTML("<p>A closed month cannot be opened again.</p>")
                close = gr.Button(
                    "Yes, close it for good", variant="stop", elem_id="admin-revenue-close", scale=0
                )
        asked, following = gr.State(None), gr.State(None)
    return Revenue(tab, span, shown, rows, asked, following, ask, confirm, close, closed)


def needs(c: Revenue) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "books.read", c.ask: "books.write"}


def bind(c: Revenue, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section: it loads when it is opened."""

    def show(asked: dict[str, Any]) -> dict[Any, Any]:
        preset, span = _span(asked, app.clock.now().date())
        currency = str(asked.get("currency") or "")
        view = page.look(app, span, currency if _is_currency(currency) else None)
        following = _closable(view.all_months, view.earned.closed, view.earned.written_to)
        return {
            c.range: page.bar(view, preset),
            c.page: page.whole(view),
            c.closed: page.closed(view.earned, following),
            c.asked: asked,
            c.next: following,
            c.ask: gr.update(visible=following is not None),
            c.confirm: gr.update(visible=False),
        }

    outputs = [c.range, c.page, c.closed, c.asked, c.next, c.ask, c.confirm]

    @guard(app, "books.read")
    async def revenue_show(_admin: User, asked: dict[str, Any] | None) -> dict[Any, Any]:
        """All of the section, for the days that were chosen before."""
        return await asyncio.to_thread(show, asked or {})

    @guard(app, "books.read")
    async def revenue_range(_admin: User, event: gr.EventData) -> dict[Any, Any]:
        """All of the section for other days, or in another currency."""
        return await asyncio.to_thread(show, dict(getattr(event, "_data", None) or {}))

    @guard(app, "books.read")
    async def revenue_rows_show(_admin: User, event: gr.EventData) -> dict[Any, Any]:
        """The rows behind a figure that was pressed."""
        pressed: dict[str, Any] = getattr(event, "_data", None) or {}
        what = drawer.asked(pressed)
        cursor = str(pressed.get("cursor", ""))[:32]
        found = await asyncio.to_thread(
            revenue_rows.find, app, what, limit=drawer.PAGE, cursor=cursor
        )
        return {c.rows: drawer.dialog(what, found, first=not cursor, now=app.clock.micros())}

    @guard(app, "books.write")
    async def revenue_ask(_admin: User) -> dict[Any, Any]:
        """The second step before a month is closed."""
        return {c.confirm: gr.update(visible=True)}

    @guard(app, "books.write")
    async def revenue_close(
        admin: User, following: str | None, asked: dict[str, Any] | None
    ) -> dict[Any, Any]:
        """Close a month for good."""
        if not following:
            raise NotWritten
        await asyncio.to_thread(revenue.close, app, period=following, actor=f"user:{admin.id}")
        return await asyncio.to_thread(show, asked or {})

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    c.tab.select(revenue_show, [c.asked], outputs, **quiet)
    c.range.click(revenue_range, None, outputs, trigger_mode="always_last", **quiet)
    asked = [c.page.click, c.rows.click]
    gr.on(asked, revenue_rows_show, None, [c.rows], trigger_mode="always_last", **quiet)
    c.ask.click(revenue_ask, None, [c.confirm], **quiet)
    c.close.click(revenue_close, [c.next, c.asked], outputs, **quiet)


def _is_currency(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isupper()


def _span(asked: dict[str, Any], today: date) -> tuple[str, Span]:
    """The preset that was chosen, empty for days of one's own, and its days."""
    preset = str(asked.get("preset") or "")
    if preset in spans.PRESETS:
        return preset, spans.preset(preset, today)
    first, last = str(asked.get("from") or ""), str(asked.get("to") or "")
    if not first and not last:
        return "month", spans.preset("month", today)
    try:
        return "", Span(date.fromisoformat(first), date.fromisoformat(last))
    except ValueError as error:
        raise BadSpan(param="from") from error


def _closable(rows: list[Month], closed: list[str], written_to: str | None) -> str | None:
    """The oldest month that is written to its end and not closed; only that one can be next."""
    if written_to is None:
        return None
    done = set(closed)
    for period in sorted({row.period for row in rows} - done):
        if spans.month(period).last <= date.fromisoformat(written_to):
            return period
        return None
    return None
