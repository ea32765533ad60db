"""Images that people show: decoded with care, stored under their content, each its owner's.

What is stored is drawn anew from the pixels, so nothing else that was in the file is kept. A
file belongs to one user and lives as long as a message refers to it. Knows no model and no
credit.
"""

import hashlib
import io
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlmodel import Session, col, delete, select

from chat_app.chat.tables import Message, MessageImage
from chat_app.errors import Invalid, NotFound, Unavailable
from chat_app.ids import new_id

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "images"
# Half as large again as what a model looks at: enough for people, and small on the disk.
SIDE = 1344
_FORMATS = ("PNG", "JPEG", "WEBP")
_ENDINGS = {"png": "png", "jpeg": "jpg"}
_OPAQUE = {"1", "L", "RGB", "CMYK", "YCbCr", "LAB", "HSV"}
# A file that is younger may belong to a message that is being stored.
_YOUNG_SECONDS = 3600


class BadImage(Invalid):
    """Not a PNG, JPEG or WebP image, or damaged, or with too many pixels. Facts: `number`."""

    code = "bad_image"
    message = "This image could not be read. Send a PNG, JPEG or WebP file, or a smaller one."


class TooManyImages(Invalid):
    """More images in one message than `chat.max_images`. Facts: `limit`, `images`."""

    code = "too_many_images"
    message = "These are too many images for one message. Send fewer, or none."


class ImageNotFound(NotFound):
    """No such image of this user."""

    code = "image_not_found"
    message = "This image does not exist any more. Open the conversation again."


class ImageNotStored(Unavailable):
    """The data directory takes no more files."""

    code = "image_not_stored"
    message = "The image could not be stored, so nothing was sent. Try again in a moment."


@dataclass(frozen=True)
class Picture:
    """An image as it is stored: `kind` is `png` or `jpeg`, `digest` its SHA-256 in hex."""

    data: bytes
    kind: str
    width: int
    height: int
    digest: str


def read(data: bytes, *, max_pixels: int, number: int = 1) -> Picture:
    """The image in these bytes, upright, its first frame, without anything but its pixels.

    Images with more than `max_pixels` are not decoded. Raises BadImage with `number`.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= max_pixels:
                raise BadImage(number=number, pixels=width * height, limit=max_pixels)
            kind = "png" if image.format == "PNG" else "jpeg"
            image.draft("RGB", (SIDE, SIDE))  # JPEG is decoded at a smaller size, others are not
            image.load()
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            clean = _drawn(upright)
    except BadImage:
        raise
    except Exception as error:  # decoders of hostile files raise whatever they like
        raise BadImage(number=number) from error
    out = io.BytesIO()
    clean.save(out, kind.upper(), **({"quality": 90} if kind == "jpeg" else {}))
    stored = out.getvalue()
    return Picture(stored, kind, *clean.size, hashlib.sha256(stored).hexdigest())


def _drawn(image: "Image") -> "Image":
    """The pixels on white in a new image: what is not a pixel stays behind."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = image.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    clean = Image.new("RGB", image.size, "white")
    if image.mode in _OPAQUE and "transparency" not in image.info:
        clean.paste(image.convert("RGB"))
    else:
        whole = image.convert("RGBA")
        clean.paste(whole, mask=whole.getchannel("A"))
    return clean


def path(data_dir: Path, *, user_id: int, digest: str, kind: str) -> Path:
    """Where an image of a user is, absolute."""
    return (data_dir / FOLDER / str(user_id) / f"{digest}.{_ENDINGS[kind]}").resolve()


def keep(data_dir: Path, *, user_id: int, picture: Picture) -> Path:
    """Store the file unless it is there; it is whole or not there at all. Raises OSError."""
    target = path(data_dir, user_id=user_id, digest=picture.digest, kind=picture.kind)
    if target.exists():
        os.utime(target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = target.with_name(f".{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(picture.data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def attach(
    session: Session, *, message: Message, user_id: int, pictures: Sequence[Picture]
) -> None:
    """Say that a message shows these, in this order."""
    _lock(session, user_id)
    for position, picture in enumerate(pictures):
        session.add(
            MessageImage(
                id=new_id("img"),
                message_id=message.id,
                user_id=user_id,
                position=position,
                digest=picture.digest,
                kind=picture.kind,
                width=picture.width,
                height=picture.height,
                bytes=len(picture.data),
            )
        )
    session.flush()


def copy(session: Session, *, user_id: int, copies: Mapping[str, str]) -> None:
    """Say that copies of messages, by the originals' ids, show the same files."""
    _lock(session, user_id)
    shown = select(MessageImage).where(col(MessageImage.message_id).in_(list(copies)))
    for image in session.exec(shown).all():
        about = image.model_dump(exclude={"id", "message_id"})
        session.add(MessageImage(id=new_id("img"), message_id=copies[image.message_id], **about))
    session.flush()


def of(session: Session, messages: Iterable[str]) -> dict[str, list[MessageImage]]:
    """The images of these messages in their order, by message; those without are left out."""
    rows = session.exec(
        select(MessageImage)
        .where(col(MessageImage.message_id).in_(list(messages)))
        .order_by(col(MessageImage.message_id), col(MessageImage.position))
    ).all()
    found: dict[str, list[MessageImage]] = {}
    for row in rows:
        found.setdefault(row.message_id, []).append(row)
    return found


def get(session: Session, *, user_id: int, image_id: str) -> MessageImage:
    """The user's image, or ImageNotFound."""
    found = session.get(MessageImage, image_id)
    if found is None or found.user_id != user_id:
        raise ImageNotFound
    return found


def detach(session: Session, *, conversation_id: str) -> set[str]:
    """Forget the images of a conversation; returns the digests of what it showed."""
    ids = select(Message.id).where(Message.conversation_id == conversation_id)
    shown = col(MessageImage.message_id).in_(ids)
    digests = set(session.exec(select(MessageImage.digest).where(shown)).all())
    session.execute(delete(MessageImage).where(shown))
    return digests


def drop(session: Session, data_dir: Path, *, user_id: int, digests: Iterable[str]) -> int:
    """Delete the user's files with these digests that no message shows; returns how many.

    Runs inside a write transaction, so that nobody begins to show one meanwhile.
    """
    _lock(session, user_id)
    wanted = set(digests)
    used = set(
        session.exec(
            select(MessageImage.digest).where(
                MessageImage.user_id == user_id, col(MessageImage.digest).in_(wanted)
            )
        ).all()
    )
    gone = 0
    for digest in wanted - used:
        for kind in _ENDINGS:
            file = path(data_dir, user_id=user_id, digest=digest, kind=kind)
            if file.exists():
                file.unlink(missing_ok=True)
                gone += 1
    return gone


def strays(data_dir: Path, *, now_seconds: float) -> dict[int, set[str]]:
    """Digests of files that are not new, by user: what `drop` should look at now and then."""
    found: dict[int, set[str]] = {}
    for folder in (data_dir / FOLDER).glob("*"):
        if not folder.name.isdigit():
            continue
        for file in folder.iterdir():
            if now_seconds - file.stat().st_mtime > _YOUNG_SECONDS:
                found.setdefault(int(folder.name), set()).add(file.stem)
    return found


def _lock(session: Session, user_id: int) -> None:
    """Who shows and who deletes images of a user take turns. SQLite has one writer anyway."""
    if session.connection().dialect.name == "postgresql":
        session.execute(
            text("SELECT pg_advisory_xact_lock(:room, :user)"),
            {"room": 0x1A6E, "user": user_id % 2**31},
        )
