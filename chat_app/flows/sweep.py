"""Progress and rescue: running replies are saved, those of a dead process are settled.

The lease says until when a reply's process is believed to be alive. It is renewed with the
progress; when it runs out, whoever sweeps settles the reply by its last progress, once.
"""

from functools import partial

from sqlalchemy import text
from sqlmodel import Session, col, select

from chat_app.app import App
from chat_app.chat.tables import Message, Reply
from chat_app.clock import MICROS_PER_SECOND
from chat_app.flows import reply
from chat_app.flows.reply import ReplyView

_SAVE_REPLY = text(
    """UPDATE reply SET lease_until = :lease_until, pieces = :pieces,
     prompt_tokens = :prompt_tokens, completion_tokens = :completion_tokens,
     cached_tokens = :cached_tokens, dropped_messages = :dropped_messages, cached = :cached
    WHERE id = :id AND state = 'running'"""
)
_SAVE_TEXT = text(
    """UPDATE message SET content = :content
    WHERE id = (SELECT message_id FROM reply WHERE id = :id AND state = 'running')"""
)


async def save_progress(app: App) -> int:
    """Renew the lease of every running reply and store what it has written so far."""
    lease_until = app.clock.micros() + int(app.settings.chat.lease_seconds * MICROS_PER_SECOND)
    running = [(item, len(item.pieces)) for item in app.replies if item.end is None]
    if not running:
        return 0
    rows = [
        {
            "id": item.reply_id,
            "lease_until": lease_until,
            "pieces": item.piece_lengths,
            "prompt_tokens": item.prompt_tokens,
            "completion_tokens": item.completion_tokens,
            "cached_tokens": item.cached_tokens,
            "dropped_messages": item.dropped_messages,
            "cached": item.cached,
        }
        for item, _ in running
    ]
    texts = [
        {"id": item.reply_id, "content": item.text}
        for item, count in running
        if count > item.saved_pieces
    ]

    def save(session: Session) -> None:
        # Statements for many rows at once: this runs every few seconds for all who chat.
        connection = session.connection()
        connection.execute(_SAVE_REPLY, rows)
        if texts:
            connection.execute(_SAVE_TEXT, texts)

    await app.db.awrite(save)
    for item, count in running:
        item.saved_pieces = count
    return len(running)


def settle_abandoned(app: App) -> int:
    """Settle the replies whose process died: by their last saved progress, once.

    Returns how many were ended. Replies that this process is writing are left alone, whatever
    the clock says.
    """
    now = app.clock.micros()
    with app.db.read() as session:
        overdue = session.exec(
            select(Reply.id).where(Reply.state == "running", col(Reply.lease_until) < now)
        ).all()
    ended = 0
    for reply_id in overdue:
        if app.replies.get(reply_id) is not None:
            continue
        end = app.db.write(partial(_end_abandoned, app, reply_id))
        ended += end is not None
    return ended


def _end_abandoned(app: App, reply_id: str, session: Session) -> ReplyView | None:
    found = session.get(Reply, reply_id)
    if found is None or found.state != "running" or found.lease_until >= app.clock.micros():
        return None
    answer = session.get(Message, found.message_id)
    assert answer is not None
    return reply.finish(
        app,
        session,
        reply_id=reply_id,
        text=answer.content,
        lengths=found.pieces,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        cached_tokens=found.cached_tokens,
        dropped_messages=found.dropped_messages,
        cached=found.cached,
        duration_ms=0,
        engine_ms=0,
        finish_reason="error",
        error_code="interrupted",
        error_message="The server restarted while this was being written. "
        "You paid for what is shown; send again for a full answer.",
        failed=True,
        # It was cut off, not refused: what was delivered and saved is paid.
        billable=True,
    )
