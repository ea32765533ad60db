"""Chat: conversations, the model and its price, the log, and the composer with its quote.

The conversation id in the page is only a wish: every call checks that it is the user's.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat.images import BadImage
from chat_app.credits import ledger, pricing
from chat_app.credits.pricing import Price, Tier
from chat_app.errors import AppError
from chat_app.flows import message, orgs, reply, shelf
from chat_app.flows.shelf import ModelView
from chat_app.money import show_credits
from ui import parts, stream
from ui.guard import guard
from ui.shell import Shell

OWN_CREDITS = ("Paid by me", "")
_NUMBER = re.compile(r"[1-9]\d{0,17}", re.ASCII)
FOCUS = "() => { document.querySelector('#chat-input textarea').focus(); }"
LISTED = 40
# So long the list waits for the model's title of a new conversation.
TITLE_SECONDS = 15.0
QUOTED_CHARACTERS = 20_000
MOST_IMAGES = 16
_ATTACH = (
    '<button type="button" class="attach" aria-label="Attach images" title="Attach images">'
    '<svg viewBox="0 0 24 24" width="19" height="19" fill="none" stroke="currentColor" '
    'stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">'
    '<rect x="3.5" y="4.5" width="17" height="15" rx="3"/><circle cx="9" cy="10" r="1.6"/>'
    '<path d="M4 17l5-4.5 3.5 3 3-2.5 4.5 4"/></svg></button>'
    '<input type="file" accept="image/png,image/jpeg,image/webp" multiple hidden '
    'aria-label="Images">'
)
WELCOME = (
    '<div class="hello"><h2>What can I help with?</h2>'
    "<p>You see the price before you send, and pay only for an answer that arrives.</p></div>"
)
EXAMPLES = [
    "Explain double-entry bookkeeping in three sentences",
    "Write a haiku about an honest invoice",
    "Give me five names for a small bakery",
]
_STATES = {
    "ready": "",
    "available": "",
    "loading": " · loading",
    "not_downloaded": " · not downloaded",
    "broken": " · broken",
}


@dataclass
class Chat:
    """The tab's components."""

    tab: gr.Tab
    conversation: gr.State
    following: gr.State
    new: gr.Button
    listing: gr.Radio
    model: gr.Dropdown
    note: gr.HTML
    log: gr.Chatbot
    text: gr.Textbox
    quote: gr.HTML
    cost: gr.HTML
    send: gr.Button
    stop: gr.Button
    nonce: gr.Textbox
    images: gr.Textbox
    requote: gr.Button
    payer: gr.Dropdown

    @property
    def live(self) -> list[Any]:
        """What sending and opening change."""
        return [
            self.conversation,
            self.listing,
            self.log,
            self.text,
            self.cost,
            self.following,
        ]


def build() -> Chat:
    """The layout, without any data."""
    with gr.Tab("Chat", id="chat", visible=False, elem_id="chat-tab") as tab:
        conversation = gr.State(None)
        following = gr.State(None)
        nonce = gr.Textbox(visible=False)
        images = gr.Textbox(visible=False)  # app.js holds them and gives them with a message
        with gr.Row(elem_id="chat-layout"):
            with gr.Column(elem_id="chat-side", scale=0, min_width=260):
                new = gr.Button("New chat", elem_id="new-chat", size="md")
                listing = gr.Radio(
                    choices=[], label="Conversations", elem_id="conversation-list", container=True
                )
            with gr.Column(elem_id="chat-main"):
                with gr.Row(elem_id="chat-head"):
                    gr.Button("Chats", elem_id="chat-menu", size="sm", scale=0)
                    model = gr.Dropdown(
                        choices=[], label="Model", elem_id="chat-model", filterable=False, scale=0
                    )
                    payer = gr.Dropdown(
                        choices=[OWN_CREDITS],
                        value="",
                        label="Paid by",
                        elem_id="chat-payer",
                        filterable=False,
                        scale=0,
                        visible=False,
                    )
                    note = gr.HTML(elem_id="chat-note")
                log = gr.Chatbot(
                    elem_id="chat-log",
                    label="Conversation",
                    show_label=False,
                    height="100%",
                    placeholder=WELCOME,
                    examples=[{"text": text} for text in EXAMPLES],
                    buttons=[],
                    sanitize_html=True,
                    allow_tags=False,
                    layout="bubble",
                    latex_delimiters=[],
                    like_user_message=False,
                )
                with gr.Column(elem_id="composer"):
                    gr.HTML(elem_id="chat-images")
                    text = gr.Textbox(
                        elem_id="chat-input",
                        label="Message",
                        show_label=False,
                        placeholder="Write a message. Shift+Enter makes a new line.",
                        lines=1,
                        max_lines=8,
                        container=False,
                        submit_btn=False,
                    )
                    with gr.Row(elem_id="composer-foot"):
                        gr.HTML(_ATTACH, elem_id="chat-attach")
                        requote = gr.Button("", elem_id="chat-requote", size="sm", scale=0)
                        quote = gr.HTML(elem_id="chat-quote")
                        cost = gr.HTML(elem_id="chat-cost")
                        stop = gr.Button("Stop", elem_id="chat-stop", size="sm", scale=0)
                        send = gr.Button(
                            "Send", elem_id="chat-send", variant="primary", size="sm", scale=0
                        )
    return Chat(
        tab,
        conversation,
        following,
        new,
        listing,
        model,
        note,
        log,
        text,
        quote,
        cost,
        send,
        stop,
        nonce,
        images,
        requote,
        payer,
    )


