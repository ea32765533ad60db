"""Model servers elsewhere: which are up, what they serve, and which one takes the next answer.

They speak OpenAI's protocol. vLLM, SGLang and llama.cpp are told apart by how they sign their
list of models, because each can do more than the protocol. What a server says is never shown
to anybody; it goes, cut short, to the log. It knows no answer, only how many run where.

A server is left out while it does not list its models (down), and a model of it while its
circuit is open. Nobody's answer tries it again: a check does, or one token that nobody pays.
"""

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx

from chat_app.llm import cards, catalogue, sse
from chat_app.llm.asking import clean
from chat_app.llm.backends.base import Spec
from chat_app.llm.catalogue import Entry, Hub
from chat_app.llm.circuit import Circuit
from chat_app.llm.engine import IMAGE_TOKENS, ChatMessage, ModelNotReady, ModelState
from chat_app.llm.sse import Blame, Unreachable, bounded
from chat_app.settings import Llm

_log = logging.getLogger(__name__)
CHECK_SECONDS = 10.0
# What was learned this recently is not asked again.
FRESH_SECONDS = 1.0
MAX_BODY_BYTES = 4 * 1024 * 1024
_ASK_SECONDS = 15.0
# Whoever needs a server now does not wait longer for slow ones when another one is up.
_PATIENCE_SECONDS = 1.0
_TICK_SECONDS = 0.5
_PROBE_BYTES = 1 << 20
# The server that knows a conversation's beginning keeps it until it has this much more to do.
_SLACK_ANSWERS = 4
# A bound, not a guess: a token of these vocabularies stands for at least one byte.
_TEMPLATE_TOKENS = 8
_DOWN = (
    "No server for this model can be reached right now. "
    "Try again in a moment or choose another model."
)


