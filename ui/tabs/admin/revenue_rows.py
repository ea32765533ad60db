"""Revenue: the drawer with the rows behind a figure, paged, with the ways to who and what."""

from datetime import date
from typing import Any, get_args
from urllib.parse import urlencode

from chat_app.flows.revenue_rows import Behind, Figure, Found, Row
from chat_app.revenue.spans import BadSpan, Span
from ui import parts

PAGE = 25
REST = "/api/admin/revenue/rows"
TITLES: dict[str, str] = {
    "earned": "Earned", "billed": "Billed", "usage": "Earned by use", "subscription": "Plans",
    "breakage": "Breakage", "adjustment": "Corrections", "refunded": "Given back",
    "closing": "Deferred revenue", "cost": "Running costs", "mrr": "MRR", "moved": "MRR that moved",
    "new": "New MRR", "reactivation": "MRR that came back", "expansion": "MRR that grew",
    "contraction": "MRR that shrank", "churned": "MRR that left", "cohort": "Cohort",
    "open": "Open invoices", "tax": "Tax", "model": "Model", "channel": "Channel",
    "organisation": "Organisation", "plan": "Product", "country": "Country",
}  # fmt: skip
SCRIPT = """
const root = document.getElementById('admin-sections');
const section = (name) => {
  const bar = root.querySelector(':scope > .tab-wrapper');
  const find = (where) =>
    [...bar.querySelectorAll(where)].find((one) => one.textContent.trim() === name);
  const button = find('.tab-container[role=tablist] button');
  if (button) { button.click(); return; }
  bar.querySelector('.overflow-menu > button')?.click();
  setTimeout(() => find('.overflow-dropdown button')?.click(), 60);
};
const lead = (name, search, text, row) => {
  section(name);
  let tries = 60, typed = false;
  const step = () => {
    const box = document.querySelector(`${search} input, ${search} textarea`);
    if (box && box.offsetParent && !typed) {
      typed = true;
      Object.getOwnPropertyDescriptor(Object.getPrototypeOf(box), 'value').set.call(box, text);
      box.dispatchEvent(new Event('input', { bubbles: true }));
    }
    const found = typed && document.querySelector(row);
    if (found) { found.click(); found.scrollIntoView({ block: 'center' }); return; }
    if (tries--) setTimeout(step, 100);
  };
  setTimeout(step, 120);
};
const open = () => {
  const made = element.querySelector('dialog:not([data-seen])');
  if (!made) return;
  made.dataset.seen = '1';
  made.showModal();
};
// The page changes what it can of the dialog before, so another one may be but another data-now.
const parts = { childList: true, subtree: true, attributeFilter: ['data-now'] };
new MutationObserver(open).observe(element, parts);
element.addEventListener('click', (event) => {
  const dialog = element.querySelector('dialog');
  const near = (what) => event.target.closest(what);
  if (event.target === dialog || near('[data-close]')) { dialog.close(); return; }
  const page = near('[data-cursor]'), person = near('[data-person]'), order = near('[data-order]');
  if (page) trigger('click', { ...dialog.dataset, cursor: page.dataset.cursor });
  const go = (name, search, text, row) => {
    dialog.close();
    lead(name, search, text, row);
  };
  if (person) {
    const row = `#admin-users button[data-id="${person.dataset.person}"]`;
    go('Overview', '#admin-search', person.textContent, row);
  }
  if (order) {
    const id = order.dataset.order, row = `#admin-payments-table button[data-id="${id}"]`;
    go('Payments', '#admin-payments-search', id, row);
  }
});
"""


def way(figure: str, span: Span, currency: str, part: str = "") -> str:
    """The attributes that lead from a figure to the rows behind it."""
    given = {"figure": figure, "from": span.first, "to": span.last, "currency": currency}
    given |= {"part": part} if part else {}
    return "".join(f' data-{name}="{parts.esc(value)}"' for name, value in given.items())


