"""The money ledger, written day by day from what the credits' books say (docs/accounting.md).

A finished day is posted in one transaction and once: its entries have keys, and a mark says how
far the books are written. The hot path never touches money. What comes to light late is posted
on the day that is being written, so a closed month never changes.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlmodel import Session, col, select

from chat_app.app import App
from chat_app.audit import log
from chat_app.clock import from_micros, to_micros
from chat_app.credits import takings
from chat_app.credits.takings import Billed, Disputed, Made, PaidBack, Sale, Use
from chat_app.errors import Conflict, NotFound
from chat_app.flows import revenue_costs
from chat_app.revenue import deferred, journals
from chat_app.revenue.journals import Journal, Line
from chat_app.revenue.tables import BookMarkRow, BookPeriodRow, LotRevenueRow

if TYPE_CHECKING:
    from chat_app.revenue.recognition import Proration

CREDITS, PLANS = "deferred:credits", "deferred:plans"
# A day is written when it has been over for so long: then no transaction of it is open.
GRACE = timedelta(hours=1)
# So long after it happened, money that moved outside of the credits' books is looked for.
LATE = timedelta(days=40)
CHUNK = 500
_FIRST = """SELECT MIN(at) FROM (SELECT MIN(created_at) AS at FROM transfer
 UNION ALL SELECT MIN(issued_at) FROM invoice) firsts"""
_EARNED = {
    "use": "revenue:usage",
    "expire": "revenue:breakage",
    "adjust": "revenue:adjustment",
    "recovery": "bad_debt",
}
_MEMO = {
    "use": "Credits used",
    "recovery": "Old debts paid with new credits",
    "expire": "Credits that ended unused",
    "adjust": "Credits taken by an administrator",
    "move": "Credits handed to another wallet",
}


class NotWritten(Conflict):
    """A month can be closed when its last day is written and the months before are closed."""

    code = "period_not_complete"
    message = "This month is not complete yet. Close it after its last day, the oldest month first."


class UnknownPeriod(NotFound):
    """A month is written as 2026-03."""

    code = "unknown_period"
    message = "This is not a month. Write it like 2026-03."


class NoJournal(NotFound):
    """Nothing was posted for this order yet."""

    code = "nothing_posted"
    message = "Nothing is posted for this order yet. The books are written after each day's end."


@dataclass(frozen=True)
class Rules:
    """How revenue is recognised here. `expected_bp`: breakage in hundredths of a percent."""

    expected_bp: int = 0
    proration: "Proration" = "day"
    plans_over_time: bool = True


@dataclass
class _Day:
    """A day that is being written: the lots it touches and the lines that are collected."""

    session: Session
    day: date
    now: int
    rules: Rules
    lots: dict[int, LotRevenueRow] = field(default_factory=dict)
    lines: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))
    posted: list[str] = field(default_factory=list)

    def post(self, key: str, kind: str, memo: str, lines: Iterable[Line]) -> None:
        made = journals.post(
            self.session, key=key, day=self.day.isoformat(), kind=kind, memo=memo, lines=lines,
            now=self.now,
        )  # fmt: skip
        if made is not None:
            self.posted.append(key)


def rules_of(app: App) -> Rules:
    """The rules that are set."""
    given = app.settings.revenue
    share = round(given.expected_breakage * deferred.FULL_BP)
    return Rules(
        expected_bp=share if given.breakage == "proportional" else 0,
        proration=given.proration,
        plans_over_time=given.plans == "over_time",
    )


def post_due(app: App) -> int:
    """Write all days that are over, each in a transaction of its own, and what they cost.

    Returns how many days.
    """
    rules, count = rules_of(app), 0
    while True:
        now = app.clock.micros()
        day = app.db.write(lambda session, now=now: write_next(session, rules=rules, now=now))  # type: ignore[misc]
        if day is None:
            break
        count += 1
    revenue_costs.post_due(app)
    return count


def write_next(session: Session, *, rules: Rules, now: int) -> date | None:
    """Write the next day that is over, if there is one."""
    row = session.exec(select(BookMarkRow).with_for_update()).first()
    if row is None:
        first = session.execute(text(_FIRST)).scalar()
        if first is None:
            return None
        day, after = from_micros(int(first)).date(), 0
        row = BookMarkRow(id=1, day=(day - timedelta(days=1)).isoformat(), transfer_id=0)
    else:
        day, after = date.fromisoformat(row.day) + timedelta(days=1), row.transfer_id
    end = _micros(day + timedelta(days=1))
    if end + GRACE // timedelta(microseconds=1) > now:
        return None
    upto = takings.last_before(session, after=after, before=end)
    written = write_day(session, day=day, after=after, upto=upto, rules=rules, now=now)
    row.day, row.transfer_id = day.isoformat(), upto
    session.add(row)
    if written:
        log.record(
            session, type="journals_posted", actor="system", now=now, day=row.day,
            entries=len(written), upto=upto,
        )  # fmt: skip
    session.flush()
    return day


def write_day(
    session: Session, *, day: date, after: int, upto: int, rules: Rules, now: int
) -> list[str]:
    """Post a day: the transfers after one up to another, and the money that moved by itself.

    Returns the keys of the new entries.
    """
    this = _Day(session, day, now, rules)
    end = _micros(day + timedelta(days=1))
    since = end - LATE // timedelta(microseconds=1)
    for invoice in takings.billed(session, since=since, before=end):
        _bill(this, invoice, end)
    sold = takings.sales(session, after=after, upto=upto)
    made = takings.made(session, after=after, upto=upto)
    used = takings.uses(session, after=after, upto=upto)
    _load(this, [each.lot_id for each in used])
    happened: list[Sale | Made | Use] = sorted(
        [*sold, *used, *made], key=lambda one: (one.transfer_id, isinstance(one, Made))
    )
    handed: dict[tuple[int, int], tuple[int, int]] = {}
    back: dict[str, list[Line]] = defaultdict(list)
    for one in happened:
        if isinstance(one, Sale):
            _sell(this, one)
        elif isinstance(one, Made):
            _make(this, one, handed)
        elif one.kind == "refund":
            key = f"dispute:{one.dispute_id}" if one.dispute_id else f"refund:{one.refund_id}"
            back[key] += _take_back(this, one)
        else:
            _leave(this, one, handed)
    for key, lines in back.items():
        kind = key.partition(":")[0]
        memo = "Unused credits refunded" if kind == "refund" else "Unused credits taken back"
        this.post(f"{key}:taken", f"{kind}_taken", memo, lines)
    _catch_up(this)
    for kind, lines in this.lines.items():
        this.post(f"day:{day.isoformat()}:{kind}", kind, _MEMO[kind], lines)
    _serve(this, end)
    for refund in takings.paid_back(session, since=since, before=end):
        _pay_back(this, refund)
    for dispute in takings.disputed(session, since=since, before=end):
        _dispute(this, dispute, end)
    _note(this, since, end)
    session.flush()
    return this.posted


def close(app: App, *, period: str, actor: str) -> BookPeriodRow:
    """Close a month for good, once; raises UnknownPeriod and NotWritten."""
    try:
        first = date.fromisoformat(f"{period}-01")
    except ValueError as error:
        raise UnknownPeriod from error
    last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    now = app.clock.micros()

    def story(session: Session) -> BookPeriodRow:
        mark = session.exec(select(BookMarkRow).with_for_update()).first()
        if mark is None or mark.day < last.isoformat():
            raise NotWritten(written_to=mark.day if mark else None)
        before = (first - timedelta(days=1)).strftime("%Y-%m")
        oldest = session.execute(text("SELECT MIN(day) FROM journal")).scalar()
        done = {row.id for row in journals.closed(session)}
        if oldest is not None and oldest[:7] <= before and before not in done:
            raise NotWritten(open_before=before)
        return journals.close(session, period=period, actor=actor, now=now)

    return app.db.write(story)


def written_to(session: Session) -> str | None:
    """The last day that is in the money ledger."""
    row = session.get(BookMarkRow, 1)
    return None if row is None else row.day


@dataclass(frozen=True)
class Trace:
    """An order from its payment to the last recognised cent: entries, and where its money is."""

    payment_id: str
    entries: list[Journal]
    lots: list[LotRevenueRow]
    balances: dict[tuple[str, str], int]


def trace(app: App, *, payment_id: str) -> Trace:
    """All that was posted for an order; raises NoJournal."""
    with app.db.read() as session:
        entries = journals.of_payment(session, payment_id)
        if not entries:
            raise NoJournal(payment=payment_id)
        lots = session.exec(
            select(LotRevenueRow)
            .where(LotRevenueRow.payment_id == payment_id)
            .order_by(col(LotRevenueRow.lot_id))
        ).all()
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for entry in entries:
        for line in entry.lines:
            sums[line.account, line.currency] += line.minor
    return Trace(payment_id, entries, list(lots), dict(sums))


def _sell(this: _Day, sale: Sale) -> None:
    """A paid order: money came, and is owed as credits until they are used."""
    over_time = sale.starts_at is not None and this.rules.plans_over_time
    this.lots[sale.lot_id] = _state(
        this,
        lot_id=sale.lot_id,
        payment_id=sale.payment_id,
        currency=sale.currency,
        granted=sale.granted,
        gross=sale.price_minor,
        net=sale.net_minor,
        span=(sale.starts_at, sale.ends_at) if over_time else (None, None),
    )
    was_billed = f"invoice:{sale.invoice_id}:opened"
    billed = journals.exists(this.session, was_billed) and not journals.exists(
        this.session, f"invoice:{sale.invoice_id}:ended"
    )
    own: dict[str, Any] = {"payment_id": sale.payment_id}
    lines = [Line(f"cash:{sale.provider}", sale.currency, sale.amount_minor, **own)]
    if billed:
        lines.append(Line("receivable", sale.currency, -sale.amount_minor, **own))
        lines.append(Line("billed", sale.currency, sale.net_minor, **own))
    else:
        lines += [Line(f"tax:{where}", sale.currency, -minor, **own) for where, minor in sale.taxes]
    owed = PLANS if over_time else CREDITS
    lines.append(Line(owed, sale.currency, -sale.net_minor, lot_id=sale.lot_id, **own))
    this.post(f"sale:{sale.payment_id}", "sale", "Order paid", lines)


def _make(this: _Day, made: Made, handed: dict[tuple[int, int], tuple[int, int]]) -> None:
    """A lot that no order made: it was moved here, came back, or has a price of its own."""
    if made.parent_id is not None:
        given = handed.pop((made.transfer_id, made.parent_id), None)
        parent = this.lots.get(made.parent_id)
        if given is None or parent is None:
            return  # its parent has no price
        net = 0 if deferred.over_time(parent) else given[0]
        this.lots[made.lot_id] = _state(
            this,
            lot_id=made.lot_id,
            payment_id=parent.payment_id,
            currency=made.currency,
            granted=made.granted,
            gross=max(made.price_minor, net),
            net=net,
        )
        own: dict[str, Any] = {"payment_id": parent.payment_id}
        this.lines["move"].append(Line(CREDITS, made.currency, net, lot_id=made.parent_id, **own))
        this.lines["move"].append(Line(CREDITS, made.currency, -net, lot_id=made.lot_id, **own))
        return
    key = f"dispute:{made.dispute_id}" if made.dispute_id else f"refund:{made.refund_id}"
    taken = journals.find(this.session, f"{key}:taken")
    payment = next((line.payment_id for line in taken.lines), None) if taken else None
    net = made.price_minor
    if taken is not None:
        net = sum(
            line.minor for line in taken.lines if line.account.startswith(("deferred", "revenue"))
        )
    this.lots[made.lot_id] = _state(
        this,
        lot_id=made.lot_id,
        payment_id=payment,
        currency=made.currency,
        granted=made.granted,
        gross=max(made.price_minor, net),
        net=net,
    )
    lines = [Line(CREDITS, made.currency, -net, lot_id=made.lot_id, payment_id=payment)]
    if taken is None:
        lines.append(Line("opening", made.currency, net))
    else:
        lines += [
            Line(line.account, line.currency, -line.minor, payment_id=line.payment_id)
            for line in taken.lines
            if not line.account.startswith(("deferred", "revenue"))
        ]
        if journals.exists(this.session, f"{key}:paid"):  # it had arrived, and failed after all
            lines = [
                Line("cash:returned", line.currency, line.minor, payment_id=line.payment_id)
                if line.account == "refunds_due"
                else line
                for line in lines
            ]
    this.post(f"lot:{made.lot_id}", "returned", "Credits came back", lines)


def _leave(this: _Day, use: Use, handed: dict[tuple[int, int], tuple[int, int]]) -> None:
    """Credits left a lot: used, ended, taken, or moved on."""
    lot = this.lots.get(use.lot_id)
    if lot is None:
        return
    own: dict[str, Any] = {"lot_id": lot.lot_id, "payment_id": lot.payment_id}
    if use.kind == "move":
        handed[use.transfer_id, use.lot_id] = (
            (0, 0) if deferred.over_time(lot) else deferred.hand(lot, use.micro, use.gross_minor)
        )
        if deferred.over_time(lot):
            lot.used += use.micro
        elif handed[use.transfer_id, use.lot_id][1]:
            back = handed[use.transfer_id, use.lot_id][1]
            this.lines["move"] += [
                Line("revenue:usage", lot.currency, back, payment_id=lot.payment_id),
                Line(CREDITS, lot.currency, -back, **own),
            ]
            handed[use.transfer_id, use.lot_id] = (sum(handed[use.transfer_id, use.lot_id]), 0)
        return
    if use.kind == "expire":
        due = deferred.end(lot, use.micro)
    elif use.kind == "adjust" and not deferred.over_time(lot):
        due = sum(deferred.hand(lot, use.micro, use.gross_minor))
    else:
        due = deferred.use(lot, use.micro)
    # What was used before was earned then, and lost when a bank took its payment back.
    _earn(this, "recovery" if use.code == "repayment" else use.kind, lot, due)


def _earn(this: _Day, kind: str, lot: LotRevenueRow, due: int) -> None:
    """`due` of a lot's deferred revenue is earned: the lines of the day."""
    if due:
        this.lines[kind] += [
            Line(CREDITS, lot.currency, due, lot.lot_id, lot.payment_id),
            Line(_EARNED[kind], lot.currency, -due, lot.lot_id, lot.payment_id),
        ]


