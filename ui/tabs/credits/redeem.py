"""Redeem: a code for credits, and the rule that buys by itself."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.credits import codes, ledger, packages, topups
from chat_app.flows import free, topup
from chat_app.money import format_credits, parse_credits, show_credits
from ui import parts
from ui.guard import address, guard
from ui.shell import Shell


@dataclass
class Redeem:
    """The section's components."""

    tab: gr.Tab
    code: gr.Textbox
    redeem: gr.Button
    nonce: gr.Textbox
    result: gr.HTML
    state: gr.HTML
    threshold: gr.Textbox
    package: gr.Dropdown
    per_day: gr.Dropdown
    save: gr.Button
    stop: gr.Button


def build() -> Redeem:
    """The layout, without any data."""
    with gr.Tab("Redeem & top-up", id="credits-redeem") as tab:
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Redeem a code</h2></div>')
            nonce = gr.Textbox(visible=False)
            with gr.Row(elem_classes="filters"):
                code = gr.Textbox(
                    label="Code",
                    placeholder="XXXX-XXXX-XXXX-XXXX",
                    elem_id="credits-code",
                    max_lines=1,
                )
                redeem = gr.Button(
                    "Redeem", variant="primary", elem_id="credits-redeem-go", scale=0
                )
            result = gr.HTML(elem_id="credits-redeemed")
        with gr.Column(elem_classes="sheet"):
            gr.HTML('<div class="sheet-head"><h2>Automatic top-up</h2></div>')
            state = gr.HTML(parts.loading(1), elem_id="credits-topup-state")
            with gr.Row(elem_classes="filters"):
                threshold = gr.Textbox(
                    label="When less than this is available",
                    placeholder="50",
                    elem_id="credits-topup-threshold",
                    max_lines=1,
                )
                package = gr.Dropdown(
                    [], label="Buy this package", filterable=False, elem_id="credits-topup-package"
                )
                per_day = gr.Dropdown(
                    [("Once a day", "1"), ("3 times a day", "3"), ("10 times a day", "10")],
                    value="1",
                    label="At most",
                    filterable=False,
                    elem_id="credits-topup-per-day",
                )
                save = gr.Button("Switch on", elem_id="credits-topup-save", scale=0)
                stop = gr.Button("Switch off", elem_id="credits-topup-stop", scale=0)
    return Redeem(tab, code, redeem, nonce, result, state, threshold, package, per_day, save, stop)


def bind(c: Redeem, app: App, shell: Shell, _tab: gr.Tab) -> None:
    """Wire the section."""

    def look(user: User) -> dict[Any, Any]:
        with app.db.read() as session:
            rule = topups.get(session, user_id=_id(user))
            offers = packages.list_packages(session)
            balance = ledger.balance(session, user_id=_id(user))
        choices = [(f"{offer.name}, {offer.price}", offer.code) for offer in offers]
        sold = [offer.code for offer in offers]
        chosen = sold[0] if sold else None
        if rule is not None and rule.package_code in sold:
            chosen = rule.package_code
        shown: dict[Any, Any] = {
            c.state: _state(rule, {offer.code: offer.name for offer in offers}, app.clock.micros())
            + parts.seller(app.payments.name),
            c.package: gr.update(choices=choices, value=chosen),
            c.stop: gr.update(interactive=bool(rule and rule.active)),
            shell.pill: parts.pill(balance),
        }
        if rule is not None:
            shown[c.threshold] = format_credits(rule.threshold)
        return shown

    @guard(app, "user")
    async def redeem_show(user: User) -> dict[Any, Any]:
        """The rule as it stands."""
        return {**await asyncio.to_thread(look, user), c.result: ""}

    @guard(app, "user")
    async def redeem_code(user: User, code: str, nonce: str, asked: gr.Request) -> dict[Any, Any]:
        """Redeem what was typed."""
        text = codes.clean(code or "")
        if not text:
            raise codes.UnknownCode
        given = await free.redeem(
            app, user_id=_id(user), text=text, ip=address(app, asked), key=(nonce or "")[:64]
        )
        ends = "" if given.expires_at is None else f", good until {parts.when(given.expires_at)}"
        return {
            **await asyncio.to_thread(look, user),
            c.code: "",
            c.result: parts.badge(f"{parts.amount(given.micro)} added", "good")
            + f'<span class="hint">{ends}</span>',
        }

    @guard(app, "user")
    async def topup_save(
        user: User, threshold: str, package: str | None, per_day: str
    ) -> dict[Any, Any]:
        """Switch the rule on."""
        await topup.set_rule(
            app,
            user_id=_id(user),
            threshold=parse_credits((threshold or "").replace(",", "").strip()),
            package_code=package or "",
            per_day=int(per_day) if (per_day or "").isdigit() else 1,
        )
        return await asyncio.to_thread(look, user)

    @guard(app, "user")
    async def topup_stop(user: User) -> dict[Any, Any]:
        """Switch the rule off."""
        await topup.stop(app, user_id=_id(user))
        return await asyncio.to_thread(look, user)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [c.state, c.package, c.stop, c.threshold, shell.pill]
    c.tab.select(redeem_show, None, [*shown, c.result], **quiet)
    for trigger in (c.redeem.click, c.code.submit):
        trigger(
            redeem_code,
            [c.code, c.nonce],
            [*shown, c.code, c.result],
            js="(code) => [code, window.chatKey('redeem')]",
            **quiet,
        ).then(None, js="() => { window.chatDone('redeem'); }", api_visibility="private")
    c.save.click(topup_save, [c.threshold, c.package, c.per_day], shown, **quiet)
    c.stop.click(topup_stop, None, shown, **quiet)


def _state(rule: topups.Rule | None, names: dict[str, str], now: int) -> str:
    if rule is None or not rule.active:
        return (
            f"<p>{parts.badge('off')} Switch it on, and a package is bought after an answer that "
            "leaves too little. At most three times in ten minutes, whatever you choose.</p>"
        )
    name = names.get(rule.package_code, rule.package_code)
    times = "once" if rule.per_day == 1 else f"{rule.per_day} times"
    rest = ""
    if rule.blocked_until is not None and rule.blocked_until > now:
        rest = f" The last payment was declined: it rests until {parts.when(rule.blocked_until)}."
    return (
        f"<p>{parts.badge('on', 'good')} {parts.esc(name)} is bought when less than "
        f"{show_credits(rule.threshold)} credits are available, at most {times} a day.{rest}</p>"
    )


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
