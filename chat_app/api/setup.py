"""REST: setting up an installation: what it lacks, and bringing models to this machine."""

from typing import Annotated

from fastapi import APIRouter, Depends

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Page, Shown
from chat_app.flows import setup
from chat_app.flows.setup import Setup, Weights
from chat_app.llm.fetch import Fetch

router = APIRouter(prefix="/admin", tags=["admin"])

Operating = Annotated[SignedIn, Depends(deps.allowed("machine.write"))]


class FetchOut(Shown):
    """A download: `running`, `done`, `failed` or `cancelled`. `total_bytes` 0: not known yet."""

    state: str
    sentence: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: int

    @classmethod
    def of(cls, fetch: Fetch) -> "FetchOut":
        return cls(
            state=fetch.state,
            sentence=fetch.sentence,
            done_bytes=fetch.done_bytes,
            total_bytes=fetch.total_bytes,
            bytes_per_second=fetch.bytes_per_second,
        )


class WeightsOut(Shown):
    """A model: `usable` if it can answer, `here` if its weights are on this machine.

    `download` is the last one since the program started, null without one.
    """

    id: str
    name: str
    usable: bool
    here: bool
    reason: str
    size_bytes: int
    gated: bool
    demo: bool
    license: str
    license_url: str
    download: FetchOut | None

    @classmethod
    def of(cls, found: Weights) -> "WeightsOut":
        return cls(
            id=found.entry.id,
            name=found.entry.name,
            usable=found.usable,
            here=found.here,
            reason=found.reason,
            size_bytes=found.size_bytes,
            gated=found.gated,
            demo=found.entry.demo,
            license=found.entry.license,
            license_url=found.entry.license_url,
            download=None if found.fetch is None else FetchOut.of(found.fetch),
        )


class FindingOut(Shown):
    """A line of the self-check. `ok` is false only for what keeps the program from working."""

    name: str
    ok: bool
    sentence: str


class SetupOut(Shown):
    """What an installation has. `answered`: a first answer was written; `shop`: who takes money."""

    engine: str
    usable: bool
    answered: bool
    people: int
    shop: str
    models: list[WeightsOut]
    findings: list[FindingOut]

    @classmethod
    def of(cls, found: Setup) -> "SetupOut":
        return cls(
            engine=found.engine,
            usable=found.usable,
            answered=found.answered,
            people=found.people,
            shop=found.shop,
            models=[WeightsOut.of(item) for item in found.models],
            findings=[
                FindingOut(name=item.name, ok=item.ok, sentence=item.sentence)
                for item in found.findings
            ],
        )


@router.get("/setup", responses=errors_in(401, 403))
def show_setup(app: deps.App, who: Operating) -> SetupOut:
    """What this installation has and lacks. It looks at disk, database and mail server."""
    return SetupOut.of(setup.look(app))


@router.get("/downloads", responses=errors_in(401, 403))
def list_downloads(app: deps.App, who: Operating) -> Page[WeightsOut]:
    """Every model with its weights and how its download stands."""
    return Page(items=[WeightsOut.of(item) for item in setup.models(app)])


@router.post("/downloads/{id}", status_code=202, responses=errors_in(401, 403, 404, 409, 503))
async def start_download(app: deps.App, who: Operating, id: deps.Id) -> WeightsOut:
    """Begin to bring a model here. One that is being downloaded already is left alone."""
    return WeightsOut.of(await setup.fetch(app, admin_id=deps.user_id(who), model=id))


@router.delete("/downloads/{id}", responses=errors_in(401, 403, 404))
async def cancel_download(app: deps.App, who: Operating, id: deps.Id) -> WeightsOut:
    """End a download. What came from the hub is kept, so that the next one goes on with it."""
    return WeightsOut.of(await setup.cancel(app, admin_id=deps.user_id(who), model=id))