def _take_back(this: _Day, use: Use) -> list[Line]:
    """Unused credits left with their price: it is owed as money now, tax included."""
    lot = this.lots.get(use.lot_id)
    if lot is None:
        return []
    owed = PLANS if deferred.over_time(lot) else CREDITS
    earned = "revenue:subscription" if deferred.over_time(lot) else "revenue:usage"
    unearned, back = deferred.hand(lot, use.micro, use.gross_minor)
    own: dict[str, Any] = {"payment_id": lot.payment_id}
    tax = use.gross_minor - unearned - back
    where = _jurisdiction(this, lot.payment_id) if tax else None
    return [
        Line(owed, lot.currency, unearned, lot_id=lot.lot_id, **own),
        Line(earned, lot.currency, back, **own),
        Line(f"tax:{where}" if where else "rounding", lot.currency, tax, **own),
        Line(
            "disputes" if use.dispute_id else "refunds_due", lot.currency, -use.gross_minor, **own
        ),
    ]


def _catch_up(this: _Day) -> None:
    """A new estimate of breakage takes effect on all open lots, today."""
    bp = this.rules.expected_bp
    changed = this.session.exec(
        select(LotRevenueRow).where(
            LotRevenueRow.expected_bp != bp,
            LotRevenueRow.net_minor
            > col(LotRevenueRow.earned) + LotRevenueRow.broken + LotRevenueRow.handed,
        )
    ).all()
    for one in changed:
        lot = this.lots.setdefault(one.lot_id, one)
        _earn(this, "use", lot, deferred.expect(lot, bp))


