"""Images from strangers: only pixels come through, and bombs stay closed."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pil
from PIL.PngImagePlugin import PngInfo

from chat_app.chat import images
from chat_app.chat.images import BadImage

PIXELS = 4_000_000


def saved(image: Pil.Image, kind: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def read(data: bytes, max_pixels: int = PIXELS) -> tuple[images.Picture, Pil.Image]:
    picture = images.read(data, max_pixels=max_pixels)
    return picture, Pil.open(io.BytesIO(picture.data))


def corners() -> Pil.Image:
    """Twice as wide as high: red at the top left, blue at the bottom right."""
    image = Pil.new("RGB", (64, 32), "white")
    image.paste("red", (0, 0, 16, 16))
    image.paste("blue", (48, 16, 64, 32))
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_kinds_are_read(kind: str) -> None:
    picture, image = read(saved(corners(), kind))
    assert (picture.width, picture.height) == image.size == (64, 32)
    assert picture.kind == ("png" if kind == "PNG" else "jpeg") == image.format.lower()
    red, green, blue = image.convert("RGB").getpixel((4, 4))
    assert red > 200 > 60 > max(green, blue)


@pytest.mark.parametrize("turn", range(1, 9))
def test_photos_are_turned_upright(turn: int) -> None:
    exif = Pil.Exif()
    exif[0x0112] = turn
    picture, image = read(saved(corners(), "JPEG", exif=exif, quality=95))
    assert (picture.width, picture.height) == ((64, 32) if turn < 5 else (32, 64))
    assert not image.getexif()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_nothing_but_pixels_is_kept(kind: str) -> None:
    """Where a photo was taken, and with what, is nobody's business."""
    exif = Pil.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[2] = (51.0, 30.0, 0.0)
    more: dict[str, Any] = {"exif": exif, "icc_profile": b"SECRET profile"}
    if kind == "PNG":
        text = PngInfo()
        text.add_text("Author", "SECRET name", zip=False)
        more["pnginfo"] = text
    if kind == "JPEG":
        more["comment"] = b"SECRET comment"
    data = saved(corners(), kind, **more) + b"SECRET tail"
    assert b"SECRET" in data
    picture, image = read(data)
    assert b"SECRET" not in picture.data
    assert not image.info.keys() & {"exif", "icc_profile", "comment", "Author"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "F", "CMYK", "YCbCr"])
def test_every_mode_becomes_colours(mode: str) -> None:
    """16 bits keep their greys; what is transparent lies on white."""
    if mode == "I;16":
        image = Pil.new(mode, (8, 8), 32768)
        _, got = read(saved(image))
        assert all(120 <= level <= 136 for level in got.getpixel((2, 2)))
        return
    image = Pil.new("RGBA", (8, 8), (0, 0, 0, 0)) if mode in ("LA", "RGBA") else corners()
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "F": "PNG"}.get(mode, "PNG")
    made = image.convert(mode if mode != "F" else "L")
    _, got = read(saved(made, kind))
    assert got.mode == "RGB"
    if mode in ("LA", "RGBA"):
        assert got.getpixel((2, 2)) == (255, 255, 255)


def test_an_animation_is_its_first_frame() -> None:
    frames = [Pil.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    for kind in ("WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=10)
        red, green, blue = read(data)[1].convert("RGB").getpixel((8, 8))
        assert red > 200 > 60 > max(green, blue)


def test_large_images_are_made_smaller_and_keep_their_proportions() -> None:
    picture, _ = read(saved(Pil.new("RGB", (3000, 1000), "green"), "JPEG"))
    assert (picture.width, picture.height) == (images.SIDE, images.SIDE // 3)


def bomb(side: int) -> bytes:
    """A PNG that says it has `side` times `side` pixels, small on the wire."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [2001, 20_000, 60_000, 2**31 - 1])
def test_bombs_are_refused_before_they_are_decoded(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    def explode(*arguments: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    with pytest.raises(BadImage) as refused:
        images.read(bomb(side), max_pixels=PIXELS, number=3)
    assert refused.value.facts["number"] == 3
    assert not isinstance(refused.value.__cause__, AssertionError)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        saved(corners())[:60],
        saved(corners(), "JPEG")[:300],
        saved(corners(), "GIF"),
        saved(corners(), "BMP"),
        saved(corners(), "TIFF"),
        saved(corners(), "ICO", sizes=[(16, 16)]),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        bomb(0),
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    """Also what the library could open: fewer decoders are fewer holes."""
    with pytest.raises(BadImage):
        images.read(data, max_pixels=PIXELS)


def test_a_file_is_whole_its_owners_and_stored_once(tmp_path: Path) -> None:
    picture, _ = read(saved(corners()))
    path = images.keep(tmp_path, user_id=7, picture=picture)
    assert path.read_bytes() == picture.data
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert images.keep(tmp_path, user_id=7, picture=picture) == path
    assert images.keep(tmp_path, user_id=8, picture=picture) != path
    assert len(list((tmp_path / images.FOLDER / "7").iterdir())) == 1
