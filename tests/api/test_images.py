"""Images over HTTP: sent in base64, given back to their owner alone, refused in words."""

import base64
import io
from typing import Any

import pytest
from PIL import Image as Pil

from tests.api.conftest import MODEL, Person, Server

SEES = "gemma-3-4b-it"


def sent(
    colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (30, 20)
) -> dict[str, str]:
    out = io.BytesIO()
    Pil.new("RGB", size, colour).save(out, kind)
    data = base64.b64encode(out.getvalue()).decode()
    return {"data": data, "type": f"image/{kind.lower()}"}


def test_a_message_with_images(server: Server) -> None:
    alice, bob = server.person(), server.person()
    models = {model["id"]: model for model in alice.client.get("/api/chat/models").json()["items"]}
    assert models[SEES]["sees_images"]
    assert not models[MODEL]["sees_images"]
    assert models[SEES]["price"]["per_image"] == "5"
    assert models[MODEL]["price"]["per_image"] is None
    body = {"model": SEES, "message": "what is this?", "images": 2}
    quote = alice.client.post("/api/chat/quote", json=body).json()
    assert (quote["likely"], quote["maximum"]) == ("35", "35")
    answer = alice.ask("what is this?", model=SEES, images=[sent(), sent("blue", "WEBP")])
    assert answer.status_code == 200, answer.text
    assert answer.json()["charged"] == "35"
    assert answer.json()["usage"]["prompt_tokens"] == quote["prompt_tokens"]
    talk = f"/api/chat/conversations/{answer.json()['conversation_id']}"
    question, reply = alice.client.get(talk).json()["messages"]
    assert reply["images"] == []
    assert [image["type"] for image in question["images"]] == ["image/png", "image/jpeg"]
    path = f"/api/chat/images/{question['images'][0]['id']}"
    got = alice.client.get(path)
    assert got.headers["content-type"] == "image/png"
    assert got.headers["cache-control"].startswith("private")
    assert Pil.open(io.BytesIO(got.content)).size == (30, 20)
    assert bob.client.get(path).status_code == 404
    exported = alice.client.get(f"{talk}/export").json()["messages"][0]
    assert exported["images"] == [image["id"] for image in question["images"]]
    assert "_Image img_" in alice.client.get(f"{talk}/export?format=md").text
    alice.client.delete(talk)
    assert alice.client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"images": [sent()]}, 422, "model_cannot_see"),
        ({"model": SEES, "images": [sent()] * 5}, 422, "too_many_images"),
        ({"model": SEES, "images": [{"data": "%%%", "type": "image/png"}]}, 422, "bad_image"),
        ({"model": SEES, "images": [{"data": "aGVsbG8=", "type": "image/png"}]}, 422, "bad_image"),
        ({"model": SEES, "images": [{**sent(), "type": "image/gif"}]}, 422, "invalid"),
        ({"model": SEES, "images": "no list"}, 422, "invalid"),
        ({"model": SEES, "images": [sent()] * 17}, 422, "invalid"),
        ({"model": SEES, "message": "", "images": []}, 422, "empty_message"),
    ],
)
def test_refusals(root: Person, more: dict[str, Any], status: int, code: str) -> None:
    before = root.available()
    answer = root.ask(more.pop("message", "what?"), **more)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert root.available() == before


def test_a_number_of_images_is_bounded_in_a_quote(root: Person) -> None:
    body: dict[str, Any] = {"model": SEES, "message": "x"}
    for images in (-1, 17, 1.5, "1"):
        answer = root.client.post("/api/chat/quote", json={**body, "images": images})
        assert answer.status_code == 422
    answer = root.client.post("/api/chat/quote", json={**body, "model": MODEL, "images": 1})
    assert answer.json()["error"]["code"] == "model_cannot_see"
