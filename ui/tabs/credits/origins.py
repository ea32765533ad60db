"""Origins: where somebody's credits come from, which go first, what ends and what comes next."""

from collections.abc import Sequence

from chat_app.credits.lots import LotView
from chat_app.flows.free import NextGrant
from chat_app.money import show_credits
from ui import parts

NAMES = {
    "paid": "Bought",
    "welcome": "Welcome credits",
    "bonus": "Bonus",
    "promo": "Code or gift",
    "plan": "Plan",
    "refund": "Refund",
    "transfer": "Transfer",
    "adjust": "Adjustment",
}
MOST = 12
SOON_DAYS = 14


def sheet(lots: Sequence[LotView], coming: NextGrant | None, *, now: int) -> str:
    """The lots in the order of use, folded away when there is nothing to know about them."""
    if not lots and coming is None:
        return ""
    rows = [
        [
            parts.badge(NAMES.get(lot.source, lot.source)),
            f"<b>{show_credits(lot.remaining)}</b> <small>of {show_credits(lot.granted)}</small>",
            _ending(lot, now),
            parts.when(lot.created_at),
        ]
        for lot in lots[:MOST]
    ]
    note = "Credits are used from the top to the bottom of this list."
    if len(lots) > MOST:
        note += f" {len(lots) - MOST} more follow."
    if coming is not None:
        name = "your plan" if coming.kind == "plan" else "a gift"
        note += (
            f" The next {show_credits(coming.micro)} come with {name} on {parts.when(coming.at)}."
        )
    table = parts.table(
        ["From", "Remaining>", "Ends", "Since"], rows, caption="Your credits by their origin"
    )
    return (
        '<div class="sheet"><div class="sheet-head"><h2>Where your credits are from</h2></div>'
        f'{table if rows else ""}<p class="hint">{note}</p></div>'
    )


def _ending(lot: LotView, now: int) -> str:
    """When a lot ends, with the part of its time that is left as a bar; soon in another colour."""
    if lot.expires_at is None:
        return "<small>no end</small>"
    whole, left = max(lot.expires_at - lot.created_at, 1), max(lot.expires_at - now, 0)
    soon = " soon" if left < SOON_DAYS * parts.DAY else ""
    days = left // parts.DAY
    words = f"{days} day{'' if days == 1 else 's'} left" if days else "ends today"
    return (
        f'<div class="lot{soon}">{parts.when(lot.expires_at)}'
        f'<i aria-hidden="true"><u style="width:{min(100 * left / whole, 100):.0f}%"></u></i>'
        f"<small>{words}</small></div>"
    )
