"""Reconciliation: what people did, what it cost, what moved and what was paid must agree.

Every check compares two kinds of records and returns the pairs that differ. A difference is
kept as a row with the ids of both sides, and with what to do; nothing is repaired by itself.
`verify` proves the ledger against itself, this compares it with the world around it.

A new kind of record joins by one more `Check` in `CHECKS`: a query whose columns `left_id` and
`right_id` name the records and whose other columns are facts. A check whose tables are not all
there is left out.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import inspect, text
from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import differences, log
from chat_app.audit.differences import Found, Run, Side
from chat_app.clock import MICROS_PER_SECOND
from chat_app.db import Database

# A reply between its two transactions is no difference; after this nobody is working on it.
GRACE = 3600 * MICROS_PER_SECOND
# A run keeps no more of one check: such a fault has one cause.
MOST = 1000


@dataclass(frozen=True)
class Check:
    """A comparison: a name, the kinds of both sides, the rule, what to do, and its query.

    `:now` and `:grace` may stand in the query, in microseconds.
    """

    name: str
    left: str
    right: str
    sentence: str
    advice: str
    query: str
    tables: tuple[str, ...] = ()


CHECKS = [
    # The inference log and the usage.
    Check(
        "answer_without_usage",
        "reply",
        "usage",
        "An answer has ended, but its usage was not recorded.",
        "Look at the reply's hold. If it was charged, record the correction as an adjustment.",
        """SELECT r.id AS left_id, NULL AS right_id, r.charged, r.hold_id, r.user_id
        FROM reply r LEFT JOIN usage u ON u.reply_id = r.id
        WHERE r.state <> 'running' AND u.id IS NULL""",
    ),
    Check(
        "usage_without_answer",
        "reply",
        "usage",
        "A usage names an answer that does not exist.",
        "Find out where the answer went before anything else; refund it if nobody received it.",
        """SELECT NULL AS left_id, u.id AS right_id, u.reply_id AS reply, u.cost, u.user_id
        FROM usage u LEFT JOIN reply r ON r.id = u.reply_id WHERE r.id IS NULL""",
    ),
    Check(
        "answer_and_usage",
        "reply",
        "usage",
        "An answer and its usage differ in price, tokens, model or payer.",
        "The usage and its transfer count. Compare both with the log of that time.",
        """SELECT r.id AS left_id, u.id AS right_id, r.charged, u.cost, r.model,
         u.model AS used_model, r.prompt_tokens, u.prompt_tokens AS used_prompt_tokens,
         r.completion_tokens, u.completion_tokens AS used_completion_tokens
        FROM reply r JOIN usage u ON u.reply_id = r.id
        WHERE r.state = 'running' OR r.charged <> u.cost OR r.transfer_id <> u.transfer_id
         OR r.model <> u.model OR r.user_id <> u.user_id OR r.price_version <> u.price_version
         OR r.prompt_tokens <> u.prompt_tokens OR r.completion_tokens <> u.completion_tokens
         OR r.cached_tokens <> u.cached_tokens""",
    ),
    Check(
        "answer_and_hold",
        "reply",
        "hold",
        "An answer has ended and its hold has not, or it was charged more than was held.",
        "The sweeper ends overdue holds within minutes. If it stays, look at the job log.",
        """SELECT r.id AS left_id, h.id AS right_id, r.state, h.state AS hold_state, r.charged,
         h.amount
        FROM reply r LEFT JOIN hold h ON h.id = r.hold_id
        WHERE h.id IS NULL OR (r.state <> 'running' AND h.state = 'open')
         OR r.charged > h.amount""",
    ),
    Check(
        "answer_never_ended",
        "reply",
        "hold",
        "An answer is being written although nobody is writing it.",
        "Restart the server: it settles abandoned answers when it starts.",
        """SELECT r.id AS left_id, r.hold_id AS right_id, r.lease_until
        FROM reply r WHERE r.state = 'running' AND r.lease_until + :grace < :now""",
    ),
    # The usage and the transfers.
    Check(
        "usage_and_transfer",
        "usage",
        "transfer",
        "A usage's cost is not what was charged.",
        "The transfer is what the customer paid. Correct the difference by an adjustment.",
        """SELECT u.id AS left_id, t.id AS right_id, u.cost, t.amount AS charged,
         u.reply_id AS reply
        FROM usage u LEFT JOIN transfer t ON t.id = u.transfer_id
        WHERE t.id IS NULL OR t.amount <> u.cost OR t.debit_id <> u.account_id
         OR t.code <> 'message' OR t.kind NOT IN ('post', 'direct')""",
    ),
    Check(
        "charge_without_usage",
        "usage",
        "transfer",
        "Somebody was charged for a message, and there is no usage for it.",
        "Find the reply by the transfer's reference. Refund the charge if there was no answer.",
        """SELECT NULL AS left_id, t.id AS right_id, t.amount AS charged, t.reference AS reply
        FROM transfer t LEFT JOIN usage u ON u.transfer_id = t.id
        WHERE t.code = 'message' AND t.kind IN ('post', 'direct') AND t.amount > 0
         AND u.id IS NULL""",
    ),
    # The transfers and the lots.
    Check(
        "credits_without_lot",
        "transfer",
        "lot",
        "Credits came into a wallet and are not in its lots.",
        "Compare the lot with the order or gift behind the transfer; correct by an adjustment.",
        """SELECT t.id AS left_id, MIN(l.id) AS right_id, t.amount,
         COALESCE(SUM(l.granted), 0) AS granted
        FROM transfer t JOIN account a ON a.id = t.credit_id AND a.kind = 'wallet'
        LEFT JOIN lot l ON l.transfer_id = t.id AND l.account_id = t.credit_id
        WHERE t.kind IN ('direct', 'post')
        GROUP BY t.id, t.amount HAVING t.amount <> COALESCE(SUM(l.granted), 0)""",
    ),
    Check(
        "lot_without_credits",
        "transfer",
        "lot",
        "A lot does not come from a transfer into its wallet.",
        "Nobody received these credits by the books. Find who wrote the lot.",
        """SELECT t.id AS left_id, l.id AS right_id, l.granted, l.account_id AS wallet
        FROM lot l LEFT JOIN transfer t ON t.id = l.transfer_id
        WHERE t.id IS NULL OR t.kind <> 'direct' OR t.credit_id <> l.account_id""",
    ),
    Check(
        "spent_and_lots",
        "transfer",
        "lot",
        "What left a wallet is not what was taken from its lots.",
        "Compare the uses of the lots with the transfer; correct by an adjustment.",
        """SELECT t.id AS left_id, MIN(u.lot_id) AS right_id, t.amount,
         COALESCE(SUM(u.amount), 0) AS taken
        FROM transfer t JOIN account a ON a.id = t.debit_id AND a.kind = 'wallet'
        LEFT JOIN lot_use u ON u.transfer_id = t.id
        WHERE t.kind IN ('direct', 'post')
        GROUP BY t.id, t.amount HAVING t.amount <> COALESCE(SUM(u.amount), 0)""",
    ),
    # The payments and the credits.
    Check(
        "payment_without_credits",
        "payment",
        "transfer",
        "A paid order did not bring exactly its credits to its buyer.",
        "Compare with the provider's account of the payment, then grant or take the difference.",
        """SELECT p.id AS left_id, t.id AS right_id, p.credits + p.bonus_credits AS bought,
         t.amount AS granted, p.user_id
        FROM payment p LEFT JOIN operation o ON o.id = p.fulfilled_op_id
        LEFT JOIN transfer t ON t.id = o.transfer_id LEFT JOIN account a ON a.id = t.credit_id
        WHERE p.fulfilled_op_id IS NOT NULL AND (t.id IS NULL
         OR t.amount <> p.credits + p.bonus_credits OR t.reference <> p.id
         OR a.user_id <> p.user_id)""",
    ),
    Check(
        "credits_without_payment",
        "payment",
        "transfer",
        "Credits were sold, and no paid order says so.",
        "Ask the provider whether this was paid. If not, take the credits back.",
        """SELECT p.id AS left_id, t.id AS right_id, t.amount AS granted, t.reference AS payment
        FROM transfer t LEFT JOIN payment p ON p.id = t.reference
        WHERE t.code = 'purchase' AND (p.id IS NULL OR p.fulfilled_op_id IS NULL)""",
    ),
    Check(
        "payment_and_lot",
        "payment",
        "lot",
        "What was paid is not the price of the credits that were bought.",
        "The payment counts. Revenue from this lot is wrong until it is corrected.",
        """SELECT p.id AS left_id, l.id AS right_id, p.amount_minor AS paid,
         l.price_minor AS price, p.currency, l.currency AS lot_currency
        FROM payment p JOIN operation o ON o.id = p.fulfilled_op_id
        JOIN lot l ON l.transfer_id = o.transfer_id
        WHERE p.amount_minor <> l.price_minor OR p.currency <> l.currency""",
    ),
    # The payments and their documents.
    Check(
        "payment_and_invoice",
        "payment",
        "invoice",
        "A paid order has no paid invoice over its amount.",
        "Find out why it was not issued with the payment. Nothing issues it afterwards.",
        """SELECT p.id AS left_id, i.id AS right_id, p.amount_minor AS paid,
         i.total_minor AS invoiced
        FROM payment p LEFT JOIN invoice i ON i.payment_id = p.id AND i.kind = 'invoice'
         AND i.status <> 'void'
        WHERE p.paid_at IS NOT NULL AND p.paid_at >= (SELECT MIN(created_at) FROM seller)
         AND (i.id IS NULL OR i.status <> 'paid' OR i.total_minor <> p.amount_minor)""",
    ),
    Check(
        "money_back_and_credit_notes",
        "payment",
        "invoice",
        "The credit notes of an order do not take off what went back to its buyer.",
        "If a refund failed after it had succeeded, the next one makes up for it; else ask the "
        "provider what went back.",
        """SELECT p.id AS left_id, MIN(n.id) AS right_id, b.gone,
         COALESCE(SUM(n.total_minor), 0) AS credited
        FROM payment p JOIN (
          SELECT payment_id, SUM(gone) AS gone FROM (
            SELECT payment_id, amount_minor AS gone FROM refund WHERE state = 'succeeded'
            UNION ALL
            SELECT payment_id,
             CASE WHEN amount_minor < disputed_minor THEN amount_minor ELSE disputed_minor END
            FROM dispute WHERE state = 'lost'
            UNION ALL
            SELECT payment_id, 0 FROM invoice WHERE kind = 'credit_note'
          ) parts GROUP BY payment_id
        ) b ON b.payment_id = p.id
        LEFT JOIN invoice n ON n.payment_id = p.id AND n.kind = 'credit_note'
        GROUP BY p.id, b.gone HAVING b.gone <> COALESCE(SUM(n.total_minor), 0)""",
    ),
    # The money that goes back and the credits.
    Check(
        "refund_and_credits",
        "refund",
        "transfer",
        "A refund is not worth the credits that left for it.",
        "Compare with the provider's account of the refund; correct the credits by an adjustment.",
        """SELECT r.id AS left_id, t.id AS right_id, r.credits, t.amount AS taken,
         r.amount_minor AS money, COALESCE(SUM(u.revenue_minor), 0) AS share
        FROM refund r LEFT JOIN transfer t ON t.id = r.transfer_id
        LEFT JOIN lot_use u ON u.transfer_id = t.id AND u.kind = 'refund'
        GROUP BY r.id, t.id, r.credits, t.amount, r.amount_minor, t.code
        HAVING t.id IS NULL OR t.code <> 'refund' OR t.amount <> r.credits
         OR r.amount_minor <> COALESCE(SUM(u.revenue_minor), 0)""",
    ),
    Check(
        "credits_without_refund",
        "refund",
        "transfer",
        "Credits left for a refund or a chargeback, and there is no such record.",
        "Ask the provider whether money went back. If not, give the credits back.",
        """SELECT NULL AS left_id, t.id AS right_id, t.amount AS taken, t.reference AS payment
        FROM transfer t LEFT JOIN refund r ON r.transfer_id = t.id
        LEFT JOIN dispute d ON d.transfer_id = t.id
        LEFT JOIN account a ON a.id = t.credit_id
        WHERE t.code IN ('refund', 'chargeback') AND a.code = 'sys:refunded'
         AND r.id IS NULL AND d.id IS NULL""",
    ),
    Check(
        "dispute_and_credits",
        "dispute",
        "payment",
        "A dispute took or owes other credits than the books say, or names another buyer.",
        "The books count. Compare with the provider, then correct by an adjustment.",
        """SELECT d.id AS left_id, p.id AS right_id, d.credits, t.amount AS taken, d.owed,
         o.amount AS booked
        FROM dispute d LEFT JOIN payment p ON p.id = d.payment_id
        LEFT JOIN transfer t ON t.id = d.transfer_id LEFT JOIN transfer o ON o.id = d.debt_id
        WHERE p.id IS NULL OR p.user_id <> d.user_id OR d.credits <> COALESCE(t.amount, 0)
         OR d.owed <> COALESCE(o.amount, 0)""",
    ),
    # The provider's words and what was made of them.
    Check(
        "refund_never_sent",
        "refund",
        "payment",
        "The provider was not reached for a refund, and its credits have left.",
        "The schedule keeps trying. If it stays, look at the refund's error and at the job log.",
        """SELECT r.id AS left_id, r.payment_id AS right_id, r.attempts, r.amount_minor AS money
        FROM refund r WHERE r.state = 'pending' AND r.created_at + :grace < :now""",
    ),
    Check(
        "event_never_acted_on",
        "event",
        "payment",
        "A provider announced something, and nothing was made of it.",
        "The schedule keeps trying. If it stays, look at the event under Admin, Payments.",
        """SELECT e.id AS left_id, e.payment_id AS right_id, e.type, e.attempts
        FROM webhook_event e WHERE e.state = 'new' AND e.received_at + :grace < :now""",
    ),
    Check(
        "paid_event_and_payment",
        "event",
        "payment",
        "A provider said that an order is paid, and the order says otherwise.",
        "Ask the provider whether this was paid, then grant the credits or refuse the event.",
        """SELECT e.id AS left_id, p.id AS right_id, e.type, p.status
        FROM webhook_event e JOIN payment p ON p.id = e.payment_id
        WHERE e.state = 'done' AND e.type = 'checkout.session.async_payment_succeeded'
         AND p.status <> 'paid'""",
    ),
    # The keys and what they moved.
    Check(
        "key_and_transfer",
        "operation",
        "transfer",
        "A request was recorded as done, and its transfer is not there.",
        "The customer was told that this was done. Carry it out again by an adjustment.",
        """SELECT o.id AS left_id, NULL AS right_id, o.scope, o.transfer_id AS transfer
        FROM operation o LEFT JOIN transfer t ON t.id = o.transfer_id
        WHERE o.transfer_id IS NOT NULL AND t.id IS NULL""",
    ),
    # The money ledger and the lots.
    Check(
        "journal_balanced",
        "journal",
        "posting",
        "An entry of the money ledger does not add up to zero.",
        "Nothing writes such an entry. Restore the newest backup and compare the two.",
        """SELECT p.journal_id AS left_id, NULL AS right_id, p.currency,
         SUM(p.amount_minor) AS difference
        FROM posting p GROUP BY p.journal_id, p.currency HAVING SUM(p.amount_minor) <> 0""",
    ),
    Check(
        "deferred_and_postings",
        "lot",
        "posting",
        "The money ledger defers something else for a lot than what it still owes.",
        "Compare the order's trace (docs/accounting.md) with the lot's uses.",
        """SELECT r.lot_id AS left_id, NULL AS right_id, r.payment_id AS payment,
         r.net_minor - r.earned - r.broken - r.handed AS owed,
         COALESCE(p.deferred, 0) AS deferred
        FROM lot_revenue r LEFT JOIN (
         SELECT lot_id, -SUM(amount_minor) AS deferred FROM posting
         WHERE account LIKE 'deferred:%' GROUP BY lot_id) p ON p.lot_id = r.lot_id
        WHERE r.net_minor - r.earned - r.broken - r.handed <> COALESCE(p.deferred, 0)""",
    ),
    Check(
        "lot_and_its_revenue",
        "lot",
        "lot",
        "The money ledger counts other uses of a lot than the lot has.",
        "The lot's uses count. Compare them with the order's trace (docs/accounting.md).",
        """SELECT r.lot_id AS left_id, r.lot_id AS right_id, r.used + r.gone + r.expired AS counted,
         COALESCE(u.amount, 0) AS left_the_lot
        FROM lot_revenue r JOIN book_mark m ON m.id = 1 LEFT JOIN (
         SELECT x.lot_id, SUM(x.amount) AS amount
         FROM lot_use x JOIN book_mark b ON x.transfer_id <= b.transfer_id
         GROUP BY x.lot_id) u ON u.lot_id = r.lot_id
        WHERE r.used + r.gone + r.expired <> COALESCE(u.amount, 0)""",
    ),
    Check(
        "order_without_sale",
        "payment",
        "journal",
        "An order was paid and the money ledger does not know it.",
        "The books are written after each day's end. If it stays, look at the job log.",
        """SELECT p.id AS left_id, NULL AS right_id, p.amount_minor, p.currency
        FROM payment p JOIN operation o ON o.id = p.fulfilled_op_id
        JOIN book_mark m ON m.id = 1 AND o.transfer_id <= m.transfer_id
        LEFT JOIN journal j ON j.key = 'sale:' || p.id
        WHERE p.status = 'paid' AND p.amount_minor > 0 AND j.id IS NULL""",
    ),
]


def check_named(name: str) -> Check | None:
    """The check that found a difference; None for one that is no longer made."""
    return next((check for check in CHECKS if check.name == name), None)


def compare(db: Database, *, now: int, checks: list[Check] | None = None) -> list[Found]:
    """Every difference, from one snapshot; nothing is written."""
    found: list[Found] = []
    with db.read() as session:
        if not db.sqlite:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        there = set(inspect(session.connection()).get_table_names())
        for check in CHECKS if checks is None else checks:
            if there.issuperset(check.tables):
                found += _differences(session, check, now)
    return found


def run(app: App, *, actor: str = "system") -> Run:
    """Compare everything and keep what differs."""
    started_at = app.clock.micros()
    found = compare(app.db, now=started_at)
    return keep(app.db, found=found, actor=actor, started_at=started_at, now=app.clock.micros())


def keep(db: Database, *, found: list[Found], actor: str, started_at: int, now: int) -> Run:
    """Keep the differences of a comparison as the newest run."""

    def story(session: Session) -> Run:
        made = differences.keep(
            session,
            found=found,
            checks=len(CHECKS),
            actor=actor,
            started_at=started_at,
            now=now,
        )
        log.record(
            session, type="reconciled", actor=actor, now=now, found=made.found, fresh=made.fresh
        )
        return made

    return db.write(story)


def _differences(session: Session, check: Check, now: int) -> list[Found]:
    values = {"now": now, "grace": GRACE} if ":now" in check.query else {}
    rows = session.execute(text(check.query), values).mappings().fetchmany(MOST)
    return [
        Found(
            check.name,
            Side(check.left, _id(row["left_id"])),
            Side(check.right, _id(row["right_id"])),
            {
                name: _plain(value)
                for name, value in row.items()
                if name not in ("left_id", "right_id") and value is not None
            },
        )
        for row in rows
    ]


def _id(value: object) -> str | None:
    return None if value is None else str(value)


def _plain(value: Any) -> object:
    # Sums are decimals on PostgreSQL.
    return value if isinstance(value, (str, bool)) else int(value)
