"""Who may call what: every route, and the status each kind of caller gets.

`owner` is the person that the ids in the path belong to; the others are signed in as somebody
else. A route that is missing here fails the test.
"""

from dataclasses import dataclass, field
from typing import Any

OK, CREATED, EMPTY = 200, 201, 204
ANONYMOUS, FORBIDDEN, HIDDEN, REFUSED, CONFLICT = 401, 403, 404, 422, 409


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

COMPLETION = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "hello there"}],
}

WEBHOOK = {"url": "https://hooks.example.org/in", "events": ["balance.low"]}

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
    "POST /api/billing/transfer": member(
        HIDDEN, body={"to_username": "nobody.of.this.name", "credits": 1}
    ),
    "POST /api/orgs": member(CREATED, body={"name": "Harbour Ltd"}),
    "GET /api/orgs": member(OK),
    "GET /api/orgs/{id}": owned(OK),
    "PATCH /api/orgs/{id}": owned(OK, body={"name": "Another name"}),
    "DELETE /api/orgs/{id}": owned(EMPTY),
    "POST /api/orgs/{id}/members": owned(CREATED, body={"username": "matrix-extra"}),
    "PATCH /api/orgs/{id}/members/{user}": owned(OK, body={"monthly_limit": 5}),
    "DELETE /api/orgs/{id}/members/{user}": owned(EMPTY),
    "POST /api/orgs/{id}/fund": owned(OK, body={"credits": 2}),
    "POST /api/orgs/{id}/allocate": owned(OK, body={"username": "matrix-mate", "credits": 1}),
    "POST /api/orgs/{id}/transfer-ownership": owned(OK, body={"username": "matrix-mate"}),
    "GET /api/orgs/{id}/usage": owned(OK),
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
    "POST /api/chat/conversations/import": member(
        CREATED,
        body={
            "format": "ml-chat-billing/conversation/1",
            "messages": [{"role": "user", "content": "hello"}],
        },
    ),
    "GET /api/chat/images/{id}": owned(OK),
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
    "GET /api/billing/limits": member(OK),
    "PUT /api/billing/limits": member(OK, body={"per_day": "500"}),
    "GET /api/billing/estimate": member(OK, query={"model": "smollm2-135m-instruct"}),
    "GET /api/billing/lots": member(OK),
    "GET /api/billing/plans": member(OK),
    "GET /api/billing/subscription": member(OK),
    "POST /api/billing/subscription": member(HIDDEN, body={"plan_id": "nothing"}),
    "POST /api/billing/subscription/cancel": member(HIDDEN),
    "POST /api/billing/subscription/pause": member(HIDDEN),
    "POST /api/billing/subscription/resume": member(HIDDEN),
    "POST /api/billing/redeem": member(HIDDEN, body={"code": "nothing"}),
    "GET /api/billing/auto-topup": member(HIDDEN),
    "PUT /api/billing/auto-topup": member(OK, body={"threshold": 1, "package_id": "starter"}),
    "DELETE /api/billing/auto-topup": member(EMPTY),
    "GET /api/billing/invoices": member(OK),
    "GET /api/billing/invoices/{id}": owned(OK),
    "GET /api/billing/invoices/{id}/pdf": owned(OK),
    "POST /api/billing/invoices/{id}/generate": owned(OK),
    # The id is the secret of the link: whoever has it may look.
    "GET /api/billing/hosted/{id}": public(OK),
    "GET /api/billing/hosted/{id}/pdf": public(OK),
    "GET /api/billing/details": member(OK),
    "PUT /api/billing/details": member(OK, body={"name": "Ada", "country": "EE"}),
    "GET /api/billing/statement": member(OK),
    "GET /api/billing/receipt-keys": public(OK),
    "GET /api/billing/receipts/{id}": owned(OK),
    "GET /api/monitoring/health": member(OK),
    "GET /api/monitoring/metrics": admins(OK),
    "GET /api/admin/dashboard": admins(OK),
    "GET /api/admin/users": admins(OK),
    "GET /api/admin/users/{id}": admins(OK),
    "PATCH /api/admin/users/{id}": admins(OK, body={"suspended": False}),
    "POST /api/admin/users/{id}/credits": admins(OK, body={"credits": 5, "reason": "a gift"}),
    "POST /api/admin/users/{id}/logout": admins(EMPTY),
    "POST /api/admin/bulk/credits": admins(
        OK,
        body={"rows": [{"username": "matrix-mate", "credits": 1}], "reason": "a gift"},
        query={"dry_run": "1"},
    ),
    "GET /api/admin/audit": admins(OK),
    "GET /api/admin/audit/verify": admins(OK),
    "GET /api/admin/reconciliation": admins(OK),
    "POST /api/admin/reconciliation": admins(OK),
    "GET /api/admin/prices": admins(OK, query={"preview": "1"}),
    "POST /api/admin/prices": admins(
        CREATED, body={"model": "gemma-3-4b-it", "kind": "per_message", "per_message": 20}
    ),
    "GET /api/admin/models/{id}": admins(OK),
    "PUT /api/admin/models/{id}": admins(OK, body={"offered": True}),
    "GET /api/admin/packages": admins(OK),
    "POST /api/admin/packages": admins(REFUSED, body={}),
    "PATCH /api/admin/packages/{id}": admins(OK, body={"position": 0}),
    "GET /api/admin/plans": admins(OK),
    "POST /api/admin/plans": admins(REFUSED, body={}),
    "PATCH /api/admin/plans/{id}": admins(OK, body={"active": True}),
    "GET /api/admin/codes": admins(OK),
    "POST /api/admin/codes": admins(CREATED, body={"credits": 5}),
    "POST /api/admin/codes/csv": admins(CREATED, body={"credits": 5}),
    "DELETE /api/admin/codes/{id}": admins(OK),
    "GET /api/admin/invoices": admins(OK),
    "GET /api/admin/invoices/{id}/pdf": admins(OK),
    "POST /api/admin/invoices/{id}/open": admins(CONFLICT),  # it is paid
    "POST /api/admin/invoices/{id}/void": admins(CONFLICT, body={"reason": "a mistake"}),
    "POST /api/admin/invoices/{id}/uncollectible": admins(CONFLICT, body={"reason": "no answer"}),
    "GET /api/notifications": member(OK),
    "GET /api/notifications/unread": member(OK),
    "POST /api/notifications/read": member(OK),
    "POST /api/notifications/{id}/read": owned(OK),
    "GET /api/notifications/preferences": member(OK),
    "PUT /api/notifications/preferences": member(OK, body={"topics": {"news": {"mail": False}}}),
    # With a signed link in place of a sign-in: test_notifications.py.
    "GET /api/notifications/unsubscribe": public(HIDDEN),
    "POST /api/notifications/unsubscribe": public(HIDDEN),
    "GET /api/billing/alerts": member(OK),
    "PUT /api/billing/alerts": member(OK, body={"low": "30"}),
    "GET /api/webhooks": member(OK),
    "POST /api/webhooks": member(CREATED, body=WEBHOOK),
    "PATCH /api/webhooks/{id}": owned(OK, body={"enabled": False}),
    "DELETE /api/webhooks/{id}": owned(EMPTY),
    "POST /api/webhooks/{id}/rotate": owned(OK),
    "POST /api/webhooks/{id}/test": owned(OK),
    "GET /api/webhooks/{id}/deliveries": owned(OK),
    "GET /api/monitoring/alerts": admins(OK),
    "GET /api/admin/messages": admins(OK),
    "POST /api/admin/messages/{id}/resend": admins(OK),
    "GET /api/admin/announcements": admins(OK),
    "POST /api/admin/announcements": admins(
        CREATED, body={"title": "Maintenance", "text": "On Monday at noon."}
    ),
    "GET /api/admin/payments": admins(OK),
    "GET /api/admin/payments/{id}": admins(OK),
    "POST /api/admin/payments/{id}/refund": admins(409, body={"reason": "not paid yet"}),
    "GET /api/admin/payment-events": admins(OK),
    "GET /v1/models": member(OK),
    "GET /v1/models/{id}": member(OK),
    "POST /v1/chat/completions": member(OK, body=COMPLETION),
}
