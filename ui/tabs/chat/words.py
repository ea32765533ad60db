"""The words of the chat tab: prices, quotes, the meter of an answer and what it cost."""

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits import pricing
from chat_app.credits.pricing import Price, Tier
from chat_app.errors import AppError
from chat_app.flows import message, orgs, reply
from chat_app.flows.shelf import ModelView
from chat_app.money import show_credits
from ui import parts, stream
from ui.tabs.chat import read

OWN_CREDITS = ("Paid by me", "")
QUOTED_CHARACTERS = 20_000
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


def image_words(price: Price) -> str:
    """` + 5 an image`, or nothing."""
    return f" + {show_credits(price.per_image)} an image" if price.per_image else ""


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


async def quote(
    app: App,
    user: User,
    text: str,
    view: ModelView | None,
    conversation: str | None,
    *,
    images: int = 0,
    org_id: int | None = None,
    parent_id: str | None = None,
) -> str:
    if view is None:
        return "Ask an administrator to download a model."
    if not view.available:
        return "This model cannot answer now."
    if not (text or "").strip() and not images:
        return f"{parts.esc(view.name)}: {price_words(view.price)}{image_words(view.price)}"
    try:
        offer = await message.quote(
            app,
            user_id=read.user_id(user),
            text=text[:QUOTED_CHARACTERS] if view.price.kind == "per_message" else text,
            model=view.id,
            conversation_id=conversation,
            images=images,
            org_id=org_id,
            parent_id=parent_id,
        )
    except AppError as error:
        return f'<span class="bad">{parts.esc(error)}</span>'
    words = f"Likely {show_credits(offer.likely)}, at most {parts.amount(offer.maximum)}"
    if images and view.price.per_image:
        which = "the image" if images == 1 else f"{images} images"
        words += f", {show_credits(images * view.price.per_image)} of them for {which}"
    if offer.maximum > offer.available:
        whose = "You have" if org_id is None else "The organisation lets you spend"
        return f'<span class="bad">{words}. {whose} {show_credits(offer.available)}.</span>'
    return words


def both(views: list[ModelView | None], lines: list[str]) -> str:
    """Two quotes, each after its model."""
    named = zip(views, lines, strict=True)
    return "<br>".join(
        f"{parts.esc(view.name) if view else 'No model'}: "
        f"{line.removeprefix(parts.esc(view.name) + ': ') if view else line}"
        for view, line in named
    )


def column(snapshot: stream.Snapshot, model: str, price: Price | None) -> stream.Column:
    """One of several answers that are being written side by side."""
    name = f"<b>{parts.esc(model)}</b>"
    if snapshot.end is not None:
        view = snapshot.end
        foot = stream.foot(
            view.charged, model, view.finish_reason, view.error_message, receipt=view.receipt_id
        )
        return stream.Column(name, view.content or stream.failed(view.error_message), foot)
    so_far = parts.esc(_so_far(snapshot, price))
    return stream.Column(name, snapshot.text or "…", f'<div class="foot">{so_far}</div>')


def meter(snapshot: stream.Snapshot, price: Price | None) -> str:
    return line(_so_far(snapshot, price), busy=True)


def _so_far(snapshot: stream.Snapshot, price: Price | None) -> str:
    if not snapshot.tokens:
        return snapshot.status or "Waiting for the first word…"
    so_far = ""
    if price is not None:
        spent = pricing.cost(price, prompt_tokens=0, completion_tokens=snapshot.tokens)
        so_far = f" · {parts.amount(spent)} so far"
    return f"{snapshot.tokens} tokens{so_far}"


def cost(view: reply.ReplyView) -> str:
    charged = f"Charged {parts.amount(view.charged)}" if view.charged else "Nothing charged"
    cached = " for a cached answer" if view.cached else ""
    left = f"{show_credits(view.balance.available)} left"
    if view.org_id is not None:
        left = "paid by the organisation"
    return line(f"{charged}{cached}, {left}")


def costs(views: list[reply.ReplyView]) -> str:
    """What answers cost together."""
    if len(views) == 1:
        return cost(views[0])
    charged = parts.amount(sum(view.charged for view in views))
    left = f"{show_credits(min(view.balance.available for view in views))} left"
    return line(f"Charged {charged} for {len(views)} answers, {left}. Choose one to go on with.")


def banner(*, temporary: bool) -> str:
    """Says what a temporary chat is; nothing for others."""
    if not temporary:
        return ""
    return (
        f"<p>{parts.badge('Temporary chat', 'warn')} In no list, search or export. Its texts are "
        "deleted when you close it, at the latest after 24 hours. Charges and receipts stay.</p>"
    )


def line(words: str, *, busy: bool = False) -> str:
    return f'<span role="status"{BUSY if busy else ""}>{parts.esc(words)}</span>'
