"""Verify: prove the books, and name every place where they do not hold.

Each check is one query for the rows that break a rule; it reads tables, never the program's
caches, and returns all discrepancies, not the first. Rules are numbered as in
docs/money.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session

from chat_app.audit import seal
from chat_app.audit.seal import Problem
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import rollups
from chat_app.credits.invoices import proof as invoices
from chat_app.credits.receipts import receipts
from chat_app.migrations import triggers

__all__ = ["Problem", "run"]

# Overdue holds are swept every half minute; this long after their end nobody sweeps.
SWEEP_GRACE = 600 * MICROS_PER_SECOND


@dataclass(frozen=True)
class _Check:
    invariant: str
    sentence: str
    query: str


_CHECKS = [
    _Check(
        "I1",
        "A transfer names an account that is missing or of another ledger.",
        """SELECT t.id AS transfer FROM transfer t
        LEFT JOIN account d ON d.id = t.debit_id LEFT JOIN account c ON c.id = t.credit_id
        WHERE d.id IS NULL OR c.id IS NULL OR d.ledger <> c.ledger OR d.id = c.id""",
    ),
    _Check(
        "I1",
        "All balances of a ledger do not add up to zero.",
        """SELECT ledger, SUM(balance) AS total FROM (
          SELECT a.ledger, a.posted AS balance FROM account a WHERE a.kind = 'wallet'
          UNION ALL
          SELECT a.ledger, t.amount FROM transfer t JOIN account a ON a.id = t.credit_id
          WHERE a.kind = 'system' AND t.kind IN ('direct', 'post')
          UNION ALL
          SELECT a.ledger, -t.amount FROM transfer t JOIN account a ON a.id = t.debit_id
          WHERE a.kind = 'system' AND t.kind IN ('direct', 'post')
        ) parts GROUP BY ledger HAVING SUM(balance) <> 0""",
    ),
    _Check(
        "I2",
        "A wallet's balance is not what its transfers add up to.",
        """SELECT a.id AS account, a.posted AS stored, COALESCE(m.moved, 0) AS rebuilt
        FROM account a LEFT JOIN (
          SELECT account_id, SUM(amount) AS moved FROM (
            SELECT credit_id AS account_id, amount FROM transfer WHERE kind IN ('direct', 'post')
            UNION ALL
            SELECT debit_id, -amount FROM transfer WHERE kind IN ('direct', 'post')
          ) sides GROUP BY account_id
        ) m ON m.account_id = a.id
        WHERE a.kind = 'wallet' AND a.posted <> COALESCE(m.moved, 0)""",
    ),
    _Check(
        "I2",
        "What a wallet holds is not the sum of its unresolved transfers.",
        """SELECT a.id AS account, a.held AS stored, COALESCE(p.pending, 0) AS rebuilt
        FROM account a LEFT JOIN (
          SELECT t.debit_id AS account_id, SUM(t.amount) AS pending FROM transfer t
          LEFT JOIN transfer r ON r.pending_id = t.id
          WHERE t.kind = 'pending' AND r.id IS NULL GROUP BY t.debit_id
        ) p ON p.account_id = a.id
        WHERE a.kind = 'wallet' AND a.held <> COALESCE(p.pending, 0)""",
    ),
    _Check(
        "I2",
        "A transfer's balance does not follow from the one before.",
        """SELECT id AS transfer, stored, rebuilt FROM (
          SELECT id, after AS stored, SUM(delta) OVER (PARTITION BY account_id ORDER BY id)
           AS rebuilt
          FROM (
            SELECT t.id, t.debit_id AS account_id, t.debit_after AS after,
             CASE WHEN t.kind IN ('direct', 'post') THEN -t.amount ELSE 0 END AS delta
            FROM transfer t
            UNION ALL
            SELECT t.id, t.credit_id, t.credit_after,
             CASE WHEN t.kind IN ('direct', 'post') THEN t.amount ELSE 0 END
            FROM transfer t
          ) sides WHERE account_id IN (SELECT id FROM account WHERE kind = 'wallet')
        ) running WHERE stored IS NULL OR stored <> rebuilt""",
    ),
    _Check(
        "I2",
        "What a wallet owes is not what its debt account says.",
        """SELECT a.id AS account, a.owed AS stored, COALESCE(o.owed, 0) AS rebuilt
        FROM account a LEFT JOIN (
          SELECT d.code, (SELECT COALESCE(SUM(t.amount), 0) FROM transfer t
            WHERE t.debit_id = d.id AND t.kind IN ('direct', 'post'))
           - (SELECT COALESCE(SUM(t.amount), 0) FROM transfer t
            WHERE t.credit_id = d.id AND t.kind IN ('direct', 'post')) AS owed
          FROM account d WHERE d.code LIKE 'debt:%'
        ) o ON o.code = 'debt:' || a.id
        WHERE a.owed <> COALESCE(o.owed, 0)""",
    ),
    _Check(
        "I2",
        "A checkpoint is not what the transfers up to it add up to.",
        """SELECT c.account_id AS account, c.upto_transfer_id AS upto FROM balance_checkpoint c
        WHERE c.credits <> (SELECT COALESCE(SUM(t.amount), 0) FROM transfer t
          WHERE t.credit_id = c.account_id AND t.id <= c.upto_transfer_id
           AND t.kind IN ('direct', 'post'))
         OR c.debits <> (SELECT COALESCE(SUM(t.amount), 0) FROM transfer t
          WHERE t.debit_id = c.account_id AND t.id <= c.upto_transfer_id
           AND t.kind IN ('direct', 'post'))""",
    ),
    _Check(
        "I3",
        "A wallet is below its floor.",
        """SELECT id AS account, posted, held, floor FROM account
        WHERE held < 0 OR (floor IS NOT NULL AND posted - held < floor)
         OR (kind = 'wallet' AND floor IS NULL)""",
    ),
    _Check(
        "I4",
        "A hold was resolved twice, for too much or on other accounts.",
        """SELECT p.id AS hold, COUNT(*) AS resolved, MAX(r.amount) AS amount
        FROM transfer p JOIN transfer r ON r.pending_id = p.id
        GROUP BY p.id, p.kind, p.amount
        HAVING COUNT(*) > 1 OR p.kind <> 'pending' OR MAX(r.amount) > p.amount
         OR SUM(CASE WHEN r.debit_id <> p.debit_id OR r.credit_id <> p.credit_id
          THEN 1 ELSE 0 END) > 0""",
    ),
    _Check(
        "I4",
        "A hold and its transfers tell different stories.",
        """SELECT h.id AS hold, h.state, h.amount, h.settled, r.kind AS resolved_by
        FROM hold h LEFT JOIN transfer p ON p.id = h.id LEFT JOIN transfer r ON r.pending_id = h.id
        LEFT JOIN transfer s ON s.id = h.settlement_id
        WHERE p.id IS NULL OR p.kind <> 'pending' OR p.amount <> h.amount
         OR p.debit_id <> h.account_id OR NOT (
          (h.state = 'open' AND r.id IS NULL AND h.settled = 0)
          OR (h.state = 'settled' AND r.kind = 'post' AND r.amount = h.settled)
          OR (h.state = 'released' AND r.kind = 'void' AND h.settled = 0)
          OR (h.state = 'expired' AND r.kind = 'expire' AND h.settled = 0)
          OR (h.state = 'late' AND r.kind = 'expire' AND s.cause_id = h.id
           AND s.kind = 'direct' AND s.amount = h.settled))""",
    ),
    _Check(
        "I5",
        "A wallet's lots do not add up to its balance.",
        """SELECT a.id AS account, a.posted, a.held, COALESCE(l.remaining, 0) AS lots,
         COALESCE(l.held, 0) AS lots_held
        FROM account a LEFT JOIN (
          SELECT account_id, SUM(remaining) AS remaining, SUM(held) AS held FROM lot
          GROUP BY account_id
        ) l ON l.account_id = a.id
        WHERE a.kind = 'wallet'
         AND (a.posted <> COALESCE(l.remaining, 0) OR a.held <> COALESCE(l.held, 0))""",
    ),
    _Check(
        "I5",
        "What a lot has pinned is not what the open holds pin.",
        """SELECT l.id AS lot, l.held AS stored, COALESCE(p.pinned, 0) AS rebuilt
        FROM lot l LEFT JOIN (
          SELECT hl.lot_id, SUM(hl.amount) AS pinned FROM hold_lot hl
          JOIN hold h ON h.id = hl.hold_id WHERE h.state = 'open' GROUP BY hl.lot_id
        ) p ON p.lot_id = l.id WHERE l.held <> COALESCE(p.pinned, 0)""",
    ),
    _Check(
        "I5",
        "A hold's pins are not worth its amount.",
        """SELECT h.id AS hold, h.amount, COALESCE(p.pinned, 0) AS pinned
        FROM hold h LEFT JOIN (
          SELECT hold_id, SUM(amount) AS pinned FROM hold_lot GROUP BY hold_id
        ) p ON p.hold_id = h.id WHERE h.amount <> COALESCE(p.pinned, 0)""",
    ),
    _Check(
        "I6",
        "What a lot lacks is not what was taken from it.",
        """SELECT l.id AS lot, l.granted, l.remaining, COALESCE(u.used, 0) AS used
        FROM lot l LEFT JOIN (
          SELECT lot_id, SUM(amount) AS used FROM lot_use GROUP BY lot_id
        ) u ON u.lot_id = l.id
        WHERE l.granted - l.remaining <> COALESCE(u.used, 0)
         OR l.held < 0 OR l.held > l.remaining""",
    ),
    _Check(
        "I6",
        "What a transfer took from a wallet is not what it took from lots.",
        """SELECT t.id AS transfer, t.amount, COALESCE(u.used, 0) AS used
        FROM transfer t JOIN account a ON a.id = t.debit_id AND a.kind = 'wallet'
        LEFT JOIN (
          SELECT transfer_id, SUM(amount) AS used FROM lot_use GROUP BY transfer_id
        ) u ON u.transfer_id = t.id
        WHERE (CASE WHEN t.kind IN ('direct', 'post') THEN t.amount ELSE 0 END)
         <> COALESCE(u.used, 0)""",
    ),
    _Check(
        "I7",
        "What a lot has earned does not follow from what was used of it.",
        """SELECT l.id AS lot, l.price_minor, l.recognized_minor, COALESCE(u.earned, 0) AS booked
        FROM lot l LEFT JOIN (
          SELECT lot_id, SUM(revenue_minor) AS earned FROM lot_use GROUP BY lot_id
        ) u ON u.lot_id = l.id
        WHERE l.recognized_minor <> COALESCE(u.earned, 0) OR l.recognized_minor < 0
         OR l.recognized_minor > l.price_minor
         OR (l.remaining = 0 AND l.recognized_minor <> l.price_minor)""",
    ),
    _Check(
        "I9",
        "A movement that needs a key has none.",
        """SELECT t.id AS transfer, t.kind, t.code FROM transfer t
        LEFT JOIN operation o ON o.transfer_id = t.id
        WHERE o.id IS NULL AND (t.kind = 'pending'
         OR (t.kind = 'direct' AND t.cause_id IS NULL AND t.code <> 'expiry'))""",
    ),
    _Check(
        "I9",
        "A key was used more than once.",
        """SELECT scope, key, COUNT(*) AS times FROM operation
        GROUP BY scope, key HAVING COUNT(*) > 1""",
    ),
    _Check(
        "I10",
        "A refused request has moved credits.",
        """SELECT id AS operation, transfer_id AS transfer FROM operation
        WHERE status = 'refused' AND transfer_id IS NOT NULL""",
    ),
    _Check(
        "I10",
        "A request was carried out in part: its hold or its lot is missing.",
        """SELECT t.id AS transfer, t.kind, t.code FROM transfer t
        LEFT JOIN hold h ON h.id = t.id
        LEFT JOIN (
          SELECT transfer_id, account_id, SUM(granted) AS granted FROM lot
          GROUP BY transfer_id, account_id
        ) l ON l.transfer_id = t.id AND l.account_id = t.credit_id
        JOIN account a ON a.id = t.credit_id
        WHERE (t.kind = 'pending' AND h.id IS NULL)
         OR (t.kind = 'direct' AND a.kind = 'wallet' AND t.amount <> COALESCE(l.granted, 0))""",
    ),
    _Check(
        "I10",
        "A lot came with a transfer into another wallet.",
        """SELECT l.id AS lot, t.id AS transfer FROM lot l JOIN transfer t ON t.id = l.transfer_id
        WHERE l.account_id <> t.credit_id""",
    ),
    _Check(
        "I6",
        "What was moved out of a lot is not the lot that came of it.",
        """SELECT u.transfer_id AS transfer, u.lot_id AS lot, u.amount, l.granted,
         u.revenue_minor AS price_given, l.price_minor AS price_taken
        FROM lot_use u LEFT JOIN lot p ON p.id = u.lot_id
        LEFT JOIN lot l ON l.transfer_id = u.transfer_id AND l.parent_lot_id = u.lot_id
        WHERE u.kind = 'move' AND (l.id IS NULL OR l.granted <> u.amount
         OR l.price_minor <> u.revenue_minor OR l.currency <> p.currency
         OR COALESCE(l.expires_at, -1) <> COALESCE(p.expires_at, -1))
        UNION ALL
        SELECT l.transfer_id, l.parent_lot_id, 0, l.granted, 0, l.price_minor FROM lot l
        LEFT JOIN lot_use u ON u.transfer_id = l.transfer_id AND u.lot_id = l.parent_lot_id
         AND u.kind = 'move'
        WHERE l.parent_lot_id IS NOT NULL AND u.lot_id IS NULL""",
    ),
    _Check(
        "I24",
        "What a member's budget counts is not what was used and is held on it.",
        """SELECT b.id AS budget, b.user_id AS "user", b.used, COALESCE(h.used, 0) AS rebuilt_used,
         b.held, COALESCE(h.held, 0) AS rebuilt_held
        FROM budget b LEFT JOIN (
          SELECT hold.budget_id, SUM(COALESCE(usage.cost, hold.settled)) AS used,
           SUM(CASE WHEN hold.state = 'open' THEN hold.amount ELSE 0 END) AS held
          FROM hold LEFT JOIN usage ON usage.transfer_id = hold.settlement_id
          GROUP BY hold.budget_id
        ) h ON h.budget_id = b.id
        WHERE b.scope = 'member'
         AND (b.used <> COALESCE(h.used, 0) OR b.held <> COALESCE(h.held, 0))""",
    ),
    _Check(
        "I24",
        "What a day's budget counts is not what was sent on it.",
        """SELECT b.id AS budget, b.user_id AS "user", b.used, b.held, SUM(t.amount) AS rebuilt
        FROM budget b LEFT JOIN transfer t ON t.debit_id = b.account_id AND t.code = 'transfer'
         AND t.created_at >= b.starts_at AND t.created_at < b.ends_at
        WHERE b.scope = 'transfer' GROUP BY b.id, b.user_id, b.used, b.held
        HAVING b.held <> 0 OR b.used <> COALESCE(SUM(t.amount), 0)""",
    ),
    _Check(
        "I24",
        "A hold and its budget are not of the same wallet and month, or there is none.",
        """SELECT h.id AS hold, h.account_id AS account, h.budget_id AS budget
        FROM hold h JOIN account a ON a.id = h.account_id LEFT JOIN budget b ON b.id = h.budget_id
        WHERE (a.org_id IS NOT NULL) <> (h.budget_id IS NOT NULL)
         OR (h.budget_id IS NOT NULL AND (b.id IS NULL OR b.account_id <> h.account_id
          OR h.created_at < b.starts_at OR h.created_at >= b.ends_at))""",
    ),
    _Check(
        "I24",
        "An organisation paid for somebody else's answer.",
        """SELECT u.id AS usage, u.reply_id AS reply, u.user_id AS "user", b.user_id AS member
        FROM usage u JOIN hold h ON h.settlement_id = u.transfer_id
        JOIN budget b ON b.id = h.budget_id WHERE u.user_id <> b.user_id""",
    ),
    _Check(
        "I24",
        "What an API key's budget counts is not what was used and is held with it.",
        """SELECT b.id AS budget, b.key_id AS key, b.period, b.used,
         COALESCE(SUM(COALESCE(u.cost, h.settled)), 0) AS rebuilt_used, b.held,
         COALESCE(SUM(CASE WHEN h.state = 'open' THEN h.amount ELSE 0 END), 0) AS rebuilt_held
        FROM key_budget b LEFT JOIN hold h ON h.key_id = b.key_id
         AND h.created_at >= b.starts_at AND h.created_at < b.ends_at
        LEFT JOIN "usage" u ON u.transfer_id = h.settlement_id
        GROUP BY b.id, b.key_id, b.period, b.used, b.held
        HAVING b.used <> COALESCE(SUM(COALESCE(u.cost, h.settled)), 0)
         OR b.held <> COALESCE(SUM(CASE WHEN h.state = 'open' THEN h.amount ELSE 0 END), 0)""",
    ),
    _Check(
        "I24",
        "A hold of an API key is not counted in its day, its month and its total.",
        """SELECT h.id AS hold, h.key_id AS key, COUNT(b.id) AS budgets
        FROM hold h LEFT JOIN key_budget b ON b.key_id = h.key_id
         AND h.created_at >= b.starts_at AND h.created_at < b.ends_at
        WHERE h.key_id IS NOT NULL GROUP BY h.id, h.key_id HAVING COUNT(b.id) <> 3""",
    ),
    _Check(
        "I11",
        "A hold is open long after its end.",
        """SELECT id AS hold, expires_at FROM hold
        WHERE state = 'open' AND expires_at + :grace < :now""",
    ),
    _Check(
        "I11",
        "A hold was settled after its end, or expired before it.",
        """SELECT h.id AS hold, h.expires_at, r.kind, r.created_at
        FROM hold h JOIN transfer r ON r.pending_id = h.id
        WHERE (r.kind = 'post' AND r.created_at >= h.expires_at)
         OR (r.kind = 'expire' AND r.created_at < h.expires_at)""",
    ),
    _Check(
        "I11",
        "Credits were pinned or used after the end of their lot, or expired before it.",
        """SELECT l.id AS lot, l.expires_at, t.id AS transfer, t.created_at
        FROM lot l JOIN hold_lot hl ON hl.lot_id = l.id JOIN transfer t ON t.id = hl.hold_id
        WHERE t.created_at >= l.expires_at
        UNION ALL
        SELECT l.id, l.expires_at, t.id, t.created_at
        FROM lot l JOIN lot_use u ON u.lot_id = l.id JOIN transfer t ON t.id = u.transfer_id
        WHERE (t.code <> 'expiry' AND t.kind = 'direct' AND t.created_at >= l.expires_at)
         OR (t.code = 'expiry' AND (l.expires_at IS NULL OR t.created_at < l.expires_at))""",
    ),
    _Check(
        "I12",
        "Ledger time went backwards in a wallet.",
        """SELECT id AS transfer, created_at, before FROM (
          SELECT id, created_at,
           LAG(created_at) OVER (PARTITION BY account_id ORDER BY id) AS before
          FROM (
            SELECT id, debit_id AS account_id, created_at FROM transfer
            UNION ALL SELECT id, credit_id, created_at FROM transfer
          ) sides WHERE account_id IN (SELECT id FROM account WHERE kind = 'wallet')
        ) timed WHERE created_at < before""",
    ),
    _Check(
        "I12",
        "A wallet is older than its newest transfer.",
        """SELECT a.id AS account, a.last_at, MAX(s.created_at) AS newest
        FROM account a JOIN (
          SELECT debit_id AS account_id, created_at FROM transfer
          UNION ALL SELECT credit_id, created_at FROM transfer
        ) s ON s.account_id = a.id
        WHERE a.kind = 'wallet' GROUP BY a.id, a.last_at HAVING MAX(s.created_at) > a.last_at""",
    ),
    _Check(
        "I15",
        "An answer's cost is not what was charged for it.",
        """SELECT u.id AS usage, u.reply_id AS reply, u.cost, t.amount AS charged
        FROM usage u LEFT JOIN transfer t ON t.id = u.transfer_id
        WHERE t.id IS NULL OR t.amount <> u.cost OR t.debit_id <> u.account_id
         OR t.code <> 'message' OR t.kind NOT IN ('post', 'direct')""",
    ),
    _Check(
        "I17",
        "A paid order does not have exactly its credits.",
        """SELECT p.id AS payment, p.credits + p.bonus_credits AS bought, t.amount AS granted
        FROM payment p LEFT JOIN operation o ON o.id = p.fulfilled_op_id
        LEFT JOIN transfer t ON t.id = o.transfer_id
        WHERE p.status = 'paid' AND (t.id IS NULL OR t.code NOT IN ('purchase', 'plan')
         OR t.amount <> p.credits + p.bonus_credits OR t.reference <> p.id)""",
    ),
    _Check(
        "I17",
        "More was refunded than was paid for an order.",
        """SELECT p.id AS payment, p.amount_minor AS paid, r.back AS refunded
        FROM payment p JOIN (
          SELECT payment_id, SUM(amount_minor) AS back FROM refund
          WHERE state <> 'failed' GROUP BY payment_id
        ) r ON r.payment_id = p.id
        WHERE p.status <> 'paid' OR r.back > p.amount_minor""",
    ),
    _Check(
        "I17",
        "A refund is not worth what left the wallet for it.",
        """SELECT r.id AS refund, r.credits, r.amount_minor, t.amount AS taken,
         (SELECT COALESCE(SUM(u.revenue_minor), 0) FROM lot_use u
          WHERE u.transfer_id = r.transfer_id AND u.kind = 'refund') AS share
        FROM refund r LEFT JOIN transfer t ON t.id = r.transfer_id
        WHERE t.id IS NULL OR t.code <> 'refund' OR t.amount <> r.credits
         OR t.reference <> r.payment_id
         OR r.amount_minor <> (SELECT COALESCE(SUM(u.revenue_minor), 0) FROM lot_use u
          WHERE u.transfer_id = r.transfer_id AND u.kind = 'refund')
         OR (r.state = 'failed' AND r.returned_id IS NULL)""",
    ),
    _Check(
        "I17",
        "Somebody was let off more of a debt than it was.",
        """SELECT d.id AS debt, d.amount AS owed, SUM(c.amount) AS let_off
        FROM transfer c JOIN transfer d ON d.id = c.cause_id
        WHERE c.code IN ('debt_cancelled', 'forgiveness')
        GROUP BY d.id, d.amount, d.code HAVING d.code <> 'debt' OR SUM(c.amount) > d.amount""",
    ),
    _Check(
        "I17",
        "What was forgiven did not pay a debt.",
        """SELECT f.id AS transfer, f.amount AS forgiven, r.amount AS paid
        FROM transfer f LEFT JOIN transfer r ON r.cause_id = f.id AND r.code = 'repayment'
        WHERE f.code = 'forgiveness' AND (r.id IS NULL OR r.amount <> f.amount)""",
    ),
    _Check(
        "I17",
        "A dispute is not what was taken and owed for it.",
        """SELECT d.id AS dispute, d.credits, d.owed, t.amount AS taken, o.amount AS booked
        FROM dispute d LEFT JOIN transfer t ON t.id = d.transfer_id
        LEFT JOIN transfer o ON o.id = d.debt_id
        WHERE d.credits <> COALESCE(t.amount, 0) OR d.owed <> COALESCE(o.amount, 0)
         OR (t.id IS NOT NULL AND (t.code <> 'chargeback' OR t.reference <> d.payment_id))
         OR (o.id IS NOT NULL AND (o.code <> 'debt' OR o.reference <> d.payment_id))""",
    ),
]
# SQLite gives out keys without gaps here, and takes them back when a story is rolled back.
_SQLITE_CHECKS = [
    _Check(
        "I13",
        "Rows of an append-only table are gone.",
        """SELECT s.name AS "table", s.seq AS written, COALESCE(t.found, e.found) AS found
        FROM sqlite_sequence s
        LEFT JOIN (SELECT COUNT(*) AS found FROM transfer) t ON s.name = 'transfer'
        LEFT JOIN (SELECT COUNT(*) AS found FROM event_log) e ON s.name = 'event_log'
        WHERE s.seq <> COALESCE(t.found, e.found)""",
    )
]


def run(
    session: Session,
    *,
    now: int | None = None,
    audit_key: bytes | None = None,
    published: Iterable[str] = (),
) -> list[Problem]:
    """Every discrepancy in the books; an empty list is a proof.

    With `now` overdue holds are measured against it, else against the ledger's newest time.
    With `audit_key` the seals are checked too, and against `published` heads if given.
    """
    if now is None:
        newest = session.execute(text("SELECT COALESCE(MAX(last_at), 0) FROM account"))
        now = int(newest.scalar_one())
    sqlite = session.get_bind().dialect.name == "sqlite"
    problems = []
    for check in [*_CHECKS, *(_SQLITE_CHECKS if sqlite else [])]:
        values = {"now": now, "grace": SWEEP_GRACE} if ":now" in check.query else {}
        for row in session.execute(text(check.query), values).mappings():
            # Sums are decimals on PostgreSQL.
            facts = {name: _plain(value) for name, value in row.items()}
            problems.append(Problem(check.invariant, check.sentence, facts))
    problems += [
        Problem("I13", "An append-only trigger is missing.", {"trigger": name})
        for name in triggers.missing(session.connection())
    ]
    problems += rollups.check(session)
    problems += invoices.run(session)
    problems += receipts.problems(session)
    if audit_key is not None:
        problems += seal.verify(session, key=audit_key, published=published)
    return problems


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str) else int(value)  # type: ignore[call-overload]
