"""History: search in all own messages; open, export or delete a conversation."""

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.chat import conversations, search
from chat_app.chat.conversations import ConversationRow
from chat_app.chat.search import Hit
from chat_app.flows import erase, shelf
from chat_app.money import MICRO
from ui import parts, stream
from ui.guard import guard
from ui.shell import Shell
from ui.tabs.chat import side

PAGE = 20
HIDDEN = "hidden"
KINDS = [
    ("Everything", ""),
    ("My questions", "user"),
    ("Answers", "assistant"),
    ("With an image", "image"),
]
COSTS = [
    ("Any cost", ""),
    ("Free", "0-0"),
    ("Up to 10 credits", "0-10"),
    ("10 to 50 credits", "10-50"),
    ("Over 50 credits", "50-"),
]
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) { const { act, id, at } = button.dataset; trigger('click', { act, id, at }); }
});
"""
_JUMP = "(place) => { window.chatJump(Number(place)); }"


@dataclass
class History:
    """The tab's components."""

    tab: gr.Tab
    search: gr.Textbox
    kind: gr.Dropdown
    model: gr.Dropdown
    period: gr.Dropdown
    cost: gr.Dropdown
    found: gr.HTML
    more: gr.Button
    cursor: gr.State
    rows: gr.State
    jump: gr.Textbox


def build() -> History:
    """The layout, without any data."""
    with gr.Tab("History", id="history", visible=False, elem_id="history-tab") as tab:
        gr.HTML("<h1>History</h1>", elem_classes="page-title")
        with gr.Column(elem_classes="sheet"):
            find = gr.Textbox(
                label="Search",
                placeholder='Words, "a phrase", or -without',
                elem_id="history-search",
                max_lines=1,
            )
            with gr.Row(elem_classes="filters tight"):
                kind = _choice("Show", KINDS)
                model = _choice("Model", [("All models", "")])
                period = _choice("Period", parts.PERIODS, "0")
                cost = _choice("Cost", COSTS)
            found = gr.HTML(parts.loading(5), elem_id="history-list", js_on_load=_CLICKS)
            more = gr.Button("Show older", size="sm", visible=HIDDEN, elem_id="history-more")
            cursor, rows = gr.State(None), gr.State([])
            jump = gr.Textbox(visible=False)
    return History(tab, find, kind, model, period, cost, found, more, cursor, rows, jump)


def _choice(label: str, choices: list[tuple[str, str]], value: str = "") -> gr.Dropdown:
    return gr.Dropdown(choices, value=value, label=label, filterable=False, scale=0)


@dataclass(frozen=True)
class Asked:
    """What the person asked for; the page's values are only wishes."""

    q: str
    kind: str
    model: str
    period: str
    cost: str

    @classmethod
    def of(cls, *values: object) -> "Asked":
        return cls(*(str(value or "")[:500] for value in values))

    @property
    def anything(self) -> bool:
        """Whether messages are looked for; else conversations are listed."""
        return bool(self.q.strip() or self.kind or self.model or self.cost) or self.period != "0"

    def wishes(self, now: int) -> dict[str, Any]:
        """The filters of `search.find`."""
        low, _, high = self.cost.partition("-")
        return {
            "model": self.model or None,
            "since": parts.since(self.period or "0", now),
            "role": self.kind if self.kind in ("user", "assistant") else None,
            "has_image": True if self.kind == "image" else None,
            "min_charged": int(low) * MICRO if low.isdigit() else None,
            "max_charged": int(high) * MICRO if high.isdigit() else None,
        }


