"""Who may call what: every route, and the status each of eight callers gets.

`owner` is the person that the ids in the path belong to; `mate` and `boss` are a member and the
owner of an organisation that the owner is in too, `other` is in none. The rest are staff. A route
that is missing here fails the test. Which roles a row is for is written here once more, apart from
the program's table of permissions.
"""

from dataclasses import dataclass, field
from typing import Any

OK, CREATED, ACCEPTED, EMPTY = 200, 201, 202, 204
ANONYMOUS, FORBIDDEN, HIDDEN, REFUSED, CONFLICT = 401, 403, 404, 422, 409
CALLERS = ("anonymous", "owner", "other", "mate", "boss", "support", "finance", "admin")
STAFF = ("support", "finance", "admin")


@dataclass(frozen=True)
class Row:
    """Statuses for anonymous, owner, another user and an administrator.

    `own` has the callers that get another one: without it the members of the owner's
    organisation get what `other` gets, and so does staff where administrators get that too.
    """

    anonymous: int
    owner: int
    other: int
    admin: int
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)

    def status(self, caller: str) -> int:
        """What this caller gets."""
        usual = {"mate": self.other, "boss": self.other}
        usual |= {"support": self.other, "finance": self.other}
        usual |= {name: getattr(self, name) for name in ("anonymous", "owner", "other", "admin")}
        return (usual | self.own)[caller]


def public(status: int, **more: Any) -> Row:
    """Open to everybody."""
    return Row(status, status, status, status, **more)


def member(status: int, **more: Any) -> Row:
    """For whoever is signed in; it concerns the caller alone."""
    return Row(ANONYMOUS, status, status, status, **more)


def owned(status: int, **more: Any) -> Row:
    """For the owner; to everybody else, staff included, it does not exist."""
    return Row(ANONYMOUS, status, HIDDEN, HIDDEN, **more)


def in_org(status: int, *, mate: int = FORBIDDEN, **more: Any) -> Row:
    """For the owner of the organisation in the path, of which `mate` is a member."""
    return owned(status, own={"mate": mate}, **more)


def admins(status: int, **more: Any) -> Row:
    """For administrators."""
    return Row(ANONYMOUS, FORBIDDEN, FORBIDDEN, status, **more)


def support(status: int, **more: Any) -> Row:
    """For support and administrators."""
    return admins(status, own={"support": status}, **more)


def finance(status: int, **more: Any) -> Row:
    """For finance and administrators."""
    return admins(status, own={"finance": status}, **more)


