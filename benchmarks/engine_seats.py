"""One engine in a process of its own: it is told what to write and answers with the times.

    python -m benchmarks.engine_seats '{"kind": "native-int8", "path": …, "threads": 2, …}'

Each line of the input is a question in JSON, each line of the output its answer. All engines are
asked in tokens, write greedily and never end before their limit, so that all do the same work.
"""

import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Of every token: when it was there, in seconds since the first prompt came, and which it is.
Written = list[list[tuple[float, int]]]
NO_TOKEN = 2**31 - 1
SCOPE = "benchmark"
UNKNOWN = -1


@dataclass(frozen=True)
class Task:
    """Prompts, when each of them comes (seconds), and how many tokens each gets."""

    prompts: list[list[int]]
    arrivals: list[float]
    tokens: int


class Seat(Protocol):
    """An engine with its model in memory."""

    facts: dict[str, Any]
    """`weight_bytes`: what one step reads of the weights, as they are stored; `why`."""

    def write(self, task: Task) -> Written:
        """Do the task."""
        ...


class Ours:
    """One of our backends, stepped here as a worker does."""

    def __init__(self, spec: dict[str, Any]) -> None:
        from chat_app.llm.backends.base import Spec

        quantization = "none" if spec["kind"] == "native-bf16" else "auto"
        self.spec = Spec(
            model=spec["model"],
            family=spec["family"],
            path=spec["path"],
            backend=spec["kind"].split("-")[0],
            device="cpu",
            threads=spec["threads"],
            context_tokens=2048,
            quantization=quantization,
        )
        self.backend: Any
        if self.spec.backend == "openvino":
            from chat_app.llm import ir
            from chat_app.llm.backends.openvino import OpenVino

            self.backend = OpenVino(self.spec, lambda _sentence, _share: None)
            # No token ends an answer: all write as many.
            self.backend._ends = {NO_TOKEN}
            path = Path(spec["path"])
            if ir.beside(path).is_dir():
                path = ir.beside(path)
            path = path / "openvino_model.bin" if path.is_dir() else path
            weights = path.stat().st_size
        else:
            from chat_app.llm.backends.native import Native

            self.backend = Native(self.spec, lambda _sentence, _share: None)
            runner = self.backend._runner
            runner._ends = frozenset()
            model = runner._model
            # Of the embedding a step reads a few rows.
            weights = model.bytes - model.embedding.nbytes
        self.facts = {"weight_bytes": weights, "why": self.backend.why.strip()}
        self._number = 0

    def write(self, task: Task) -> Written:
        """See Seat.write."""
        from chat_app.llm.engine import Sampling

        greedy = Sampling(temperature=0.0, top_p=1.0, top_k=0)
        written: Written = [[] for _ in task.prompts]
        waiting = deque(sorted(range(len(task.prompts)), key=lambda place: task.arrivals[place]))
        running: dict[str, int] = {}
        began = time.perf_counter()
        while waiting or running:
            now = time.perf_counter() - began
            while waiting and task.arrivals[waiting[0]] <= now:
                self._number += 1
                id, prompt = str(self._number), task.prompts[waiting[0]]
                if self.backend.add(id, prompt, greedy, task.tokens, scope=SCOPE) is None:
                    assert running, "an empty engine has no room for one answer"
                    break
                running[id] = waiting.popleft()
            if not running:
                time.sleep(max(0.0, task.arrivals[waiting[0]] - now))
                continue
            steps = self.backend.step()
            now = time.perf_counter() - began
            for step in steps:
                if step.error is not None:
                    raise step.error
                written[running[step.id]] += [(now, token) for token in step.tokens]
                if step.finish is not None:
                    self.backend.drop(step.id)
                    del running[step.id]
        return written

    def overhead(self, users: int, tokens: int) -> dict[str, float]:
        """Share of a step that is neither the model's pass nor the picking of tokens.

        With the worker's own desk, a real line to another process, and answers as text.
        """
        from chat_app.llm import wire, worker
        from chat_app.llm.engine import ChatMessage, Request, Sampling
        from chat_app.llm.native import runner as runners

        spent = 0.0

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal spent
                began = time.perf_counter()
                try:
                    return function(*arguments, **named)
                finally:
                    spent += time.perf_counter() - began

            return call

        runner = self.backend._runner
        model, compiled = runner._model, runner._compiled
        forward, pick = model.forward, runners.pick
        model.forward, runners.pick = timed(forward), timed(pick)
        if compiled is not None:
            compiled.logits = timed(compiled.logits)
        here, there = socket.socketpair()
        reader = subprocess.Popen(["cat"], stdin=there, stdout=subprocess.DEVNULL)
        there.close()
        line, desk = wire.Line(here), worker.Desk(self.backend, self.spec.family)
        try:
            for number in range(users):
                message = ChatMessage("user", f"Tell me story number {number} of the old library.")
                request = Request(
                    id=f"rep_{number}",
                    model=self.spec.model,
                    messages=(message,),
                    max_tokens=tokens,
                    sampling=Sampling(temperature=0.0),
                    user_scope=f"user-{number}",
                )
                desk.submit(request)
            steps, wall, computed = 0, 0.0, 0.0
            while not desk.idle:
                everybody = len(desk.running) == users and all(
                    answer.sent for answer in desk.running.values()
                )
                spent, began = 0.0, time.perf_counter()
                desk.turn()
                events = [[id, wire.event_out(event)] for id, event in desk.events]
                desk.events.clear()
                if events:
                    line.send({"op": "events", "events": events})
                select.select([here], [], [], 0)
                if everybody and len(desk.running) == users:
                    steps += 1
                    wall += time.perf_counter() - began
                    computed += spent
        finally:
            model.forward, runners.pick = forward, pick
            here.close()
            reader.wait()
        if not steps:
            raise RuntimeError("no step had all answers in it: ask for more tokens")
        return {"share": 1 - computed / wall, "step_ms": 1000 * wall / steps, "steps": steps}


