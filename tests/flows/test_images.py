"""Images of a message: priced, held, charged, kept for their owner, and gone with the talk."""

import asyncio
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pil
from sqlmodel import Session, select

from chat_app.app import App
from chat_app.chat import conversations, images
from chat_app.chat.tables import Message, MessageImage, Reply
from chat_app.credits import ledger, pricing
from chat_app.credits.operations import IdempotencyConflict
from chat_app.errors import AppError
from chat_app.flows import erase, message
from chat_app.flows import images as flow
from chat_app.llm.engine import IMAGE_TOKENS, ModelCannotSee, Request
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, person, running_app

SEES = "gemma-3-4b-it"
RICH: dict[str, Any] = {"accounts": {"welcome_credits": 1000}}


def shot(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    out = io.BytesIO()
    Pil.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def files(app: App) -> list[Path]:
    return [path for path in (app.settings.data_dir / images.FOLDER).glob("*/*") if path.is_file()]


def rows(app: App, user: int, conversation: str) -> list[conversations.MessageRow]:
    with app.db.read() as session:
        return conversations.messages(session, user_id=user, conversation_id=conversation)


def spy(app: App, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the engine is asked from now on."""
    asked: list[Request] = []
    submit = app.engine.submit

    def watched(request: Request) -> Any:
        asked.append(request)
        return submit(request)

    monkeypatch.setattr(app.engine, "submit", watched)
    return asked


def balance(app: App, user: int) -> int:
    with app.db.read() as session:
        found = ledger.balance(session, user_id=user)
        assert found.held == 0
        return found.available


def test_images_are_quoted_held_charged_and_shown(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 credits for the message and 5 for each image; the model gets the files."""

    async def story() -> None:
        async with running_app(tmp_path, url=database_url, **RICH) as app:
            alice = await person(app)
            asked = spy(app, monkeypatch)
            offer = await message.quote(app, user_id=alice, text="what?", model=SEES, images=2)
            assert offer.maximum == offer.likely == 35 * MICRO
            assert offer.prompt_tokens == 1 + 2 * IMAGE_TOKENS
            shown = [shot("red"), shot("blue")]
            started = await ask(app, alice, "what?", model=SEES, images=shown)
            assert started.maximum == 35 * MICRO
            end = await answer(app, alice, started)
            assert (end.state, end.charged) == ("done", 35 * MICRO)
            assert end.prompt_tokens == offer.prompt_tokens
            (told,) = asked[0].messages
            assert [Path(image.path).read_bytes() for image in told.images] == [
                picture.read_bytes()
                for picture in sorted(files(app), key=lambda p: p.stem != told.images[0].digest)
            ]
            question, reply = rows(app, alice, started.conversation_id)
            assert [image.position for image in question.images] == [0, 1]
            assert (question.images[0].width, question.images[0].height) == (40, 30)
            assert reply.images == ()
            data, kind = await flow.show(app, user_id=alice, image_id=question.images[0].id)
            assert kind == "image/png"
            assert Pil.open(io.BytesIO(data)).getpixel((1, 1)) == (255, 0, 0)

    asyncio.run(story())


def test_a_later_turn_tells_of_the_image_and_costs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a turn with a model that does not see, which reads the words alone."""

    async def story() -> None:
        async with running_app(tmp_path, **RICH) as app:
            alice = await person(app)
            asked = spy(app, monkeypatch)
            first = await ask(app, alice, "what?", model=SEES, images=[shot()])
            await answer(app, alice, first)
            there = {"conversation_id": first.conversation_id}
            blind = await ask(app, alice, "and now?", **there)
            assert (await answer(app, alice, blind)).charged == 1 * MICRO
            again = await ask(app, alice, "once more", model=SEES, **there)
            assert (await answer(app, alice, again)).charged == 25 * MICRO
            told = [request for request in asked if not request.background]
            seen = [
                [len(each.images) for each in request.messages if each.role == "user"]
                for request in told
            ]
            assert seen == [[1], [0, 0], [1, 0, 0]]

    asyncio.run(story())


def test_retry_shows_the_same_images_and_pays_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running_app(tmp_path, **RICH) as app:
            alice = await person(app)
            first = await ask(app, alice, "", model=SEES, images=[shot()])
            assert (await answer(app, alice, first)).charged == 30 * MICRO
            asked = spy(app, monkeypatch)
            more = {"user_id": alice, "conversation_id": first.conversation_id}
            second = await message.retry(app, **more)
            assert (await answer(app, alice, second)).charged == 30 * MICRO
            assert len(asked[0].messages[-1].images) == 1
            with pytest.raises(ModelCannotSee):
                await message.retry(app, **more, model=MODEL)
            assert len(files(app)) == 1
            with app.db.read() as session:
                found = conversations.get(
                    session, user_id=alice, conversation_id=first.conversation_id
                )
                assert found.title == "Image"

    asyncio.run(story())


@pytest.mark.parametrize(
    ("model", "shown", "code"),
    [
        (MODEL, [shot()], "model_cannot_see"),
        ("gemma-3-1b-it", [shot()], "model_cannot_see"),
        (SEES, [shot()] * 5, "too_many_images"),
        (SEES, [shot(), b"no image"], "bad_image"),
        (SEES, [shot("red", (2001, 1000))], "bad_image"),
    ],
)
def test_what_is_refused_costs_nothing_and_leaves_nothing(
    tmp_path: Path, model: str, shown: Sequence[bytes], code: str
) -> None:
    async def story() -> None:
        async with running_app(tmp_path, chat={"max_image_megapixels": 2}, **RICH) as app:
            alice = await person(app)
            with pytest.raises(AppError) as refused:
                await ask(app, alice, "what?", model=model, images=shown)
            assert refused.value.code == code
            assert balance(app, alice) == 1000 * MICRO
            assert files(app) == []
            assert app.limits.counts(alice) == (0, 0)
            with app.db.read() as session:
                assert session.exec(select(Message)).all() == []

    asyncio.run(story())


def test_without_credits_for_the_images_nothing_is_stored(tmp_path: Path) -> None:
    """29 credits are enough for the message and not for its image."""

    async def story() -> None:
        async with running_app(tmp_path, accounts={"welcome_credits": 29}) as app:
            alice = await person(app)
            with pytest.raises(AppError) as refused:
                await ask(app, alice, "what?", model=SEES, images=[shot()])
            assert refused.value.code == "out_of_credits"
            assert refused.value.facts["needed"] == "30"
            assert files(app) == []
            assert (await answer(app, alice, await ask(app, alice, "hi", model=SEES))).charged

    asyncio.run(story())


@pytest.mark.parametrize("fault", ["error_at:0", "empty"])
def test_an_answer_without_a_word_costs_no_image_either(tmp_path: Path, fault: str) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"fault": fault}, **RICH) as app:
            alice = await person(app)
            end = await answer(app, alice, await ask(app, alice, "x", model=SEES, images=[shot()]))
            assert end.charged == 0
            assert balance(app, alice) == 1000 * MICRO

    asyncio.run(story())


def test_the_same_key_charges_once_and_other_images_are_another_request(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, **RICH) as app:
            alice = await person(app)
            same = {"model": SEES, "idempotency_key": "k"}
            first = await ask(app, alice, "x", images=[shot()], **same)
            await answer(app, alice, first)
            again = await ask(app, alice, "x", images=[shot()], **same)
            assert again.replayed
            assert again.reply_id == first.reply_id
            with pytest.raises(IdempotencyConflict):
                await ask(app, alice, "x", images=[shot("blue")], **same)
            assert balance(app, alice) == 970 * MICRO
            assert len(files(app)) == 1

    asyncio.run(story())


def test_a_repeated_answer_is_another_one_for_another_image(tmp_path: Path) -> None:
    """The cache of answers knows what was shown."""

    async def story() -> None:
        async with running_app(tmp_path, **RICH) as app:
            alice = await person(app)
            cached = []
            for colour in ("red", "blue", "red"):
                started = await ask(
                    app, alice, "x", model=SEES, images=[shot(colour)], temperature=0.0
                )
                cached.append((await answer(app, alice, started)).cached)
            assert cached == [False, False, True]

    asyncio.run(story())


def test_prices_by_token_count_the_images_tokens(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 1}, **RICH) as app:
            alice = await person(app)
            app.db.write(
                lambda session: pricing.publish(
                    session,
                    model_id=SEES,
                    kind="per_token",
                    input_per_million=1_000_000 * MICRO,
                    output_per_million=0,
                    per_image=2 * MICRO,
                    now=app.clock.micros(),
                )
            )
            started = await ask(app, alice, "x", model=SEES, images=[shot()])
            assert started.maximum == (1 + IMAGE_TOKENS + 2) * MICRO
            assert (await answer(app, alice, started)).charged == started.maximum

    asyncio.run(story())


def test_images_go_with_the_last_conversation_that_shows_them(
    tmp_path: Path, database_url: str
) -> None:
    """A file is shared by its owner's conversations and by nobody else's."""

    async def story() -> None:
        async with running_app(tmp_path, url=database_url, **RICH) as app:
            alice, bob = await person(app), await person(app, "bob")
            talks = []
            for who in (alice, alice, bob):
                started = await ask(app, who, "x", model=SEES, images=[shot()])
                await answer(app, who, started)
                talks.append(started.conversation_id)
            assert len(files(app)) == 2
            image = rows(app, alice, talks[0])[0].images[0]
            with pytest.raises(images.ImageNotFound):
                await flow.show(app, user_id=bob, image_id=image.id)
            await erase.conversation(app, user_id=alice, conversation_id=talks[0])
            assert len(files(app)) == 2
            with pytest.raises(images.ImageNotFound):
                await flow.show(app, user_id=alice, image_id=image.id)
            await erase.conversation(app, user_id=alice, conversation_id=talks[1])
            (left,) = files(app)
            assert left.parent.name == str(bob)

    asyncio.run(story())


def test_sending_and_deleting_the_same_image_at_once_loses_no_file(
    tmp_path: Path, database_url: str
) -> None:
    """Whoever's row is there has its file."""

    async def story() -> None:
        limits = {"running_per_user": 0}
        async with running_app(tmp_path, url=database_url, limits=limits, **RICH) as app:
            alice = await person(app)
            old = await ask(app, alice, "x", model=SEES, images=[shot()])
            await answer(app, alice, old)
            for _ in range(6):
                new, _ = await asyncio.gather(
                    ask(app, alice, "x", model=SEES, images=[shot()]),
                    erase.conversation(app, user_id=alice, conversation_id=old.conversation_id),
                )
                await answer(app, alice, new)
                (image,) = rows(app, alice, new.conversation_id)[0].images
                await flow.show(app, user_id=alice, image_id=image.id)
                old = new

    asyncio.run(story())


def test_files_that_a_crash_left_are_swept(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, **RICH) as app:
            alice = await person(app)
            await answer(app, alice, await ask(app, alice, "x", model=SEES, images=[shot()]))
            await flow.take(app, user_id=alice, files=[shot("blue"), shot("green")])
            assert flow.tidy(app) == 0, "they may belong to a message that is being sent"
            for file in files(app)[:3]:
                os.utime(file, (1, 1))
            assert await asyncio.to_thread(flow.tidy, app) == 2
            with app.db.read() as session:
                (row,) = session.exec(select(MessageImage)).all()
            assert [file.stem for file in files(app)] == [row.digest]

    asyncio.run(story())


def test_a_killed_answer_pays_for_its_image_by_what_was_delivered(tmp_path: Path) -> None:
    """The reply remembers how many images were priced."""

    async def story() -> None:
        async with running_app(tmp_path, **RICH) as app:
            alice = await person(app)
            started = await ask(app, alice, "x", model=SEES, images=[shot()] * 3)
            await answer(app, alice, started)

            def look(session: Session) -> int:
                found = session.get(Reply, started.reply_id)
                assert found is not None
                return found.images

            with app.db.read() as session:
                assert look(session) == 3

    asyncio.run(story())
