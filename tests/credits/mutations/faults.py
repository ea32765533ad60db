"""Thirty-three faults that somebody could make in the ledger, each one small change of its text.

`KEPT` says which module, what is there and what it becomes. A text that is no longer there is
an error, so the list follows the code.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    name: str
    module: str
    there: str
    becomes: str


KEPT = [
    Fault("a settlement keeps the rest held", "accounts", "held = held - :held,", "held = held,"),
    Fault(
        "a settlement charges the whole hold",
        "accounts",
        "posted = posted - :spent",
        "posted = posted - :held",
    ),
    Fault(
        "a hold does not set anything aside",
        "accounts",
        "held = held + :micro, last_at",
        "held = held + 0 * :micro, last_at",
    ),
    Fault(
        "ledger time follows a clock that goes back", "accounts", "max(now, self.last_at)", "now"
    ),
    Fault(
        "held credits count as available",
        "accounts",
        "return self.posted - self.held - self.floor",
        "return self.posted - self.floor",
    ),
    Fault(
        "credits without an end are used first",
        "lots",
        "priority, expires_at NULLS LAST",
        "priority, expires_at",
    ),
    Fault(
        "paid credits are used before free ones",
        "lots",
        "price_minor > 0, id",
        "price_minor = 0, id",
    ),
    Fault(
        "a lot ends one microsecond late",
        "lots",
        "self.expires_at <= now",
        "self.expires_at < now",
    ),
    Fault(
        "what an open hold has pinned expires too",
        "lots",
        "micro=lot.remaining - lot.held, now=now",
        "micro=lot.remaining, now=now",
    ),
    Fault(
        "freed credits of an ended lot live on",
        "lots",
        "if used < pinned and lot.ended(now):",
        "if False:",
    ),
    Fault(
        "earned money is rounded for each use",
        "lots",
        "return earned - self.recognized_minor",
        "return self.price_minor * micro // self.granted",
    ),
    Fault(
        "a hold can be settled at its very end",
        "holds",
        'if hold.state == "open" and hold.expires_at <= now:\n        _resolve',
        'if hold.state == "open" and hold.expires_at < now:\n        _resolve',
    ),
    Fault(
        "overdue holds stay when room is needed",
        "holds",
        "if wallet.available < micro and _expire_due_of(books, wallet, now=now):",
        "if False:",
    ),
    Fault("a late loss is not recorded", "holds", "if charged < micro:", "if False:"),
    Fault(
        "a late answer is charged beyond the balance",
        "holds",
        "charged = min(micro, max(0, wallet.available))",
        "charged = micro",
    ),
    Fault(
        "a released hold can still be charged",
        "holds",
        'if hold.state == "released":',
        'if hold.state == "never":',
    ),
    Fault("more than the hold can be charged", "holds", "0 <= micro <= hold.amount", "0 <= micro"),
    Fault(
        "a hold can be shortened",
        "holds",
        "AND state = 'open' AND expires_at < :expires_at",
        "AND state = 'open'",
    ),
    Fault(
        "a key counts in all scopes",
        "operations",
        "outcome FROM operation WHERE scope = :scope AND key = :key",
        "outcome FROM operation WHERE key = :key",
    ),
    Fault(
        "another request gets the stored answer",
        "operations",
        "if stored_hash != hashed:",
        "if False:",
    ),
    Fault(
        "moved credits lose their price",
        "moves",
        "price_minor = lot.revenue_of(part)",
        "price_minor = 0",
    ),
    Fault("moved credits lose their end", "moves", "expires_at=lot.expires_at", "expires_at=None"),
    Fault(
        "a hold does not count for the month",
        "budgets",
        "SET held = held + :micro",
        "SET held = held + 0 * :micro",
    ),
    Fault(
        "what is used does not count for the month",
        "budgets",
        "used = used + :spent",
        "used = used + 0 * :spent",
    ),
    Fault(
        "a late answer does not count for the month",
        "holds",
        "budget_id=hold.budget_id, held=0, spent=charged",
        "budget_id=hold.budget_id, held=0, spent=0",
    ),
    Fault("who owes may go on", "accounts", " AND owed = 0", ""),
    Fault(
        "held credits are refunded",
        "refunds",
        "free = lot.remaining - lot.held",
        "free = lot.remaining",
    ),
    Fault(
        "what was spent is forgiven",
        "refunds",
        "owed = sum(lot.held + lots.spent(books, lot) for lot in found)",
        "owed = 0",
    ),
    Fault(
        "a debt that was paid does not come back",
        "refunds",
        "micro, transfer_id = taken.micro + taken.owed - forgiven - cancelled, None",
        "micro, transfer_id = taken.micro, None",
    ),
    Fault(
        "what was forgiven is given back",
        "refunds",
        "micro, transfer_id = taken.micro + taken.owed - forgiven - cancelled, None",
        "micro, transfer_id = taken.micro + taken.owed - cancelled, None",
    ),
    Fault(
        "who hands credits on does not owe them",
        "lots",
        "AND kind IN ('use', 'move')",
        "AND kind IN ('use')",
    ),
    Fault(
        "who owes gives away",
        "moves",
        "if giver.owed or giver.available < micro:",
        "if giver.available < micro:",
    ),
    Fault("a purchase pays no debt", "ledger", "if owner.owed and price_minor:", "if False:"),
]