def bind(  # noqa: PLR0915 - one tab, many small handlers
    c: Chat, app: App, shell: Shell
) -> None:
    """Wire the tab; `bind_load` adds what happens when the page opens."""
    per_second = app.settings.chat.updates_per_second

    def begun(user: User, started: message.Started, before: list[stream.Message]) -> dict[Any, Any]:
        return {
            c.conversation: started.conversation_id,
            c.following: started.reply_id,
            c.listing: _listing(app, user, started.conversation_id),
            c.log: before,
            c.cost: _line("Holding at most " + parts.amount(started.maximum), busy=True),
            shell.pill: _pill(app, user),
        }

    @guard(app, "user")
    async def send(
        user: User,
        text: str,
        model: str | None,
        conversation: str | None,
        nonce: str,
        images: str,
        payer: str | None,
    ) -> dict[Any, Any]:
        """Send a message. Its answer is followed by the next event, `write`."""
        started = await message.start(
            app,
            user_id=_id(user),
            text=_words(text),
            model=_words(model) or app.settings.llm.default_model,
            conversation_id=conversation,
            idempotency_key=_words(nonce)[:64] or None,
            images=_files(images),
            org_id=_org(payer),
        )
        before = await asyncio.to_thread(_before, app, user, started)
        return {**begun(user, started, before), c.text: ""}

    @guard(app, "user")
    async def retry(
        user: User, model: str | None, conversation: str | None, payer: str | None
    ) -> dict[Any, Any]:
        """Answer the last message again, in place of the answer that is there."""
        if conversation is None:
            raise message.NothingToRetry
        started = await message.retry(
            app,
            user_id=_id(user),
            conversation_id=conversation,
            model=_words(model) or None,
            org_id=_org(payer),
        )
        return begun(user, started, await asyncio.to_thread(_before, app, user, started))

    # Gradio builds a component anew for each output that an update leaves out, so the stream
    # has two outputs and always gives both.
    @guard(app, "anyone")  # follows the page's opening, also when nobody is signed in
    async def write(user: User | None, reply_id: str | None) -> AsyncIterator[dict[Any, Any]]:
        """Stream the answer that is followed, if any, to its end."""
        if user is None or reply_id is None:
            yield {c.cost: gr.skip()}
            return
        view = await reply.view(app, user_id=_id(user), reply_id=reply_id)
        before = await asyncio.to_thread(_before, app, user, view)
        price = await asyncio.to_thread(_price, app, user, view.model)
        writing = stream.text_message("assistant", "")
        source = reply.follow(app, user_id=_id(user), reply_id=reply_id)
        try:
            async for snapshot in stream.snapshots(source, per_second=per_second):
                if snapshot.end is not None:
                    log, line = [*before, stream.ended(snapshot.end)], _cost(snapshot.end)
                else:
                    writing["content"][0]["text"] = snapshot.text
                    log = [*before, writing] if snapshot.text else before
                    line = _meter(snapshot, price)
                yield {c.log: log, c.cost: line}
        except Exception:
            yield {c.log: before, c.cost: ""}  # the composer is free again; the toast says why
            raise

    @guard(app, "anyone")
    async def settle(user: User | None, reply_id: str | None) -> AsyncIterator[dict[Any, Any]]:
        """After an answer: the list and the balance are new, and soon perhaps the title."""
        if user is None or reply_id is None:
            yield {c.cost: gr.skip()}
            return
        view = await reply.view(app, user_id=_id(user), reply_id=reply_id)
        yield {
            c.listing: _listing(app, user, view.conversation_id),
            shell.pill: parts.pill(view.balance),
        }
        naming = app.titles.get(view.conversation_id)
        if naming is not None:
            await asyncio.wait({naming}, timeout=TITLE_SECONDS)
            rows = await asyncio.to_thread(_rows, app, user)
            # Another conversation may be open by now, so what is picked stays.
            yield {c.listing: gr.update(choices=[(row.title, row.id) for row in rows])}

    @guard(app, "user")
    async def open_one(user: User, conversation: str | None) -> dict[Any, Any]:
        """Show a conversation, and go on with its running answer if there is one."""
        return await opened(user, conversation)

    async def opened(user: User, conversation: str | None) -> dict[Any, Any]:
        if not conversation:
            return {c.following: None}
        before, model = await asyncio.to_thread(_messages, app, user, conversation)
        running = reply.running(app, user_id=_id(user), conversation_id=conversation)
        update = {
            c.conversation: conversation,
            c.following: running[0] if running else None,
            c.log: before,
            c.cost: _line("Going on with the answer…", busy=True) if running else "",
        }
        views = await asyncio.to_thread(_models, app)
        if any(view.id == model and view.available for view in views):
            update[c.model] = model
        return update

    @guard(app, "user")
    async def stop(user: User, conversation: str | None) -> None:
        """Stop the answer that is being written; what arrived is kept."""
        if conversation:
            for reply_id in reply.running(app, user_id=_id(user), conversation_id=conversation):
                await reply.stop(app, user_id=_id(user), reply_id=reply_id)

    @guard(app, "user")
    async def start_new(_user: User) -> dict[Any, Any]:
        """An empty chat. An answer under way goes on and waits in the list."""
        return {
            c.conversation: None,
            c.following: None,
            c.listing: gr.update(value=None),
            c.log: [],
            c.cost: "",
        }

    @guard(app, "user")
    async def quote(
        user: User,
        text: str,
        model: str | None,
        conversation: str | None,
        images: object,
        payer: str | None,
    ) -> dict[Any, Any]:
        """The price of what is written so far, or of any message when nothing is."""
        views = await asyncio.to_thread(_models, app)
        picked = next((view for view in views if view.id == model), None)
        shown = images if isinstance(images, int) and 0 <= images <= MOST_IMAGES else 0
        line = await _quote(app, user, text, picked, conversation, images=shown, org_id=_org(payer))
        return {c.note: _note(picked), c.quote: line + _sees(app, picked)}

    quiet = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "preprocess": False,  # the page's list of models is no authority, and may be stale
        "postprocess": False,
    }
    live = [*c.live, shell.pill]
    streams: list[Any] = []

    def follow(event: Any) -> None:
        written = event.success(
            write, [c.following], [c.log, c.cost], concurrency_limit=None, **quiet
        )
        written.then(
            settle,
            [c.following],
            [c.listing, c.cost, shell.pill],
            concurrency_limit=None,
            **quiet,
        )
        streams.append(written)

    nonce_js = (
        "(text, model, chat, nonce, images, by) => "
        "[text, model, chat, window.chatKey('send'), window.chatImages(), by]"
    )
    done_js = "() => { window.chatDone('send'); window.chatShown(); }"
    inputs = [c.text, c.model, c.conversation, c.nonce, c.images, c.payer]
    for trigger in (c.send.click, c.text.submit):
        sent = trigger(
            send, inputs, live, js=nonce_js, concurrency_limit=None, trigger_mode="once", **quiet
        )
        sent.then(None, js=done_js, api_visibility="private")
        follow(sent)
    again = [c.model, c.conversation, c.payer]
    follow(c.log.retry(retry, again, live, concurrency_limit=None, **quiet))
    c.log.example_select(
        None,
        None,
        [c.text],
        js=FOCUS,
        api_visibility="private",
    )
    open_outputs = [*live, c.model]
    follow(
        c.listing.input(
            open_one,
            [c.listing],
            open_outputs,
            concurrency_limit=None,
            cancels=list(streams),
            **quiet,
        )
    )
    c.new.click(start_new, None, c.live, cancels=streams, **quiet).then(
        None,
        js=FOCUS,
        api_visibility="private",
    )
    c.stop.click(stop, [c.conversation], None, concurrency_limit=None, **quiet)
    for trigger in (c.text.change, c.model.change, c.requote.click, c.payer.input):
        trigger(
            quote,
            [c.text, c.model, c.conversation, c.images, c.payer],
            [c.note, c.quote],
            js="(text, model, chat, shots, by) => [text, model, chat, window.chatImageCount(), by]",
            trigger_mode="always_last",
            **quiet,
        )
    shell.open_chat = opened
    shell.follow = follow
    shell.open_outputs = tuple(open_outputs)
    shell.chat = c


