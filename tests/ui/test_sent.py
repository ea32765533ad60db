"""What the page sends beside the text: anything at all is read or refused."""

import base64
import json

import pytest

from chat_app.chat.images import BadImage
from chat_app.chat.parameters import BadParameters, Parameters
from ui.tabs.chat import sent
from ui.tabs.chat.sent import Extras

SHOT = base64.b64encode(b"shot").decode()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, Extras()), ("", Extras()), (7, Extras()), ("{}", Extras()), ("null", Extras()),
        (json.dumps([SHOT]), Extras((b"shot",))),
        (json.dumps({"images": [SHOT] * 30}), Extras((b"shot",) * (sent.MOST_IMAGES + 1))),
        (
            json.dumps({"images": [], "editing": "msg_1", "against": "big",
                        "settings": {"seed": 3, "system": "x"}}),
            Extras((), "msg_1", "big", Parameters(seed=3, system="x")),
        ),
        (json.dumps({"editing": 5, "against": [1], "settings": []}), Extras()),
        (json.dumps({"editing": "m" * 99, "settings": None}), Extras((), "m" * 64)),
    ],
)  # fmt: skip
def test_what_is_read(value: object, read: Extras) -> None:
    assert sent.extras(value) == read


@pytest.mark.parametrize(
    "value", ["{", "[" * 99_999, '"x"', "3", '{"images": {"a": 1}}', '["ä"]', "[1]", '["a"]']
)
def test_what_is_no_image(value: str) -> None:
    with pytest.raises(BadImage):
        sent.extras(value)


@pytest.mark.parametrize("settings", [{"seed": -1}, {"system": 3}, {"role": "admin"}])
def test_what_is_no_parameter(settings: object) -> None:
    with pytest.raises(BadParameters):
        sent.extras(json.dumps({"settings": settings}))