def _transformers(spec: dict[str, Any], attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(spec["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        spec["path"], dtype=torch.bfloat16, attn_implementation=attention
    )
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def _weight_bytes(model: Any) -> int:
    """What one step reads; a tied head is the embedding, one of its own leaves that out."""
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    if not model.config.get_text_config().tie_word_embeddings:
        parameters -= model.get_input_embeddings().weight.nbytes
    return int(parameters)


class Generate:
    """`transformers.generate`, one request after another, in bfloat16."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._model = _transformers(spec, "sdpa")
        self.facts = {"weight_bytes": _weight_bytes(self._model), "why": "bfloat16, sdpa"}

    def write(self, task: Task) -> Written:
        """See Seat.write."""
        import torch
        from transformers.generation.streamers import BaseStreamer

        written: Written = [[] for _ in task.prompts]
        began = time.perf_counter()

        class Clock(BaseStreamer):  # type: ignore[misc]
            def __init__(self, into: list[tuple[float, int]]) -> None:
                self.into, self.prompt = into, True

            def put(self, value: Any) -> None:
                if not self.prompt:
                    self.into.append((time.perf_counter() - began, int(value.reshape(-1)[0])))
                self.prompt = False

            def end(self) -> None:
                pass

        for place, prompt in enumerate(task.prompts):
            time.sleep(max(0.0, task.arrivals[place] - (time.perf_counter() - began)))
            tokens = torch.tensor([prompt])
            self._model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=task.tokens,
                do_sample=False,
                streamer=Clock(written[place]),
            )
        return written


class Batching:
    """transformers' continuous batching in bfloat16."""

    def __init__(self, spec: dict[str, Any]) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        attention = "sdpa" if spec["kind"].endswith("sdpa") else "paged|eager"
        model = _transformers(spec, attention)
        self.facts = {"weight_bytes": _weight_bytes(model), "why": f"bfloat16, {attention}"}
        # Room for everybody and all prompts in one batch: left to itself, it takes all memory.
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(
                max_new_tokens=64, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=96, max_batch_tokens=2048
            ),
        )
        self._manager.start()

    def write(self, task: Task) -> Written:
        """See Seat.write."""
        written: Written = [[] for _ in task.prompts]
        order = sorted(range(len(task.prompts)), key=lambda place: task.arrivals[place])
        places: dict[str, int] = {}
        began = time.perf_counter()

        def send() -> None:
            for place in order:
                time.sleep(max(0.0, task.arrivals[place] - (time.perf_counter() - began)))
                id = f"{began}-{place}"
                places[id] = place
                self._manager.add_request(
                    task.prompts[place],
                    request_id=id,
                    max_new_tokens=task.tokens,
                    record_timestamps=True,
                    eos_token_id=-1,
                )

        sender = threading.Thread(target=send)
        sender.start()
        left = len(order)
        while left:
            result = self._manager.get_result(timeout=1)
            if result is None:
                if not self._manager.is_running():
                    raise RuntimeError("transformers' batching thread ended")
                continue
            if result.error is not None:
                raise RuntimeError(result.error)
            if result.is_finished():
                times = [moment - began for moment in result.timestamps]
                written[places[result.request_id]] = list(
                    zip(times, result.generated_tokens, strict=True)
                )
                left -= 1
        sender.join()
        return written


class LlamaCpp:
    """llama.cpp's server as the wheel xllamacpp brings it, asked in its own process."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = spec["path"]
        parameters.n_gpu_layers = 0
        parameters.n_parallel = spec["users"]
        parameters.n_ctx = spec["users"] * 1024
        parameters.cpuparams.n_threads = spec["threads"]
        parameters.cpuparams_batch.n_threads = spec["threads"]
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
        parameters.ui = False
        parameters.verbosity = 0
        self._server = xllamacpp.Server(parameters)
        self.facts = {
            "weight_bytes": Path(spec["path"]).stat().st_size,
            "why": Path(spec["path"]).name,
        }

    def write(self, task: Task) -> Written:
        """See Seat.write."""
        written: Written = [[] for _ in task.prompts]
        troubles: queue.SimpleQueue[str] = queue.SimpleQueue()
        began = time.perf_counter()

        def one(place: int) -> None:
            time.sleep(max(0.0, task.arrivals[place] - (time.perf_counter() - began)))

            def told(chunk: Any) -> bool:
                now = time.perf_counter() - began
                chunk = json.loads(chunk) if isinstance(chunk, str) else chunk
                if "error" in chunk:
                    troubles.put(str(chunk["error"]))
                    return True
                made = int(chunk.get("timings", {}).get("predicted_n", 0))
                written[place] += [(now, UNKNOWN)] * (made - len(written[place]))
                return False

            body = {
                "prompt": task.prompts[place],
                "n_predict": task.tokens,
                "temperature": 0.0,
                "samplers": ["top_k"],
                "top_k": 1,
                "ignore_eos": True,
                "cache_prompt": True,
                "stream": True,
                "timings_per_token": True,
            }
            try:
                self._server.handle_completions(body, told)
            except Exception as error:
                troubles.put(repr(error))

        threads = [threading.Thread(target=one, args=(place,)) for place in range(len(written))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not troubles.empty():
            raise RuntimeError(troubles.get())
        return written


def seat(spec: dict[str, Any]) -> Seat:
    """The engine of this kind."""
    kind = spec["kind"]
    if kind.startswith(("native", "openvino")):
        return Ours(spec)
    if kind == "generate":
        return Generate(spec)
    return Batching(spec) if kind.startswith("batching") else LlamaCpp(spec)


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory at most."""
    import torch

    torch.set_num_threads(threads)
    numbers = torch.ones(1 << 28)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - began)
    return numbers.nbytes / best