def staff(status: int, **more: Any) -> Row:
    """For all staff."""
    return admins(status, own={"support": status, "finance": status}, **more)


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
    "PATCH /api/auth/me": member(OK, body={"display_name": "Somebody"}),
    "DELETE /api/auth/me": member(REFUSED, body={"password": "wrong"}),
    "GET /api/auth/me/export": member(OK),
    "POST /api/auth/confirm": member(REFUSED, body={"password": "wrong"}),
    "GET /api/auth/sessions": member(OK),
    "DELETE /api/auth/sessions/{id}": owned(EMPTY),
    "GET /api/auth/keys": member(OK),
    "POST /api/auth/keys": member(CREATED, body={"name": "robot"}),
    "PATCH /api/auth/keys/{id}": owned(OK, body={"name": "another", "budget": {"day": 5}}),
    "DELETE /api/auth/keys/{id}": owned(EMPTY),
    "POST /api/auth/password/change": member(
        REFUSED, body={"current": "wrong", "new": "another horse battery"}
    ),
    "GET /api/auth/totp": member(OK),
    "POST /api/auth/totp/enroll": member(REFUSED, body={"password": "wrong"}),
    "POST /api/auth/totp/confirm": member(CONFLICT, body={"code": "000000"}),
    "POST /api/auth/totp/verify": member(CONFLICT, body={"code": "000000"}),
    "POST /api/auth/totp/backup-codes": member(REFUSED, body={"password": "wrong", "code": "0"}),
    "POST /api/auth/totp/disable": member(REFUSED, body={"password": "wrong", "code": "0"}),
    # No Space here: test_hub.py has one.
    "GET /api/auth/hub": member(OK),
    "GET /api/auth/hub/start": public(HIDDEN),
    "GET /api/auth/hub/callback": public(HIDDEN),
    "POST /api/auth/hub/second": public(HIDDEN, body={"code": "000000"}),
    "POST /api/auth/hub/link": member(HIDDEN, body={"password": "wrong"}),
    "POST /api/auth/hub/unlink": member(REFUSED, body={"password": "wrong"}),
    "POST /api/auth/verify-email": public(REFUSED, body={"token": "nothing"}),
    "POST /api/auth/verify-email/resend": member(ACCEPTED),
    "POST /api/auth/password/forgot": public(ACCEPTED, body={"email": "nobody@example.org"}),
    "POST /api/auth/password/reset": public(
        REFUSED, body={"token": "nothing", "password": "another horse battery"}
    ),
    "GET /api/chat/models": member(OK),
    "POST /api/billing/transfer": member(
        HIDDEN, body={"to_username": "nobody.of.this.name", "credits": 1}
    ),
    "POST /api/orgs": member(CREATED, body={"name": "Harbour Ltd"}),
    "GET /api/orgs": member(OK),
    "GET /api/orgs/{id}": in_org(OK, mate=OK),
    "PATCH /api/orgs/{id}": in_org(OK, body={"name": "Another name"}),
    "DELETE /api/orgs/{id}": in_org(EMPTY),
    "POST /api/orgs/{id}/members": in_org(CREATED, body={"username": "matrix-extra"}),
    "PATCH /api/orgs/{id}/members/{user}": in_org(OK, body={"monthly_limit": 5}),
    "DELETE /api/orgs/{id}/members/{user}": in_org(EMPTY, mate=EMPTY),
    "POST /api/orgs/{id}/fund": in_org(OK, mate=402, body={"credits": 2}),
    "POST /api/orgs/{id}/allocate": in_org(OK, body={"username": "matrix-mate", "credits": 1}),
    "POST /api/orgs/{id}/transfer-ownership": in_org(OK, body={"username": "matrix-mate"}),
    "GET /api/orgs/{id}/usage": in_org(OK, mate=OK),
    "POST /api/chat/quote": member(OK, body=QUESTION),
    "POST /api/chat/message": member(OK, body=QUESTION),
    "POST /api/chat/conversations/{id}/retry": owned(OK, body={}),
    "POST /api/chat/compare": member(
        ACCEPTED, body={"models": [QUESTION["model"], "gemma-3-1b-it"], "message": "hello"}
    ),
    "GET /api/chat/messages/{id}": owned(OK),
    "PUT /api/chat/conversations/{id}/path": owned(HIDDEN, body={"message_id": "msg_of_nobody"}),
    "POST /api/chat/conversations/{id}/fork": owned(HIDDEN, body={"message_id": "msg_of_nobody"}),
    # The answers of the matrix end by themselves.
    "POST /api/chat/replies/{id}/continue": owned(CONFLICT, body={}),
    "POST /api/chat/replies/{id}/continue/quote": owned(CONFLICT, body={}),
    "GET /api/chat/replies/{id}/events": owned(OK),
    "GET /api/chat/replies/{id}": owned(OK),
    "POST /api/chat/replies/{id}/stop": owned(OK),
    "GET /api/chat/conversations": member(OK),
    "GET /api/chat/conversations/{id}": owned(OK),
    "PATCH /api/chat/conversations/{id}": owned(
        OK, body={"title": "Another title", "pinned": True, "archived": True, "folder_id": None}
    ),
    "POST /api/chat/conversations/{id}/share": owned(OK, body={"access": "open"}),
    "DELETE /api/chat/conversations/{id}/share": owned(HIDDEN),  # it is not shared
    "GET /api/chat/shares": member(OK),
    # The id is the secret of the link: whoever has it may read.
    "GET /share/{id}": public(OK),
    "GET /api/chat/folders": member(OK),
    "POST /api/chat/folders": member(CREATED, body={"name": "Work"}),
    "PATCH /api/chat/folders/{id}": owned(OK, body={"name": "Leisure"}),
    "DELETE /api/chat/folders/{id}": owned(EMPTY),
    "GET /api/chat/export": member(OK),
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
    "GET /api/chat/rule": member(OK, query={"model": "smollm2-135m-instruct"}),
    "GET /api/chat/presets": member(OK),
    "POST /api/chat/presets": member(
        CREATED, body={"name": "Short", "settings": {"max_tokens": 50}}
    ),
    "DELETE /api/chat/presets/{id}": owned(EMPTY),
    "PUT /api/chat/messages/{id}/feedback": owned(OK, body={"vote": "up"}),
    "DELETE /api/chat/messages/{id}/feedback": owned(EMPTY),
    "GET /api/chat/history": member(OK),
    "GET /api/chat/status": member(OK),
    "GET /api/billing/balance": member(OK),
    "GET /api/billing/packages": member(OK),
    "POST /api/billing/add": member(CREATED, body={"package_id": "starter"}),
    "GET /api/billing/payments/{id}": owned(OK),
    "POST /api/billing/payments/{id}/confirm": owned(OK),
    "POST /api/billing/payments/{id}/checkout": owned(OK),
    "GET /api/billing/cards": member(OK),
    "DELETE /api/billing/cards": member(EMPTY),
    # The matrix runs with the offline provider, which sends no events.
    "POST /api/billing/webhooks/stripe": public(HIDDEN, body={}),
    "GET /api/billing/payments/{id}/return": public(303),
    "GET /api/billing/transactions": member(OK),
    "GET /api/billing/usage": member(OK),
    "GET /api/billing/transactions.csv": member(OK),
    "GET /api/billing/forecast": member(OK),
    "GET /api/analytics/me": member(OK),
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
    "POST /api/billing/invoices/{id}/link": owned(OK),
    "DELETE /api/billing/invoices/{id}/link": owned(EMPTY),
    # The id is the secret of the link: whoever has it may look.
    "GET /api/billing/hosted/{id}": public(OK),
    "GET /api/billing/hosted/{id}/pdf": public(OK),
    "GET /api/billing/details": member(OK),
    "PUT /api/billing/details": member(OK, body={"name": "Ada", "country": "EE"}),
    "GET /api/billing/statement": member(OK),
    "GET /api/billing/receipt-keys": public(OK),
    "GET /api/billing/receipts/{id}": owned(OK),
    "GET /api/monitoring/health": member(OK),
    "GET /api/monitoring/metrics": staff(OK),
    "GET /api/monitoring/analytics": staff(OK),
    "GET /api/monitoring/series": staff(OK, query={"range": "24h"}),
    "GET /api/monitoring/rules": staff(OK),
    "PUT /api/monitoring/rules/{id}": admins(OK, body={"for_seconds": 30}),
    "DELETE /api/monitoring/rules/{id}": admins(OK),
    "GET /api/monitoring/faults": staff(OK),
    "GET /api/performance/metrics": staff(OK),
    "GET /api/performance/analysis": staff(OK, query={"hours": "2"}),
    "GET /api/performance/running": staff(OK, query={"from": "2026-01-01"}),
    "POST /api/performance/optimize/memory": admins(OK, body={"caches": False}),
    "GET /api/admin/dashboard": staff(OK),
    "GET /api/admin/users": staff(OK),
    "GET /api/admin/users/{id}": staff(OK),
    "PATCH /api/admin/users/{id}": support(OK, body={"suspended": False}),
    "POST /api/admin/users/{id}/credits": finance(OK, body={"credits": 5, "reason": "a gift"}),
    "DELETE /api/admin/users/{id}/totp": admins(EMPTY),
    "POST /api/admin/users/{id}/logout": support(EMPTY),
    "GET /api/admin/audit": finance(OK),
    "GET /api/admin/audit/verify": finance(OK),
    "GET /api/monitoring/report": finance(OK, query={"kind": "tax"}),
    "GET /api/admin/reports/usage": finance(OK),
    "GET /api/admin/reports/financial": finance(OK),
    "GET /api/admin/reports/revenue": finance(OK),
    "GET /api/admin/revenue/metrics": finance(OK),
    "GET /api/admin/revenue/recognition": finance(OK),
    "GET /api/admin/revenue/tax": finance(OK),
    "GET /api/admin/revenue/receivables": finance(OK),
    "GET /api/admin/revenue/cohorts": finance(OK),
    "GET /api/admin/revenue/breakdown": finance(OK),
    "GET /api/admin/revenue/margin": finance(OK),
    "GET /api/admin/revenue/overview": finance(OK),
    "GET /api/admin/revenue/rows": finance(OK, query={"figure": "billed"}),
    "GET /api/admin/revenue/movements": finance(OK),
    "GET /api/admin/revenue/journal": finance(OK),
    "GET /api/admin/revenue/trace/{id}": finance(HIDDEN),
    "POST /api/admin/revenue/periods/{id}/close": finance(CONFLICT),
    "POST /api/admin/revenue/costs": finance(
        CREATED,
        body={"day": "2026-01-31", "kind": "gpu", "amount_minor": 100, "currency": "USD"},
    ),
    "GET /api/admin/backups": admins(OK),
    "POST /api/admin/backups/drill": admins(CONFLICT),
    "POST /api/admin/backups": admins(CREATED),
    "GET /api/admin/backups/{id}/file": admins(HIDDEN),
    "GET /api/admin/reconciliation": finance(OK),
    "POST /api/admin/reconciliation": finance(OK),
    "GET /api/admin/predictions/ltv": finance(OK),
    "GET /api/admin/predictions/churn": finance(OK),
    "GET /api/admin/revenue/forecast": finance(OK),
    "GET /api/admin/ml/versions": staff(OK),
    "GET /api/admin/ml/drift": staff(OK, query={"kind": "churn"}),
    "POST /api/admin/ml/versions": admins(REFUSED, body={"kinds": ["weather"]}),
    "PUT /api/admin/ml/rollout": admins(HIDDEN, body={"kind": "churn", "weights": {"1.0": 1.0}}),
    "GET /api/admin/feedback": staff(OK),
    "GET /api/admin/prices": finance(OK, query={"preview": "1"}),
    "GET /api/admin/fraud/queue": staff(OK),
    "POST /api/admin/fraud/{id}/label": staff(HIDDEN, body={"label": "fraud"}),
    "POST /api/admin/bulk/credits": finance(
        OK,
        body={"rows": [{"username": "matrix-mate", "credits": 1}], "reason": "a gift"},
        query={"dry_run": "1"},
    ),
    "POST /api/admin/prices": finance(
        CREATED, body={"model": "gemma-3-4b-it", "kind": "per_message", "per_message": 20}
    ),
    "GET /api/admin/setup": admins(OK),
    "GET /api/admin/downloads": admins(OK),
    "POST /api/admin/downloads/{id}": admins(HIDDEN),
    "DELETE /api/admin/downloads/{id}": admins(HIDDEN),
    "GET /api/admin/models/{id}": finance(OK),
    "PUT /api/admin/models/{id}": finance(
        OK, body={"price": {"kind": "per_message", "per_message": 10}}
    ),
    "GET /api/admin/packages": finance(OK),
    "POST /api/admin/packages": finance(REFUSED, body={}),
    "PATCH /api/admin/packages/{id}": finance(OK, body={"position": 0}),
    "GET /api/admin/plans": finance(OK),
    "POST /api/admin/plans": finance(REFUSED, body={}),
    "PATCH /api/admin/plans/{id}": finance(OK, body={"active": True}),
    "GET /api/admin/codes": finance(OK),
    "POST /api/admin/codes": finance(CREATED, body={"credits": 5}),
    "POST /api/admin/codes/csv": finance(CREATED, body={"credits": 5}),
    "DELETE /api/admin/codes/{id}": finance(OK),
    "POST /api/admin/users/{id}/debt/forgive": finance(CONFLICT, body={"reason": "a gift"}),
    "POST /api/admin/invoices/{id}/link": finance(OK),
    "DELETE /api/admin/invoices/{id}/link": finance(EMPTY),
    "GET /api/admin/tax-rates": staff(OK),
    "POST /api/admin/tax-rates": finance(REFUSED, body={}),
    "DELETE /api/admin/tax-rates/{id}": finance(EMPTY),
    "GET /api/admin/invoices": staff(OK),
    "GET /api/admin/invoices/{id}/pdf": staff(OK),
    "POST /api/admin/invoices/{id}/open": finance(CONFLICT),  # it is paid
    "POST /api/admin/invoices/{id}/void": finance(CONFLICT, body={"reason": "a mistake"}),
    "POST /api/admin/invoices/{id}/uncollectible": finance(CONFLICT, body={"reason": "no answer"}),
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
    "GET /api/monitoring/alerts": staff(OK),
    "GET /api/admin/messages": support(OK),
    "POST /api/admin/messages/{id}/resend": support(OK),
    "GET /api/admin/announcements": support(OK),
    "POST /api/admin/announcements": support(
        CREATED, body={"title": "Maintenance", "text": "On Monday at noon."}
    ),
    "DELETE /api/admin/announcements/{id}": support(EMPTY),
    "GET /api/announcements": member(OK),
    "POST /api/announcements/{id}/dismiss": member(EMPTY),
    "GET /api/admin/payments": staff(OK),
    "GET /api/admin/payments/{id}": staff(OK),
    "POST /api/admin/payments/{id}/refund": finance(409, body={"reason": "not paid yet"}),
    "GET /api/admin/payment-events": staff(OK),
    "GET /v1/models": member(OK),
    "GET /v1/models/{id}": member(OK),
    "POST /v1/chat/completions": member(OK, body=COMPLETION),
}
