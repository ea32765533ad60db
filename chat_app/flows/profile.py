"""A person changes what their account says of them."""

from sqlmodel import Session

from chat_app.accounts import profile
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit


async def change(
    app: App,
    *,
    user_id: int,
    display_name: str | None = None,
    language: str | None = None,
    timezone: str | None = None,
) -> User:
    """Change what is given, empty texts take it back; on the record without the words.

    Raises BadProfile.
    """
    given = {"display_name": display_name, "language": language, "timezone": timezone}
    named = sorted(name for name, text in given.items() if text is not None)

    def story(session: Session) -> User:
        user = profile.change(session, user_id=user_id, **given)
        if named:
            actor = f"user:{user_id}"
            now = app.clock.micros()
            audit.record(session, type="profile_changed", actor=actor, now=now, fields=named)
        return user

    return await app.db.awrite(story)
