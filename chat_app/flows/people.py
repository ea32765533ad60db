"""What administrators do to accounts: roles, suspension, ending sign-ins. All of it is audited."""

from sqlmodel import Session

from chat_app.accounts import profile, users
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.errors import NotAllowed
from chat_app.flows import signin


class AdminsOnly(NotAllowed):
    """Only an administrator may do this."""

    code = "admins_only"
    message = "Only administrators may do this. Ask one of them."


async def change(
    app: App, *, admin_id: int, user_id: int, role: str | None = None, suspended: bool | None = None
) -> User:
    """Change the role or suspend; suspension ends the user's sign-ins at once.

    Raises AdminsOnly, NotFound, BadRole, or LastAdmin when nobody would be left.
    """

    def story(session: Session) -> User:
        _require_admin(session, admin_id)
        user = users.get(session, user_id)
        if user.erased_at is not None:
            raise profile.AlreadyErased
        before = {"role": user.role, "suspended": user.suspended}
        if role is not None:
            user = users.set_role(session, user_id=user_id, role=role)
        if suspended is not None:
            user = users.set_suspended(session, user_id=user_id, suspended=suspended)
            if suspended:
                signin.end_all(session, user_id=user_id)
        audit.record(
            session,
            type="user_changed",
            actor=f"user:{admin_id}",
            now=app.clock.micros(),
            user_id=user_id,
            before=before,
            after={"role": user.role, "suspended": user.suspended},
        )
        return user

    return await app.db.awrite(story)


async def end_sign_ins(app: App, *, admin_id: int, user_id: int) -> None:
    """Sign a user out everywhere. Raises AdminsOnly or NotFound."""
    with app.db.read() as session:
        _require_admin(session, admin_id)
        users.get(session, user_id)
    await signin.logout_all(app, user_id=user_id, actor=f"user:{admin_id}")


def _require_admin(session: Session, admin_id: int) -> None:
    admin = users.get(session, admin_id)
    if admin.role != "admin" or admin.suspended:
        raise AdminsOnly
