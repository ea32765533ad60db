"""REST: the backups that are kept, for administrators: list, make, try, download."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Shown
from chat_app.audit.log import Event
from chat_app.backups import keeping
from chat_app.backups.keeping import Kept
from chat_app.backups.make import Place
from chat_app.clock import rfc3339
from chat_app.errors import NotAllowed
from chat_app.flows import backup

router = APIRouter(prefix="/admin/backups", tags=["admin"])

Making = Annotated[SignedIn, Depends(deps.allowed("backups.make"))]
Reading = Annotated[SignedIn, Depends(deps.allowed("backups.read"))]


class HoldsKeys(NotAllowed):
    """A backup with the keys of the installation does not leave by the network."""

    code = "backup_holds_keys"
    message = "This backup holds the installation's keys. Copy it on the machine itself."


class BackupOut(Shown):
    """A kept backup. A damaged one has no schema and cannot be restored."""

    id: str
    kind: str
    made_at: str
    bytes: int
    damaged: bool
    schema_revision: str | None
    rows: int | None
    head: str | None
    keys: bool

    @classmethod
    def of(cls, kept: Kept) -> "BackupOut":
        """A backup for the API."""
        manifest = kept.manifest
        return cls(
            id=kept.id,
            kind=kept.kind,
            made_at=rfc3339(kept.made_at),
            bytes=kept.bytes,
            damaged=manifest is None,
            schema_revision=manifest.revision if manifest else None,
            rows=sum(manifest.counts.values()) if manifest else None,
            head=manifest.head if manifest else None,
            keys=manifest.secrets if manifest else False,
        )


class DrillOut(Shown):
    """A restore that was tried in a temporary place; `ok` when its books were proven there."""

    at: str
    backup: str
    ok: bool
    seconds: float
    problems: int
    reason: str

    @classmethod
    def of(cls, event: Event) -> "DrillOut":
        """A drill for the API."""
        facts = event.facts
        return cls(
            at=rfc3339(event.at),
            backup=str(facts["id"]),
            ok=bool(facts["ok"]),
            seconds=float(facts["seconds"]),
            problems=int(facts.get("problems", 0)),
            reason=str(facts.get("reason", "")),
        )


class BackupsOut(Shown):
    """The kept backups, newest first, and how the last drill went."""

    items: list[BackupOut]
    last_drill: DrillOut | None


@router.get("", responses=errors_in(401, 403))
def list_backups(app: deps.App, who: Making) -> BackupsOut:
    """The kept backups, newest first, and the last drill."""
    drill = backup.last_event(app.db, backup.DRILL)
    return BackupsOut(
        items=[BackupOut.of(one) for one in keeping.listed(Place.of(app.settings).folder)],
        last_drill=DrillOut.of(drill) if drill else None,
    )


@router.post("", status_code=201, responses=errors_in(401, 403, 409, 503))
async def make_backup(app: deps.App, who: Making) -> BackupOut:
    """Make a backup now; the answer comes when every byte was read back."""
    actor = f"user:{deps.user_id(who)}"
    return BackupOut.of(await asyncio.to_thread(backup.make_one, app, actor=actor))


@router.post("/drill", responses=errors_in(401, 403, 409, 503))
async def drill_backup(app: deps.App, who: Making) -> DrillOut:
    """Restore the newest backup into a temporary place and prove it there. Takes a while."""
    actor = f"user:{deps.user_id(who)}"
    return DrillOut.of(await asyncio.to_thread(backup.drill_now, app, actor=actor))


@router.get(
    "/{id}/file",
    response_class=FileResponse,
    responses={200: {"content": {"application/zip": {}}}, **errors_in(401, 403, 404)},
)
def download_backup(app: deps.App, who: Reading, id: deps.Id) -> FileResponse:
    """The backup as a zip file. Asks for a fresh one-time code, and is on the record."""
    kept = keeping.get(Place.of(app.settings).folder, id)
    if kept.manifest is None or kept.manifest.secrets:
        raise HoldsKeys
    backup.note_download(app, id=kept.id, actor=f"user:{deps.user_id(who)}")
    return FileResponse(
        kept.path,
        media_type="application/zip",
        filename=kept.path.name,
        headers={"Cache-Control": "no-store"},
    )
