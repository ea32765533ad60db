"""REST: folders of conversations."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from chat_app.api import deps
from chat_app.api.deps import Body, Text, errors_in
from chat_app.api.views import Page, Shown
from chat_app.chat import folders
from chat_app.chat.folders import NAME_LENGTH, FolderRow
from chat_app.clock import rfc3339

router = APIRouter(prefix="/chat/folders", tags=["chat"])


class FolderIn(Body):
    """A folder's name; of two that differ in case alone there can be one."""

    name: Annotated[Text, Field(min_length=1, max_length=2 * NAME_LENGTH)]


class FolderOut(Shown):
    """A folder with the number of conversations in it that are not archived."""

    id: str
    name: str
    conversations: int
    created_at: str

    @classmethod
    def of(cls, row: FolderRow) -> "FolderOut":
        return cls(
            id=row.id,
            name=row.name,
            conversations=row.conversations,
            created_at=rfc3339(row.created_at),
        )


@router.get("", responses=errors_in(401))
def list_folders(app: deps.App, who: deps.CurrentUser) -> Page[FolderOut]:
    """The caller's folders by name, all of them."""
    with app.db.read() as session:
        rows = folders.listed(session, user_id=deps.user_id(who))
    return Page(items=[FolderOut.of(row) for row in rows])


@router.post("", status_code=201, responses=errors_in(401, 403, 409, 422))
async def make_folder(app: deps.App, who: deps.CurrentUser, body: FolderIn) -> FolderOut:
    """Make a folder."""
    owner, now = deps.user_id(who), app.clock.micros()
    row = await app.db.awrite(
        lambda session: folders.create(session, user_id=owner, name=body.name, now=now)
    )
    return FolderOut.of(row)


@router.patch("/{id}", responses=errors_in(401, 403, 404, 409, 422))
async def rename_folder(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, body: FolderIn
) -> FolderOut:
    """Give a folder another name."""
    owner = deps.user_id(who)
    row = await app.db.awrite(
        lambda session: folders.rename(session, user_id=owner, folder_id=id, name=body.name)
    )
    return FolderOut.of(row)


@router.delete("/{id}", status_code=204, responses=errors_in(401, 403, 404))
async def delete_folder(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Delete a folder. Its conversations stay, outside of any folder."""
    owner = deps.user_id(who)
    await app.db.awrite(lambda session: folders.remove(session, user_id=owner, folder_id=id))