@dataclass
class Server:
    """One address. `models` are the names it serves, with the tokens of context (0: unknown)."""

    url: str
    kind: str = ""
    up: bool = False
    models: dict[str, int] = field(default_factory=dict)
    sees: dict[str, bool] = field(default_factory=dict)
    """Whether a model takes images, where the server said so or refused one."""
    running: int = 0
    circuits: dict[str, Circuit] = field(default_factory=dict)
    since: float = -math.inf
    """When it became good again, on the monotonic clock; it was always, at first."""
    vanished: bool = False
    """A check found it gone; when it is back it is another process."""
    answers: int = 0
    failures: int = 0
    uncounted: int = 0
    odd_counts: int = 0
    last_failure: str = ""
    last_failure_at: float = 0.0


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
        self._probes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close all connections."""
        tasks = [task for task in (self._check, *self._probes) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.aclose()

    async def watch(self) -> None:
        """Look after the servers until cancelled."""
        while True:
            now = time.monotonic()
            if not self._checked or now - self._checked >= CHECK_SECONDS:
                self._begin_check()
            for server in self.servers:
                for name, circuit in server.circuits.items():
                    if server.up and circuit.due(now):
                        circuit.probe()
                        task = asyncio.create_task(self._probe(server, name, circuit))
                        self._probes.add(task)
                        task.add_done_callback(self._probes.discard)
            await asyncio.sleep(_TICK_SECONDS)

    async def refresh(self) -> None:
        """Ask all servers what they serve, unless that was just done; all who call share it.

        Slow ones are not waited for when another one is up.
        """
        if time.monotonic() - self._checked < FRESH_SECONDS:
            return
        check = self._begin_check()
        await asyncio.wait({check}, timeout=_PATIENCE_SECONDS)
        if not any(server.up for server in self.servers):
            await asyncio.shield(check)

    def _begin_check(self) -> "asyncio.Task[None]":
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._ask_all())
        return self._check

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._look(server) for server in self.servers))
        self._checked = time.monotonic()

    async def _look(self, server: Server) -> None:
        try:
            kind, models, sees = cards.read(await self.ask(server, "GET", "/v1/models"))
        except Unreachable as error:
            if server.up or not self._checked:
                _log.warning("the model server %s cannot be used: %s", server.url, error)
            server.up, server.vanished = False, True
            server.last_failure, server.last_failure_at = "unreachable", time.monotonic()
            return
        if not server.up:
            _log.info("the model server %s serves %s", server.url, sorted(models)[:20])
        if server.vanished:  # and what it did before is forgotten
            server.since = time.monotonic()
            server.circuits.clear()
            server.sees.clear()
        # What a refusal has taught is not untaught by a list.
        blind = {name: False for name, seen in server.sees.items() if not seen}
        server.kind, server.models, server.sees = kind, models, sees | blind
        server.up, server.vanished = True, False

    async def _probe(self, server: Server, name: str, circuit: Circuit) -> None:
        """Ask for one token, for nobody: a circuit is half open meanwhile."""
        well = False
        try:
            async with asyncio.timeout(self._llm.remote.first_token_seconds):
                await self._one_token(server, name)
            well = True
        except (sse.Trouble, httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            _log.warning("the model server %s still fails with %s: %r", server.url, name, error)
        finally:
            now = time.monotonic()
            circuit.probed(now, well=well)
            if well:
                server.since = now
                _log.info("the model server %s writes with %s again", server.url, name)
                for seat in list(self.freed):
                    seat()

    async def _one_token(self, server: Server, name: str) -> None:
        """Raises sse.Trouble and httpx' errors when none comes."""
        turns = [{"role": "user", "content": "Hi"}]
        body = {"model": name, "messages": turns, "max_tokens": 1, "stream": True}
        async with self.client.stream(
            "POST",
            f"{server.url}/v1/chat/completions",
            json=body,
            timeout=httpx.Timeout(None, connect=self._llm.remote.connect_seconds),
        ) as reply:
            if reply.status_code != httpx.codes.OK:
                raise await sse.refusal(reply)
            async with aclosing(sse.chunks(reply, _PROBE_BYTES)) as chunks:
                async for chunk in chunks:
                    if any(cards.says(choice) for choice in chunk.get("choices") or ()):
                        return
        raise sse.Trouble("engine_crashed", "the stream ended before the answer")

    def failed(self, server: Server, name: str, code: str, blame: Blame, reason: str) -> None:
        """Note what a failed attempt with a model says of its server."""
        if blame == "none":
            return
        now = time.monotonic()
        server.failures += 1
        server.last_failure, server.last_failure_at = code, now
        if blame == "unreachable" and server.up:
            _log.warning("the model server %s cannot be used: %s", server.url, reason)
            server.up = False
        if self._circuit(server, name).bad(now, at_once=blame == "opens"):
            _log.warning(
                "the model server %s gets no more answers of %s for now: %s",
                server.url,
                name,
                reason,
            )

    def answered(self, server: Server, name: str) -> None:
        """Note that an answer came whole."""
        server.answers += 1
        if circuit := server.circuits.get(name):
            circuit.good()

    def _circuit(self, server: Server, name: str) -> Circuit:
        remote = self._llm.remote
        made = Circuit(remote.failures_to_open, remote.open_seconds)
        return server.circuits.setdefault(name, made)

    def usable(self, server: Server, entry: Entry) -> bool:
        """The server takes answers of the model now."""
        name = self.name(entry, server) if server.up else None
        circuit = server.circuits.get(name) if name else None
        return name is not None and (circuit is None or circuit.state == "closed")

    def can(self, entry: Entry, *, for_seconds: float = 0.0) -> bool:
        """Some server takes answers of the model now, and has for so long."""
        before = time.monotonic() - for_seconds
        return any(server.since <= before for server in self.servers if self.usable(server, entry))

    def view(self) -> list[dict[str, Any]]:
        """Each server, for operators. Units are in the names; `models` are ids of the catalogue.

        `state` is `unknown` until it was asked, `down`, `up`, or `open` and `half_open` while it
        gets no answers of the models in `left_out`.
        """
        return [self._seen(server) for server in self.servers]

    def _seen(self, server: Server) -> dict[str, Any]:
        now = time.monotonic()
        asked = {entry.id: self.name(entry, server) for entry in catalogue.entries()}
        names = {model: name for model, name in asked.items() if name}
        circuits = {
            model: server.circuits[name] for model, name in names.items() if name in server.circuits
        }
        left_out = [model for model, circuit in circuits.items() if circuit.state != "closed"]
        states = {circuit.state for circuit in circuits.values()}
        state = next((one for one in ("open", "half_open") if one in states), "up")
        if not server.up:
            state = "down" if server.last_failure or self._checked else "unknown"
        again = [circuits[model].open_until - now for model in left_out]
        return {
            "url": server.url,
            "kind": server.kind,
            "state": state,
            "models": sorted(names),
            "left_out": sorted(left_out),
            "running": server.running,
            "answers_total": server.answers,
            "failures_total": server.failures,
            "failures_in_row": max((one.failures for one in circuits.values()), default=0),
            "answers_counted_here_total": server.uncounted,
            "odd_usage_total": server.odd_counts,
            "last_failure": server.last_failure,
            "last_failure_seconds": (
                round(now - server.last_failure_at, 1) if server.last_failure else None
            ),
            "asked_again_seconds": round(max(0.0, min(again)), 1) if again else None,
        }

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
        if self.can(entry):
            return ""
        if any(server.up for server in self.servers) and not self.serve(entry):
            return (
                f"No model server serves {entry.name}. Choose another model; "
                "an administrator can set model_names in the section [llm.remote]."
            )
        return _DOWN

    def absent(self, entry: Entry) -> str:
        """Why no server writes with the model now, beside one that runs here; empty if one does."""
        if self.can(entry):
            return ""
        if self.serve(entry):
            return "It runs here because no configured server of it can be used right now."
        if any(server.up for server in self.servers):
            return "The configured servers do not serve it."
        return "The configured servers cannot be reached." if self._checked else ""

    def sees(self, entry: Entry) -> bool:
        """Some server's model takes images; so it is assumed where nothing is said."""
        places = [server for server in self.servers if self.name(entry, server)]
        return entry.sees_images and (
            not places or any(self.eyes(server, entry) for server in places)
        )

    def eyes(self, server: Server, entry: Entry) -> bool:
        """The model takes images at this server, as far as is known."""
        return entry.sees_images and server.sees.get(self.name(entry, server) or "", True)

    def blind(self, server: Server, name: str) -> None:
        """The server refused an image: it gets no other one for this model."""
        _log.warning("the model server %s takes no images for %s", server.url, name)
        server.sees[name] = False

    def spec(self, entry: Entry) -> Spec:
        """How the model runs: elsewhere."""
        places = [server for server in self.servers if self.name(entry, server)]
        kinds = sorted({cards.NAMES[server.kind] for server in places})
        names = [(server, self.name(entry, server) or "") for server in places]
        context = [limit for server, name in names if (limit := server.models.get(name))]
        reason = "because the settings ask for it"
        if self._llm.engine == "auto":
            reason = "because a configured server serves it"
        count = "a model server" if len(places) == 1 else f"{len(places)} model servers"
        where = f"{count} ({', '.join(kinds)})" if places else "model servers"
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
        up = sum(self.usable(server, entry) for server in self.servers)
        return max(1, up) * self._llm.remote.answers_per_server

    def pick(
        self,
        entry: Entry,
        scope: str,
        *,
        without: Sequence[Server] = (),
        full: bool = True,
        images: bool = False,
    ) -> Server | None:
        """The server for the next answer of a scope, a conversation; None when there is none.

        The scope's own one (so that it finds the beginnings of its prompts again) unless that
        has much more to do than another. `full` ones are taken too, or not. With `images` only
        those that see.
        """
        free = [
            server
            for server in self.servers
            if self.usable(server, entry)
            and server not in without
            and (not images or self.eyes(server, entry))
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
        token a byte and eight a message. Images have a number of their own.
        """
        turns = clean(messages, spec)
        images = sum(len(message.images) for message in messages) * IMAGE_TOKENS
        tried: list[Server] = []
        while server := self.pick(entry, "", without=tried):
            tried.append(server)
            try:
                name = self.name(entry, server) or ""
                return images + await self._counted(server, name, turns)
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


def _weight(url: str, scope: str) -> bytes:
    return hashlib.blake2b(f"{url}\n{scope}".encode(), digest_size=8).digest()
