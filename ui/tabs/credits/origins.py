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


def sheet(lots: Sequence[LotView], coming: NextGrant | None) -> str:
    """The lots in the order of use, folded away when there is nothing to know about them."""
    if not lots and coming is None:
        return ""
    rows = [
        [
            parts.badge(NAMES.get(lot.source, lot.source)),
            # On a phone a cell is a grid's item, so it has to be one element.
            f"<div><b>{show_credits(lot.remaining)}</b> "
            f"<small>of {show_credits(lot.granted)}</small></div>",
            parts.when(lot.expires_at) if lot.expires_at else "<small>no end</small>",
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
        ["From", "Left>", "Ends", "Since"], rows, caption="Your credits by their origin"
    )
    return (
        '<div class="sheet"><div class="sheet-head"><h2>Where your credits are from</h2></div>'
        f'{table if rows else ""}<p class="hint">{note}</p></div>'
    )
