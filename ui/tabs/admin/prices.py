"""Models & prices: what is offered and for how much; a new price is looked at, then published."""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gradio as gr

from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.chat import feedback
from chat_app.chat.feedback import Tally
from chat_app.clock import from_micros, to_micros
from chat_app.credits import pricing
from chat_app.credits.pricing import Price, Tier
from chat_app.credits.reprice import Change
from chat_app.errors import Invalid
from chat_app.flows import prices
from chat_app.flows.prices import Draft, Preview
from chat_app.llm import catalogue
from chat_app.money import format_credits, parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell
from ui.tabs.chat.words import price_words
from ui.tabs.credits.calculator import tier_words

HIDDEN = "hidden"
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""
_TIER = re.compile(r"\s*([\d.,]+)\s+(messages|credits)\s*:\s*(.+)", re.IGNORECASE)


class NoModelChosen(Invalid):
    """A price without a model."""

    code = "no_model_chosen"
    message = "Choose a model in the table first."


class BadTierLine(Invalid):
    """A line of the tiers cannot be read."""

    code = "bad_tier_line"
    message = (
        "A tier is a line with a volume and its rates in the order of the fields. "
        "Write it like this: 1000 messages: 0.5, and the next on a line of its own."
    )


class BadStartText(Invalid):
    """A time that cannot be read."""

    code = "bad_start_text"
    message = (
        "This time cannot be read. Write it in UTC as 2026-01-31 12:00, or leave it empty for now."
    )


class NothingLookedAt(Invalid):
    """Published without a preview, or after the form was changed."""

    code = "nothing_looked_at"
    message = "Nothing was looked at yet. Press Preview first, then publish."


@dataclass
class Prices:
    """The components."""

    tab: gr.Tab
    table: gr.HTML
    panel: gr.Column
    chosen: gr.State
    about: gr.HTML
    message: gr.Textbox
    given: gr.Textbox
    made: gr.Textbox
    image: gr.Textbox
    tiers: gr.Textbox
    start: gr.Textbox
    look: gr.Button
    offer: gr.Button
    close: gr.Button
    sure: gr.Column
    preview: gr.HTML
    checked: gr.Checkbox
    publish: gr.Button
    draft: gr.State
    nonce: gr.Textbox


def build() -> Prices:
    """The layout, without any data."""
    with gr.Tab("Models & prices", id="admin-prices") as tab:
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Models and prices</h2></div>')
            table = gr.HTML(parts.loading(4), elem_id="admin-prices", js_on_load=_CLICKS)
        chosen, draft = gr.State(None), gr.State(None)
        with gr.Column(visible=False, elem_id="admin-price", elem_classes="sheet") as panel:
            about = gr.HTML(elem_id="admin-price-about")
            nonce = gr.Textbox(visible=False)
            with gr.Row(elem_classes="filters"):
                message = _field("Credits a message", "admin-price-message")
                given = _field("Per million tokens read", "admin-price-input")
                made = _field("Per million written", "admin-price-output")
                image = _field("Credits an image", "admin-price-image")
            with gr.Row(elem_classes="filters"):
                tiers = gr.Textbox(
                    label="Tiers by monthly volume, one a line",
                    placeholder="1000 messages: 0.5",
                    lines=2,
                    elem_id="admin-price-tiers",
                )
                start = gr.Textbox(
                    label="In force from (UTC)",
                    placeholder="now",
                    max_lines=1,
                    elem_id="admin-price-start",
                )
            with gr.Row(elem_classes="filters"):
                look = gr.Button("Preview", variant="primary", scale=0, elem_id="admin-price-look")
                offer = gr.Button("Take off the shelf", scale=0, elem_id="admin-price-offer")
                close = gr.Button("Close", scale=0)
            with gr.Column(visible=False, elem_id="admin-price-sure", elem_classes="inset") as sure:
                preview = gr.HTML(elem_id="admin-price-preview")
                checked = gr.Checkbox(
                    label="I have checked the unit: this change is meant",
                    visible=False,
                    elem_id="admin-price-checked",
                )
                publish = gr.Button(
                    "Publish this price", variant="primary", elem_id="admin-price-publish"
                )
    return Prices(
        tab, table, panel, chosen, about, message, given, made, image, tiers, start, look, offer,
        close, sure, preview, checked, publish, draft, nonce,
    )  # fmt: skip


