"""The words of the chat tab: prices, quotes, the meter of an answer and what it cost."""

from collections.abc import Sequence

from chat_app.accounts import permissions
from chat_app.app import App
from chat_app.credits import pricing
from chat_app.credits.pricing import Price, Tier
from chat_app.flows import orgs, reply
from chat_app.flows.shelf import ModelView
from chat_app.money import show_credits
from ui import parts, stream

OWN_CREDITS = ("Paid by me", "")
BUSY = ' class="busy"'
_STATES = {
    "ready": "",
    "available": "",
    "loading": " · loading",
    "not_downloaded": " · not downloaded",
    "broken": " · broken",
}


def payers(pools: list[orgs.OrgView]) -> list[tuple[str, str]]:
    """What the picker of payers offers."""
    return [OWN_CREDITS, *((f"Paid by {pool.name}", str(pool.id)) for pool in pools)]


def sees(app: App, view: ModelView | None) -> str:
    """Says to the page that images may be attached, and how many."""
    if view is None or not view.sees_images:
        return ""
    return f'<span data-images="{app.settings.chat.max_images}"></span>'


def price_words(price: Price | Tier) -> str:
    """`10 credits a message`, `2 / 6 credits per million tokens`."""
    words = []
    if price.per_message is not None:
        words.append(f"{parts.amount(price.per_message)} a message")
    if price.input_per_million is not None or price.output_per_million is not None:
        given, made = price.input_per_million or 0, price.output_per_million or 0
        words.append(f"{show_credits(given)} in, {show_credits(made)} out per million tokens")
    if price.per_image:
        words.append(f"{parts.amount(price.per_image)} an image")
    return " + ".join(words) or "free"


def label(view: ModelView) -> str:
    state = _STATES.get(view.state, "")
    return f"{view.name} · {price_words(view.price)}{state}"


def note(view: ModelView | None) -> str:
    if view is None:
        return parts.badge("No model can answer yet", "warn")
    if not view.available:
        return f"{parts.badge(view.state.replace('_', ' '), 'warn')} {parts.esc(view.reason)}"
    if view.demo:
        return parts.badge("Demo model", "warn") + " small and quick, often wrong"
    return ""


def offer(app: App, view: ModelView | None, org_id: int | None, role: str = "user") -> str:
    """What the model costs, with what the page's script has to know to say more."""
    if view is None and permissions.may(role, "machine.write"):
        return 'No model is here yet: <a href="/#setup">set this installation up</a>.'
    if view is None:
        return "Ask an administrator to download a model."
    if not view.available:
        return "This model cannot answer now."
    payer = "" if org_id is None else f' data-payer="org:{org_id}"'
    price = f"{parts.esc(view.name)}: {price_words(view.price)}"
    return f'<span data-model="{parts.esc(view.id)}"{payer}>{price}</span>{sees(app, view)}'


def column(snapshot: stream.Snapshot, model: str) -> stream.Column:
    """One of several answers that are being written side by side."""
    if snapshot.end is not None:
        return stream.column_of(snapshot.end)
    name = f"<b>{parts.esc(model)}</b>"
    so_far = f"{snapshot.tokens} tokens" if snapshot.tokens else _waiting(snapshot)
    return stream.Column(name, snapshot.text or "…", f'<div class="foot">{parts.esc(so_far)}</div>')


def prompts(app: App, reply_ids: Sequence[str]) -> list[int]:
    """Tokens of the prompts of answers that are being written, as far as they are known."""
    return [reply.prompt_tokens(app, id) for id in reply_ids]


def meter(
    shots: Sequence[stream.Snapshot], prices: Sequence[Price | None], prompts: Sequence[int]
) -> str:
    """Answers so far, and what they cost together. Short, since it is sent with each update."""
    tokens = sum(shot.tokens for shot in shots)
    if not tokens:
        return line(_waiting(shots[0]), busy=True)
    spent = sum(
        pricing.cost(price, prompt_tokens=prompt, completion_tokens=shot.tokens)
        for shot, price, prompt in zip(shots, prices, prompts, strict=True)
        if price is not None and shot.tokens
    )
    so_far = f", <b>{show_credits(spent)}</b> credits" if None not in prices else ""
    return f"<span{BUSY}>{tokens} tokens{so_far}</span>"


def _waiting(snapshot: stream.Snapshot) -> str:
    return snapshot.status or "Waiting for the first word…"


def cost(view: reply.ReplyView) -> str:
    charged = f"Charged {parts.amount(view.charged)}" if view.charged else "Nothing charged"
    cached = " for a cached answer" if view.cached else ""
    left = f"{show_credits(view.balance.available)} left"
    if view.org_id is not None:
        left = "paid by the organisation"
    return line(f"{charged}{cached}, {left}", conversation=view.conversation_id)


def costs(views: list[reply.ReplyView]) -> str:
    """What answers cost together."""
    if len(views) == 1:
        return cost(views[0])
    charged = parts.amount(sum(view.charged for view in views))
    left = f"{show_credits(min(view.balance.available for view in views))} left"
    words = f"Charged {charged} for {len(views)} answers, {left}. Choose one to go on with."
    return line(words, conversation=views[0].conversation_id)


def banner(*, temporary: bool) -> str:
    """Says what a temporary chat is; nothing for others."""
    if not temporary:
        return ""
    return (
        f"<p>{parts.badge('Temporary chat', 'warn')} In no list, search or export. Its texts are "
        "deleted when you close it, at the latest after 24 hours. Charges and receipts stay.</p>"
    )


def line(words: str, *, busy: bool = False, conversation: str = "") -> str:
    """A line beside the button. `conversation` tells the page's script which one is open.

    It is no status for screen readers: help.js says begin and end once.
    """
    known = f' data-c="{parts.esc(conversation)}"' if conversation else ""
    return f"<span{BUSY if busy else ''}{known}>{parts.esc(words)}</span>"
