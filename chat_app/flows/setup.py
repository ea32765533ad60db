"""Setting up: which models are here, bringing them, and what a new installation still lacks.

The page for it shows facts that others know: the self-check, the shelf, the books.
"""

import asyncio
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.chat import conversations
from chat_app.errors import Conflict
from chat_app.flows import selfcheck
from chat_app.flows.selfcheck import Finding
from chat_app.llm import catalogue, loader
from chat_app.llm.catalogue import Entry, Hub
from chat_app.llm.fetch import Fetch


class ModelIsHere(Conflict):
    """The weights are on this machine already."""

    code = "model_is_here"
    message = "This model is on this machine already. Choose it in the chat."


@dataclass(frozen=True)
class Weights:
    """A model of the catalogue: whether it can answer, its weights here, and their download.

    `usable` is about answers, wherever they come from; `here` about weights on this machine.
    """

    entry: Entry
    usable: bool
    here: bool
    reason: str
    size_bytes: int
    gated: bool
    fetch: Fetch | None


@dataclass(frozen=True)
class Setup:
    """What a new installation has. `answered`: a first answer; `people`: accounts in all."""

    models: tuple[Weights, ...]
    findings: tuple[Finding, ...]
    engine: str
    usable: bool
    answered: bool
    people: int
    shop: str


def look(app: App) -> Setup:
    """How far this installation is. It looks at disk, database and mail: call it in a thread."""
    with app.db.read() as session:
        answered = conversations.any_answer(session)
        people = users.count(session)["total"]
    found = models(app)
    return Setup(
        models=found,
        findings=tuple(
            finding
            for finding in selfcheck.run(app.settings, clock=app.clock)
            if finding.name not in ("model", "models")  # they have a list of their own
        ),
        engine=app.settings.llm.engine,
        usable=any(item.usable for item in found),
        answered=answered,
        people=people,
        shop=app.settings.payments.provider,
    )


def models(app: App) -> tuple[Weights, ...]:
    """Every model that can be offered, small ones first."""
    entries = sorted(catalogue.offered(), key=lambda entry: entry.source.size_bytes)
    return tuple(_weights(app, entry) for entry in entries)


def can_answer(app: App) -> bool:
    """Whether any model can answer now; cheap enough for each opened page."""
    return any(app.engine.state(entry.id).usable for entry in catalogue.offered())


async def fetch(app: App, *, admin_id: int, model: str) -> Weights:
    """Begin to download a model; raises UnknownModel or ModelIsHere. It is audited."""
    entry = catalogue.get(model)
    if loader.state(entry, app.settings.models_dir).state == "available":
        raise ModelIsHere(model=model)
    before = app.fetches.get(model)
    if before is None or before.state != "running":
        await _record(app, "model_download_started", admin_id, model)
    await asyncio.to_thread(app.fetches.start, entry)
    return _weights(app, entry)


async def cancel(app: App, *, admin_id: int, model: str) -> Weights:
    """End a download; raises UnknownModel or NothingFetched. It is audited."""
    entry = catalogue.get(model)
    await asyncio.to_thread(app.fetches.cancel, model)  # it waits for the end
    await _record(app, "model_download_cancelled", admin_id, model)
    return _weights(app, entry)


async def _record(app: App, type: str, admin_id: int, model: str) -> None:
    def story(session: Session) -> None:
        actor = f"user:{admin_id}"
        audit.record(session, type=type, actor=actor, now=app.clock.micros(), model=model)

    await app.db.awrite(story)


def _weights(app: App, entry: Entry) -> Weights:
    local = loader.state(entry, app.settings.models_dir)
    return Weights(
        entry=entry,
        usable=app.engine.state(entry.id).usable,
        here=local.state == "available",
        reason=local.reason if local.state == "broken" else "",
        size_bytes=entry.source.size_bytes,
        gated=isinstance(entry.source, Hub) and entry.source.gated,
        fetch=app.fetches.get(entry.id),
    )
