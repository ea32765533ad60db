"""REST: the table of tax rates that invoices take theirs from, kept by the operator."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Text, errors_in
from chat_app.api.views import Page, Shown
from chat_app.credits.invoices.rates import SOURCE_LENGTH, TaxRate
from chat_app.flows import taxes

router = APIRouter(prefix="/admin", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("invoices.read"))]
Writing = Annotated[SignedIn, Depends(deps.allowed("invoices.write"))]
_Day = Annotated[Text, Field(max_length=10, description="A day such as 2027-01-01.")]
_Country = Annotated[Text, Field(max_length=2, description="Two letters; GR for Greece.")]


class TaxRateIn(Body):
    jurisdiction: _Country
    rate_bp: Annotated[int, Field(ge=0, le=10_000, description="Hundredths of a percent.")]
    valid_from: _Day
    valid_to: _Day | None = None
    source: Annotated[Text, Field(max_length=SOURCE_LENGTH)] = ""


class TaxRateOut(Shown):
    """A rate in hundredths of a percent for its days; `valid_to` is null without an end."""

    id: str
    jurisdiction: str
    category: str
    rate_bp: int
    valid_from: str
    valid_to: str | None
    source: str
    built_in: bool

    @classmethod
    def of(cls, rate: TaxRate) -> "TaxRateOut":
        """What is shown of a rate."""
        return cls(
            id=str(rate.id),
            jurisdiction=rate.jurisdiction,
            category=rate.category,
            rate_bp=rate.rate_bp,
            valid_from=rate.first,
            valid_to=rate.last,
            source=rate.source,
            built_in=rate.built_in,
        )


@router.get("/tax-rates", responses=errors_in(401, 403, 422))
def list_tax_rates(
    app: deps.App,
    _who: Reading,
    jurisdiction: Annotated[str, Query(max_length=2, description="One country's.")] = "",
) -> Page[TaxRateOut]:
    """The rates by country, each country's newest first."""
    found = taxes.table(app, jurisdiction=jurisdiction)
    return Page(items=[TaxRateOut.of(rate) for rate in found])


@router.post("/tax-rates", status_code=201, responses=errors_in(401, 403, 409, 422))
async def add_tax_rate(app: deps.App, who: Writing, body: TaxRateIn) -> TaxRateOut:
    """Add a rate from a day on. The one that runs without an end ends on the day before.

    Invoices that were issued keep theirs; a rate cannot begin behind one of its country.
    """
    added = await taxes.add(
        app,
        admin_id=deps.user_id(who),
        jurisdiction=body.jurisdiction,
        rate_bp=body.rate_bp,
        first=body.valid_from,
        last=body.valid_to,
        source=body.source,
    )
    return TaxRateOut.of(added)


@router.delete("/tax-rates/{id}", status_code=204, responses=errors_in(401, 403, 404, 409, 422))
async def remove_tax_rate(app: deps.App, who: Writing, id: deps.Id) -> None:
    """Take a rate back whose first day is still to come; the one before it goes on."""
    await taxes.remove(app, admin_id=deps.user_id(who), rate_id=id)