def bind(c: History, app: App, shell: Shell) -> None:
    """Wire the tab. Opening a conversation is the chat tab's work."""

    def look(user: User, asked: Asked, cursor: str | None) -> tuple[list[str], str | None]:
        with app.db.read() as session:
            if not asked.anything:
                rows, following = conversations.list_for(
                    session, user_id=_id(user), limit=PAGE, cursor=cursor
                )
                return [_conversation(row) for row in rows], following
            hits, following = search.find(
                session,
                user_id=_id(user),
                q=asked.q,
                limit=PAGE,
                cursor=cursor,
                **asked.wishes(app.clock.micros()),
            )
            return [_hit(hit) for hit in hits], following

    async def listed(
        user: User, asked: Asked, cursor: str | None = None, before: Any = ()
    ) -> dict[Any, Any]:
        found, following = await asyncio.to_thread(look, user, asked, cursor)
        rows = [*before, *found]
        return {
            c.found: "".join(rows) or _nothing(asked),
            c.rows: rows,
            c.cursor: following,
            c.more: gr.update(visible=True if following else HIDDEN),
        }

    def place(user: User, conversation: str, message: str) -> int:
        """Which of the shown messages of a conversation it is, or -1."""
        with app.db.read() as session:
            rows = conversations.messages(session, user_id=_id(user), conversation_id=conversation)
        shown = [row.id for row in rows[-stream.SHOWN_MESSAGES :] if row.state != "running"]
        return shown.index(message) if message in shown else -1

    @guard(app, "user")
    async def show(
        user: User, q: str, kind: str, model: str, period: str, cost: str
    ) -> dict[Any, Any]:
        """The messages that match, or all conversations when nothing is asked for; and the models
        to choose from.
        """
        with app.db.read() as session:
            views = shelf.models(app, session=session)
        choices = [("All models", ""), *((view.name, view.id) for view in views)]
        return {
            c.model: gr.update(choices=choices),
            **await listed(user, Asked.of(q, kind, model, period, cost)),
        }

    @guard(app, "user")
    async def history_older(
        user: User,
        q: str,
        kind: str,
        model: str,
        period: str,
        cost: str,
        cursor: str | None,
        rows: list[Any],
    ) -> dict[Any, Any]:
        """The next page below the shown one."""
        return await listed(user, Asked.of(q, kind, model, period, cost), cursor, rows)

    open_chat, follow, room = shell.open_chat, shell.follow, shell.chat
    assert open_chat is not None
    assert follow is not None

    @guard(app, "user")
    async def act(
        user: User,
        q: str,
        kind: str,
        model: str,
        period: str,
        cost: str,
        shown: str | None,
        event: gr.EventData,
    ) -> Any:
        """Open or delete the conversation whose button was pressed."""
        pressed = getattr(event, "_data", None) or {}
        conversation, action = str(pressed.get("id", ""))[:64], pressed.get("act")
        if action == "delete":
            await erase.conversation(app, user_id=_id(user), conversation_id=conversation)
            update = {
                **await listed(user, Asked.of(q, kind, model, period, cost)),
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
            message = str(pressed.get("at") or "")[:64]
            yield {shell.tabs: gr.update(selected="chat")}
            at = await asyncio.to_thread(place, user, conversation, message) if message else -1
            yield {**await open_chat(user, conversation), c.jump: str(at)}
        else:
            yield {c.found: gr.skip()}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    filters = [c.search, c.kind, c.model, c.period, c.cost]
    shown = [c.found, c.rows, c.cursor, c.more]
    asked = [c.tab.select, c.search.submit, *(part.change for part in filters)]
    gr.on(asked, show, filters, [c.model, *shown], trigger_mode="always_last", **quiet)
    c.more.click(history_older, [*filters, c.cursor, c.rows], shown, **quiet)
    opened = c.found.click(
        act,
        [*filters, room.conversation],
        [*shown, c.jump, shell.tabs, *shell.open_outputs],
        postprocess=False,
        concurrency_limit=None,
        **quiet,
    )
    opened.then(None, [c.jump], None, js=_JUMP, api_visibility="private")
    follow(opened)


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _actions(id: str, title: str, message: str = "") -> str:
    name, key = parts.esc(title), parts.esc(id)
    link = f"/api/chat/conversations/{key}/export?format="
    at = f' data-at="{parts.esc(message)}"' if message else ""
    return (
        '<div class="actions">'
        f'<button data-act="open" data-id="{key}"{at} aria-label="Open {name} in chat">'
        "Open</button>"
        f'<a href="{link}md" download aria-label="Export {name} as Markdown">Markdown</a>'
        f'<a href="{link}json" download aria-label="Export {name} as JSON">JSON</a>'
        f'<button data-ask data-sure aria-label="Delete {name}">Delete</button>'
        '<span data-sure hidden class="sure">Delete for good? '
        f'<button class="danger" data-act="delete" data-id="{key}">Yes, delete</button> '
        "<button data-ask>Keep</button></span></div>"
    )


def _conversation(row: ConversationRow) -> str:
    return (
        f'<article class="hit" data-row><div><h3>{parts.esc(row.title)}</h3>'
        f'<p class="meta">{parts.when(row.updated_at)} · {parts.esc(row.model)} · '
        f"{row.message_count} messages</p></div>{_actions(row.id, row.title)}</article>"
    )


def _hit(hit: Hit) -> str:
    return (
        f'<article class="hit" data-row><div><h3>{parts.esc(hit.title)}</h3>'
        f"<p>{_marked(hit.snippet, hit.marks)}</p>"
        f'<p class="meta">{"You" if hit.role == "user" else parts.esc(hit.model)} · '
        f"{parts.when(hit.created_at)}{_charged(hit)}</p></div>"
        f"{_actions(hit.conversation_id, hit.title, hit.message_id)}</article>"
    )


def _nothing(asked: Asked) -> str:
    if asked.anything:
        return parts.empty("No message matches", "Try fewer words, all models or all time.")
    return parts.empty("Nothing here yet", "Your conversations appear here once you chat.", "Chat")


def _charged(hit: Hit) -> str:
    charged = f" · {parts.amount(hit.charged)}" if hit.charged else ""
    return f"{charged} · cached" if hit.cached else charged


def _marked(text: str, marks: search.Marks) -> str:
    shown, done = [], 0
    for start, end in marks:
        shown += [parts.esc(text[done:start]), f"<mark>{parts.esc(text[start:end])}</mark>"]
        done = end
    return "".join([*shown, parts.esc(text[done:])])