def asked(pressed: dict[str, Any]) -> Behind:
    """What the page asks for; raises BadSpan when it is no figure of a span."""
    figure, currency = str(pressed.get("figure", "")), str(pressed.get("currency", ""))
    if figure not in get_args(Figure) or len(currency) != 3:
        raise BadSpan(param="figure")
    try:
        first, last = (date.fromisoformat(str(pressed.get(name, ""))) for name in ("from", "to"))
    except ValueError as error:
        raise BadSpan(param="from") from error
    return Behind(figure, Span(first, last), currency, str(pressed.get("part", "")))  # type: ignore[arg-type]


def dialog(what: Behind, found: Found, *, first: bool, now: int) -> str:
    """The drawer; `now` makes it another one each time it is asked for."""
    query = urlencode(
        {
            "figure": what.figure,
            "part": what.part,
            "from": what.span.first,
            "to": what.span.last,
            "currency": what.currency,
            "format": "csv",
        }
    )
    name = TITLES[what.figure] + (f": {_part(what)}" if what.part else "")
    table = parts.table(
        ["Days", "Customer", "From", "Amount>"],
        [(_days(row), _who(row), _from(row), money(row.minor)) for row in found.items],
        caption="Rows",
    )
    some = f"{found.count:,} row{'' if found.count == 1 else 's'}"
    foot = "" if first else '<button type="button" data-cursor="">First rows</button>'
    if found.next_cursor:
        foot += f'<button type="button" data-cursor="{parts.esc(found.next_cursor)}">More rows'
        foot += "</button>"
    return (
        f'<dialog class="drawer" aria-label="{parts.esc(name)}" data-now="{now}"'
        f"{way(what.figure, what.span, what.currency, what.part)}>"
        f'<div class="drawer-head"><div><h2>{parts.esc(name)}</h2><p class="hint">'
        f"{what.span.first:%d %b %Y} – {what.span.last:%d %b %Y} · {some}</p></div>"
        f'<b class="sum">{money(found.total_minor)} <small>{parts.esc(what.currency)}</small></b>'
        '<button type="button" data-close aria-label="Close">×</button></div>'
        + (table if found.items else parts.empty("No rows", "Nothing stands behind this figure."))
        + f'<div class="drawer-foot">{foot}<a class="file" href="{REST}?{parts.esc(query)}" '
        "download>Download CSV</a></div></dialog>"
    )


def money(minor: float | None, currency: str = "") -> str:
    """Minor units as people write them, with a true minus."""
    if minor is None:
        return "–"
    sign = "−" if minor < 0 else ""
    return f"{sign}{abs(minor) / 100:,.2f} {currency}".strip()


def _part(what: Behind) -> str:
    if what.figure == "cohort":
        cohort, _, age = what.part.partition("+")
        return f"began in {cohort}, {age} months later" if age != "0" else f"began in {cohort}"
    if what.figure == "earned":
        return f"of what was bought in {what.part}"
    if what.figure == "open":
        return what.part if what.part == "current" else f"{what.part} days late"
    if what.figure == "tax":
        place, category, treatment, rate = [*what.part.split("|"), "", "", ""][:4]
        share = f"{int(rate) / 100:g} %" if rate.isdigit() else ""
        return " ".join(word for word in (place, category, treatment, share) if word)
    return what.part


def _days(row: Row) -> str:
    if row.first_day == row.last_day:
        return f'<span class="nowrap">{parts.esc(row.first_day)}</span>'
    return (
        f'<span class="nowrap">{parts.esc(row.first_day)}</span> '
        f'<span class="nowrap">– {parts.esc(row.last_day)}</span>'
    )


def _who(row: Row) -> str:
    if row.user_id is None:
        return "–"
    name = parts.esc(row.username or f"user {row.user_id}")
    return f'<button type="button" class="link" data-person="{row.user_id}">{name}</button>'


def _from(row: Row) -> str:
    said = [parts.esc(row.invoice)] if row.invoice else []
    if row.note:
        said.append(f"<small>{parts.esc(row.note)}</small>")
    if row.payment_id:
        said.append(
            f'<button type="button" class="link" data-order="{parts.esc(row.payment_id)}">'
            "Order</button>"
        )
    return " · ".join(said) or "–"