def quality(path: str, threads: int) -> dict[str, float]:
    """How far the 8-bit form is from bfloat16 and both from float32, teacher-forced.

    KL in nats, mean over the tokens; agreement of the likeliest token as a share.
    """
    import torch

    from chat_app.llm.native import shape as shapes
    from chat_app.llm.native import weights
    from chat_app.llm.native.int8 import all_logits
    from chat_app.llm.tokenizer import Tokenizer
    from tests.llm.native.prose import TEXT

    torch.set_num_threads(threads)
    folder = Path(path)
    shape = shapes.read(folder)
    start = [2] if shape.gemma else []
    tokens = start + Tokenizer(folder, "gemma3" if shape.gemma else "llama").ids(TEXT)
    logs, tops = {}, {}
    formats: tuple[weights.Format, ...] = ("float32", "bfloat16", "int8")
    for format in formats:
        model = weights.load(
            folder, shape, format=format, device=torch.device("cpu"), positions=len(tokens)
        )
        logits = all_logits(model, tokens).float()
        logs[format], tops[format] = logits.log_softmax(-1), logits.argmax(-1)
    found: dict[str, float] = {"tokens": len(tokens)}
    pairs: tuple[tuple[weights.Format, weights.Format], ...] = (
        ("bfloat16", "int8"),
        ("float32", "int8"),
        ("float32", "bfloat16"),
    )
    for right, other in pairs:
        distance = (logs[right].exp() * (logs[right] - logs[other])).sum(-1).mean()
        found[f"KL {other} to {right}"] = float(distance)
        found[f"top-1 {other} to {right}"] = float((tops[right] == tops[other]).float().mean())
    return found


