"""Images in the browser: attached, pasted and dropped, priced before they are sent, shown after."""

import base64
import io
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pil

from tests import servers
from tests.browser.conftest import ADMIN
from tests.browser.robot import Robot

pytestmark = pytest.mark.browser
Make = Callable[..., Robot]
STRIP = "#chat-images .strip img"
GIVE = """([selector, kind, data, type]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "shot." + type.split("/")[1], { type }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  return document.querySelector(selector).dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    more = {"ACCOUNTS__WELCOME_CREDITS": "1000", "LLM__SCRIPT__TOKENS_PER_SECOND": "0"}
    folder = tmp_path_factory.mktemp("images") / "data"
    with servers.serving(folder, **ADMIN, **more) as running:
        yield running


def shot(size: tuple[int, int], kind: str) -> bytes:
    """Noise, which nothing can make small."""
    out = io.BytesIO()
    noise = Pil.frombytes("RGB", size, secrets.token_bytes(size[0] * size[1] * 3))
    noise.save(out, kind)
    return out.getvalue()


def give(page: Any, kind: str, data: bytes, type: str = "image/png") -> bool:
    """Paste into the text or drop on the log; false when the page took it."""
    selector = "#chat-input textarea" if kind == "paste" else "#chat-log"
    data64 = base64.b64encode(data).decode()
    return bool(page.evaluate(GIVE, [selector, kind, data64, type]))


def test_images_from_the_file_to_the_log(robot: Make, rich: servers.Server, tmp_path: Path) -> None:
    """A photo larger than the body limit is made small in the browser; four fit one message."""
    ann = robot(at=rich.url)
    ann.register(f"ann-{secrets.token_hex(4)}")
    page = ann.page
    ann.pick("SmolLM2")
    assert not page.locator("#chat-attach .attach").is_visible()
    give(page, "drop", shot((9, 9), "PNG"))
    page.get_by_text("cannot see images").wait_for()
    ann.pick("4B")
    page.wait_for_selector("#chat-attach .attach", state="visible")

    photo = tmp_path / "photo.jpg"
    photo.write_bytes(shot((2400, 1600), "JPEG"))
    assert photo.stat().st_size > 2 * 2**20
    page.set_input_files("#chat-attach input", photo)
    page.locator(STRIP).nth(0).wait_for()
    assert not give(page, "paste", shot((300, 200), "PNG"))
    page.locator(STRIP).nth(1).wait_for()
    for _ in range(3):
        give(page, "drop", shot((1300, 1000), "PNG"))
    page.get_by_text("At most 4 images").wait_for()
    assert page.locator(STRIP).count() == 4
    page.get_by_text("20 of them for 4 images").wait_for()
    page.click("[aria-label='Remove image 2']")
    page.get_by_text("15 of them for 3 images").wait_for()

    ann.send("What is this?")
    ann.answered(1)
    assert "40 credits" in page.locator("#chat-log .foot").last.inner_text()
    assert ann.pill() == ann.balance() == 960
    assert page.locator(STRIP).count() == 0
    loaded = "[...document.querySelectorAll('#chat-log .shots img')].map((i) => i.naturalWidth)"
    page.wait_for_function(f"{loaded}.filter((width) => width > 100).length === 3")
    page.reload()
    page.wait_for_function(f"{loaded}.filter((width) => width > 100).length === 3")


def test_an_image_alone_is_a_message_and_no_image_is_refused(
    robot: Make, rich: servers.Server
) -> None:
    ann = robot(at=rich.url)
    ann.register(f"ann-{secrets.token_hex(4)}")
    page = ann.page
    ann.pick("4B")
    page.wait_for_selector("#chat-attach .attach", state="visible")
    give(page, "paste", b"no image at all")
    page.get_by_text("could not be read").wait_for()
    give(page, "paste", shot((50, 40), "WEBP"), "image/webp")
    page.locator(STRIP).wait_for()
    page.get_by_text("5 of them for the image").wait_for()
    page.click("#chat-send")
    ann.answered(1)
    assert ann.balance() == 970
