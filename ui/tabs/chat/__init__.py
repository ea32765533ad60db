"""Chat: conversations, the model and its price, the log, and the composer with its price.

The conversation id in the page is only a wish: every call checks that it is the user's.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.chat import branches, conversations
from chat_app.chat.feedback import REASONS
from chat_app.errors import NotFound
from chat_app.flows import erase, images, message, onward, orgs, reply
from chat_app.flows.placing import StillAnswering
from ui import marks, parts, stream
from ui.direct import direct
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
# turns.js fills the list with the other models.
_COMPARE = (
    '<button type="button" class="compare" aria-pressed="false" '
    'title="Have one message answered by two models">Compare</button>'
    '<select aria-label="Compare with" hidden></select>'
)
# The script fills what they open; the reasons stand here once, for it to read.
_TOOLS = (
    '<button type="button" class="tool" data-pop="tune" aria-haspopup="dialog" '
    'aria-label="Model settings" title="Model settings">'
    '<svg viewBox="0 0 24 24" width="19" height="19" fill="none" stroke="currentColor" '
    'stroke-width="1.8" stroke-linecap="round" aria-hidden="true">'
    '<path d="M4 7h9M19 7h1M4 17h1M11 17h9"/><circle cx="16" cy="7" r="2.6"/>'
    '<circle cx="8" cy="17" r="2.6"/></svg></button>'
    '<button type="button" class="tool" data-pop="guard" aria-haspopup="dialog" '
    'aria-label="Spending limits" title="Spending limits">'
    '<svg viewBox="0 0 24 24" width="19" height="19" fill="none" stroke="currentColor" '
    'stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">'
    '<path d="M12 3.5l7 2.6v5.4c0 4.3-2.9 7.5-7 9-4.1-1.5-7-4.7-7-9V6.1z"/>'
    '<path d="M9.5 12h5"/></svg></button>'
    f'<span id="chat-reasons" hidden data-reasons="{parts.esc(json.dumps(REASONS))}"></span>'
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
    payer: gr.Dropdown
    temporary: gr.Button
    mode: gr.HTML
    deed: gr.Button

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
            self.mode,
        ]


def build() -> Chat:
    """The layout, without any data."""
    with gr.Tab("Chat", id="chat", visible=False, elem_id="chat-tab") as tab:
        conversation = gr.State(None)
        following = gr.State(None)
        nonce = gr.Textbox(visible=False)
        images = gr.Textbox(visible=False)  # the page holds them and gives them with a message
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
                    gr.HTML(_COMPARE, elem_id="chat-compare")
                mode = gr.HTML(elem_id="chat-mode")
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
                    latex_delimiters=marks.DELIMITERS,
                    like_user_message=False,
                )
                with gr.Column(elem_id="composer"):
                    gr.HTML(elem_id="chat-images")
                    deed = gr.Button("", elem_id="chat-deed", size="sm", scale=0)
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
                        gr.HTML(_ATTACH + _TOOLS, elem_id="chat-attach")
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
        payer,
        column.temporary,
        mode,
        deed,
    )


def bind(  # noqa: PLR0915 - one tab, many small handlers
    c: Chat, app: App, shell: Shell
) -> None:
    """Wire the tab; `bind_load` adds what happens when the page opens."""
    per_second = app.settings.chat.updates_per_second

    def begun(
        user: User, started: list[message.Started], before: list[stream.Message], *, temporary: bool
    ) -> dict[Any, Any]:
        conversation = started[0].conversation_id
        held_as = sent.held(conversation, temporary=temporary)
        held = "Holding at most " + parts.amount(sum(one.maximum for one in started))
        return {
            c.conversation: held_as,
            c.following: ",".join(one.reply_id for one in started),
            c.listing: side.opened(held_as, news=True),
            c.log: before,
            c.cost: words.line(held, busy=True, conversation=conversation),
            c.mode: words.banner(temporary=temporary),
            shell.pill: read.pill(app, user),
        }

    async def so_far(user: User, started: list[message.Started]) -> list[stream.Message]:
        following = [one.reply_id for one in started]
        talk = started[0].conversation_id
        return (await asyncio.to_thread(read.before, app, user, talk, following)).messages

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
        """Send a message, perhaps to two models, or an earlier one written anew.

        Its answer is followed by the next event, `write`.
        """
        talk, temporary = sent.talk(conversation)
        more = sent.extras(images)
        edited = await asyncio.to_thread(read.edited, app, user, more.editing)
        files = list(more.files)
        if edited is not None and not files:
            files = [await file_of(user, image) for image in edited.images]
        first = sent.text(model) or app.settings.llm.default_model
        started = await begin(
            user,
            models=[first, more.against] if more.against else [first],
            text=sent.text(text),
            conversation_id=talk,
            idempotency_key=sent.text(nonce)[:64] or None,
            images=files,
            org_id=sent.org(payer),
            parent_id=None if edited is None else edited.parent_id,
            temporary=temporary,
            **more.settings.as_json(),
        )
        shown = await so_far(user, started)
        return {**begun(user, started, shown, temporary=temporary), c.text: ""}

    async def begin(user: User, models: list[str], **order: Any) -> list[message.Started]:
        if len(models) > 1:
            return await onward.compare(app, user_id=read.user_id(user), models=models, **order)
        return [await message.start(app, user_id=read.user_id(user), model=models[0], **order)]

    async def file_of(user: User, image: str) -> bytes:
        return (await images.show(app, user_id=read.user_id(user), image_id=image))[0]

    @guard(app, "user")
    async def turn(
        user: User, deed: str, conversation: str | None, model: str | None, payer: str | None
    ) -> dict[Any, Any]:
        """What was pressed under a message: another version, a fork, a retry, or going on."""
        name, id = sent.deed(deed)
        _, temporary = sent.talk(conversation)
        org = sent.org(payer)
        if name == "continue":
            started = await onward.resume(app, user_id=read.user_id(user), reply_id=id, org_id=org)
            shown = await so_far(user, [started])
            return begun(user, [started], shown, temporary=temporary)
        talk = await asyncio.to_thread(read.talk_of, app, user, id)
        if name == "retry":
            started = await message.retry(
                app,
                user_id=read.user_id(user),
                conversation_id=talk,
                message_id=id,
                model=sent.text(model) or None,
                org_id=org,
            )
            shown = await so_far(user, [started])
            return begun(user, [started], shown, temporary=temporary)
        if name == "fork":
            made = await fork(user, talk, id)
            return {**await opened(user, made), c.listing: side.opened(made, news=True)}
        if name == "path":
            await pick(user, talk, id)
            return await opened(user, talk)
        raise conversations.MessageNotFound

    async def fork(user: User, talk: str, message_id: str) -> str:
        now, owner = app.clock.micros(), read.user_id(user)
        made = await app.db.awrite(
            lambda session: branches.fork(
                session, user_id=owner, conversation_id=talk, message_id=message_id, now=now
            )
        )
        return made.id

    async def pick(user: User, talk: str, message_id: str) -> None:
        owner = read.user_id(user)
        if await asyncio.to_thread(reply.running, app, user_id=owner, conversation_id=talk):
            raise StillAnswering  # its stream shows the branch that it is in
        await app.db.awrite(
            lambda session: branches.pick(
                session, user_id=owner, conversation_id=talk, message_id=message_id
            )
        )

    # Gradio builds a component anew for each output that an update leaves out, so the stream
    # has two outputs and always gives both.
    @guard(app, "anyone")  # follows the page's opening, also when nobody is signed in
    async def write(user: User | None, following: str | None) -> AsyncIterator[dict[Any, Any]]:
        """Stream the answers that are followed, if any, to their end."""
        if user is None or not following:
            yield {c.cost: gr.skip()}
            return
        ids = following.split(",")[:2]
        views = [await reply.view(app, user_id=read.user_id(user), reply_id=id) for id in ids]
        talk = views[0].conversation_id
        before = await asyncio.to_thread(read.before, app, user, talk, ids)
        prices = [await asyncio.to_thread(read.price, app, user, view.model) for view in views]
        sources = [reply.follow(app, user_id=read.user_id(user), reply_id=id) for id in ids]
        try:
            async for shots in stream.together(sources, per_second=per_second):
                ends = [shot.end for shot in shots if shot.end is not None]
                if len(ends) == len(ids):
                    log = await asyncio.to_thread(read.after, app, user, ends)
                    ended = [stream.ended(end) for end in ends]
                    log = [*before.packed(log[:-1]), log[-1]] if log else [*before.messages, *ended]
                    line = words.costs(ends)
                else:
                    if len(ids) == 1:
                        log = before.with_text(shots[0].text)
                    else:
                        asked = zip(shots, views, strict=True)
                        two = [words.column(shot, view.model) for shot, view in asked]
                        log = [*before.messages, stream.columns(two)]
                    line = words.meter(shots, prices, words.prompts(app, ids))
                yield {c.log: log, c.cost: line}
        except Exception:
            # The composer is free again; the toast says why.
            yield {c.log: before.messages, c.cost: words.line("", conversation=talk)}
            raise

    @guard(app, "anyone")
    async def settle(
        user: User | None, following: str | None, conversation: str | None
    ) -> AsyncIterator[dict[Any, Any]]:
        """After an answer: the list and the balance are new, and soon perhaps the title."""
        at = side.moment()
        if user is None or not following:
            yield {c.cost: gr.skip()}
            return
        last = following.split(",")[-1]
        view = await reply.view(app, user_id=read.user_id(user), reply_id=last)
        yield {
            c.listing: side.opened(conversation, news=True, at=at),
            shell.pill: parts.pill(view.balance),
        }
        naming = app.titles.get(view.conversation_id)
        if naming is not None:
            await asyncio.wait({naming}, timeout=TITLE_SECONDS)
            yield {c.listing: side.opened(conversation, news=True, at=at)}

    @guard(app, "user")
    async def open_one(user: User, conversation: str | None, shown: str | None) -> dict[Any, Any]:
        """Show a conversation, and go on with its running answer if there is one."""
        update = await opened(user, conversation)
        await close(user, shown)
        return update

    async def opened(user: User, conversation: str | None) -> dict[Any, Any]:
        if not conversation:
            return {c.following: None}
        talk = await asyncio.to_thread(read.opened, app, user, conversation)
        going_on = "Going on with the answer…" if talk.running else ""
        line = words.line(going_on, busy=bool(talk.running), conversation=conversation)
        held_as = sent.held(conversation, temporary=talk.temporary)
        update = {
            c.conversation: held_as,
            c.listing: side.opened(held_as),
            c.following: ",".join(talk.running) or None,
            c.log: talk.messages,
            c.cost: line,
            c.mode: words.banner(temporary=talk.temporary),
        }
        views = await asyncio.to_thread(read.models, app)
        if any(view.id == talk.model and view.available for view in views):
            update[c.model] = talk.model
        return update

    async def close(user: User, shown: str | None) -> None:
        """A temporary chat that is left is deleted; an answer under way is stopped and paid."""
        talk, temporary = sent.talk(shown)
        if talk is None or not temporary:
            return
        with contextlib.suppress(NotFound):
            await halt(user, talk)
            await erase.conversation(app, user_id=read.user_id(user), conversation_id=talk)

    @guard(app, "user")
    async def stop(user: User, conversation: str | None) -> None:
        """Stop the answer that is being written; what arrived is kept."""
        talk, _ = sent.talk(conversation)
        if talk:
            await halt(user, talk)

    async def halt(user: User, talk: str) -> None:
        owner = read.user_id(user)
        for reply_id in await asyncio.to_thread(
            reply.running, app, user_id=owner, conversation_id=talk
        ):
            await reply.stop(app, user_id=owner, reply_id=reply_id)

    @guard(app, "user")
    async def start_new(user: User, shown: str | None) -> dict[Any, Any]:
        """An empty chat. An answer under way goes on and waits in the list."""
        await close(user, shown)
        return empty(temporary=False)

    @guard(app, "user")
    async def start_temporary(user: User, shown: str | None) -> dict[Any, Any]:
        """An empty chat that will be in no list and leave no text."""
        await close(user, shown)
        return empty(temporary=True)

    def empty(*, temporary: bool) -> dict[Any, Any]:
        held_as = sent.TEMPORARY if temporary else None
        return {
            c.conversation: held_as,
            c.following: None,
            c.listing: side.opened(held_as),
            c.log: [],
            c.cost: "",
            c.mode: words.banner(temporary=temporary),
        }

    @guard(app, "user")
    async def quote(user: User, model: str | None, payer: str | None) -> dict[Any, Any]:
        """What the picked model costs; the page's script says more while somebody types."""
        views = await asyncio.to_thread(read.models, app)
        picked = next((view for view in views if view.id == model), None)
        return {
            c.note: words.note(picked),
            c.quote: words.offer(app, picked, sent.org(payer), user.role),
        }

    quiet = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "preprocess": False,  # the page's list of models is no authority, and may be stale
        "postprocess": False,
    }
    live = [*c.live, shell.pill]
    written_to = [c.log, c.cost]
    writing = direct(write, written_to) if app.settings.chat.direct_updates else write
    streams: list[Any] = []

    def follow(event: Any) -> None:
        written = event.success(writing, [c.following], written_to, concurrency_limit=None, **quiet)
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
        "[text, model, chat, window.chatKey('send'), window.chatExtras(), by]"
    )
    done_js = (
        "() => { window.chatDone('send'); window.chatShown(); window.chatEdited(); "
        "window.chatSent(); }"
    )
    inputs = [c.text, c.model, c.conversation, c.nonce, c.images, c.payer]
    for trigger in (c.send.click, c.text.submit):
        sending = trigger(
            send, inputs, live, js=nonce_js, concurrency_limit=None, trigger_mode="once", **quiet
        )
        sending.then(None, js=done_js, api_visibility="private")
        follow(sending)
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
            [c.nonce, c.conversation],
            open_outputs,
            js=side.PICKED,
            concurrency_limit=None,
            cancels=list(streams),
            **quiet,
        )
    )
    follow(
        c.deed.click(
            turn,
            [c.nonce, c.conversation, c.model, c.payer],
            open_outputs,
            js="(deed, chat, model, by) => [window.chatDeed(), chat, model, by]",
            concurrency_limit=None,
            trigger_mode="once",
            **quiet,
        )
    )
    for button, begin_anew in ((c.new, start_new), (c.temporary, start_temporary)):
        button.click(begin_anew, [c.conversation], c.live, cancels=streams, **quiet).then(
            None,
            js=FOCUS,
            api_visibility="private",
        )
    c.stop.click(stop, [c.conversation], None, concurrency_limit=None, **quiet)
    asked, priced = [c.model.change, c.payer.input], [c.note, c.quote]
    gr.on(asked, quote, [c.model, c.payer], priced, trigger_mode="always_last", **quiet)
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
        found = await asyncio.to_thread(reply.under_way, app, user_id=read.user_id(user))
        running = set(found.values())
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
            c.quote: words.offer(app, picked, None, user.role),
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
