"""What OpenAI's clients send to `/v1/chat/completions`, and what of it is offered here.

A field that would change the answer and cannot be honoured is refused by name; one that says
what holds anyway (`n` 1, a penalty of 0) is accepted. No address in a message is ever fetched.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from chat_app.api.deps import Body, Text
from chat_app.api.payer import Payer
from chat_app.errors import Invalid
from chat_app.flows.order import Turn
from chat_app.llm.engine import Role

MAX_MESSAGES = 2048
MAX_PARTS = 64
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 500
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp);base64,(.*)", re.DOTALL)


class UnsupportedField(Invalid):
    """A field that would change the answer, and that no model here honours. Fact: `param`."""

    code = "unsupported_parameter"
    message = "This server does not offer this field. Leave it out and send the request again."


class BadMessages(Invalid):
    """The list of messages is none that a model can answer. Fact: `param`."""

    code = "invalid_messages"
    message = (
        "Messages are a list that begins, after the system's, with a user's message and ends "
        "with one. Correct the list and send it again."
    )


class OutsideImage(Invalid):
    """An image that is no data: URL. Fact: `param`."""

    code = "outside_image"
    message = (
        "Images are taken from inside the request alone: nothing is fetched from elsewhere. "
        "Send a PNG, JPEG or WebP file as a data: URL in base64."
    )


class TextPart(Body):
    type: Literal["text"]
    text: Text


class ImageUrl(Body):
    url: Annotated[StrictStr, Field(description="`data:image/png;base64,…`, also jpeg or webp.")]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class MessageIn(Body):
    """One message of the list. What OpenAI's answers carry beside it may be sent back with it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(max_length=MAX_PARTS)] | None = None
    name: Annotated[Text, Field(max_length=200, description="Ignored.")] | None = None
    refusal: Annotated[Text, Field(description="Ignored.")] | None = None
    annotations: Annotated[list[Any], Field(max_length=100, description="Ignored.")] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


class StreamOptions(Body):
    include_usage: StrictBool | None = None
    include_obfuscation: Annotated[StrictBool, Field(description="Ignored.")] | None = None


class ResponseFormat(Body):
    type: Annotated[StrictStr, Field(max_length=50, description="`text` alone.")]
    json_schema: Annotated[dict[str, Any], Field(description="Not offered.")] | None = None


Stop = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Tokens = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2, description="0 alone is offered.")]


class Completion(Body):
    """The body of `POST /v1/chat/completions`."""

    model: Annotated[Text, Field(max_length=128)]
    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Annotated[Tokens, Field(description="The older name.")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    payer: Payer | None = None

    n: Annotated[StrictInt, Field(description="1 alone is offered.")] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[StrictStr], Field(max_length=8)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = None
    logit_bias: dict[str, Any] | None = None
    tools: Annotated[list[Any], Field(description="Not offered.")] | None = None
    tool_choice: Annotated[Any, Field(description="Not offered, but for `none`.")] = None
    functions: Annotated[list[Any], Field(description="Not offered.")] | None = None
    function_call: Annotated[Any, Field(description="Not offered, but for `none`.")] = None

    user: Annotated[Text, Field(max_length=512, description="Ignored.")] | None = None
    safety_identifier: Annotated[Text, Field(max_length=512, description="Ignored.")] | None = None
    prompt_cache_key: Annotated[Text, Field(max_length=512, description="Ignored.")] | None = None
    metadata: Annotated[dict[str, Any], Field(description="Ignored.")] | None = None
    store: Annotated[StrictBool, Field(description="Ignored: nothing is.")] | None = None
    service_tier: Annotated[Text, Field(max_length=50, description="Ignored.")] | None = None
    parallel_tool_calls: Annotated[StrictBool, Field(description="Ignored.")] | None = None

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with a chunk that has the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def longest(self) -> int | None:
        """The most tokens of the answer, by either name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> Sequence[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or ()


# Each field with the values that say what holds anyway.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
}


def turns(body: Completion) -> list[Turn]:
    """The messages as a model reads them. Raises UnsupportedField, BadMessages and OutsideImage.

    System messages come first, as one; neighbours of one role are one message.
    """
    for name, values in _NEUTRAL.items():
        if getattr(body, name) not in (None, *values):
            raise UnsupportedField(param=name)
    if body.response_format is not None and body.response_format.type != "text":
        raise UnsupportedField(param="response_format")
    system: list[Turn] = []
    told: list[Turn] = []
    for number, message in enumerate(body.messages):
        turn = _turn(message, f"messages.{number}")
        into = system if turn.role == "system" else told
        if into and into[-1].role == turn.role:
            into[-1] = _joined(into[-1], turn)
        else:
            into.append(turn)
    if not told or told[0].role != "user" or told[-1].role != "user":
        raise BadMessages(param="messages")
    return [turn for turn in system if turn.text] + told


def _turn(message: MessageIn, where: str) -> Turn:
    role: Role = "system" if message.role == "developer" else message.role
    if message.content is None and role != "assistant":
        raise BadMessages("A message needs content. Add it and send again.", param=where)
    if message.content is None or isinstance(message.content, str):
        return Turn(role, message.content or "")
    texts, files = [], []
    for number, part in enumerate(message.content):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif role != "user":
            raise BadMessages(
                "Only a user's message shows images. Move it there and send again.",
                param=f"{where}.content.{number}",
            )
        else:
            files.append(_file(part.image_url.url, f"{where}.content.{number}.image_url.url"))
    return Turn(role, "\n".join(texts), tuple(files))


def _joined(first: Turn, second: Turn) -> Turn:
    text = "\n\n".join(part for part in (first.text, second.text) if part)
    return Turn(first.role, text, first.images + second.images)


def _file(url: str, where: str) -> bytes:
    found = _DATA_URL.fullmatch(url)
    if found is None:
        raise OutsideImage(param=where)
    try:
        return base64.b64decode(found[1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise OutsideImage(param=where) from error
