"""Organisation: its pool, its members and their months, and what they used."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.orgs import RUNNING, OrgNotFound
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.flows import orgs
from chat_app.flows.orgs import MemberView, OrgView, UsedLine
from chat_app.money import parse_credits, show_credits
from ui import parts
from ui.guard import guard
from ui.parts import Card
from ui.shell import Shell, pill
from ui.tabs.chat.words import payers

DAYS = 31
USAGE_ROWS = 50
ROLES = [("Member", "member"), ("Admin", "admin"), ("Owner", "owner")]
NONE = (
    "No organisation yet",
    "Make one below: its members chat from one pool of credits, each within a monthly limit.",
)


@dataclass
class Organisation:
    """The section's components."""

    tab: gr.Tab
    pick: gr.Dropdown
    cards: gr.HTML
    room: gr.Column
    amount: gr.Textbox
    fund: gr.Button
    members: gr.HTML
    manage: gr.Column
    name: gr.Textbox
    role: gr.Dropdown
    limit: gr.Textbox
    save: gr.Button
    hand: gr.Textbox
    allocate: gr.Button
    remove: gr.Button
    close: gr.Button
    sure: gr.Column
    summary: gr.HTML
    confirm: gr.Button
    back: gr.Button
    pending: gr.State
    usage: gr.HTML
    new: gr.Textbox
    make: gr.Button
    nonce: gr.Textbox


def build() -> Organisation:
    """The layout, without any data."""
    with gr.Tab("Organisation", id="credits-organisation") as tab:
        nonce, pending = gr.Textbox(visible=False), gr.State(None)
        pick = gr.Dropdown(
            choices=[], label="Organisation", elem_id="credits-org-pick", filterable=False,
            visible=False,
        )  # fmt: skip
        cards = gr.HTML(parts.loading(2), elem_id="credits-org-cards")
        with gr.Column(visible=False) as room:
            with gr.Column(elem_classes="sheet"):
                gr.HTML('<div class="sheet-head"><h2>Pool</h2></div>')
                with gr.Row(elem_classes="filters"):
                    amount = gr.Textbox(
                        label="Credits of mine", placeholder="100", elem_id="credits-org-amount",
                        max_lines=1,
                    )  # fmt: skip
                    fund = gr.Button(
                        "Put in", variant="primary", elem_id="credits-org-fund", scale=0
                    )
            with gr.Column(elem_classes="sheet"):
                gr.HTML('<div class="sheet-head"><h2>Members</h2></div>')
                members = gr.HTML(elem_id="credits-org-members")
                with gr.Column(visible=False, elem_classes="inset") as manage:
                    name, role, limit, save, hand, allocate, remove, close = _form()
                with gr.Column(
                    visible=False, elem_id="credits-org-sure", elem_classes="inset"
                ) as sure:
                    summary = gr.HTML()
                    with gr.Row(elem_classes="filters"):
                        confirm = gr.Button(
                            "Confirm", variant="stop", elem_id="credits-org-confirm", scale=0
                        )
                        back = gr.Button("Back", scale=0)
            with gr.Column(elem_classes="sheet"):
                gr.HTML('<div class="sheet-head"><h2>Paid by the pool, last 31 days</h2></div>')
                usage = gr.HTML(elem_id="credits-org-usage")
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>New organisation</h2></div>')
            with gr.Row(elem_classes="filters"):
                new = gr.Textbox(
                    label="Name", placeholder="Harbour Ltd", elem_id="credits-org-new", max_lines=1
                )
                make = gr.Button("Create", elem_id="credits-org-make", scale=0)
    return Organisation(
        tab, pick, cards, room, amount, fund, members, manage, name, role, limit, save, hand,
        allocate, remove, close, sure, summary, confirm, back, pending, usage, new, make, nonce,
    )  # fmt: skip


def _form() -> tuple[Any, ...]:
    """What owners and admins can do with a member."""
    with gr.Row(elem_classes="filters"):
        name = gr.Textbox(
            label="User name", placeholder="Somebody new, or a member",
            elem_id="credits-org-name", max_lines=1,
        )  # fmt: skip
        role = gr.Dropdown(
            ROLES, value="member", label="Role", filterable=False, elem_id="credits-org-role"
        )
        limit = gr.Textbox(
            label="Credits a month", placeholder="empty: no limit", elem_id="credits-org-limit",
            max_lines=1,
        )  # fmt: skip
        save = gr.Button("Save member", elem_id="credits-org-save", scale=0)
    with gr.Row(elem_classes="filters"):
        hand = gr.Textbox(
            label="Credits for their own wallet", placeholder="25", elem_id="credits-org-hand",
            max_lines=1,
        )  # fmt: skip
        allocate = gr.Button("Hand over", elem_id="credits-org-allocate", scale=0)
        remove = gr.Button("Remove member", elem_id="credits-org-remove", scale=0)
        close = gr.Button("Close organisation", elem_id="credits-org-close", scale=0)
    return name, role, limit, save, hand, allocate, remove, close