def bind_load(c: Chat, app: App, shell: Shell, after: Any) -> None:
    """When the page opens: models, conversations, and the newest one with its running answer."""
    open_chat, follow = shell.open_chat, shell.follow
    assert open_chat is not None
    assert follow is not None

    @guard(app, "anyone")
    async def load(user: User | None) -> dict[Any, Any]:
        """Fill the tab and re-attach to an answer that is being written."""
        if user is None:
            return {c.following: None}
        views = await asyncio.to_thread(_models, app)
        picked = _preferred(app, views)
        running = {live.conversation_id for live in app.replies if live.user_id == _id(user)}
        rows = await asyncio.to_thread(_rows, app, user)
        newest = next((row.id for row in rows if row.id in running), None)
        newest = newest or (rows[0].id if rows else None)
        opened = await open_chat(user, newest)
        pools = await asyncio.to_thread(orgs.mine, app, user_id=_id(user))
        if pools:  # others never see the picker
            opened[c.payer] = gr.update(choices=payers(pools), value="", visible=True)
        return {
            **opened,
            c.model: gr.update(
                choices=[(_label(view), view.id) for view in views],
                value=opened.get(c.model, picked.id if picked else None),
            ),
            c.note: _note(picked),
            c.quote: await _quote(app, user, "", picked, None) + _sees(app, picked),
            c.listing: gr.update(choices=[(row.title, row.id) for row in rows], value=newest),
        }

    loaded = after.then(
        load,
        None,
        [*c.live, c.model, c.note, c.quote, shell.pill, c.payer],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
        postprocess=False,
    )
    follow(loaded)


