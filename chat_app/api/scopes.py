"""What an API key needs for each route, in one table. A route that is not in it takes no key.

Keys never come to sign-ins, passwords, second factors and keys themselves, and change nothing
for staff: a person does that. The names are those of accounts/keys.py.
"""

from fastapi import Request

from chat_app.accounts import keys
from chat_app.accounts.key_tables import ApiKey
from chat_app.accounts.keys import KeyNotAllowed, Limits

_ROUTES = {
    "chat": """
        GET /v1/models
        GET /v1/models/{id}
        POST /v1/chat/completions
        GET /api/chat/models
        POST /api/chat/quote
        POST /api/chat/message
        GET /api/chat/status
        GET /api/chat/history
        GET /api/chat/replies/{id}
        GET /api/chat/replies/{id}/events
        POST /api/chat/replies/{id}/stop
        GET /api/chat/conversations
        POST /api/chat/conversations/import
        GET /api/chat/export
        GET /api/chat/conversations/{id}
        PATCH /api/chat/conversations/{id}
        DELETE /api/chat/conversations/{id}
        GET /api/chat/conversations/{id}/export
        POST /api/chat/conversations/{id}/retry
        PUT /api/chat/conversations/{id}/path
        POST /api/chat/conversations/{id}/fork
        POST /api/chat/replies/{id}/continue
        POST /api/chat/replies/{id}/continue/quote
        POST /api/chat/compare
        GET /api/chat/messages/{id}
        GET /api/chat/images/{id}
        GET /api/chat/folders
        POST /api/chat/folders
        PATCH /api/chat/folders/{id}
        DELETE /api/chat/folders/{id}
        GET /api/chat/shares
        DELETE /api/chat/conversations/{id}/share
        GET /api/chat/rule
        GET /api/chat/presets
        POST /api/chat/presets
        DELETE /api/chat/presets/{id}
        PUT /api/chat/messages/{id}/feedback
        DELETE /api/chat/messages/{id}/feedback
    """,
    "billing:read": """
        GET /api/billing/balance
        GET /api/billing/packages
        GET /api/billing/payments/{id}
        GET /api/billing/transactions
        GET /api/billing/statement
        GET /api/billing/usage
        GET /api/billing/transactions.csv
        GET /api/billing/forecast
        GET /api/analytics/me
        GET /api/billing/limits
        GET /api/billing/alerts
        GET /api/billing/estimate
        GET /api/billing/lots
        GET /api/billing/plans
        GET /api/billing/subscription
        GET /api/billing/auto-topup
        GET /api/billing/cards
        GET /api/billing/invoices
        GET /api/billing/invoices/{id}
        GET /api/billing/invoices/{id}/pdf
        GET /api/billing/details
        GET /api/billing/receipts/{id}
    """,
    "billing:write": """
        POST /api/billing/add
        POST /api/billing/payments/{id}/confirm
        POST /api/billing/payments/{id}/checkout
        DELETE /api/billing/cards
        POST /api/billing/redeem
        POST /api/billing/transfer
        PUT /api/billing/limits
        PUT /api/billing/alerts
        POST /api/billing/subscription
        POST /api/billing/subscription/cancel
        POST /api/billing/subscription/pause
        POST /api/billing/subscription/resume
        PUT /api/billing/auto-topup
        DELETE /api/billing/auto-topup
        POST /api/billing/invoices/{id}/generate
        POST /api/billing/invoices/{id}/link
        DELETE /api/billing/invoices/{id}/link
        PUT /api/billing/details
    """,
    "account:read": """
        GET /api/auth/me
        GET /api/notifications
        GET /api/notifications/unread
        GET /api/notifications/preferences
        GET /api/webhooks
        GET /api/webhooks/{id}/deliveries
        GET /api/announcements
        GET /api/monitoring/health
    """,
    "account:write": """
        POST /api/announcements/{id}/dismiss
        POST /api/notifications/read
        POST /api/notifications/{id}/read
        PUT /api/notifications/preferences
        POST /api/webhooks
        PATCH /api/webhooks/{id}
        DELETE /api/webhooks/{id}
        POST /api/webhooks/{id}/rotate
        POST /api/webhooks/{id}/test
    """,
    "orgs:read": """
        GET /api/orgs
        GET /api/orgs/{id}
        GET /api/orgs/{id}/usage
    """,
    "orgs:write": """
        POST /api/orgs
        PATCH /api/orgs/{id}
        DELETE /api/orgs/{id}
        POST /api/orgs/{id}/members
        PATCH /api/orgs/{id}/members/{user}
        DELETE /api/orgs/{id}/members/{user}
        POST /api/orgs/{id}/fund
        POST /api/orgs/{id}/allocate
        POST /api/orgs/{id}/transfer-ownership
    """,
    "admin": """
        GET /metrics
        GET /api/monitoring/metrics
        GET /api/monitoring/alerts
        GET /api/monitoring/analytics
        GET /api/monitoring/series
        GET /api/monitoring/rules
        GET /api/monitoring/faults
        GET /api/performance/metrics
        GET /api/performance/analysis
        GET /api/admin/dashboard
        GET /api/admin/users
        GET /api/admin/users/{id}
        GET /api/admin/audit
        GET /api/admin/audit/verify
        GET /api/admin/reconciliation
        GET /api/monitoring/report
        GET /api/admin/reports/usage
        GET /api/admin/reports/financial
        GET /api/admin/reports/revenue
        GET /api/admin/revenue/metrics
        GET /api/admin/revenue/recognition
        GET /api/admin/revenue/tax
        GET /api/admin/revenue/receivables
        GET /api/admin/revenue/cohorts
        GET /api/admin/revenue/journal
        GET /api/admin/revenue/trace/{id}
        GET /api/admin/prices
        GET /api/admin/models/{id}
        GET /api/admin/packages
        GET /api/admin/plans
        GET /api/admin/codes
        GET /api/admin/invoices
        GET /api/admin/invoices/{id}/pdf
        GET /api/admin/tax-rates
        GET /api/admin/messages
        GET /api/admin/announcements
        GET /api/admin/payments
        GET /api/admin/payments/{id}
        GET /api/admin/payment-events
    """,
}
SCOPES = {
    route.strip(): scope
    for scope, routes in _ROUTES.items()
    for route in routes.strip().splitlines()
}


# A budget counts answers, so a key that has one gives no credits away beside it.
_GIVES_AWAY = {
    "POST /api/billing/transfer",
    "POST /api/orgs/{id}/fund",
    "POST /api/orgs/{id}/allocate",
}


def require(request: Request, key: ApiKey) -> None:
    """Let the key only where it has the scope; raises KeyNotAllowed."""
    route = f"{request.method} {_path(request)}"
    keys.require(key, SCOPES.get(route))
    if route in _GIVES_AWAY and keys.limits_of(key) != Limits():
        raise KeyNotAllowed(
            "An API key with a budget gives no credits away. Sign in as a person to do it."
        )


def _path(request: Request) -> str:
    """The route's path with its parameters' names, or nothing when the framework hides it."""
    found = request.scope.get("fastapi", {}).get("effective_route_context")
    return str(getattr(found or request.scope.get("route"), "path", ""))
