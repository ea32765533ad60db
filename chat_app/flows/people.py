"""What staff do to accounts: roles, suspension, ending sign-ins. All of it is audited."""

from sqlmodel import Session

from chat_app.accounts import permissions, profile, users
from chat_app.accounts.permissions import Permission
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.flows import signin


async def change(
    app: App, *, admin_id: int, user_id: int, role: str | None = None, suspended: bool | None = None
) -> User:
    """Change the role or suspend; suspension ends the user's sign-ins at once.

    Raises AdminsOnly, NotPermitted, NotFound, BadRole, or LastAdmin when nobody would be left.
    """

    def story(session: Session) -> User:
        if role is not None:
            permissions.require(session, user_id=admin_id, permission="users.role")
        user = _within_reach(session, admin_id, user_id, "users.suspend")
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
    """Sign a user out everywhere. Raises AdminsOnly, NotPermitted or NotFound."""
    with app.db.read() as session:
        _within_reach(session, admin_id, user_id, "users.logout")
    await signin.logout_all(app, user_id=user_id, actor=f"user:{admin_id}")


def _within_reach(session: Session, admin_id: int, user_id: int, permission: Permission) -> User:
    """The user, if the caller may do this to them: staff is for those who give out roles."""
    permissions.require(session, user_id=admin_id, permission=permission)
    user = users.get(session, user_id)
    if permissions.is_staff(user.role):
        permissions.require(session, user_id=admin_id, permission="users.role")
    return user
