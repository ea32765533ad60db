"""Chat: conversations, the model and its price, the log, and the composer with its quote.

The conversation id in the page is only a wish: every call checks that it is the user's.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.flows import message, orgs, reply
from ui import parts, stream
from ui.guard import guard
from ui.shell import Shell
from ui.tabs.chat import read, sent, side, words

FOCUS = "() => { document.querySelector('#chat-input textarea').focus(); }"
# So long the list waits for the model's title of a new conversation.
TITLE_SECONDS = 15.0
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


@dataclass
class Chat:
    """The tab's components."""

    tab: gr.Tab
    conversation: gr.State
    following: gr.State
    new: gr.Button
    listing: gr.HTML
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
            column = side.build()
            with gr.Column(elem_id="chat-main"):
                with gr.Row(elem_id="chat-head"):
                    gr.Button("Chats", elem_id="chat-menu", size="sm", scale=0)
                    model = gr.Dropdown(
                        choices=[], label="Model", elem_id="chat-model", filterable=False, scale=0
                    )
                    payer = gr.Dropdown(
                        choices=[words.OWN_CREDITS],
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
        column.new,
        column.listing,
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
            c.listing: side.opened(started.conversation_id, news=True),
            c.log: before,
            c.cost: words.line("Holding at most " + parts.amount(started.maximum), busy=True),
            shell.pill: read.pill(app, user),
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
            user_id=read.user_id(user),
            text=sent.text(text),
            model=sent.text(model) or app.settings.llm.default_model,
            conversation_id=conversation,
            idempotency_key=sent.text(nonce)[:64] or None,
            images=sent.files(images),
            org_id=sent.org(payer),
        )
        before = await asyncio.to_thread(read.before, app, user, started)
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
            user_id=read.user_id(user),
            conversation_id=conversation,
            model=sent.text(model) or None,
            org_id=sent.org(payer),
        )
        return begun(user, started, await asyncio.to_thread(read.before, app, user, started))

    # Gradio builds a component anew for each output that an update leaves out, so the stream
    # has two outputs and always gives both.
    @guard(app, "anyone")  # follows the page's opening, also when nobody is signed in
    async def write(user: User | None, reply_id: str | None) -> AsyncIterator[dict[Any, Any]]:
        """Stream the answer that is followed, if any, to its end."""
        if user is None or reply_id is None:
            yield {c.cost: gr.skip()}
            return
        view = await reply.view(app, user_id=read.user_id(user), reply_id=reply_id)
        before = await asyncio.to_thread(read.before, app, user, view)
        price = await asyncio.to_thread(read.price, app, user, view.model)
        writing = stream.text_message("assistant", "")
        source = reply.follow(app, user_id=read.user_id(user), reply_id=reply_id)
        try:
            async for snapshot in stream.snapshots(source, per_second=per_second):
                if snapshot.end is not None:
                    log, line = [*before, stream.ended(snapshot.end)], words.cost(snapshot.end)
                else:
                    writing["content"][0]["text"] = snapshot.text
                    log = [*before, writing] if snapshot.text else before
                    line = words.meter(snapshot, price)
                yield {c.log: log, c.cost: line}
        except Exception:
            yield {c.log: before, c.cost: ""}  # the composer is free again; the toast says why
            raise

    @guard(app, "anyone")
    async def settle(
        user: User | None, reply_id: str | None, conversation: str | None
    ) -> AsyncIterator[dict[Any, Any]]:
        """After an answer: the list and the balance are new, and soon perhaps the title."""
        at = side.moment()
        if user is None or reply_id is None:
            yield {c.cost: gr.skip()}
            return
        view = await reply.view(app, user_id=read.user_id(user), reply_id=reply_id)
        yield {
            c.listing: side.opened(conversation, news=True, at=at),
            shell.pill: parts.pill(view.balance),
        }
        naming = app.titles.get(view.conversation_id)
        if naming is not None:
            await asyncio.wait({naming}, timeout=TITLE_SECONDS)
            yield {c.listing: side.opened(conversation, news=True, at=at)}

    @guard(app, "user")
    async def open_one(user: User, conversation: str | None) -> dict[Any, Any]:
        """Show a conversation, and go on with its running answer if there is one."""
        return await opened(user, conversation)

    async def opened(user: User, conversation: str | None) -> dict[Any, Any]:
        if not conversation:
            return {c.following: None}
        before, model = await asyncio.to_thread(read.messages, app, user, conversation)
        running = reply.running(app, user_id=read.user_id(user), conversation_id=conversation)
        update = {
            c.conversation: conversation,
            c.listing: side.opened(conversation),
            c.following: running[0] if running else None,
            c.log: before,
            c.cost: words.line("Going on with the answer…", busy=True) if running else "",
        }
        views = await asyncio.to_thread(read.models, app)
        if any(view.id == model and view.available for view in views):
            update[c.model] = model
        return update

    @guard(app, "user")
    async def stop(user: User, conversation: str | None) -> None:
        """Stop the answer that is being written; what arrived is kept."""
        if conversation:
            for reply_id in reply.running(
                app, user_id=read.user_id(user), conversation_id=conversation
            ):
                await reply.stop(app, user_id=read.user_id(user), reply_id=reply_id)

    @guard(app, "user")
    async def start_new(_user: User) -> dict[Any, Any]:
        """An empty chat. An answer under way goes on and waits in the list."""
        return {
            c.conversation: None,
            c.following: None,
            c.listing: side.opened(None),
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
        views = await asyncio.to_thread(read.models, app)
        picked = next((view for view in views if view.id == model), None)
        shown = images if isinstance(images, int) and 0 <= images <= sent.MOST_IMAGES else 0
        line = await words.quote(
            app, user, text, picked, conversation, images=shown, org_id=sent.org(payer)
        )
        return {c.note: words.note(picked), c.quote: line + words.sees(app, picked)}

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
            [c.following, c.conversation],
            [c.listing, c.cost, shell.pill],
            concurrency_limit=None,
            **quiet,
        )
        streams.append(written)

    nonce_js = (
        "(text, model, chat, nonce, images, by) => "
        "[text, model, chat, window.chatKey('send'), window.chatImages(), by]"
    )
    done_js = "() => { window.chatDone('send'); window.chatShown(); window.chatSent(); }"
    inputs = [c.text, c.model, c.conversation, c.nonce, c.images, c.payer]
    for trigger in (c.send.click, c.text.submit):
        sending = trigger(
            send, inputs, live, js=nonce_js, concurrency_limit=None, trigger_mode="once", **quiet
        )
        sending.then(None, js=done_js, api_visibility="private")
        follow(sending)
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
        c.listing.click(
            open_one,
            [c.nonce],
            open_outputs,
            js=side.PICKED,
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
        views = await asyncio.to_thread(read.models, app)
        picked = read.preferred(app, views)
        running = {
            live.conversation_id for live in app.replies if live.user_id == read.user_id(user)
        }
        rows = await asyncio.to_thread(read.rows, app, user)
        newest = next((row.id for row in rows if row.id in running), None)
        newest = newest or (rows[0].id if rows else None)
        opened = await open_chat(user, newest)
        pools = await asyncio.to_thread(orgs.mine, app, user_id=read.user_id(user))
        if pools:  # others never see the picker
            opened[c.payer] = gr.update(choices=words.payers(pools), value="", visible=True)
        return {
            **opened,
            c.model: gr.update(
                choices=[(words.label(view), view.id) for view in views],
                value=opened.get(c.model, picked.id if picked else None),
            ),
            c.note: words.note(picked),
            c.quote: await words.quote(app, user, "", picked, None) + words.sees(app, picked),
            c.listing: side.opened(newest),
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
