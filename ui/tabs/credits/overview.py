"""Overview: the balance, buying more, and every movement of the account."""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import rfc3339
from chat_app.credits import ledger, lots, packages, usage
from chat_app.credits.ledger import Balance, Transaction
from chat_app.credits.usage import Runout
from chat_app.flows import free, purchase
from chat_app.money import MICRO, Money, parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell
from ui.tabs.credits import origins

# The link stays for whoever comes back or does not move on by itself.
_GO = """() => {
  const link = document.querySelector('#credits-result a[data-go]');
  if (link) setTimeout(() => location.assign(link.href), 150);
}"""
PAGE = 25
CUSTOM = "custom"
HIDDEN = "hidden"
TYPES = [
    ("All movements", ""),
    ("Messages", "message"),
    ("Purchases", "purchase"),
    ("Plan credits", "plan"),
    ("Codes and gifts", "promo"),
    ("Bonuses", "bonus"),
    ("Welcome credits", "welcome"),
    ("Adjustments", "adjustment"),
    ("Refunds", "refund"),
    ("Taken back", "chargeback"),
    ("Debt paid", "repayment"),
    ("Debt forgiven", "forgiveness"),
    ("Returned", "reinstatement"),
    ("Expired", "expiry"),
]
_NAMES = {value: name.removesuffix("s") for name, value in TYPES if value} | {
    "welcome": "Welcome credits",
    "expiry": "Expired",
    "bonus": "Bonus",
    "plan": "Plan",
    "promo": "Gift",
}


@dataclass
class Overview:
    """The section's components."""

    cards: gr.HTML
    lots: gr.HTML
    head: gr.HTML
    package: gr.Radio
    amount: gr.Textbox
    keep: gr.Checkbox
    buy: gr.Button
    nonce: gr.Textbox
    origin: gr.Textbox
    result: gr.HTML
    type: gr.Dropdown
    period: gr.Dropdown
    moved: gr.HTML
    table: gr.HTML
    more: gr.Button
    cursor: gr.State
    rows: gr.State


def build() -> Overview:
    """The layout, without any data."""
    cards = gr.HTML(parts.loading(), elem_id="credits-cards")
    with gr.Column(elem_id="credits-shop", elem_classes="sheet"):
        head = gr.HTML(_head(""), elem_id="credits-shop-head")
        nonce, origin = gr.Textbox(visible=False), gr.Textbox(visible=False)
        package = gr.Radio(choices=[], label="Package", elem_id="credits-packages")
        with gr.Row(elem_id="credits-order"):
            amount = gr.Textbox(
                label="Custom amount of credits",
                elem_id="credits-amount",
                placeholder="100 to 1,000,000",
                visible=HIDDEN,
                max_lines=1,
            )
            keep = gr.Checkbox(
                label="Keep my card for plans and top-ups",
                elem_id="credits-keep",
                visible=HIDDEN,
                scale=0,
            )
            buy = gr.Button("Buy credits", variant="primary", elem_id="credits-buy", scale=0)
            result = gr.HTML(elem_id="credits-result")
    lots_part = gr.HTML(elem_id="credits-lots")
    with gr.Column(elem_classes="sheet"):
        moved = gr.HTML(_moved("", None), elem_id="credits-moved")
        with gr.Row(elem_classes="filters"):
            type = gr.Dropdown(TYPES, value="", label="Type", filterable=False, scale=0)
            period = gr.Dropdown(
                parts.PERIODS, value="30", label="Period", filterable=False, scale=0
            )
        table = gr.HTML(parts.loading(4), elem_id="credits-transactions")
        more = gr.Button("Show older", size="sm", visible=HIDDEN, elem_id="credits-more")
        cursor, rows = gr.State(None), gr.State([])
    return Overview(
        cards,
        lots_part,
        head,
        package,
        amount,
        keep,
        buy,
        nonce,
        origin,
        result,
        type,
        period,
        moved,
        table,
        more,
        cursor,
        rows,
    )


