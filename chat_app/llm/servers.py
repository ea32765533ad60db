"""Model servers elsewhere: which are up, what they serve, and which one takes the next answer.

They speak OpenAI's protocol. vLLM, SGLang and llama.cpp are told apart by how they sign their
list of models, because each can do more than the protocol. What a server says is never shown
to anybody; it goes, cut short, to the log. It knows no answer, only how many run where.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

from chat_app.llm import prompt
from chat_app.llm.backends.base import MARKERS, Spec
from chat_app.llm.catalogue import Entry, Hub
from chat_app.llm.engine import ChatMessage, ModelNotReady, ModelState
from chat_app.settings import Llm

_log = logging.getLogger(__name__)
CHECK_SECONDS = 10.0
# What was learned this recently is not asked again.
FRESH_SECONDS = 1.0
MAX_BODY_BYTES = 4 * 1024 * 1024
_ASK_SECONDS = 15.0
# The server that knows a conversation's beginning keeps it until it has this much more to do.
_SLACK_ANSWERS = 4
# A bound, not a guess: a token of these vocabularies stands for at least one byte.
_TEMPLATE_TOKENS = 8
_KINDS = ("vllm", "sglang", "llamacpp")
_DOWN = (
    "No server for this model can be reached right now. "
    "Try again in a moment or choose another model."
)


class Unreachable(Exception):
    """A server gave no usable reply to a short question."""


@dataclass
class Server:
    """One address. `models` are the names it serves, with the tokens of context (0: unknown)."""

    url: str
    kind: str = ""
    up: bool = False
    models: dict[str, int] = field(default_factory=dict)
    running: int = 0


class Servers:
    """All addresses of the installation. Used by one event loop."""

    def __init__(self, llm: Llm) -> None:
        self._llm = llm
        urls = [url.rstrip("/").removesuffix("/v1") for url in addresses(llm.remote_url)]
        self.servers = [Server(url) for url in dict.fromkeys(urls)]
        self.freed: set[Callable[[], None]] = set()
        """Called whenever a place becomes free."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "ml-chat-billing"}
        if key := llm.remote.api_key.get_secret_value():
            headers["Authorization"] = f"Bearer {key}"
        self.client = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            timeout=httpx.Timeout(_ASK_SECONDS, connect=llm.remote.connect_seconds),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._checked = 0.0
        self._check: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._check is not None:
            self._check.cancel()
        await self.client.aclose()

    async def watch(self) -> None:
        """Look after the servers until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(CHECK_SECONDS)

    async def refresh(self) -> None:
        """Ask all servers what they serve, unless that was just done; all who call share it."""
        if time.monotonic() - self._checked < FRESH_SECONDS:
            return
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._ask_all())
        await asyncio.shield(self._check)

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._look(server) for server in self.servers))
        self._checked = time.monotonic()

    async def _look(self, server: Server) -> None:
        try:
            listed = _models(await self.ask(server, "GET", "/v1/models"))
        except Unreachable as error:
            self.failed(server, str(error))
            return
        if not server.up:
            _log.info("the model server %s serves %s", server.url, sorted(listed[1])[:20])
        server.kind, server.models = listed
        server.up = True

    def failed(self, server: Server, reason: str) -> None:
        """Leave the server out until it answers a check again."""
        if server.up or not self._checked:
            _log.warning("the model server %s cannot be used: %s", server.url, reason)
        server.up = False

    async def ask(self, server: Server, method: str, path: str, body: Any = None) -> Any:
        """The JSON that comes back. Raises Unreachable for everything but a success."""
        try:
            async with asyncio.timeout(_ASK_SECONDS), AsyncExitStack() as stack:
                reply = await stack.enter_async_context(
                    self.client.stream(method, server.url + path, json=body)
                )
                if reply.status_code != httpx.codes.OK:
                    raise Unreachable(f"{path} was answered with {reply.status_code}")
                return json.loads(await bounded(reply, MAX_BODY_BYTES))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise Unreachable(f"{type(error).__name__} at {path}") from error
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"{path} was answered with something that is no JSON") from error

    def name(self, entry: Entry, server: Server) -> str | None:
        """What the server calls the model; None when it does not serve it."""
        mapped = self._llm.remote.model_names.get(entry.id)
        names = [mapped] if mapped else [entry.id]
        if not mapped and isinstance(entry.source, Hub):
            names.append(entry.source.repo)
        return next((name for name in names if name in server.models), None)

    def serve(self, entry: Entry) -> bool:
        """Any server that was ever reached serves the model."""
        return any(self.name(entry, server) for server in self.servers)

    def state(self, entry: Entry) -> ModelState:
        """See Engine.state, for a model that is not in use."""
        if not self._checked:
            return ModelState("available", backend="remote", device="remote")
        if problem := self.problem(entry):
            return ModelState("broken", problem, backend="remote")
        return ModelState("available", backend="remote", device="remote")

    def problem(self, entry: Entry) -> str:
        """Why no answer can be sent now; empty when one can."""
        if any(server.up and self.name(entry, server) for server in self.servers):
            return ""
        if any(server.up for server in self.servers) and not self.serve(entry):
            return (
                f"No model server serves {entry.name}. Choose another model; "
                "an administrator can set model_names in the section [llm.remote]."
            )
        return _DOWN

    def spec(self, entry: Entry) -> Spec:
        """How the model runs: elsewhere."""
        places = [server for server in self.servers if self.name(entry, server)]
        kinds = sorted({server.kind or "OpenAI's protocol" for server in places})
        names = [(server, self.name(entry, server) or "") for server in places]
        context = [limit for server, name in names if (limit := server.models.get(name))]
        reason = "because the settings ask for it"
        if self._llm.engine == "auto":
            reason = "because a configured server serves it"
        where = f"{len(places)} model server(s) ({', '.join(kinds)})"
        return Spec(
            model=entry.id,
            family=entry.family,
            path="",
            backend="remote",
            device="remote",
            threads=0,
            context_tokens=min([entry.context_tokens, *context]),
            why=f"{entry.name} runs on {where}, {reason}.",
        )

    def slots(self, entry: Entry) -> int:
        """Answers of the model that are written at once; at least 1."""
        up = sum(server.up and self.name(entry, server) is not None for server in self.servers)
        return max(1, up) * self._llm.remote.answers_per_server

    def pick(
        self, entry: Entry, scope: str, *, without: Sequence[Server] = (), full: bool = True
    ) -> Server | None:
        """The server for the next answer of a scope; None when there is none.

        The scope's own one (so that it finds the beginnings of its prompts again) unless that
        has much more to do than another. `full` ones are taken too, or not.
        """
        free = [
            server
            for server in self.servers
            if server.up
            and server not in without
            and self.name(entry, server)
            and (full or server.running < self._llm.remote.answers_per_server)
        ]
        if not free:
            return None
        own = max(free, key=lambda server: _weight(server.url, scope))
        least = min(free, key=lambda server: server.running)
        return own if own.running <= 2 * least.running + _SLACK_ANSWERS else least

    async def count(self, spec: Spec, entry: Entry, messages: Sequence[ChatMessage]) -> int:
        """Prompt tokens as a server counts them. Raises ModelNotReady when none replies.

        Where a server cannot count prompts (all but vLLM and llama.cpp), it is a bound: one
        token a byte and eight a message.
        """
        turns = clean(messages, spec)
        tried: list[Server] = []
        while server := self.pick(entry, "", without=tried):
            tried.append(server)
            try:
                return await self._counted(server, self.name(entry, server) or "", turns)
            except (Unreachable, KeyError, TypeError, ValueError) as error:
                _log.warning("the model server %s did not count: %s", server.url, error)
        raise ModelNotReady(_DOWN, model=entry.id)

    async def _counted(self, server: Server, name: str, turns: list[dict[str, str]]) -> int:
        if server.kind == "llamacpp":
            rendered = await self.ask(server, "POST", "/apply-template", {"messages": turns})
            body = {"content": rendered["prompt"], "add_special": True, "parse_special": True}
            return len((await self.ask(server, "POST", "/tokenize", body))["tokens"])
        if server.kind == "vllm":
            body = {"model": name, "messages": turns, "add_generation_prompt": True}
            return int((await self.ask(server, "POST", "/tokenize", body))["count"])
        return sum(len(turn["content"].encode()) + _TEMPLATE_TOKENS for turn in turns)


def addresses(text: str) -> list[str]:
    """The addresses in the setting `remote_url`."""
    return text.replace(",", " ").split()


def clean(messages: Sequence[ChatMessage], spec: Spec) -> list[dict[str, str]]:
    """The messages as they are sent, without the power to open or close a turn."""
    markers = MARKERS[spec.family]
    return [
        {"role": message.role, "content": prompt.harmless(message.content, markers)}
        for message in messages
    ]


async def bounded(reply: httpx.Response, limit_bytes: int) -> bytes:
    """The body, read up to a limit. Raises Unreachable when it is longer."""
    body = bytearray()
    async for data in reply.aiter_raw():
        body += data
        if len(body) > limit_bytes:
            raise Unreachable(f"a reply of more than {limit_bytes} bytes")
    return bytes(body)


def _weight(url: str, scope: str) -> bytes:
    return hashlib.blake2b(f"{url}\n{scope}".encode(), digest_size=8).digest()


def _models(listed: Any) -> tuple[str, dict[str, int]]:
    """The kind of server, and its models with their context, from its list. Raises Unreachable."""
    try:
        kinds = {str(item.get("owned_by", "")).lower() for item in listed["data"]}
        found = {}
        for item in listed["data"]:
            context = item.get("max_model_len") or (item.get("meta") or {}).get("n_ctx") or 0
            for name in (item["id"], *(item.get("aliases") or ())):
                found[str(name)] = int(context)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unreachable("its list of models cannot be read") from error
    return next((kind for kind in _KINDS if kind in kinds), ""), found