def bind(  # noqa: PLR0915 - one section, many small handlers
    c: Organisation, app: App, shell: Shell, _tab: gr.Tab
) -> None:
    """Wire the section."""
    payer = shell.chat.payer

    def look(user: User, picked: str | None) -> dict[Any, Any]:
        own = orgs.mine(app, user_id=_id(user))
        known = [str(org.id) for org in own]
        chosen = picked if picked in known else (known[0] if known else None)
        shown = {
            c.pick: gr.update(
                choices=[(org.name, str(org.id)) for org in own],
                value=chosen,
                visible=len(own) > 1,
            ),
            c.room: gr.update(visible=bool(own)),
            c.sure: gr.update(visible=False),
            shell.pill: pill(app, _id(user)),
            payer: gr.update(
                choices=payers(own),
                visible=bool(own),
            ),
        }
        if chosen is None:
            return {**shown, c.cards: parts.empty(*NONE)}
        now = app.clock.micros()
        since = now - DAYS * 24 * 3600 * MICROS_PER_SECOND
        org, lines = orgs.used(
            app, user_id=_id(user), org_id=int(chosen), since=since, until=now + 1
        )
        runs = org.role in RUNNING
        return {
            **shown,
            c.cards: _cards(org, _id(user)),
            c.members: _members(org),
            c.manage: gr.update(visible=runs),
            c.close: gr.update(visible=org.role == "owner"),
            c.usage: _usage(lines),
        }

    def picked_id(picked: str | None) -> int:
        if not (picked or "").isdigit():
            raise OrgNotFound
        return int(picked or "")

    @guard(app, "user")
    async def org_show(user: User, picked: str | None) -> dict[Any, Any]:
        """The chosen organisation, or the first one."""
        return await asyncio.to_thread(look, user, picked)

    @guard(app, "user")
    async def org_make(user: User, name: str, nonce: str) -> dict[Any, Any]:
        """A new organisation."""
        made = await orgs.create(app, user_id=_id(user), name=name or "", key=nonce[:64])
        gr.Info(f"{made.name} is there. Put credits in and add members.", duration=5)
        return {**await asyncio.to_thread(look, user, str(made.id)), c.new: ""}

    @guard(app, "user")
    async def org_fund(user: User, picked: str | None, amount: str, nonce: str) -> dict[Any, Any]:
        """Own credits into the pool."""
        micro = _micro(amount)
        await orgs.fund(
            app, user_id=_id(user), org_id=picked_id(picked), micro=micro, key=nonce[:64]
        )
        gr.Info(f"{parts.amount(micro)} put in.", duration=4)
        return {**await asyncio.to_thread(look, user, picked), c.amount: ""}

    @guard(app, "user")
    async def org_save(
        user: User, picked: str | None, name: str, role: str, limit: str
    ) -> dict[Any, Any]:
        """Add somebody, or change a member's role and limit."""
        monthly = _micro(limit) if (limit or "").strip() else None
        org = await asyncio.to_thread(
            lambda: orgs.view(app, user_id=_id(user), org_id=picked_id(picked))
        )
        wanted: dict[str, Any] = {"role": role, "monthly_limit": monthly}
        member = _member(org, name or "")
        if member is None:
            await orgs.add_member(
                app, user_id=_id(user), org_id=org.id, username=name or "", **wanted
            )
        else:
            await orgs.change_member(
                app,
                user_id=_id(user),
                org_id=org.id,
                member=member.username,
                limited=True,
                **wanted,
            )
        return {**await asyncio.to_thread(look, user, picked), c.name: "", c.limit: ""}

    @guard(app, "user")
    async def org_allocate(
        user: User, picked: str | None, name: str, amount: str, nonce: str
    ) -> dict[Any, Any]:
        """Credits of the pool into a member's own wallet."""
        micro = _micro(amount)
        await orgs.allocate(
            app,
            user_id=_id(user),
            org_id=picked_id(picked),
            username=name or "",
            micro=micro,
            key=nonce[:64],
        )
        gr.Info(f"{parts.amount(micro)} handed to {name}.", duration=4)
        return {**await asyncio.to_thread(look, user, picked), c.hand: ""}

    @guard(app, "user")
    async def org_review_remove(user: User, picked: str | None, name: str) -> dict[Any, Any]:
        """Say what taking somebody out means."""
        org = await asyncio.to_thread(
            lambda: orgs.view(app, user_id=_id(user), org_id=picked_id(picked))
        )
        member = _member(org, name or "")
        who = member.username if member else (name or "nobody")
        return {
            c.summary: f"<p><b>Remove {parts.esc(who)} from {parts.esc(org.name)}</b><br>"
            "They can send nothing more from the pool. What they used stays on record.</p>",
            c.sure: gr.update(visible=True),
            c.pending: {"org": org.id, "member": who},
        }

    @guard(app, "user")
    async def org_review_close(user: User, picked: str | None) -> dict[Any, Any]:
        """Say what closing means."""
        org = await asyncio.to_thread(
            lambda: orgs.view(app, user_id=_id(user), org_id=picked_id(picked))
        )
        left = parts.amount(org.balance.available)
        return {
            c.summary: f"<p><b>Close {parts.esc(org.name)} for good</b><br>"
            f"The {left} in the pool come to you; members can send nothing more.</p>",
            c.sure: gr.update(visible=True),
            c.pending: {"org": org.id, "member": None},
        }

    @guard(app, "user")
    async def org_confirm(
        user: User, picked: str | None, pending: dict[str, Any] | None
    ) -> dict[Any, Any]:
        """Remove or close, as reviewed."""
        if not pending:
            raise OrgNotFound
        if pending["member"] is None:
            await orgs.close(app, user_id=_id(user), org_id=pending["org"])
        else:
            await orgs.remove_member(
                app, user_id=_id(user), org_id=pending["org"], member=pending["member"]
            )
        shown = await asyncio.to_thread(look, user, picked)
        # Whoever had picked the organisation pays alone again.
        shown[payer] = gr.update(choices=shown[payer]["choices"], value="")
        return {**shown, c.pending: None, c.name: ""}

    @guard(app, "user")
    async def org_back(_user: User) -> dict[Any, Any]:
        """Hide the confirmation."""
        return {c.sure: gr.update(visible=False), c.pending: None}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [
        c.pick, c.cards, c.room, c.members, c.manage, c.close, c.usage, c.sure, shell.pill,
        payer,
    ]  # fmt: skip
    done = {"js": "() => { window.chatDone('org'); }", "api_visibility": "private"}
    asked = [c.tab.select, c.pick.input]
    gr.on(asked, org_show, [c.pick], shown, trigger_mode="always_last", **quiet)
    c.make.click(
        org_make,
        [c.new, c.nonce],
        [*shown, c.new],
        js="(a, nonce) => [a, window.chatKey('org')]",
        **quiet,
    ).then(None, **done)
    c.fund.click(
        org_fund,
        [c.pick, c.amount, c.nonce],
        [*shown, c.amount],
        js="(a, b, nonce) => [a, b, window.chatKey('org')]",
        **quiet,
    ).then(None, **done)
    c.allocate.click(
        org_allocate,
        [c.pick, c.name, c.hand, c.nonce],
        [*shown, c.hand],
        js="(a, b, d, nonce) => [a, b, d, window.chatKey('org')]",
        **quiet,
    ).then(None, **done)
    c.save.click(org_save, [c.pick, c.name, c.role, c.limit], [*shown, c.name, c.limit], **quiet)
    asked = [c.summary, c.sure, c.pending]
    c.remove.click(org_review_remove, [c.pick, c.name], asked, **quiet)
    c.close.click(org_review_close, [c.pick], asked, **quiet)
    c.confirm.click(org_confirm, [c.pick, c.pending], [*shown, c.pending, c.name], **quiet)
    c.back.click(org_back, None, [c.sure, c.pending], **quiet)


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _micro(text: str) -> int:
    return parse_credits((text or "").replace(",", "").strip())


