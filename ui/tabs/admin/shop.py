"""Packages & codes: what is on sale, the monthly plans, and codes that are given away."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.credits import codes, packages, plans
from chat_app.credits.codes import Code
from chat_app.credits.packages import BadPackage, Package
from chat_app.credits.plans import Plan
from chat_app.errors import Invalid
from chat_app.flows import free, shelves
from chat_app.money import Money, format_credits, parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.shell import Shell

_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""
# The codes go to a file without another request: nowhere else are they kept.
_SAVE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-save]');
  if (!button) return;
  const text = element.querySelector('textarea').value;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  link.download = 'codes.csv';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
"""
LISTED = 25


class BadNumber(Invalid):
    """A field of the form is not a number."""

    code = "invalid_number"
    message = "One of the fields is not a number. Write whole numbers, and prices such as 9.00."


@dataclass
class Shop:
    """The components."""

    tab: gr.Tab
    shelf: gr.HTML
    form: gr.Column
    kind: gr.State
    id: gr.Textbox
    name: gr.Textbox
    price: gr.Textbox
    credits: gr.Textbox
    bonus: gr.Textbox
    days: gr.Textbox
    active: gr.Checkbox
    save: gr.Button
    cancel: gr.Button
    worth: gr.Textbox
    count: gr.Textbox
    uses: gr.Textbox
    per_user: gr.Textbox
    ends: gr.Textbox
    nonce: gr.Textbox
    make: gr.Button
    made: gr.HTML
    listed: gr.HTML


def build() -> Shop:
    """The layout, without any data."""
    with gr.Tab("Packages & codes", id="admin-shop") as tab:
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Packages and plans</h2></div>')
            shelf = gr.HTML(parts.loading(4), elem_id="admin-shelf", js_on_load=_CLICKS)
            with gr.Column(visible=False, elem_id="admin-offer", elem_classes="inset") as form:
                kind = gr.State(None)
                with gr.Row(elem_classes="filters"):
                    id = _text("Id", "starter", "admin-offer-id")
                    name = _text("Name", "Starter", "admin-offer-name")
                    price = _text("Price, USD", "5.00", "admin-offer-price")
                    credits = _text("Credits", "500", "admin-offer-credits")
                    bonus = _text("Bonus credits", "0", "admin-offer-bonus")
                    days = _text("Valid for days", "no end", "admin-offer-days")
                    active = gr.Checkbox(True, label="On sale", elem_id="admin-offer-active")
                    save = gr.Button("Save", variant="primary", elem_id="admin-offer-save", scale=0)
                    cancel = gr.Button("Cancel", elem_id="admin-offer-cancel", scale=0)
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Redemption codes</h2></div>')
            nonce = gr.Textbox(visible=False)
            with gr.Row(elem_classes="filters", elem_id="admin-codes-new"):
                worth = _text("Credits each", "50", "admin-codes-credits")
                count = _text("How many", "1", "admin-codes-count", "1")
                uses = _text("Uses of each", "1", "admin-codes-uses", "1")
                per_user = _text("For one user", "1", "admin-codes-per-user", "1")
                ends = _text("Ends on (UTC)", "2027-12-31", "admin-codes-ends")
                make = gr.Button(
                    "Make codes", variant="primary", elem_id="admin-codes-make", scale=0
                )
            made = gr.HTML(elem_id="admin-codes-made", js_on_load=_SAVE)
            listed = gr.HTML(parts.loading(3), elem_id="admin-codes", js_on_load=_CLICKS)
    return Shop(
        tab, shelf, form, kind, id, name, price, credits, bonus, days, active, save, cancel,
        worth, count, uses, per_user, ends, nonce, make, made, listed,
    )  # fmt: skip


def needs(c: Shop) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "shelves.read"}