def _serve(this: _Day, end: int) -> None:
    """Plans are earned by the day."""
    lines = []
    running = this.session.exec(
        select(LotRevenueRow)
        .where(
            col(LotRevenueRow.starts_at).is_not(None),
            LotRevenueRow.net_minor != col(LotRevenueRow.earned) + LotRevenueRow.handed,
        )
        .order_by(col(LotRevenueRow.lot_id))
    ).all()
    for lot in running:
        due = deferred.serve(lot, before=end, proration=this.rules.proration)
        if due:
            lines += [
                Line(PLANS, lot.currency, due, lot.lot_id, lot.payment_id),
                Line("revenue:subscription", lot.currency, -due, lot.lot_id, lot.payment_id),
            ]
    this.post(f"day:{this.day.isoformat()}:plan", "plan", "Plans, by the day", lines)


def _bill(this: _Day, invoice: Billed, end: int) -> None:
    """An invoice was sent before it is paid; or it will not be paid any more."""
    own: dict[str, Any] = {"payment_id": invoice.payment_id}
    taxes = takings.taxes_of(this.session, invoice_id=invoice.id)
    opened = [
        Line("receivable", invoice.currency, invoice.total_minor, **own),
        Line("billed", invoice.currency, -invoice.net_minor, **own),
        *(Line(f"tax:{where}", invoice.currency, -minor, **own) for where, minor in taxes),
    ]
    this.post(f"invoice:{invoice.id}:opened", "invoice", "Invoice sent", opened)
    over = invoice.status in ("void", "uncollectible") and (invoice.closed_at or end) < end
    if over:
        ended = [
            Line(line.account, line.currency, -line.minor, payment_id=line.payment_id)
            for line in opened
        ]
        this.post(f"invoice:{invoice.id}:ended", "invoice", f"Invoice {invoice.status}", ended)


