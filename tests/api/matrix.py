"""Who may call what: every route, and the status each kind of caller gets.

`owner` is the person that the ids in the path belong to; the others are signed in as somebody
else. A route that is missing here fails the test.
"""

from dataclasses import dataclass, field
from typing import Any

OK, CREATED, EMPTY = 200, 201, 204
ANONYMOUS, FORBIDDEN, HIDDEN, REFUSED = 401, 403, 404, 422


@dataclass(frozen=True)
class Row:
    """Statuses for anonymous, owner, another user and an administrator; None: not called."""

    anonymous: int
    owner: int
    other: int
    admin: int
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)


def public(status: int, **more: Any) -> Row:
    """Open to everybody."""
    return Row(status, status, status, status, **more)


def member(status: int, **more: Any) -> Row:
    """For whoever is signed in; it concerns the caller alone."""
    return Row(ANONYMOUS, status, status, status, **more)


def owned(status: int, **more: Any) -> Row:
    """For the owner; to everybody else, administrators included, it does not exist."""
    return Row(ANONYMOUS, status, HIDDEN, HIDDEN, **more)


def admins(status: int, **more: Any) -> Row:
    """For administrators."""
    return Row(ANONYMOUS, FORBIDDEN, FORBIDDEN, status, **more)


QUESTION = {"model": "smollm2-135m-instruct", "message": "hello there"}

MATRIX: dict[str, Row] = {
    "GET /livez": public(OK),
    "GET /readyz": public(OK),
    "GET /health": public(OK),
    # From this machine, as here. From elsewhere it is for administrators: test_operations.py.
    "GET /metrics": public(OK),
    "GET /api/openapi.json": public(OK),
    "GET /api/docs": public(OK),
    "POST /api/auth/register": public(REFUSED, body={}),
    "POST /api/auth/setup": public(REFUSED, body={}),
    "POST /api/auth/login": public(REFUSED, body={}),
    "POST /api/auth/refresh": public(REFUSED, body={}),
    "POST /api/auth/logout": public(EMPTY),
    "POST /api/auth/logout-all": member(EMPTY),
    "GET /api/auth/me": member(OK),
    "GET /api/auth/sessions": member(OK),
    "DELETE /api/auth/sessions/{id}": owned(EMPTY),
    "POST /api/auth/password/change": member(
        REFUSED, body={"current": "wrong", "new": "another horse battery"}
    ),
    "GET /api/chat/models": member(OK),
    "POST /api/chat/quote": member(OK, body=QUESTION),
    "POST /api/chat/message": member(OK, body=QUESTION),
    "POST /api/chat/conversations/{id}/retry": owned(OK, body={}),
    "GET /api/chat/replies/{id}/events": owned(OK),
    "GET /api/chat/replies/{id}": owned(OK),
    "POST /api/chat/replies/{id}/stop": owned(OK),
    "GET /api/chat/conversations": member(OK),
    "GET /api/chat/conversations/{id}": owned(OK),
    "PATCH /api/chat/conversations/{id}": owned(OK, body={"title": "Another title"}),
    "DELETE /api/chat/conversations/{id}": owned(EMPTY),
    "GET /api/chat/conversations/{id}/export": owned(OK),
    "GET /api/chat/history": member(OK),
    "GET /api/chat/status": member(OK),
    "GET /api/billing/balance": member(OK),
    "GET /api/billing/packages": member(OK),
    "POST /api/billing/add": member(CREATED, body={"package_id": "starter"}),
    "GET /api/billing/payments/{id}": owned(OK),
    "POST /api/billing/payments/{id}/confirm": owned(OK),
    # The matrix runs with the offline provider, which sends no events.
    "POST /api/billing/webhooks/stripe": public(HIDDEN, body={}),
    "GET /api/billing/payments/{id}/return": public(303),
    "GET /api/billing/transactions": member(OK),
    "GET /api/billing/usage": member(OK),
    "GET /api/monitoring/health": member(OK),
    "GET /api/monitoring/metrics": admins(OK),
    "GET /api/admin/dashboard": admins(OK),
    "GET /api/admin/users": admins(OK),
    "GET /api/admin/users/{id}": admins(OK),
    "PATCH /api/admin/users/{id}": admins(OK, body={"suspended": False}),
    "POST /api/admin/users/{id}/credits": admins(OK, body={"credits": 5, "reason": "a gift"}),
    "POST /api/admin/users/{id}/logout": admins(EMPTY),
    "GET /api/admin/payments": admins(OK),
    "GET /api/admin/payments/{id}": admins(OK),
    "POST /api/admin/payments/{id}/refund": admins(409, body={"reason": "not paid yet"}),
    "GET /api/admin/payment-events": admins(OK),
}