def bind(c: Overview, app: App, shell: Shell, tab: gr.Tab) -> None:
    """Wire the section to the tab that it stands in."""

    def look(user: User, kind: str, period: str, cursor: str | None) -> tuple[Any, ...]:
        now = app.clock.micros()
        with app.db.read() as session:
            rows, following = ledger.transactions(
                session,
                user_id=_id(user),
                type=kind or None,
                since=parts.since(period or "", now),
                limit=PAGE,
                cursor=cursor,
            )
            coming = free.next_grant(app, session, user=user, now=now)
            own = lots.list_open(session, user_id=_id(user), now=now)
            balance = ledger.balance(session, user_id=_id(user))
            end = usage.runout(session, user_id=_id(user), available=balance.available, now=now)
            return balance, end, own, coming, rows, following

    async def listed(
        user: User, kind: str, period: str, cursor: str | None = None, before: Any = ()
    ) -> dict[Any, Any]:
        balance, end, own, coming, rows, following = await asyncio.to_thread(
            look, user, kind, period, cursor
        )
        cells = [*before, *(_row(row) for row in rows)]
        return {
            c.cards: _cards(balance, end),
            c.lots: origins.sheet(own, coming, now=app.clock.micros()),
            c.moved: _moved(kind, parts.since(period or "", app.clock.micros())),
            c.table: _table(cells),
            c.rows: cells,
            c.cursor: following,
            c.more: gr.update(visible=True if following else HIDDEN),
            shell.pill: parts.pill(balance),
        }

    @guard(app, "user")
    async def show(user: User, kind: str, period: str) -> dict[Any, Any]:
        """The balance and the newest movements."""
        return await listed(user, kind, period)

    @guard(app, "user")
    async def open_tab(user: User, kind: str, period: str) -> dict[Any, Any]:
        """The same, with what is for sale."""
        with app.db.read() as session:
            offers = packages.list_packages(session)
        choices = [(_offer(offer), offer.code) for offer in offers]
        rules = app.settings.credits
        each = Money(rules.custom_cents_per_100)
        choices.append((f"Custom\nYour amount\n100 credits for {each}", CUSTOM))
        room = f"{rules.custom_min:,} to {rules.custom_max:,}"
        picked = offers[min(1, len(offers) - 1)].code if offers else CUSTOM
        return {
            **await listed(user, kind, period),
            c.head: _head(app.payments.name),
            c.package: gr.update(choices=choices, value=picked),
            c.amount: gr.update(visible=HIDDEN, placeholder=room),
            c.keep: gr.update(visible=True if app.payments.hosted else HIDDEN, value=False),
            c.result: "",
        }

    @guard(app, "user")
    async def older(
        user: User, kind: str, period: str, cursor: str | None, rows: list[Any]
    ) -> dict[Any, Any]:
        """The next page below the shown ones."""
        return await listed(user, kind, period, cursor, rows)

    @guard(app, "user")
    async def choose(_user: User, package: str | None) -> dict[Any, Any]:
        """Ask for an amount when it is a custom one."""
        return {c.amount: gr.update(visible=True if package == CUSTOM else HIDDEN)}

    @guard(app, "user")
    async def buy(
        user: User,
        package: str | None,
        amount: str,
        keep: bool,
        nonce: str,
        origin: str,
        kind: str,
        period: str,
    ) -> dict[Any, Any]:
        """Order, and pay: on the provider's page, or here with the offline one."""
        wanted: dict[str, Any] = {"package_code": package}
        if package in (None, CUSTOM):
            wanted = {"micro": parse_credits((amount or "").replace(",", "").strip())}
        order = await purchase.buy(
            app,
            user_id=_id(user),
            key=nonce[:64],
            base=parts.base(origin),
            keep=keep is True,
            **wanted,
        )
        if order.checkout_url:
            price = Money(order.amount_minor, order.currency)
            return {
                **await listed(user, kind, period),
                c.result: f'<a class="go" data-go href="{parts.esc(order.checkout_url)}">'
                f"Pay {parts.esc(price)} on the payment page</a>",
            }
        paid = await purchase.confirm(app, user_id=_id(user), payment_id=order.id)
        got = paid.credits + paid.bonus_credits
        return {
            **await listed(user, kind, period),
            c.result: parts.badge(f"{parts.amount(got)} added", "good")
            + f' <span class="hint">order {parts.esc(paid.id)}</span>',
        }

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    filters = [c.type, c.period]
    shown = [c.cards, c.lots, c.moved, c.table, c.rows, c.cursor, c.more, shell.pill]
    tab.select(open_tab, filters, [*shown, c.head, c.package, c.amount, c.keep, c.result], **quiet)
    asked = [c.type.change, c.period.change]
    gr.on(asked, show, filters, shown, trigger_mode="always_last", **quiet)
    c.more.click(older, [*filters, c.cursor, c.rows], shown, **quiet)
    c.package.change(choose, [c.package], [c.amount], **quiet)
    c.buy.click(
        buy,
        [c.package, c.amount, c.keep, c.nonce, c.origin, *filters],
        [*shown, c.result],
        js="(a, b, k, nonce, o, d, e) => [a, b, k, window.chatKey('buy'), location.origin, d, e]",
        **quiet,
    ).success(None, js=_GO, api_visibility="private").then(
        None, js="() => { window.chatDone('buy'); }", api_visibility="private"
    )


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _head(provider: str) -> str:
    """Who takes the money; empty before it is known."""
    shown = parts.seller(provider) if provider else ""
    return f'<div class="sheet-head"><h2>Buy credits</h2>{shown}</div>'