def _pay_back(this: _Day, refund: PaidBack) -> None:
    own: dict[str, Any] = {"payment_id": refund.payment_id}
    lines = [
        Line("refunds_due", refund.currency, refund.amount_minor, **own),
        Line(f"cash:{refund.provider}", refund.currency, -refund.amount_minor, **own),
    ]
    this.post(f"refund:{refund.id}:paid", "refund", "Refund arrived", lines)


def _dispute(this: _Day, dispute: Disputed, end: int) -> None:
    """A bank took money; it returns it, or what was used of it is lost."""
    own: dict[str, Any] = {"payment_id": dispute.payment_id}
    cash, currency = f"cash:{dispute.provider}", dispute.currency
    out = [
        Line("disputes", currency, dispute.disputed_minor, **own),
        Line(cash, currency, -dispute.disputed_minor, **own),
    ]
    this.post(f"dispute:{dispute.id}:opened", "dispute", "Payment disputed", out)
    if dispute.closed_at is None or dispute.closed_at >= end:
        return
    if dispute.state == "won":
        back = [Line(line.account, currency, -line.minor, **own) for line in out]
        this.post(f"dispute:{dispute.id}:won", "dispute", "Dispute won", back)
    elif dispute.state == "lost":
        gone = dispute.disputed_minor - dispute.taken_minor
        lost = [Line("bad_debt", currency, gone, **own), Line("disputes", currency, -gone, **own)]
        this.post(f"dispute:{dispute.id}:lost", "dispute", "Dispute lost", lost)


