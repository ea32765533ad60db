"""Tax rates as the operator keeps them: added with their first day, taken back before it."""

from chat_app.app import App
from chat_app.credits.invoices import rates
from chat_app.credits.invoices.rates import TaxRate


def table(app: App, *, jurisdiction: str = "") -> list[TaxRate]:
    """All rates, or one country's: by country, the newest first."""
    with app.db.read() as session:
        return rates.listed(session, jurisdiction=jurisdiction.strip().upper())


async def add(
    app: App,
    *,
    admin_id: int,
    jurisdiction: str,
    rate_bp: int,
    first: str,
    last: str | None,
    source: str,
) -> TaxRate:
    """Add a rate; raises BadTaxRate, TaxRateOverlap or TaxRateTooEarly."""
    return await app.db.awrite(
        lambda session: rates.add(
            session,
            jurisdiction=jurisdiction.strip().upper(),
            rate_bp=rate_bp,
            first=first,
            last=last,
            source=source or "entered by the operator",
            actor=f"user:{admin_id}",
            now=app.clock.micros(),
        )
    )


async def remove(app: App, *, admin_id: int, rate_id: str) -> None:
    """Take a planned rate back; raises UnknownTaxRate or TaxRateBegun."""
    if not (rate_id.isascii() and rate_id.isdigit() and len(rate_id) < 19):
        raise rates.UnknownTaxRate
    await app.db.awrite(
        lambda session: rates.remove(
            session, rate_id=int(rate_id), actor=f"user:{admin_id}", now=app.clock.micros()
        )
    )
