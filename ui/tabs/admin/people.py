"""People: find a user, see the balance, adjust it with a reason, role, suspension, sign-out."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts import totp, users
from chat_app.accounts.permissions import Permission, may
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits import debts, ledger
from chat_app.errors import Invalid
from chat_app.flows import adjust, forgive, people
from chat_app.money import format_credits, parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.shell import Shell

PAGE = 25
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""


class NobodyChosen(Invalid):
    """An action on a user without a user."""

    code = "nobody_chosen"
    message = "Choose a user in the table first."


@dataclass
class People:
    """The components."""

    search: gr.Textbox
    table: gr.HTML
    panel: gr.Column
    chosen: gr.State
    about: gr.HTML
    amount: gr.Textbox
    reason: gr.Textbox
    nonce: gr.Textbox
    review: gr.Button
    forgive: gr.Button
    sure: gr.Column
    summary: gr.HTML
    confirm: gr.Button
    pardon: gr.Button
    back: gr.Button
    role: gr.Dropdown
    change_role: gr.Button
    suspend: gr.Button
    sign_out: gr.Button
    close: gr.Button
    asked: gr.State
    ask: gr.Column
    question: gr.HTML
    yes: gr.Button
    no: gr.Button


def build() -> People:
    """The layout, without any data."""
    with gr.Column(elem_classes="sheet"):
        gr.HTML('<div class="sheet-head"><h2>People</h2></div>')
        with gr.Row(elem_classes="filters"):
            search = gr.Textbox(
                label="Search",
                placeholder="User name or e-mail",
                elem_id="admin-search",
                max_lines=1,
            )
        table = gr.HTML(parts.loading(4), elem_id="admin-users", js_on_load=_CLICKS)
        chosen = gr.State(None)
        with gr.Column(visible=False, elem_id="admin-user", elem_classes="inset") as panel:
            about = gr.HTML(elem_id="admin-user-about")
            nonce = gr.Textbox(visible=False)
            with gr.Row(elem_classes="filters"):
                amount = gr.Textbox(
                    label="Credits to add, or to take with a minus",
                    placeholder="50 or -12.5",
                    elem_id="admin-adjust-credits",
                    max_lines=1,
                )
                reason = gr.Textbox(
                    label="Reason",
                    placeholder="Stays in the books",
                    elem_id="admin-adjust-reason",
                    max_lines=1,
                    scale=2,
                )
                review = gr.Button("Review", elem_id="admin-adjust-review", scale=0)
                forgive = gr.Button(
                    "Forgive debt", elem_id="admin-forgive-review", scale=0, visible=False
                )
            with gr.Column(visible=False, elem_id="admin-adjust-sure") as sure:
                summary = gr.HTML()
                with gr.Row(elem_classes="filters"):
                    confirm = gr.Button(
                        "Confirm", variant="primary", elem_id="admin-adjust-confirm", scale=0
                    )
                    pardon = gr.Button(
                        "Forgive", variant="primary", elem_id="admin-forgive-confirm", scale=0
                    )
                    back = gr.Button("Back", scale=0)
            with gr.Row(elem_classes="filters"):
                role = gr.Dropdown(
                    list(users.ROLES), label="Role", filterable=False, elem_id="admin-role"
                )
                change_role = gr.Button("Change role", elem_id="admin-role-change", scale=0)
                suspend = gr.Button("Suspend", elem_id="admin-suspend", scale=0)
                sign_out = gr.Button("Sign out", elem_id="admin-logout", scale=0)
                close = gr.Button("Close", scale=0)
            asked = gr.State(None)
            with gr.Column(visible=False, elem_id="admin-user-sure") as ask:
                question = gr.HTML(elem_id="admin-user-question")
                with gr.Row(elem_classes="filters"):
                    yes = gr.Button("Yes", variant="stop", elem_id="admin-user-yes", scale=0)
                    no = gr.Button("Back", elem_id="admin-user-no", scale=0)
    return People(
        search, table, panel, chosen, about, amount, reason, nonce, review, forgive, sure,
        summary, confirm, pardon, back, role, change_role, suspend, sign_out, close, asked, ask,
        question, yes, no,
    )  # fmt: skip


def needs(c: People) -> dict[Any, Permission]:
    """What is hidden from staff without the permission."""
    return {
        c.amount: "credits.adjust",
        c.reason: "credits.adjust",
        c.review: "credits.adjust",
        c.forgive: "credits.adjust",
        c.suspend: "users.suspend",
        c.sign_out: "users.logout",
        c.role: "users.role",
        c.change_role: "users.role",
    }


def bind(  # noqa: PLR0915 - one section, many small handlers
    c: People, app: App, _shell: Shell, tab: gr.Tab
) -> None:
    """Wire the section."""

    def look(q: str) -> str:
        with app.db.read() as session:
            found, more = users.search(session, q=q[:200], limit=PAGE)
            codes = totp.enabled_of(session, [_id(user) for user in found])
            rows = [
                _row(
                    user, ledger.balance(session, user_id=_id(user)).total, codes=_id(user) in codes
                )
                for user in found
            ]
        if not rows:
            return parts.empty("Nobody matches", "Try a part of the name or of the address.")
        heads = ["User", "E-mail", "Role", "State", "Credits>", "Since", ""]
        note = '<p class="hint">More than these match: search for a name.</p>' if more else ""
        return parts.table(heads, rows, caption="People") + note

    def details(user_id: int, role: str) -> dict[Any, Any]:
        with app.db.read() as session:
            user = users.get(session, user_id)
            balance = ledger.balance(session, user_id=user_id)
        return {
            c.about: _about(user, balance),
            c.forgive: gr.update(visible=bool(balance.debt) and may(role, "credits.adjust")),
            c.suspend: gr.update(value="Lift suspension" if user.suspended else "Suspend"),
            c.role: user.role,
            c.panel: gr.update(visible=True),
            c.sure: gr.update(visible=False),
            c.ask: gr.update(visible=False),
            c.asked: None,
        }

    def ask(user_id: int | None, act: str, value: str = "") -> dict[Any, Any]:
        if user_id is None:
            raise NobodyChosen
        with app.db.read() as session:
            user = users.get(session, user_id)
        name = f"<b>{parts.esc(user.username)}</b>"
        questions = {
            "role": f"Make {name} <b>{parts.esc(value)}</b> instead of {parts.esc(user.role)}? It "
            "counts at once, also in what is open.",
            "suspended": f"Let {name} back in?"
            if user.suspended
            else f"Suspend {name}? All sign-ins end at once.",
            "sign_out": f"Sign {name} out on every device?",
        }
        if act == "suspended":
            value = "" if user.suspended else "yes"
        return {
            c.question: f"<p>{questions[act]}</p>",
            c.asked: (act, value),
            c.ask: gr.update(visible=True),
            c.sure: gr.update(visible=False),
        }

    def wanted(user_id: int | None, amount: str, reason: str) -> tuple[User, int, str]:
        if user_id is None:
            raise NobodyChosen
        micro = parse_credits((amount or "").replace(",", "").strip())
        if micro == 0:
            raise adjust.NothingToAdjust
        cleaned = " ".join((reason or "").split())
        if not 3 <= len(cleaned) <= adjust.REASON_LENGTH:
            raise adjust.ReasonMissing
        with app.db.read() as session:
            return users.get(session, user_id), micro, cleaned

    def owing(user_id: int | None, amount: str, reason: str) -> tuple[User, int | None, int, str]:
        """Who is let off, of how much (None: of all), what they owe, and why."""
        if user_id is None:
            raise NobodyChosen
        text = (amount or "").replace(",", "").strip()
        cleaned = forgive.cleaned(reason or "")
        with app.db.read() as session:
            user, debt = users.get(session, user_id), ledger.balance(session, user_id=user_id).debt
        if not debt:
            raise debts.NothingOwed
        micro = parse_credits(text) if text else None
        if micro is not None and not 0 < micro <= debt:
            raise debts.BadForgiveness(owed=format_credits(debt))
        return user, micro, debt, cleaned

    @guard(app, "users.read")
    async def show(_admin: User, q: str) -> dict[Any, Any]:
        """The users that match."""
        return {c.table: await asyncio.to_thread(look, q or "")}

    @guard(app, "users.read")
    async def choose(admin: User, event: gr.EventData) -> dict[Any, Any]:
        """Open the panel of the user whose button was pressed."""
        pressed = str((getattr(event, "_data", None) or {}).get("id", ""))
        if not pressed.isdigit():
            raise NobodyChosen
        shown = await asyncio.to_thread(details, int(pressed), admin.role)
        return {**shown, c.chosen: int(pressed), c.amount: "", c.reason: ""}

    @guard(app, "credits.adjust")
    async def review(_admin: User, user_id: int | None, amount: str, reason: str) -> dict[Any, Any]:
        """Say what would happen."""
        user, micro, cleaned = await asyncio.to_thread(wanted, user_id, amount, reason)
        does = "Add" if micro > 0 else "Take"
        to = "to" if micro > 0 else "from"
        return {
            c.summary: f"<p><b>{does} {parts.amount(abs(micro))} {to} "
            f"{parts.esc(user.username)}</b><br>Reason: {parts.esc(cleaned)}</p>",
            c.sure: gr.update(visible=True),
            c.confirm: gr.update(visible=True),
            c.pardon: gr.update(visible=False),
        }

    @guard(app, "credits.adjust")
    async def forgive_review(
        _admin: User, user_id: int | None, amount: str, reason: str
    ) -> dict[Any, Any]:
        """Say whom it would let off, and of how much."""
        user, micro, debt, cleaned = await asyncio.to_thread(owing, user_id, amount, reason)
        part = micro or debt
        rest = f"{parts.amount(debt - part)} stay owed" if part < debt else "nothing stays owed"
        return {
            c.summary: f"<p><b>Forgive {parts.esc(user.username)} {parts.amount(part)}</b> of the "
            f"{parts.amount(debt)} owed: {rest}. It is a loss, and does not come back when a "
            f"dispute is won.<br>Reason: {parts.esc(cleaned)}</p>",
            c.sure: gr.update(visible=True),
            c.confirm: gr.update(visible=False),
            c.pardon: gr.update(visible=True),
        }

    @guard(app, "credits.adjust")
    async def forgive_confirm(
        admin: User, user_id: int | None, amount: str, reason: str, nonce: str, q: str
    ) -> dict[Any, Any]:
        """Let the person off."""
        if user_id is None:
            raise NobodyChosen
        text = (amount or "").replace(",", "").strip()
        left = await forgive.forgive(
            app,
            admin_id=_id(admin),
            user_id=user_id,
            micro=parse_credits(text) if text else None,
            reason=reason or "",
            key=nonce[:64],
        )
        gr.Info(f"{parts.amount(left.debt)} owed now.", duration=4)
        return {
            **await asyncio.to_thread(details, user_id, admin.role),
            c.table: await asyncio.to_thread(look, q or ""),
            c.amount: "",
            c.reason: "",
        }

    @guard(app, "credits.adjust")
    async def confirm(
        admin: User, user_id: int | None, amount: str, reason: str, nonce: str, q: str
    ) -> dict[Any, Any]:
        """Adjust the balance."""
        user, micro, cleaned = await asyncio.to_thread(wanted, user_id, amount, reason)
        await adjust.adjust(
            app,
            admin_id=_id(admin),
            user_id=_id(user),
            micro=micro,
            reason=cleaned,
            key=nonce[:64],
        )
        gr.Info(f"{user.username}: {parts.amount(micro)} booked.", duration=4)
        return {
            **await asyncio.to_thread(details, _id(user), admin.role),
            c.table: await asyncio.to_thread(look, q or ""),
            c.amount: "",
            c.reason: "",
        }

    @guard(app, "users.suspend")
    async def suspend(_admin: User, user_id: int | None) -> dict[Any, Any]:
        """Ask before suspending, or before lifting the suspension."""
        return await asyncio.to_thread(ask, user_id, "suspended")

    @guard(app, "users.logout")
    async def sign_out(_admin: User, user_id: int | None) -> dict[Any, Any]:
        """Ask before ending all sign-ins of the user."""
        return await asyncio.to_thread(ask, user_id, "sign_out")

    @guard(app, "users.role")
    async def change_role(_admin: User, user_id: int | None, role: str) -> dict[Any, Any]:
        """Ask before giving another role."""
        return await asyncio.to_thread(ask, user_id, "role", role)

    @guard(app, "users.read")
    async def people_yes(
        admin: User, user_id: int | None, asked: tuple[str, str] | None, q: str
    ) -> dict[Any, Any]:
        """Do what was asked; the flow decides anew whether this person may."""
        if user_id is None or asked is None:
            raise NobodyChosen
        act, value = asked
        if act == "sign_out":
            await people.end_sign_ins(app, admin_id=_id(admin), user_id=user_id)
            gr.Info("Signed out everywhere.", duration=4)
        elif act == "role":
            await people.change(app, admin_id=_id(admin), user_id=user_id, role=value)
        else:
            suspended = value == "yes"
            await people.change(app, admin_id=_id(admin), user_id=user_id, suspended=suspended)
        return {
            **await asyncio.to_thread(details, user_id, admin.role),
            c.table: await asyncio.to_thread(look, q or ""),
        }

    @guard(app, "users.read")
    async def people_no(_admin: User) -> dict[Any, Any]:
        """Do nothing."""
        return {c.ask: gr.update(visible=False), c.asked: None}

    @guard(app, "users.read")
    async def back(_admin: User) -> dict[Any, Any]:
        """Hide the confirmation."""
        return {c.sure: gr.update(visible=False)}

    @guard(app, "users.read")
    async def close(_admin: User) -> dict[Any, Any]:
        """Hide the panel."""
        return {c.panel: gr.update(visible=False), c.chosen: None}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    panel = [c.about, c.forgive, c.suspend, c.role, c.panel, c.sure, c.ask, c.asked]
    reviewed = [c.summary, c.sure, c.confirm, c.pardon]
    asking = [c.question, c.asked, c.ask, c.sure]
    seeking = [tab.select, c.search.change]
    gr.on(seeking, show, [c.search], [c.table], trigger_mode="always_last", **quiet)
    c.table.click(choose, None, [*panel, c.chosen, c.amount, c.reason], **quiet).then(
        None, js=parts.reveal("admin-user"), api_visibility="private"
    )
    c.review.click(review, [c.chosen, c.amount, c.reason], reviewed, **quiet)
    c.forgive.click(forgive_review, [c.chosen, c.amount, c.reason], reviewed, **quiet)
    for button, handler, name in (
        (c.confirm, confirm, "adjust"),
        (c.pardon, forgive_confirm, "forgive"),
    ):
        button.click(
            handler,
            [c.chosen, c.amount, c.reason, c.nonce, c.search],
            [*panel, c.table, c.amount, c.reason],
            js=f"(a, b, d, nonce, q) => [a, b, d, window.chatKey('{name}'), q]",
            **quiet,
        ).then(None, js=f"() => {{ window.chatDone('{name}'); }}", api_visibility="private")
    c.back.click(back, None, [c.sure], **quiet)
    c.suspend.click(suspend, [c.chosen], asking, **quiet)
    c.sign_out.click(sign_out, [c.chosen], asking, **quiet)
    c.change_role.click(change_role, [c.chosen, c.role], asking, **quiet)
    c.yes.click(people_yes, [c.chosen, c.asked, c.search], [*panel, c.table], **quiet)
    c.no.click(people_no, None, [c.ask, c.asked], **quiet)
    c.close.click(close, None, [c.panel, c.chosen], **quiet)


def _about(user: User, balance: ledger.Balance) -> str:
    owed = f" {parts.badge(f'owes {show_credits(balance.debt)}', 'bad')}" if balance.debt else ""
    hint = (
        '<p class="hint">To forgive the debt give a reason, and an amount for a part of it.</p>'
        if balance.debt
        else ""
    )
    return (
        f"<h3>{parts.esc(user.username)}{owed}</h3><p>{show_credits(balance.available)} "
        f"available, {show_credits(balance.held)} held, {parts.esc(user.email)}</p>{hint}"
    )


def _row(user: User, total: int, *, codes: bool) -> list[str]:
    return [
        f"<b>{parts.esc(user.username)}</b>",
        parts.esc(user.email)
        + (" " + parts.badge("confirmed", "good") if user.email_verified_at is not None else ""),
        parts.badge(user.role, "good" if user.role == "admin" else ""),
        _state(user) + (" " + parts.badge("two-factor", "good") if codes else ""),
        show_credits(total),
        parts.when(user.created_at),
        f'<button data-act="choose" data-id="{user.id}" '
        f'aria-label="Manage {parts.esc(user.username)}">Manage</button>'
        if user.erased_at is None
        else "",
    ]


def _state(user: User) -> str:
    if user.erased_at is not None:
        return parts.badge("erased")
    return parts.badge("suspended", "bad") if user.suspended else parts.badge("active")


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