def _id(user: User) -> int:
    assert user.id is not None
    return user.id


def _rows(app: App, user: User) -> list[conversations.ConversationRow]:
    with app.db.read() as session:
        return conversations.list_for(session, user_id=_id(user), limit=LISTED)[0]


def _listing(app: App, user: User, picked: str | None) -> Any:
    return gr.update(choices=[(row.title, row.id) for row in _rows(app, user)], value=picked)


def _messages(app: App, user: User, conversation: str) -> tuple[list[stream.Message], str]:
    with app.db.read() as session:
        found = conversations.get(session, user_id=_id(user), conversation_id=conversation)
        rows = conversations.messages(session, user_id=_id(user), conversation_id=conversation)
        return stream.shown(rows), found.model


def _before(
    app: App, user: User, following: message.Started | reply.ReplyView
) -> list[stream.Message]:
    """The conversation up to the answer that is followed."""
    with app.db.read() as session:
        rows = conversations.messages(
            session, user_id=_id(user), conversation_id=following.conversation_id
        )
    return stream.shown([row for row in rows if row.reply_id != following.reply_id])


def payers(pools: list[orgs.OrgView]) -> list[tuple[str, str]]:
    """What the picker of payers offers."""
    return [OWN_CREDITS, *((f"Paid by {pool.name}", str(pool.id)) for pool in pools)]


def _org(payer: object) -> int | None:
    """The organisation that the picker names. Whether the user may spend from it is asked later."""
    return int(payer) if isinstance(payer, str) and _NUMBER.fullmatch(payer) else None


def _words(value: object) -> str:
    """Text from the page, which may send anything."""
    return value if isinstance(value, str) else ""


def _files(value: object) -> list[bytes]:
    """The images that the page sends: JSON with a list of files in base64."""
    if not isinstance(value, str) or not value:
        return []
    try:
        items = json.loads(value)
        return [base64.b64decode(item, validate=True) for item in items[: MOST_IMAGES + 1]]
    except (ValueError, TypeError, RecursionError) as error:
        raise BadImage(number=1) from error


