"""The page: header and tabs joined, and who sees which of them.

What a person sees decides nothing: every handler checks the cookie again (`guard.py`).
"""

from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from chat_app.accounts import permissions, sessions
from chat_app.accounts.tables import User
from chat_app.app import App
from ui import help, parts
from ui.guard import guard
from ui.shell import Shell, bell, brand, demo_banner, pill
from ui.tabs import account, admin, analytics, chat, credits, history, login

HIDDEN = "hidden"  # visible=False would leave the button of a tab that was shown once


@dataclass
class Page:
    """The whole page, and for each look of it what differs: properties by component number.

    A look is the role of whoever is signed in, or empty for nobody.
    """

    demo: gr.Blocks
    looks: dict[str, dict[int, dict[str, Any]]]


def build(app: App) -> gr.Blocks:
    """All components, then all wiring."""
    return assemble(app).demo


def assemble(app: App) -> Page:
    """The same, with its looks."""
    accounts = app.settings.accounts
    with gr.Blocks(title="ML Chat Billing", fill_width=True) as demo:
        with gr.Row(elem_id="topbar"):
            gr.HTML(brand(verify=accounts.require_verified_email), elem_id="brand")
            pill_part = gr.HTML(visible=HIDDEN, elem_id="credits-pill")
            bell_part = gr.HTML(visible=HIDDEN, elem_id="bell")
            who = gr.HTML(visible=HIDDEN, elem_id="who")
            gr.HTML(help.tools(app.settings.business), elem_id="bar-tools")
            sign_out = gr.Button("Sign out", visible=HIDDEN, elem_id="sign-out", size="sm", scale=0)
        if app.demo:
            framed = sessions.embedded(app.settings)
            gr.HTML(demo_banner(framed=framed), elem_id="demo-banner")
        wait = gr.HTML(parts.loading(6), elem_id="page-loading")
        with gr.Tabs(elem_id="tabs") as tabs:
            rooms = (
                login.build(accounts, hub=app.hub is not None),
                chat.build(),
                credits.build(),
                history.build(),
                analytics.build(),
                account.build(accounts, hub=app.hub is not None),
                admin.build(),
            )
        shell = Shell(tabs=tabs, pill=pill_part, who=who, sign_out=sign_out)
        (
            signin_tab,
            chat_room,
            credits_room,
            history_room,
            analytics_room,
            account_room,
            admin_room,
        ) = rooms
        chat.bind(chat_room, app, shell)
        credits.bind(credits_room, app, shell)
        history.bind(history_room, app, shell)
        analytics.bind(analytics_room, app, shell)
        admin.bind(admin_room, app, shell)

        def look(role: str) -> dict[Any, dict[str, Any]]:
            """What somebody of this role sees; empty for nobody."""
            shown: dict[Any, dict[str, Any]] = {
                wait: {"visible": HIDDEN, "value": _worn(role)},
                tabs: {"selected": "chat" if role else "login"},
                sign_out: {"visible": True if role else HIDDEN},
            }
            if not role:
                return {**shown, signin_tab.tab: {"visible": True}}
            for room in (chat_room, credits_room, history_room, analytics_room, account_room):
                shown[room.tab] = {"visible": True}
            if permissions.is_staff(role):
                shown[admin_room.tab] = {"visible": True}
                shown |= {part: {"visible": HIDDEN} for part in admin.hidden(admin_room, role)}
            return shown

        @guard(app, "anyone")
        async def open_page(user: User | None, worn: str) -> dict[Any, Any]:
            """Show the tabs of whoever the cookie belongs to, unless the page came with them."""
            role = user.role if user else ""
            shown: dict[Any, Any] = {}
            if worn != _worn(role):
                wanted = look(role)
                shown = {part: gr.update(**props) for part, props in wanted.items()}
                if "data-look" in worn:  # it came as for somebody else: a sign-in ended since
                    tabs_left = {room.tab for room in rooms} - set(wanted)
                    shown |= {tab: gr.update(visible=HIDDEN) for tab in tabs_left}
            if user is not None:
                assert user.id is not None
                shown[pill_part] = gr.update(value=pill(app, user.id), visible=True)
                shown[bell_part] = gr.update(value=bell(app, user.id), visible=True)
                shown[who] = gr.update(value=_name(user), visible=True)
            return shown or {wait: gr.skip()}

        opened = demo.load(
            open_page,
            inputs=[wait],
            outputs=[
                wait,
                tabs,
                sign_out,
                pill_part,
                bell_part,
                who,
                *(room.tab for room in rooms),
                *admin.needs(admin_room),
            ],
            show_progress="hidden",
            queue=True,
            api_visibility="private",
        )
        chat.bind_load(chat_room, app, shell, opened)
    roles = ("", *get_args(permissions.Role))
    looks = {role: {part._id: props for part, props in look(role).items()} for role in roles}
    return Page(demo, looks)


def _worn(role: str) -> str:
    """The mark of a look, by which the page's first event sees which one it came with."""
    return f'<i data-look="{role}"></i>'


def _name(user: User) -> str:
    """The name in the bar; by its language the script turns the page."""
    own = f' data-language="{parts.esc(user.language)}"' if user.language else ""
    return f'<span translate="no"{own}>{parts.esc(user.username)}</span>'
