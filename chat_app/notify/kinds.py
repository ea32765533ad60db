"""Kinds: everything that people can be told, the topic it belongs to, and the words for it.

Another part of the program that has something to tell adds a kind here and calls
`flows/notices.tell`. Data are JSON values: credits as decimal texts, times as RFC 3339.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chat_app.errors import AppError
from chat_app.money import parse_credits, show_credits

Data = Mapping[str, Any]
CHANNELS = ("mail", "app")


@dataclass(frozen=True)
class Letter:
    """Words for a person. `action` is a button's label and a path of this site."""

    title: str
    lines: tuple[str, ...]
    rows: tuple[tuple[str, str], ...] = ()
    action: tuple[str, str] | None = None

    @property
    def text(self) -> str:
        """The letter in one paragraph, for the app."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.rows)
        return " ".join([*self.lines, f"{facts}." if facts else ""]).strip()


@dataclass(frozen=True)
class Topic:
    """What a person can choose about. A fixed one cannot be switched off.

    With `permission` it is for staff who have it.
    """

    name: str
    sentence: str
    mail: bool = True
    app: bool = True
    fixed: bool = False
    permission: str = ""

    def usual(self, channel: str) -> bool:
        """Whether it is told on this channel to somebody who has chosen nothing."""
        return self.mail if channel == "mail" else self.app


@dataclass(frozen=True)
class Kind:
    """Something that can be told. `event` is its name for webhooks; None: they do not get it."""

    topic: str
    letter: Callable[[Data], Letter]
    event: str | None = None
    channels: tuple[str, ...] = CHANNELS


TOPICS = {
    "balance": Topic("Balance alerts", "Low, critical, and running out soon"),
    "purchases": Topic("Purchases", "Confirmations of payments and refunds"),
    "weekly": Topic("Weekly summary", "What last week's messages cost", mail=False, app=False),
    "monthly": Topic("Monthly summary", "What last month's messages cost", mail=False, app=False),
    "due": Topic("Payments due", "A renewal, a top-up or an invoice that is not paid", fixed=True),
    "books_daily": Topic(
        "Daily finance report",
        "What yesterday sold and earned",
        mail=False,
        app=False,
        permission="books.read",
    ),
    "books_weekly": Topic(
        "Weekly finance report",
        "What last week sold and earned",
        mail=False,
        app=False,
        permission="books.read",
    ),
    "books_monthly": Topic(
        "Monthly finance report",
        "What last month sold and earned",
        mail=False,
        app=False,
        permission="books.read",
    ),
    "prices": Topic("Price changes", "A model's price is about to change"),
    "news": Topic("Announcements", "Words from the operator"),
    "security": Topic("Security", "Sign-in, password, webhooks, payments taken back", fixed=True),
    "machine": Topic("Machine", "The server needs somebody", fixed=True, permission="machine.read"),
}


def credits(value: object) -> str:
    """A decimal text of credits for a sentence: `1,000.5 credits`."""
    try:
        micro = parse_credits(value)
    except AppError:
        return "some credits"
    return f"{show_credits(micro)} {'credit' if abs(micro) == 1_000_000 else 'credits'}"


_BUY = ("Add credits", "/")


def _low(data: Data) -> Letter:
    return Letter(
        f"{credits(data['total'])} left",
        (f"Your balance has fallen to {credits(data['total'])}, which is at or below the "
         f"{credits(data['threshold'])} at which you want to be told.",),
        action=_BUY,
    )  # fmt: skip


def _critical(data: Data) -> Letter:
    return Letter(
        f"Almost out of credits: {credits(data['total'])} left",
        (f"Your balance has fallen to {credits(data['total'])}. Messages that could cost more "
         "than this are refused.",),
        action=_BUY,
    )  # fmt: skip


def _runout(data: Data) -> Letter:
    return Letter(
        f"Your credits last about {data['days']} more days",
        (f"At the pace of the last weeks your {credits(data['total'])} last about "
         f"{data['days']} more days.",),
        action=_BUY,
    )  # fmt: skip


def _paid(data: Data) -> Letter:
    rows = [("Credits", credits(data["credits"]))]
    if data.get("bonus") not in (None, "0"):
        rows.append(("of which bonus", credits(data["bonus"])))
    rows += [("Paid", str(data["amount"])), ("Order", str(data["payment"]))]
    demo = ("No real money moved: this is a demonstration shop.",) if data.get("demo") else ()
    return Letter(
        f"{credits(data['credits'])} added",
        ("Thank you. Your payment has arrived and the credits are in your balance.", *demo),
        tuple(rows),
    )


_WHY = {
    "no_card": "There is no card that may be charged for it.",
    "needs_owner": "Your bank wants you to confirm it.",
    "declined": "Your bank declined it.",
}


def _refunded(data: Data) -> Letter:
    return Letter(
        f"Refund of {data['amount']}",
        ("A payment of yours was refunded. The credits it bought have left your balance.",),
        (("Refunded", str(data["amount"])), ("Order", str(data["payment"]))),
    )


def _disputed(data: Data) -> Letter:
    amount, won = str(data["amount"]), data["state"] == "won"
    rows = [("Order", str(data["payment"]))]
    if won:
        rows.insert(0, ("Given back", credits(data["credits"])))
        return Letter(
            f"Payment of {amount} confirmed",
            ("The bank has decided that a payment that was taken back is valid after all. Its "
             "credits are in your balance again, and nothing of it is owed.",),
            tuple(rows),
        )  # fmt: skip
    lines = [
        f"A bank has taken a payment of {amount} back for good."
        if data["state"] == "lost"
        else f"A bank has taken a payment of {amount} back, and decides whether it stays so."
    ]
    if data["credits"] != "0":
        rows.insert(0, ("Taken from the balance", credits(data["credits"])))
    if data["owed"] != "0":
        rows.insert(0, ("Spent before", credits(data["owed"])))
        lines.append(
            f"{credits(data['owed'])} of it had been spent. What is still owed is paid first by "
            "the next credits that you buy; until then messages are refused."
        )
    return Letter(f"Payment of {amount} taken back", tuple(lines), tuple(rows), _BUY)


def _dispute_of(data: Data) -> Letter:
    """The same for those who look after payments."""
    state = {"open": "opened", "won": "won", "lost": "lost"}[str(data["state"])]
    return Letter(
        f"Dispute {state}: {data['amount']}",
        (f"A bank's dispute over a payment of user {data['user']} was {state}. "
         "See Admin, Payments.",),
        (("Order", str(data["payment"])), ("Reason", str(data["reason"]).replace("_", " ")),
         ("Credits taken", credits(data["credits"])), ("Spent before", credits(data["owed"]))),
    )  # fmt: skip


def _forgiven(data: Data) -> Letter:
    rest = data["owed"]
    end = "You owe nothing any more." if rest == "0" else f"{credits(rest)} are still owed."
    return Letter(
        f"{credits(data['credits'])} of your debt forgiven",
        (f"You no longer owe {credits(data['credits'])}. {end}",),
    )


def _summary(data: Data) -> Letter:
    answers = int(data["messages"])
    rows = [(str(line["model"]), credits(line["credits"])) for line in data["models"]]
    return Letter(
        f"{data['title']}: {credits(data['credits'])}",
        (f"{answers:,} {'answer' if answers == 1 else 'answers'} used {credits(data['credits'])} "
         f"from {data['from']} to {data['to']} (UTC). Your balance is {credits(data['total'])}.",),
        tuple(rows),
    )  # fmt: skip


def _unpaid(data: Data) -> Letter:
    tries = int(data["left"])
    then = "is paused" if data["then"] == "pause" else "ends"
    more = f"{tries} more {'try' if tries == 1 else 'tries'}" if tries else "no further try"
    return Letter(
        f"Your plan {data['plan']} could not be renewed",
        (f"The payment of {data['amount']} for your plan did not go through.",
         _WHY.get(str(data.get("reason")), ""),
         f"It is tried again on {data['next']} (UTC)." if tries else "",
         f"After {more} the plan {then}. The credits that you have stay yours. You can pay it now "
         "under Credits, Plan."),
        action=("See your plan", "/"),
    )  # fmt: skip


def _stopped_plan(data: Data) -> Letter:
    paused = data["then"] == "pause"
    return Letter(
        f"Your plan {data['plan']} {'is paused' if paused else 'has ended'}",
        ("Its renewal could not be paid, so no further credits come. The credits that you have "
         "stay yours.",
         "Resume it under Credits when you can pay: a new period begins then." if paused else
         "Choose a plan under Credits whenever you want one again."),
        action=("See your plan", "/"),
    )  # fmt: skip


def _topup(data: Data) -> Letter:
    declined = data["state"] == "failed"
    return Letter(
        "Your automatic top-up was declined" if declined else "Your automatic top-up waits",
        (f"The payment of {data['amount']} was declined. It is tried again after an hour at the "
         f"earliest, when your credits are low. {_WHY.get(str(data.get('reason')), '')}".strip()
         if declined else
         f"Your credits ran low and an order of {data['amount']} was made. Pay it under Credits.",),
        (("Order", str(data["payment"])),),
        _BUY,
    )  # fmt: skip


def _reminder(data: Data) -> Letter:
    late, number = int(data["late"]), data["invoice"]
    when = f"is due on {data['due']}" if late <= 0 else f"was due on {data['due']}"
    days = f", {late} {'day' if late == 1 else 'days'} ago" if late > 0 else ""
    return Letter(
        f"Invoice {number} {'is due soon' if late <= 0 else 'is not paid yet'}",
        (
            f"Invoice {number} over {data['amount']} {when}{days}. If you have paid it in the last "
            "days, thank you: nothing is left to do.",
        ),
        (("Amount", str(data["amount"])), ("Due", str(data["due"]))),
        ("See the invoice", "/"),
    )


def _books(data: Data) -> Letter:
    rows = [(str(row["name"]), str(row["value"])) for row in data["rows"]]
    return Letter(
        f"{data['title']}: {data['earned']} earned",
        (f"The books of {data['from']} to {data['to']} (UTC), net of tax. "
         "Charts and details stand under Admin, Revenue.",),
        tuple(rows),
        ("Download the entries",
         f"/api/admin/reports/financial?from={data['since']}&to={data['until']}&format=csv"),
    )  # fmt: skip


def _plain(data: Data) -> Letter:
    """Title and text as they were given: announcements, price notices."""
    return Letter(str(data["title"]), (str(data["text"]),))


def _link(data: Data) -> Letter:
    """The same with a button: verification and reset of the accounts room."""
    action = (str(data["label"]), str(data["path"])) if "path" in data else None
    return Letter(str(data["title"]), (str(data["text"]),), action=action)


def _stopped(data: Data) -> Letter:
    return Letter(
        "A webhook was switched off",
        (f"Calls of {data['url']} kept failing, so no more are made. The newest reason: "
         f"{data['reason']}. Mend it and switch the webhook on again under Credits, Alerts.",),
    )  # fmt: skip


def _test(data: Data) -> Letter:
    return Letter("A test", (f"A test of {data.get('url', 'this channel')}.",))


def _fault(data: Data) -> Letter:
    return Letter(
        f"Alert: {data['title']}",
        (str(data["sentence"]), str(data["advice"])),
        (("Where", str(data["place"] or "the installation")), ("Since", str(data["since"]))),
    )


def _well(data: Data) -> Letter:
    return Letter(
        f"Over: {data['title']}",
        (f"It is well again. {data['sentence']}",),
        (
            ("Where", str(data["place"] or "the installation")),
            ("Since", str(data["since"])),
            ("Until", str(data["until"])),
        ),
    )


KINDS = {
    "balance_low": Kind("balance", _low, "balance.low"),
    "balance_critical": Kind("balance", _critical, "balance.critical"),
    "balance_runout": Kind("balance", _runout, "balance.runout"),
    "payment_paid": Kind("purchases", _paid, "payment.paid"),
    "payment_refunded": Kind("purchases", _refunded, "payment.refunded"),
    "payment_disputed": Kind("security", _disputed, "payment.disputed"),
    "staff_dispute": Kind("security", _dispute_of),
    "staff_model": Kind("security", _plain),
    "renewal_unpaid": Kind("due", _unpaid, "payment.declined"),
    "plan_stopped": Kind("due", _stopped_plan),
    "topup_unpaid": Kind("due", _topup, "payment.declined"),
    "invoice_reminder": Kind("due", _reminder),
    "books_daily": Kind("books_daily", _books),
    "books_weekly": Kind("books_weekly", _books),
    "books_monthly": Kind("books_monthly", _books),
    "debt_forgiven": Kind("purchases", _forgiven),
    "usage_weekly": Kind("weekly", _summary, "usage.weekly"),
    "usage_monthly": Kind("monthly", _summary, "usage.monthly"),
    "price_notice": Kind("prices", _plain, "price.notice"),
    "announcement": Kind("news", _plain),
    "webhook_stopped": Kind("security", _stopped),
    "webhook_test": Kind("security", _test, "test", channels=()),
    "mail_test": Kind("security", _test, channels=("mail",)),
    "security_notice": Kind("security", _plain),
    "machine_alert": Kind("machine", _fault, "machine.alert"),
    "machine_cleared": Kind("machine", _well, "machine.cleared"),
    "security_link": Kind("security", _link, channels=("mail",)),
}
EVENTS = tuple(sorted({kind.event for kind in KINDS.values() if kind.event and kind.channels}))


def letter(kind: str, data: Data) -> Letter:
    """The words of a message."""
    return KINDS[kind].letter(data)