def bind(c: Shop, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section."""

    def look(sure: str = "") -> dict[Any, Any]:
        with app.db.read() as session:
            offers = packages.list_packages(session, all=True)
            monthly = plans.list_plans(session, all=True)
            found, more = codes.list_codes(session, limit=LISTED)
        return {
            c.shelf: _shelf(offers, monthly),
            c.listed: _codes(found, app.clock.micros(), sure, more=more is not None),
        }

    def form(kind: str, id: str) -> dict[Any, Any]:
        offer: Package | Plan | None = None
        with app.db.read() as session:
            if id and kind == "package":
                offer = packages.get(session, id, all=True)
            elif id:
                monthly = plans.list_plans(session, all=True)
                offer = next((plan for plan in monthly if plan.code == id), None)
                if offer is None:
                    raise plans.UnknownPlan(plan=id)
        return _filled(c, kind, offer)

    @guard(app, "shelves.read")
    async def shop_show(_admin: User) -> dict[Any, Any]:
        """What is on the shelves, and the newest codes."""
        return {
            **await asyncio.to_thread(look),
            c.form: gr.update(visible=False),
            c.made: "",
        }

    @guard(app, "shelves.read")
    async def shop_edit(_admin: User, event: gr.EventData) -> dict[Any, Any]:
        """Open the form, empty or with what the pressed button names."""
        pressed = getattr(event, "_data", None) or {}
        act, id = str(pressed.get("act", "")), str(pressed.get("id", ""))[:64]
        kind = "plan" if act.endswith("plan") else "package"
        return await asyncio.to_thread(form, kind, id if act.startswith("edit") else "")

    @guard(app, "shelves.read")
    async def shop_close(_admin: User) -> dict[Any, Any]:
        """Hide the form."""
        return {c.form: gr.update(visible=False)}

    @guard(app, "shelves.write")
    async def shop_save(admin: User, kind: tuple[str, bool] | None, *fields: Any) -> dict[Any, Any]:
        """Save what the form says."""
        if kind is None:
            raise BadPackage
        await _save(app, _id(admin), kind[0], new=kind[1], fields=fields)
        gr.Info("Saved.", duration=3)
        return {**await asyncio.to_thread(look), c.form: gr.update(visible=False)}

    @guard(app, "shelves.write")
    async def codes_make(
        admin: User, worth: str, count: str, uses: str, per_user: str, ends: str, nonce: str
    ) -> dict[Any, Any]:
        """Make codes and show them, this once."""
        made = await free.make_codes(
            app,
            actor=f"user:{_id(admin)}",
            micro=parse_credits(_plain(worth)),
            count=_number(count),
            uses=_number(uses),
            per_user=_number(per_user),
            expires_at=_day(ends),
            key=(nonce or "")[:64],
        )
        return {**await asyncio.to_thread(look), c.made: _made(made)}

    @guard(app, "shelves.write")
    async def codes_act(admin: User, event: gr.EventData) -> dict[Any, Any]:
        """Revoke a code, after asking."""
        pressed = getattr(event, "_data", None) or {}
        act, id = str(pressed.get("act", "")), str(pressed.get("id", ""))[:64]
        if act == "revoke":
            await free.revoke_codes(app, admin_id=_id(admin), id=id)
        return await asyncio.to_thread(look, id if act == "ask-revoke" else "")

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    fields = [c.id, c.name, c.price, c.credits, c.bonus, c.days, c.active]
    c.tab.select(shop_show, None, [c.shelf, c.listed, c.form, c.made], **quiet)
    c.shelf.click(shop_edit, None, [c.form, c.kind, *fields, c.save], **quiet)
    c.cancel.click(shop_close, None, [c.form], **quiet)
    c.save.click(shop_save, [c.kind, *fields], [c.shelf, c.listed, c.form], **quiet)
    c.make.click(
        codes_make,
        [c.worth, c.count, c.uses, c.per_user, c.ends, c.nonce],
        [c.shelf, c.listed, c.made],
        js="(a, b, c, d, e) => [a, b, c, d, e, window.chatKey('codes')]",
        **quiet,
    ).then(None, js="() => { window.chatDone('codes'); }", api_visibility="private")
    c.listed.click(codes_act, None, [c.shelf, c.listed], **quiet)


def _text(label: str, example: str, id: str, value: str = "") -> gr.Textbox:
    return gr.Textbox(value, label=label, placeholder=example, elem_id=id, max_lines=1)


def _filled(c: Shop, kind: str, offer: Package | Plan | None) -> dict[Any, Any]:
    """The form for an offer, or an empty one."""
    plan = kind == "plan"
    days = ""
    if isinstance(offer, Plan):
        days = "" if offer.keep_periods is None else str(offer.keep_periods)
    elif offer is not None:
        days = str(offer.valid_days or "")
    elif plan:
        days = "0"
    bonus = format_credits(offer.bonus_credits) if isinstance(offer, Package) else "0"
    return {
        c.form: gr.update(visible=True),
        c.kind: (kind, offer is None),
        c.id: gr.update(value=offer.code if offer else "", interactive=offer is None),
        c.name: offer.name if offer else "",
        c.price: _price(offer.price) if offer else "",
        c.credits: format_credits(offer.credits) if offer else "",
        c.bonus: gr.update(value=bonus, visible=not plan),
        c.days: gr.update(
            value=days, label="Credits kept for further months" if plan else "Valid for days"
        ),
        c.active: offer.active if offer else True,
        c.save: f"Save {kind}",
    }


async def _save(app: App, admin_id: int, kind: str, *, new: bool, fields: tuple[Any, ...]) -> None:
    id, name, price, credits, bonus, days, active = fields
    code = (id or "").strip()
    common: dict[str, Any] = {
        "name": name or "",
        "price": _cents(price or ""),
        "credits": parse_credits(_plain(credits)),
        "active": bool(active),
    }
    count = _number(days) if (days or "").strip() else None
    if kind == "plan":
        own = {**common, "keep_periods": count}
        if new:
            await shelves.add_plan(app, admin_id=admin_id, plan=Plan(code=code, **own))
        else:
            await shelves.change_plan(app, admin_id=admin_id, code=code, parts=own)
        return
    own = {**common, "bonus_credits": parse_credits(_plain(bonus) or "0"), "valid_days": count}
    if new:
        await shelves.add_package(app, admin_id=admin_id, package=Package(code=code, **own))
    else:
        await shelves.change_package(app, admin_id=admin_id, code=code, parts=own)


def _shelf(offers: list[Package], monthly: list[Plan]) -> str:
    rows = [
        [
            f"<b>{parts.esc(offer.name)}</b><br><code>{parts.esc(offer.code)}</code>",
            parts.esc(offer.price),
            show_credits(offer.credits)
            + (f" + {show_credits(offer.bonus_credits)}" if offer.bonus_credits else ""),
            f"{offer.valid_days} days" if offer.valid_days else "no end",
            _state(offer.active),
            _edit("package", offer.code, offer.name),
        ]
        for offer in offers
    ]
    rows += [
        [
            f"<b>{parts.esc(plan.name)}</b><br><code>{parts.esc(plan.code)}</code>",
            f"<div>{parts.esc(plan.price)}<br><small>a month</small></div>",
            show_credits(plan.credits),
            "no end"
            if plan.keep_periods is None
            else f"{plan.keep_periods + 1} months"
            if plan.keep_periods
            else "the month",
            _state(plan.active),
            _edit("plan", plan.code, plan.name),
        ]
        for plan in monthly
    ]
    heads = ["Offer", "Price>", "Credits>", "Good for", "State", ""]
    return (
        parts.table(heads, rows, caption="Packages and plans")
        + '<div class="actions"><button data-act="new-package">New package</button>'
        '<button data-act="new-plan">New plan</button></div>'
    )


def _state(active: bool) -> str:
    return parts.badge("on sale", "good") if active else parts.badge("withdrawn")


def _edit(kind: str, code: str, name: str) -> str:
    return (
        f'<button data-act="edit-{kind}" data-id="{parts.esc(code)}" '
        f'aria-label="Edit {parts.esc(name)}">Edit</button>'
    )


def _made(made: list[Code]) -> str:
    """The new codes as a table to copy or to save; `codes.csv` as the API writes it."""
    text = codes.table(made)
    total = show_credits(sum(code.credits * code.uses for code in made))
    return (
        f'<div class="inset"><p><b>{len(made)} made</b>, worth {total} credits in all. They are '
        "shown this once: save them now.</p>"
        f'<textarea class="codes" readonly aria-label="New codes" rows="{min(9, len(made) + 1)}">'
        f"{parts.esc(text)}</textarea>"
        '<div class="actions"><button data-save>Save as CSV</button></div></div>'
    )


def _codes(found: list[Code], now: int, sure: str, *, more: bool) -> str:
    if not found:
        return parts.empty("No codes yet", "Make some above and give them to people.")
    rows = []
    for code in found:
        over = code.expires_at is not None and code.expires_at <= now
        state = parts.badge("revoked", "bad") if code.revoked_at else parts.badge("ended")
        button = ""
        if not code.revoked_at and not over and code.used < code.uses:
            state = parts.badge("good for use", "good")
            button = f'<button data-act="ask-revoke" data-id="{code.id}">Revoke</button>'
            if sure == code.id:
                button = (
                    f'<button class="danger" data-act="revoke" data-id="{code.id}">Yes, revoke'
                    '</button> <button data-act="back">No</button>'
                )
        elif code.used >= code.uses and not code.revoked_at:
            state = parts.badge("used up")
        ends = "no end" if code.expires_at is None else parts.when(code.expires_at)
        rows.append(
            [
                f"<code>…{parts.esc(code.hint)}</code>",
                show_credits(code.credits),
                f"{code.used:,} of {code.uses:,}",
                ends,
                state,
                f"<div>{button}</div>",
            ]
        )
    note = f'<p class="hint">The newest {LISTED}; the API lists all.</p>' if more else ""
    heads = ["Code", "Credits>", "Used>", "Ends", "State", ""]
    return parts.table(heads, rows, caption="Redemption codes") + note


def _plain(text: str | None) -> str:
    return (text or "").replace(",", "").strip()


def _number(text: str | None) -> int:
    plain = _plain(text)
    if not (plain.isascii() and plain.isdigit() and len(plain) < 10):
        raise BadNumber
    return int(plain)


def _cents(text: str) -> Money:
    whole, _, part = _plain(text).removeprefix("$").partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) < 8 and len(part) <= 2):
        raise BadNumber
    if part and not (part.isascii() and part.isdigit()):
        raise BadNumber
    return Money(int(whole) * 100 + int(part.ljust(2, "0") or 0))


def _price(price: Money) -> str:
    return f"{price.amount // 100}.{price.amount % 100:02d}"


def _day(text: str | None) -> int | None:
    """The end of a day: midnight after it, UTC."""
    if not (text or "").strip():
        return None
    try:
        day = datetime.strptime((text or "").strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise BadNumber("Write the day as 2027-12-31, or leave it empty.") from error
    return to_micros(day + timedelta(days=1))


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