def _offer(offer: packages.Package) -> str:
    bonus = f" + {show_credits(offer.bonus_credits)} bonus" if offer.bonus_credits else ""
    got = offer.credits + offer.bonus_credits
    each = Money(round(offer.price.amount * 100 * MICRO / got), offer.price.currency)
    return (
        f"{offer.name}\n{show_credits(offer.credits)} credits{bonus}\n{offer.price}\n{each} for 100"
    )


def _cards(balance: Balance, end: Runout) -> str:
    items = [
        Card("Available", show_credits(balance.available), "ready to spend"),
        Card("Held", show_credits(balance.held), "set aside for running answers"),
        Card("Total", show_credits(balance.total), "available and held"),
        _lasting(end),
    ]
    if balance.debt:
        items.append(Card("Owed", show_credits(balance.debt), "taken from the next top-up"))
    return parts.cards(items)


def _lasting(end: Runout) -> Card:
    """When the credits are used up at the usual rate, as far as that is known."""
    if end.per_day is None:
        return Card("Runs out", "unknown", "known after three days of use")
    burn = show_credits(round(end.per_day, -4))
    if end.days is None:
        return Card("Runs out", "never", f"at {burn} credits a day")
    days = f"{end.days:,.0f}" if end.days >= 10 else f"{end.days:.1f}"
    return Card("Runs out", f"in {days} days", f"at {burn} credits a day")


def _row(row: Transaction) -> list[str]:
    what = row.description or row.model or ""
    return [
        parts.when(row.created_at),
        parts.badge(_NAMES.get(row.type, row.type.replace("_", " ").capitalize())),
        parts.esc(what),
        parts.signed(row.credits),
        show_credits(row.balance_after),
    ]


def _moved(kind: str, since: int | None) -> str:
    """The head of the list, with the same movements as a file."""
    wanted = {"type": kind, "from": rfc3339(since) if since is not None else ""}
    query = urlencode({name: value for name, value in wanted.items() if value})
    return (
        '<div class="sheet-head"><h2>Movements</h2>'
        f'<a class="file" href="/api/billing/transactions.csv?{parts.esc(query)}" download>'
        "Download CSV</a></div>"
    )


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return parts.empty("No movements here", "Choose another type or a longer period.")
    heads = ["When", "Type", "What", "Credits>", "Balance>"]
    return parts.table(heads, rows, caption="Movements of your credits")