def _sees(app: App, view: ModelView | None) -> str:
    """Says to the page that images may be attached, and how many."""
    if view is None or not view.sees_images:
        return ""
    return f'<span data-images="{app.settings.chat.max_images}"></span>'


def _models(app: App) -> list[ModelView]:
    with app.db.read() as session:
        return shelf.models(app, session=session)


def _preferred(app: App, views: list[ModelView]) -> ModelView | None:
    able = [view for view in views if view.available]
    wanted = app.settings.llm.default_model
    return next((view for view in able if view.id == wanted), able[0] if able else None)


def _price(app: App, user: User, model: str | None) -> Price | None:
    if model is None:
        return None
    try:
        with app.db.read() as session:
            now = app.clock.micros()
            return pricing.for_user(session, model, user_id=_id(user), now=now)
    except AppError:
        return None


def _pill(app: App, user: User) -> str:
    with app.db.read() as session:
        return parts.pill(ledger.balance(session, user_id=_id(user)))


def price_words(price: Price | Tier) -> str:
    """`10 credits a message`, `2 / 6 credits per million tokens`."""
    words = []
    if price.per_message is not None:
        words.append(f"{parts.amount(price.per_message)} a message")
    if price.input_per_million is not None or price.output_per_million is not None:
        given, made = price.input_per_million or 0, price.output_per_million or 0
        words.append(f"{show_credits(given)} in, {show_credits(made)} out per million tokens")
    if price.per_image:
        words.append(f"{parts.amount(price.per_image)} an image")
    return " + ".join(words) or "free"


def image_words(price: Price) -> str:
    """` + 5 an image`, or nothing."""
    return f" + {show_credits(price.per_image)} an image" if price.per_image else ""


def _label(view: ModelView) -> str:
    state = _STATES.get(view.state, "")
    return f"{view.name} · {price_words(view.price)}{state}"


def _note(view: ModelView | None) -> str:
    if view is None:
        return parts.badge("No model can answer yet", "warn")
    if not view.available:
        return f"{parts.badge(view.state.replace('_', ' '), 'warn')} {parts.esc(view.reason)}"
    if view.demo:
        return parts.badge("Demo model", "warn") + " small and quick, often wrong"
    return ""


async def _quote(
    app: App,
    user: User,
    text: str,
    view: ModelView | None,
    conversation: str | None,
    *,
    images: int = 0,
    org_id: int | None = None,
) -> str:
    if view is None:
        return "Ask an administrator to download a model."
    if not view.available:
        return "This model cannot answer now."
    if not (text or "").strip() and not images:
        return f"{parts.esc(view.name)}: {price_words(view.price)}{image_words(view.price)}"
    try:
        offer = await message.quote(
            app,
            user_id=_id(user),
            text=text[:QUOTED_CHARACTERS] if view.price.kind == "per_message" else text,
            model=view.id,
            conversation_id=conversation,
            images=images,
            org_id=org_id,
        )
    except AppError as error:
        return f'<span class="bad">{parts.esc(error)}</span>'
    words = f"Likely {show_credits(offer.likely)}, at most {parts.amount(offer.maximum)}"
    if images and view.price.per_image:
        which = "the image" if images == 1 else f"{images} images"
        words += f", {show_credits(images * view.price.per_image)} of them for {which}"
    if offer.maximum > offer.available:
        whose = "You have" if org_id is None else "The organisation lets you spend"
        return f'<span class="bad">{words}. {whose} {show_credits(offer.available)}.</span>'
    return words


def _meter(snapshot: stream.Snapshot, price: Price | None) -> str:
    if not snapshot.tokens:
        return _line(snapshot.status or "Waiting for the first word…", busy=True)
    so_far = ""
    if price is not None:
        spent = pricing.cost(price, prompt_tokens=0, completion_tokens=snapshot.tokens)
        so_far = f" · {parts.amount(spent)} so far"
    return _line(f"{snapshot.tokens} tokens{so_far}", busy=True)


def _cost(view: reply.ReplyView) -> str:
    charged = f"Charged {parts.amount(view.charged)}" if view.charged else "Nothing charged"
    cached = " for a cached answer" if view.cached else ""
    left = f"{show_credits(view.balance.available)} left"
    if view.org_id is not None:
        left = "paid by the organisation"
    return _line(f"{charged}{cached}, {left}")


def _line(words: str, *, busy: bool = False) -> str:
    return f'<span role="status"{_BUSY if busy else ""}>{parts.esc(words)}</span>'


_BUSY = ' class="busy"'