def agreement(gguf: str, converted: str, threads: int) -> dict[str, float]:
    """How often OpenVINO picks the token that bfloat16 finds likeliest, teacher-forced.

    Its logits are not to be had: it writes one token after every beginning of the text.
    """
    import torch

    from chat_app.llm.native import shape as shapes
    from chat_app.llm.native import weights
    from chat_app.llm.native.int8 import all_logits
    from chat_app.llm.tokenizer import Tokenizer
    from tests.llm.native.prose import TEXT

    torch.set_num_threads(threads)
    folder = Path(converted)
    shape = shapes.read(folder)
    # Prompts of chats begin like this, and only such ones are kept apart by OpenVINO.
    tokens = Tokenizer(folder, "llama").ids(f"<|im_start|>system\n{TEXT}")
    model = weights.load(
        folder, shape, format="bfloat16", device=torch.device("cpu"), positions=len(tokens)
    )
    wanted = all_logits(model, tokens).argmax(-1).tolist()
    del model
    theirs = Ours(
        {"kind": "openvino", "model": "", "family": "llama", "path": gguf, "threads": threads}
    )
    prompts = [tokens[:end] for end in range(8, len(tokens) + 1)]
    written = theirs.write(Task(prompts, [0.0] * len(prompts), 1))
    same = [
        answer[0][1] == wanted[len(prompt) - 1]
        for answer, prompt in zip(written, prompts, strict=True)
        if answer
    ]
    return {"tokens": len(same), "top-1 openvino to bfloat16": sum(same) / len(same)}


def shape_1b(folder: str, like: str) -> dict[str, float]:
    """Write a model of Gemma 3 1B's measures with random weights and the tokenizer of `like`."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    config = Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=1152,
        intermediate_size=6912,
        num_hidden_layers=26,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
        query_pre_attn_scalar=256,
        max_position_embeddings=32768,
        eos_token_id=1,
        bos_token_id=2,
        pad_token_id=0,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        os.symlink(Path(like).resolve() / name, Path(folder) / name)
    size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    return {"bytes": float(size)}


def convert(gguf: str, folder: str) -> dict[str, float]:
    """The GGUF as safetensors."""
    from chat_app.llm import convert as converting

    converting.convert(Path(gguf), Path(folder))
    return {}


def answer(message: dict[str, Any], here: Seat | None) -> dict[str, Any]:
    """What a question asks for."""
    what = message.pop("do")
    if what == "write":
        assert here is not None
        return {"written": here.write(Task(**message))}
    if what == "overhead":
        assert isinstance(here, Ours)
        return dict(here.overhead(**message))
    if what == "bandwidth":
        return {"bytes_per_second": bandwidth(**message)}
    works: dict[str, Callable[..., dict[str, float]]] = {
        "quality": quality,
        "agreement": agreement,
        "shape_1b": shape_1b,
        "convert": convert,
    }
    return dict(works[what](**message))


def main(arguments: Sequence[str]) -> None:
    spec = json.loads(arguments[0])
    # What libraries print goes to the log, not among the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    began = time.perf_counter()
    here = seat(spec) if spec["kind"] else None
    facts = here.facts if here is not None else {}
    print(json.dumps(facts | {"load_seconds": time.perf_counter() - began}), file=out)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line), here)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=out)
    # No teardown of libraries: some wait for their own threads.
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
