"""Erasure: of a conversation, or of a whole account. What was booked stays in the books.

An account becomes a number: its name, address, texts, images, sign-ins and messages are
deleted; amounts, invoices and the audit stay, because the law and the proof need them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

from sqlmodel import Session, col, select

from chat_app.accounts import profile, users
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.chat import conversations, images, search, shares
from chat_app.chat import leaving as texts
from chat_app.chat.tables import Reply
from chat_app.credits import leaving as books
from chat_app.flows import collect, fraud, plans, predictions, presence, reply
from chat_app.flows import images as pictures
from chat_app.money import format_credits
from chat_app.notify import leaving as messages

log = logging.getLogger(__name__)

STOP_SECONDS = 10


async def conversation(app: App, *, user_id: int, conversation_id: str) -> None:
    """Wipe texts and images, end its link, hide it. What was charged stays in the books."""
    now = app.clock.micros()

    def delete(session: Session) -> set[str]:
        conversations.delete(session, user_id=user_id, conversation_id=conversation_id, now=now)
        shares.drop(session, conversation_ids=[conversation_id])
        return images.detach(session, conversation_id=conversation_id)

    digests = await app.db.awrite(delete)
    await pictures.leave(app, user_id=user_id, digests=digests)
    # The cache does not know which conversations its answers were given in.
    app.forget_kept(user_id)


async def account(
    app: App, *, user_id: int, password: str, forfeit: bool, ip: str, code: str | None = None
) -> None:
    """Erase the account of whoever knows its password; it cannot be undone.

    `code` is needed where two-factor sign-in is on. Running answers are stopped and paid as they
    stand. Credits that are left are given up with `forfeit`. Raises LastAdmin, OwnsOrganisation,
    CreditsLeft, AnswersRunning, or what `presence.prove` does; then nothing was changed.
    """
    await presence.prove(app, user_id=user_id, password=password, code=code, ip=ip)
    await _stop_answers(app, user_id)

    def story(session: Session) -> str:
        now, actor = app.clock.micros(), f"user:{user_id}"
        email = users.get(session, user_id).email
        if session.exec(
            select(Reply.id).where(Reply.user_id == user_id, col(Reply.state) == "running")
        ).first():
            raise books.AnswersRunning
        left = books.settle(
            session, plans.shop(app), user_id=user_id, forfeit=forfeit, actor=actor, now=now
        )
        profile.erase(session, user_id=user_id, now=now)
        fraud.forget(app, session, user_id=user_id)
        books.forget(session, user_id=user_id)
        texts.forget(session, user_id=user_id, now=now)
        messages.forget(session, user_id=user_id, email=email)
        predictions.forget(session, user_id=user_id)
        audit.record(
            session, type="user_erased", actor=actor, now=now, forfeited=format_credits(left)
        )
        return email

    email = await app.db.awrite(story)
    await asyncio.to_thread(collect.forget_gone, app)
    app.forget_kept(user_id)
    app.outlooks.pop(user_id, None)
    await asyncio.to_thread(_files, app, user_id, email)
    log.info("account %d was erased", user_id)


async def _stop_answers(app: App, user_id: int) -> None:
    """Stop what is written for the user, and wait until it is settled."""
    tasks = [item.task for item in app.replies if item.user_id == user_id and item.task]
    for reply_id in await asyncio.to_thread(reply.running, app, user_id=user_id):
        await reply.stop(app, user_id=user_id, reply_id=reply_id)
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
    until = time.monotonic() + STOP_SECONDS
    while time.monotonic() < until:  # those of other processes
        if not await asyncio.to_thread(reply.running, app, user_id=user_id):
            return
        await asyncio.sleep(reply.POLL_SECONDS)


def _files(app: App, user_id: int, email: str) -> None:
    texts.drop_images(app.settings.data_dir, user_id=user_id)
    messages.drop_mails(app.settings.data_dir / "outbox", email=email)
    forget_words(app)
    if not app.db.scrub():
        log.info("the file of recent writes was in use; it is emptied with the next writes")


def forget_programs_texts(app: App) -> int:
    """Wipe the answers to programs, temporary chats and their images that are due; how many."""
    gone = 0
    while True:
        with app.db.read() as session:
            found = conversations.due(session, now=app.clock.micros())
        if not found:
            return gone
        shown = app.db.write(partial(_forget, [id for id, _ in found]))
        owners = dict(found)
        for user_id in set(owners.values()):
            app.forget_kept(user_id)
        for id, digests in shown.items():
            if digests:
                app.db.write(
                    partial(
                        images.drop,
                        data_dir=app.settings.data_dir,
                        user_id=owners[id],
                        digests=digests,
                    )
                )
        gone += len(found)


def forget_words(app: App) -> int:
    """Take what wiped messages left in the full-text index out of the file; returns the steps.

    Small steps: an answer that is being settled waits for one at the most.
    """
    steps = 0
    while app.db.write(search.tidy):
        steps += 1
    if steps:
        app.db.scrub()
    return steps


def _forget(ids: Sequence[str], session: Session) -> dict[str, set[str]]:
    conversations.wipe(session, conversation_ids=ids)
    return {id: images.detach(session, conversation_id=id) for id in ids}
