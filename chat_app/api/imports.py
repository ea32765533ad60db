"""REST: conversations from files."""

from typing import Annotated, Any

from fastapi import APIRouter, Body

from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Shown
from chat_app.chat.imports import Imported
from chat_app.flows import imports

router = APIRouter(prefix="/chat", tags=["chat"])


class ImportedOut(Shown):
    """A conversation as it is stored now; `skipped` of its messages could not be shown."""

    id: str
    title: str
    messages: int
    skipped: int

    @classmethod
    def of(cls, item: Imported) -> "ImportedOut":
        return cls(id=item.id, title=item.title, messages=item.messages, skipped=item.skipped)


class ImportOut(Shown):
    """What a file became."""

    items: list[ImportedOut]


@router.post(
    "/conversations/import",
    status_code=201,
    responses=errors_in(400, 401, 403, 409, 413, 422),
)
async def import_conversations(
    app: deps.App,
    who: deps.CurrentUser,
    key: deps.IdempotencyKey,
    body: Annotated[Any, Body(description="The parsed file: an export of here, or of ChatGPT.")],
) -> ImportOut:
    """Bring conversations here: an export of this server, a list of them, or ChatGPT's.

    The body is the file itself, as `application/json`, no larger than `server.max_body_kib`. Of
    ChatGPT's `conversations.json` all branches are taken, and the one that was shown last is the
    active one; images, tools and hidden messages are left out and counted as `skipped`. Nothing is
    charged.
    """
    stored = await imports.conversations(app, user_id=deps.user_id(who), data=body, key=key)
    return ImportOut(items=[ImportedOut.of(item) for item in stored])
