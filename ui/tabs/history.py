"""History: search in all own messages; open, export or delete a conversation."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat.conversations import ConversationRow, Hit
from chat_app.flows import erase, shelf
from ui import parts
from ui.guard import guard
from ui.shell import Shell
from ui.tabs.chat import side

PAGE = 30
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', { act: button.dataset.act, id: button.dataset.id });
});
"""


@dataclass
class History:
    """The tab's components."""

    tab: gr.Tab
    search: gr.Textbox
    model: gr.Dropdown
    period: gr.Dropdown
    found: gr.HTML


def build() -> History:
    """The layout, without any data."""
    with gr.Tab("History", id="history", visible=False, elem_id="history-tab") as tab:
        gr.HTML("<h1>History</h1>", elem_classes="page-title")
        with gr.Column(elem_classes="sheet"):
            with gr.Row(elem_classes="filters"):
                search = gr.Textbox(
                    label="Search",
                    placeholder="Words in any message",
                    elem_id="history-search",
                    max_lines=1,
                )
                model = gr.Dropdown(
                    [("All models", "")], value="", label="Model", filterable=False, scale=0
                )
                period = gr.Dropdown(
                    parts.PERIODS, value="0", label="Period", filterable=False, scale=0
                )
            found = gr.HTML(parts.loading(5), elem_id="history-list", js_on_load=_CLICKS)
    return History(tab, search, model, period, found)


def bind(c: History, app: App, shell: Shell) -> None:
    """Wire the tab. Opening a conversation is the chat tab's work."""

    def look(user: User, q: str, model: str, period: str) -> str:
        since = parts.since(period or "0", app.clock.micros())
        with app.db.read() as session:
            if not q.strip() and not model and since is None:
                rows, _ = conversations.list_for(session, user_id=_id(user), limit=PAGE)
                return _conversations(rows)
            hits, _ = conversations.search(
                session,
                user_id=_id(user),
                q=q[:500],
                model=model or None,
                since=since,
                limit=PAGE,
            )
            return _hits(hits, q)

    @guard(app, "user")
    async def show(user: User, q: str, model: str, period: str) -> dict[Any, Any]:
        """The messages that match, or all conversations when nothing is asked for."""
        return {c.found: await asyncio.to_thread(look, user, q or "", model or "", period)}

    @guard(app, "user")
    async def open_tab(user: User, q: str, model: str, period: str) -> dict[Any, Any]:
        """The same, with the models to choose from."""
        with app.db.read() as session:
            views = shelf.models(app, session=session)
        choices = [("All models", ""), *((view.name, view.id) for view in views)]
        return {
            c.model: gr.update(choices=choices),
            c.found: await asyncio.to_thread(look, user, q or "", model or "", period),
        }

    open_chat, follow, room = shell.open_chat, shell.follow, shell.chat
    assert open_chat is not None
    assert follow is not None

    @guard(app, "user")
    async def act(
        user: User, q: str, model: str, period: str, shown: str | None, event: gr.EventData
    ) -> Any:
        """Open or delete the conversation whose button was pressed."""
        pressed = getattr(event, "_data", None) or {}
        conversation, action = str(pressed.get("id", ""))[:64], pressed.get("act")
        if action == "delete":
            await erase.conversation(app, user_id=_id(user), conversation_id=conversation)
            update = {
                c.found: await asyncio.to_thread(look, user, q or "", model or "", period),
                room.listing: side.opened(shown, news=True),
            }
            if shown == conversation:
                update |= {
                    room.conversation: None,
                    room.log: [],
                    room.listing: side.opened(None, news=True),
                }
            yield update
        elif action == "open":
            yield {shell.tabs: gr.update(selected="chat")}
            yield await open_chat(user, conversation)
        else:
            yield {c.found: gr.skip()}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    filters = [c.search, c.model, c.period]
    c.tab.select(open_tab, filters, [c.model, c.found], **quiet)
    c.search.submit(show, filters, [c.found], **quiet)
    for trigger in (c.search.change, c.model.change, c.period.change):
        trigger(show, filters, [c.found], trigger_mode="always_last", **quiet)
    opened = c.found.click(
        act,
        [*filters, room.conversation],
        [c.found, shell.tabs, *shell.open_outputs],
        postprocess=False,
        concurrency_limit=None,
        **quiet,
    )
    follow(opened)


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _actions(id: str, title: str) -> str:
    name, key = parts.esc(title), parts.esc(id)
    link = f"/api/chat/conversations/{key}/export?format="
    return (
        '<div class="actions">'
        f'<button data-act="open" data-id="{key}" aria-label="Open {name} in chat">Open</button>'
        f'<a href="{link}md" download aria-label="Export {name} as Markdown">Markdown</a>'
        f'<a href="{link}json" download aria-label="Export {name} as JSON">JSON</a>'
        f'<button data-ask data-sure aria-label="Delete {name}">Delete</button>'
        '<span data-sure hidden class="sure">Delete for good? '
        f'<button class="danger" data-act="delete" data-id="{key}">Yes, delete</button> '
        "<button data-ask>Keep</button></span></div>"
    )


def _conversations(rows: list[ConversationRow]) -> str:
    if not rows:
        return parts.empty("Nothing here yet", "Your conversations appear here once you chat.")
    return "".join(
        f'<article class="hit" data-row><div><h3>{parts.esc(row.title)}</h3>'
        f'<p class="meta">{parts.when(row.updated_at)} · {parts.esc(row.model)} · '
        f"{row.message_count} messages</p></div>{_actions(row.id, row.title)}</article>"
        for row in rows
    )


def _hits(hits: list[Hit], q: str) -> str:
    if not hits:
        return parts.empty("No message matches", "Try fewer words, all models or all time.")
    return "".join(
        f'<article class="hit" data-row><div><h3>{parts.esc(hit.title)}</h3>'
        f"<p>{_marked(hit.snippet, q.strip())}</p>"
        f'<p class="meta">{"You" if hit.role == "user" else parts.esc(hit.model)} · '
        f"{parts.when(hit.created_at)}{_charged(hit)}</p></div>"
        f"{_actions(hit.conversation_id, hit.title)}</article>"
        for hit in hits
    )


def _charged(hit: Hit) -> str:
    charged = f" · {parts.amount(hit.charged)}" if hit.charged else ""
    return f"{charged} · cached" if hit.cached else charged


def _marked(text: str, q: str) -> str:
    at = text.casefold().find(q.casefold()) if q else -1
    if at < 0:
        return parts.esc(text)
    end = at + len(q)
    return f"{parts.esc(text[:at])}<mark>{parts.esc(text[at:end])}</mark>{parts.esc(text[end:])}"