def _field(label: str, id: str) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder="none", max_lines=1, elem_id=id)


def needs(c: Prices) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {c.tab: "prices.read", c.offer: "models.write"}


def bind(c: Prices, app: App, _shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section to its own tab."""

    def details(model: str) -> dict[Any, Any]:
        entry, now = prices.known(model), app.clock.micros()
        with app.db.read() as session:
            versions = pricing.versions(session, model)
            offered = pricing.offered(session, model)
        newest = versions[0] if versions else None
        return {
            c.panel: gr.update(visible=True),
            c.sure: gr.update(visible=False),
            c.draft: None,
            c.about: _about(entry, versions, now),
            c.offer: gr.update(value="Take off the shelf" if offered else "Offer again"),
            c.message: _text(newest.per_message if newest else None),
            c.given: _text(newest.input_per_million if newest else None),
            c.made: _text(newest.output_per_million if newest else None),
            c.image: _text(newest.per_image if newest else None),
            c.tiers: "" if newest is None else _tier_lines(newest),
            c.start: "",
        }

    @guard(app, "prices.read")
    async def prices_show(_admin: User) -> dict[Any, Any]:
        """Every model with its price."""
        return {c.table: await asyncio.to_thread(_table, app)}

    @guard(app, "prices.read")
    async def prices_choose(_admin: User, event: gr.EventData) -> dict[Any, Any]:
        """Open the form of the model whose button was pressed."""
        model = str((getattr(event, "_data", None) or {}).get("id", ""))
        if not model:
            raise NoModelChosen
        return {**await asyncio.to_thread(details, model), c.chosen: model}

    @guard(app, "prices.read")
    async def prices_look(
        _admin: User,
        model: str | None,
        message: str,
        given: str,
        made: str,
        image: str,
        tiers: str,
        start: str,
    ) -> dict[Any, Any]:
        """What the price in the form would do."""
        draft = _draft(model, message, given, made, image, tiers, start)
        seen = await asyncio.to_thread(prices.preview, app, draft)
        return {
            c.draft: draft,
            c.preview: _preview(seen, app.clock.micros()),
            c.checked: gr.update(visible=seen.needs_confirm, value=False),
            c.sure: gr.update(visible=True),
        }

    @guard(app, "prices.write")
    async def prices_publish(
        admin: User, draft: Draft | None, checked: bool, nonce: str
    ) -> dict[Any, Any]:
        """Publish what was looked at."""
        if not isinstance(draft, Draft):
            raise NothingLookedAt
        price = await prices.publish(
            app, draft, admin_id=admin.id, key=nonce[:64], confirm=checked is True
        )
        gr.Info(f"Version {price.version} is published.", duration=4)
        return {
            **await asyncio.to_thread(details, draft.model),
            c.table: await asyncio.to_thread(_table, app),
        }

    @guard(app, "models.write")
    async def prices_offer(admin: User, model: str | None) -> dict[Any, Any]:
        """Take the model off the shelf, or put it back."""
        if not model:
            raise NoModelChosen
        assert admin.id is not None
        with app.db.read() as session:
            offered = pricing.offered(session, model)
        await prices.offer(app, admin_id=admin.id, model=model, offered=not offered)
        return {
            **await asyncio.to_thread(details, model),
            c.table: await asyncio.to_thread(_table, app),
        }

    @guard(app, "prices.read")
    async def prices_close(_admin: User) -> dict[Any, Any]:
        """Hide the form."""
        return {c.panel: gr.update(visible=False), c.chosen: None, c.draft: None}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    fields = [c.message, c.given, c.made, c.image, c.tiers, c.start]
    panel = [c.panel, c.sure, c.draft, c.about, c.offer, *fields]
    c.tab.select(prices_show, None, [c.table], **quiet)
    c.table.click(prices_choose, None, [*panel, c.chosen], **quiet)
    c.look.click(prices_look, [c.chosen, *fields], [c.draft, c.preview, c.checked, c.sure], **quiet)
    c.publish.click(
        prices_publish,
        [c.draft, c.checked, c.nonce],
        [*panel, c.table],
        js="(draft, checked, nonce) => [draft, checked, window.chatKey('price')]",
        **quiet,
    ).then(None, js="() => { window.chatDone('price'); }", api_visibility="private")
    c.offer.click(prices_offer, [c.chosen], [*panel, c.table], **quiet)
    c.close.click(prices_close, None, [c.panel, c.chosen, c.draft], **quiet)


def _draft(
    model: str | None, message: str, given: str, made: str, image: str, tiers: str, start: str
) -> Draft:
    """The form as a price; raises what cannot be read."""
    if not model:
        raise NoModelChosen
    by_message, read, written = _micro(message), _micro(given), _micro(made)
    by_token = read is not None or written is not None
    kind = "per_message"
    if by_token:
        kind = "per_token" if by_message is None else "mixed"
    return Draft(
        model=model,
        kind=kind,
        per_message=by_message,
        input_per_million=read,
        output_per_million=written,
        per_image=_micro(image),
        tiers=tuple(
            _tier(line, kind, _micro(image)) for line in (tiers or "").splitlines() if line.strip()
        ),
        valid_from=_start(start),
    )


def _tier(line: str, kind: str, image: int | None) -> Tier:
    found = _TIER.fullmatch(line)
    if found is None:
        raise BadTierLine
    amount, unit, rest = found[1].replace(",", ""), found[2].lower(), found[3]
    names = {
        "per_message": ["per_message"],
        "per_token": ["input_per_million", "output_per_million"],
        "mixed": ["per_message", "input_per_million", "output_per_million"],
    }[kind]
    rates = [parse_credits(part) for part in re.split(r"[\s/;+]+", rest.strip())]
    if len(rates) != len(names) or (unit == "messages" and not amount.isdigit()):
        raise BadTierLine
    return Tier(
        unit=unit,
        from_amount=int(amount) if unit == "messages" else parse_credits(amount),
        per_image=image,
        **dict(zip(names, rates, strict=True)),
    )


def _tier_lines(price: Price) -> str:
    lines = []
    for tier in price.tiers:
        rates = (tier.per_message, tier.input_per_million, tier.output_per_million)
        amount = str(tier.from_amount)
        if tier.unit == "credits":
            amount = format_credits(tier.from_amount)
        words = " ".join(format_credits(rate) for rate in rates if rate is not None)
        lines.append(f"{amount} {tier.unit}: {words}")
    return "\n".join(lines)


def _start(text: str) -> int | None:
    cleaned = (text or "").strip().removesuffix("UTC").strip()
    if not cleaned:
        return None
    try:
        moment = datetime.fromisoformat(cleaned)
        return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise BadStartText from error


def _micro(text: object) -> int | None:
    cleaned = str(text or "").replace(",", "").strip()
    return parse_credits(cleaned) if cleaned else None


def _text(micro: int | None) -> str:
    return "" if micro is None else format_credits(micro)


def _table(app: App) -> str:
    now, rows = app.clock.micros(), []
    with app.db.read() as session:
        votes = {tally.model: tally for tally in feedback.tallies(session)}
        for entry in catalogue.offered():
            versions = pricing.versions(session, entry.id)
            current = _in_force(versions, now)
            coming = [price for price in versions if _state(price, versions, now) == "scheduled"]
            words = "no price: not for sale" if current is None else price_words(current)
            if current is not None and current.tiers:
                words += ", with tiers"
            later = "".join(
                f"<br><small>from {parts.when(price.valid_from)}: "
                f"{parts.esc(price_words(price))}</small>"
                for price in reversed(coming)
            )
            offered = pricing.offered(session, entry.id)
            rows.append(
                [
                    f"<div><b>{parts.esc(entry.name)}</b><br><code>{parts.esc(entry.id)}</code></div>",
                    parts.badge("offered", "good") if offered else parts.badge("off the shelf"),
                    f"<div>{parts.esc(words)}{later}</div>",
                    str(current.version) if current is not None else "–",
                    _votes(votes.get(entry.id)),
                    f'<button data-act="choose" data-id="{parts.esc(entry.id)}" '
                    f'aria-label="Change {parts.esc(entry.name)}">Change</button>',
                ]
            )
    heads = ["Model", "Shelf", "Price", "Version>", "Feedback", ""]
    return parts.table(heads, rows, caption="Models and prices")


def _votes(tally: Tally | None) -> str:
    """Thumbs, and the reason that is given most for those that point down."""
    if tally is None:
        return "–"
    share = round(100 * tally.up / (tally.up + tally.down))
    given = [(name, tally.reasons[code]) for code, name in feedback.REASONS["down"].items()]
    name, most = max(given, key=lambda reason: reason[1])
    why = f"<br><small>{parts.esc(name)}: {most:,}</small>" if most else ""
    return f"<div>{tally.up:,} up, {tally.down:,} down ({share} %){why}</div>"


def _in_force(versions: list[Price], now: int) -> Price | None:
    return next((price for price in versions if price.valid_from <= now), None)


def _state(price: Price, versions: list[Price], now: int) -> str:
    return prices.state_of(price, _in_force(versions, now), now)


def _about(entry: catalogue.Entry, versions: list[Price], now: int) -> str:
    head = f'<div class="sheet-head"><h2>{parts.esc(entry.name)}</h2></div>'
    kinds = {"current": "good", "scheduled": "warn", "past": ""}
    rows = []
    for price in versions[:5]:
        state = _state(price, versions, now)
        tiers = "".join(
            f"<br><small>from {parts.esc(tier_words(price, number)[0])}: "
            f"{parts.esc(tier_words(price, number)[1])}</small>"
            for number in range(1, len(price.tiers) + 1)
        )
        rows.append(
            [
                str(price.version),
                parts.badge(state, kinds[state]),
                f"<div>{parts.esc(price_words(price))}{tiers}</div>",
                parts.when(price.valid_from),
            ]
        )
    heads = ["Version", "State", "Price", "In force from"]
    return head + parts.table(heads, rows, caption="Versions of the price")


def _preview(seen: Preview, now: int) -> str:
    starts = "at once"
    if seen.price.valid_from > now:
        starts = f"from {from_micros(seen.price.valid_from):%d %b %Y, %H:%M} UTC"
    moved = "–"
    if seen.factor is not None:
        moved = "∞" if seen.factor == float("inf") else f"{seen.factor:,.2f} ×"
    diff = seen.total.after - seen.total.before
    items = [
        Card("Charged", show_credits(seen.total.before), f"{seen.total.messages:,} messages"),
        Card("With this price", show_credits(seen.total.after), _percent(seen.total)),
        Card("Difference", ("+" if diff > 0 else "") + show_credits(diff), "in 30 days"),
        Card("Moves by", moved, "its most moved part"),
    ]
    warning = ""
    if seen.needs_confirm:
        warning = (
            '<div class="verdict bad" role="alert"><b>More than 20 times up or down.</b> '
            "Is this a price for a million tokens, or for one?</div>"
        )
    words = f"<p><b>{parts.esc(seen.sentence)}</b> In force {parts.esc(starts)}.</p>"
    models = [_line(item.model, item.change) for item in seen.models if item.change.messages]
    people = [_line(item.username, item.change) for item in seen.users]
    heads = ["Messages>", "Charged>", "With this price>"]
    return (
        warning
        + words
        + parts.cards(items)
        + (parts.table(["Model", *heads], models, caption="By model") if models else "")
        + (parts.table(["Most moved", *heads], people, caption="By user") if people else "")
    )


def _line(name: str, change: Change) -> list[str]:
    return [
        parts.esc(name),
        f"{change.messages:,}",
        show_credits(change.before),
        show_credits(change.after),
    ]


def _percent(change: Change) -> str:
    if not change.before:
        return "nothing was charged before"
    return f"{(change.after - change.before) / change.before:+.1%}"
