"""The shelf: every model that is for sale, with its price and whether it can answer now."""

from dataclasses import dataclass

from sqlmodel import Session

from chat_app.app import App
from chat_app.credits import pricing
from chat_app.credits.pricing import Price
from chat_app.llm import catalogue


@dataclass(frozen=True)
class ModelView:
    """A model in the picker. `reason` says what to do when it is not available."""

    id: str
    name: str
    price: Price
    context_tokens: int
    state: str
    reason: str
    available: bool
    demo: bool
    sees_images: bool = False


def models(app: App, *, session: Session) -> list[ModelView]:
    """Every model that is for sale, with its price and whether it can answer now."""
    now = app.clock.micros()
    shown = []
    for entry in catalogue.offered():
        if not pricing.offered(session, entry.id):
            continue
        try:
            price = pricing.current(session, entry.id, now)
        except pricing.Unpriced:
            continue
        state = app.engine.state(entry.id)
        shown.append(
            ModelView(
                id=entry.id,
                name=entry.name,
                price=price,
                context_tokens=entry.context_tokens,
                state=state.state,
                reason=state.reason,
                available=state.usable,
                demo=entry.demo,
                sees_images=app.settings.chat.max_images > 0 and app.engine.sees(entry.id),
            )
        )
    return shown
