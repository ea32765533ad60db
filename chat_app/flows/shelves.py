"""What an administrator puts on the shelves: packages and plans, with a trace of who did."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.credits import packages, plans
from chat_app.credits.packages import Package
from chat_app.credits.plans import Plan

T = TypeVar("T", Package, Plan)


async def add_package(app: App, *, admin_id: int, package: Package) -> Package:
    """Put a package on sale; raises BadPackage or PackageExists."""
    now = app.clock.micros()
    return await _traced(
        app, admin_id, "package_added", lambda s: packages.create(s, package, now=now)
    )


async def change_package(app: App, *, admin_id: int, code: str, parts: dict[str, Any]) -> Package:
    """Change parts of a package; raises UnknownPackage or BadPackage."""
    return await _traced(
        app, admin_id, "package_changed", lambda s: packages.change(s, code, **parts)
    )


async def add_plan(app: App, *, admin_id: int, plan: Plan) -> Plan:
    """Offer a plan; raises BadPackage or PackageExists."""
    now = app.clock.micros()
    return await _traced(app, admin_id, "plan_added", lambda s: plans.create(s, plan, now=now))


async def change_plan(app: App, *, admin_id: int, code: str, parts: dict[str, Any]) -> Plan:
    """Change parts of a plan; raises UnknownPlan or BadPackage."""
    return await _traced(app, admin_id, "plan_changed", lambda s: plans.change(s, code, **parts))


async def _traced(app: App, admin_id: int, type: str, do: Callable[[Session], T]) -> T:
    def story(session: Session) -> T:
        made = do(session)
        audit.record(
            session,
            type=type,
            actor=f"user:{admin_id}",
            now=app.clock.micros(),
            id=made.code,
            price_minor=made.price.amount,
            currency=made.price.currency,
            micro=made.credits,
            active=made.active,
        )
        return made

    return await app.db.awrite(story)