def _member(org: OrgView, name: str) -> MemberView | None:
    key = name.strip().casefold()
    return next((one for one in org.members if one.username.casefold() == key), None)


def _cards(org: OrgView, user_id: int) -> str:
    own = next(member for member in org.members if member.user_id == user_id)
    limit = own.monthly_limit
    held = f", {show_credits(org.balance.held)} held" if org.balance.held else ""
    return parts.cards(
        [
            Card("Pool", show_credits(org.balance.available), f"ready to spend{held}"),
            Card(
                "Your month",
                show_credits(own.used + own.held),
                "no limit of your own" if limit is None else f"of {show_credits(limit)}",
            ),
            Card(org.name, org.role.capitalize(), f"pays as org:{org.id} over the API"),
        ]
    )


def _members(org: OrgView) -> str:
    rows = [
        [
            f"<b>{parts.esc(member.username)}</b>",
            parts.badge(member.role, "good" if member.role in RUNNING else ""),
            show_credits(member.used),
            show_credits(member.held),
            "none" if member.monthly_limit is None else show_credits(member.monthly_limit),
            parts.when(member.joined_at),
        ]
        for member in org.members
    ]
    heads = ["Member", "Role", "Used this month>", "Held>", "Limit>", "Since"]
    return parts.table(heads, rows, caption="Members")


def _usage(lines: list[UsedLine]) -> str:
    if not lines:
        return parts.empty("Nothing yet", "Choose the organisation as payer in the chat.")
    rows = [
        [
            f"{item.line.day:%d %b %Y}",
            parts.esc(item.username),
            parts.esc(item.line.model),
            str(item.line.messages),
            f"{item.line.prompt_tokens + item.line.completion_tokens:,}",
            show_credits(item.line.credits),
        ]
        for item in reversed(lines[-USAGE_ROWS:])
    ]
    heads = ["Day (UTC)", "Member", "Model", "Messages>", "Tokens>", "Credits>"]
    return parts.table(heads, rows, caption="Paid by the pool")