def _note(this: _Day, since: int, end: int) -> None:
    """A credit note states its tax; what the refunds booked differs by cents at most."""
    for note in takings.note_taxes(this.session, since=since, before=end):
        account = f"tax:{note.jurisdiction}"
        if journals.exists(this.session, f"note:{note.id}"):
            continue
        booked = sum(
            line.minor
            for entry in journals.of_payment(this.session, note.payment_id)
            if entry.kind == "credit_note" or _went_back(this.session, entry.key)
            for line in entry.lines
            if line.account == account
        )
        stated = takings.noted_tax(
            this.session, payment_id=note.payment_id, jurisdiction=note.jurisdiction, until=note.at
        )
        own: dict[str, Any] = {"payment_id": note.payment_id}
        lines = [
            Line(account, note.currency, stated - booked, **own),
            Line("rounding", note.currency, booked - stated, **own),
        ]
        this.post(f"note:{note.id}", "credit_note", "Tax as the credit note says", lines)


def _went_back(session: Session, key: str) -> bool:
    """Whether the credits of this entry left with money that is gone for good."""
    start, _, what = key.rpartition(":")
    if what != "taken":
        return False
    # Nothing is posted for a lost dispute whose credits were all unused.
    return journals.exists(session, f"{start}:paid") or takings.is_lost(
        session, dispute_id=start.removeprefix("dispute:")
    )


def _state(
    this: _Day,
    *,
    lot_id: int,
    payment_id: str | None,
    currency: str,
    granted: int,
    gross: int,
    net: int,
    span: tuple[int | None, int | None] = (None, None),
) -> LotRevenueRow:
    row = LotRevenueRow(
        lot_id=lot_id,
        payment_id=payment_id,
        currency=currency,
        granted=granted,
        gross_minor=gross,
        net_minor=net,
        used=0,
        gone=0,
        expired=0,
        earned=0,
        broken=0,
        handed=0,
        gone_gross=0,
        expected_bp=0 if span[0] is not None else this.rules.expected_bp,
        starts_at=span[0],
        ends_at=span[1],
    )
    this.session.add(row)
    return row


def _load(this: _Day, ids: Sequence[int]) -> None:
    wanted = sorted(set(ids))
    for at in range(0, len(wanted), CHUNK):
        rows = this.session.exec(
            select(LotRevenueRow).where(col(LotRevenueRow.lot_id).in_(wanted[at : at + CHUNK]))
        )
        this.lots.update({row.lot_id: row for row in rows})


def _jurisdiction(this: _Day, payment_id: str | None) -> str | None:
    if payment_id is None:
        return None
    found = this.session.execute(
        text(
            """SELECT x.jurisdiction FROM invoice_tax x JOIN invoice i ON i.id = x.invoice_id
            WHERE i.payment_id = :id AND i.kind = 'invoice' AND i.status <> 'void'
             AND x.tax_minor > 0 ORDER BY x.tax_minor DESC, x.jurisdiction LIMIT 1"""
        ),
        {"id": payment_id},
    ).scalar()
    return None if found is None else str(found)


def _micros(day: date) -> int:
    return to_micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
