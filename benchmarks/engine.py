"""Our engine beside its peers: one run on one machine; trust the ratios, not the absolutes.

    python -m benchmarks.engine [--models-dir D] [--threads 2] [--users 1,8,16] [--rounds 3]
                                [--only native,openvino,…] [--models gemma,…] [--quick]

Every engine lives in a process of its own and is stopped while another one works. They take
turns, in another order each round; medians of the rounds are printed. All get the same prompts
(75 to 96 tokens, 64 new ones, all at once, reading included) and write greedily.

- native-int8, native-bf16, openvino: ours, by the backend's own steps
- generate: `transformers.generate`, one request after another (its rate is that of four)
- batching-eager, batching-sdpa: transformers' continuous batching, bfloat16
- llama.cpp: its server, from the wheel of xllamacpp (pip install xllamacpp), GGUF

`foreign` is the share of the machine that other processes took meanwhile: a run is worth
something below 5 %. What goes through the supervisor runs with the program's own number of
threads. At the end stand the goals C1 to C10, and one line of JSON.
"""

import argparse
import itertools
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chat_app.llm import catalogue, choice, loader
from chat_app.llm.engine import ModelNotReady
from chat_app.llm.process import environment
from chat_app.settings import Llm

ROOT = Path(__file__).resolve().parent.parent
GEMMA, SMOL, ONE_B = "gemma-3-270m", "smollm2-135m-instruct", "gemma-3-1b shape"
OURS = ("native-int8", "native-bf16", "openvino")
BATCHING = ("batching-eager", "batching-sdpa")
PREFILL_TOKENS, NEW_TOKENS = 440, 64
STAGGER_SECONDS = 2.25
GENERATE_REQUESTS = 4
LIMIT_SECONDS = 900.0
VOCABULARY = {GEMMA: 200_000, ONE_B: 200_000, SMOL: 40_000}
# As every prompt of a chat begins: only such ones may be kept in OpenVINO's cache.
STARTS = {GEMMA: [2, 105], ONE_B: [2, 105], SMOL: [1, 9690]}


def surroundings(kind: str, threads: int) -> dict[str, str]:
    """The environment of an engine: ours as the program makes it; peers wait as they like."""
    made = environment(threads, backend=kind.split("-", maxsplit=1)[0])
    if kind not in OURS:
        made.pop("OMP_WAIT_POLICY")
    return made


class Gone(Exception):
    """An engine's process ended, does not answer, or says that it failed."""


class Child:
    """An engine's process. It stands still unless it is asked."""

    def __init__(self, spec: dict[str, Any], folder: Path, threads: int) -> None:
        """Start it and wait until its model is in memory. Raises Gone."""
        self.log = Path(tempfile.mkstemp(suffix=".log", dir=folder)[1])
        self.foreign: list[float] = []
        self._buffer = b""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.engine_seats", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=surroundings(spec["kind"], threads),
            )
        try:
            self.facts = self._line()
        except BaseException:
            self.end()
            raise
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, **message: Any) -> dict[str, Any]:
        """The answer to a question. Raises Gone."""
        self._process.send_signal(signal.SIGCONT)
        before = self._times()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Gone(self._why()) from error
        found = self._line()
        if self._process.poll() is None:
            own = own_seconds(self._process.pid)
            self.foreign.append(foreign_share(before, own))
            self._process.send_signal(signal.SIGSTOP)
        if "error" in found:
            raise Gone(found["error"])
        return found

    def end(self) -> None:
        """Kill it: nothing in it is worth a farewell."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + LIMIT_SECONDS
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self.end()
                raise Gone(f"no answer within {LIMIT_SECONDS:.0f} s")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                raise Gone(self._why())
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def _why(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it ended without a word"

    def _times(self) -> tuple[float, float, float]:
        return time.monotonic(), busy_seconds(), own_seconds(self._process.pid)


def busy_seconds() -> float:
    """CPU seconds of everything on this machine since its start."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def own_seconds(pid: int | None = None) -> float:
    """CPU seconds of this process, of its children that have ended, and of that living one."""
    own = psutil.Process().cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    if pid is None:
        return float(total)
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        pass
    return float(total)


def foreign_share(before: tuple[float, float, float], own_now: float) -> float:
    """The share of the machine that others took since then; `before`: clock, busy, own."""
    then, busy, own = before
    cores = psutil.cpu_count() or 1
    foreign = (busy_seconds() - busy) - (own_now - own)
    return max(0.0, foreign / (cores * max(0.01, time.monotonic() - then)))


@dataclass
class Seat:
    """What one engine did with one model: values of each round by what was measured."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    foreign: float = 0.0

    def note(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def get(self, name: str) -> float | None:
        """The median of the rounds."""
        found = self.values.get(name)
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Plan:
    """What is measured how often."""

    users: tuple[int, ...]
    rounds: int
    threads: int
    only: tuple[str, ...]
    models: tuple[str, ...]
    quick: bool
    models_dir: Path
    temporary: Path

    @property
    def tokens(self) -> int:
        return 8 if self.quick else NEW_TOKENS

    @property
    def most(self) -> int:
        return max(self.users)

    def wants(self, kind: str) -> bool:
        return not self.only or kind.startswith(self.only)

    def knows(self, model: str) -> bool:
        return not self.models or model.startswith(self.models)


class Prompts:
    """Random tokens, the same for every engine, others in every round: no cache helps."""

    def __init__(self, model: str) -> None:
        self._start = STARTS[model]
        self._most = VOCABULARY[model]

    def some(self, seed: str, lengths: Sequence[int]) -> list[list[int]]:
        numbers = random.Random(seed)
        return [
            self._start + [numbers.randrange(1000, self._most) for _ in range(length - 2)]
            for length in lengths
        ]

    def usual(self, seed: str, count: int) -> list[list[int]]:
        numbers = random.Random(seed)
        return self.some(seed, [numbers.randint(75, 96) for _ in range(count)])


def sources(plan: Plan) -> dict[str, dict[str, tuple[str, str]]]:
    """Of each model, which engine can run it: kind -> (family, path)."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for model in (GEMMA, SMOL):
        entry = catalogue.get(model)
        here = loader.weights(entry, plan.models_dir)
        if here.gguf is None:
            print(f"{model} is not in {plan.models_dir}: python -m chat_app models pull {model}")
            continue
        kinds: dict[str, tuple[str, str]] = {}
        folder = here.safetensors
        if folder is None and not plan.quick and plan.knows(model):
            folder = plan.temporary / model
            work(plan, "convert", gguf=str(here.gguf.resolve()), folder=str(folder))
        if folder is not None:
            path = str(folder.resolve())
            kinds = dict.fromkeys(("native-int8", "native-bf16"), (entry.family, path))
            kinds |= dict.fromkeys(("generate", *BATCHING), (entry.family, path))
        try:
            spec = choice.choose(entry, plan.models_dir, Llm(engine="openvino"))
            kinds["openvino"] = (entry.family, spec.path)
        except ModelNotReady:
            pass
        kinds["llama.cpp"] = (entry.family, str(here.gguf.resolve()))
        found[model] = kinds
    if not plan.quick and plan.knows(ONE_B) and GEMMA in found and "native-int8" in found[GEMMA]:
        folder = plan.temporary / "gemma-3-1b"
        folder.mkdir()
        like = found[GEMMA]["native-int8"][1]
        if work(plan, "shape_1b", folder=str(folder), like=like):
            kinds = ("native-int8", "native-bf16", "generate", *BATCHING)
            found[ONE_B] = dict.fromkeys(kinds, ("gemma3", str(folder)))
    return {model: kinds for model, kinds in found.items() if plan.knows(model)}


def work(plan: Plan, what: str, **message: Any) -> dict[str, Any]:
    """Something that needs heavy libraries, done in a process of its own; empty if it failed."""
    print(f"… {what}", file=sys.stderr, flush=True)
    try:
        child = Child({"kind": ""}, plan.temporary, plan.threads)
        try:
            return child.ask(do=what, **message) | {"foreign": child.foreign[-1]}
        finally:
            child.end()
    except Gone as gone:
        print(f"{what} was left out: {gone}")
        return {}


def compare(plan: Plan, model: str, kinds: dict[str, tuple[str, str]]) -> dict[str, Seat]:
    """All engines on one model, in turns."""
    prompts = Prompts(model)
    seats: dict[str, Seat] = {}
    children: dict[str, Child] = {}
    try:
        for kind, (family, path) in kinds.items():
            if not plan.wants(kind):
                continue
            spec = {"kind": kind, "model": model, "family": family, "path": path}
            spec |= {"threads": plan.threads, "users": plan.most}
            with told(kind, model):
                child = Child(spec, plan.temporary, plan.threads)
                try:
                    warm = prompts.usual("warm", plan.most if kind != "generate" else 1)
                    write(child, warm, 4)
                    write(child, prompts.some("warm long", [PREFILL_TOKENS]), 2)
                except BaseException:
                    child.end()
                    raise
                child.foreign.clear()
                children[kind], seats[kind] = child, Seat(kind, child.facts)
        # Half the rounds do for the large one.
        rounds = max(1, (plan.rounds + 1) // 2) if model == ONE_B else plan.rounds
        for number in range(rounds):
            order = list(children)
            random.Random(number).shuffle(order)
            for kind in order:
                print(f"… {model}, round {number + 1}, {kind}", file=sys.stderr, flush=True)
                try:
                    measure(plan, seats[kind], children[kind], prompts, f"{model} {number}")
                except Gone as gone:
                    print(f"{kind} with {model} broke off in round {number + 1}: {gone}")
                    children.pop(kind).end()
        native = children.get("native-int8") or children.get("native-bf16")
        if native is not None and model == GEMMA:
            for _ in range(plan.rounds):
                with told("overhead", model):
                    found = native.ask(do="overhead", users=plan.most, tokens=24)
                    seat = seats["native-int8" if "native-int8" in children else "native-bf16"]
                    seat.note("overhead share", found["share"])
        for kind, child in children.items():
            seats[kind].foreign = max(child.foreign, default=0.0)
    finally:
        for child in children.values():
            child.end()
    return seats


@contextmanager
def told(kind: str, model: str) -> Iterator[None]:
    """An engine that cannot take part is named; the others go on."""
    try:
        yield
    except Gone as gone:
        print(f"{kind} with {model} was left out: {gone}")


def write(
    child: Child, prompts: list[list[int]], tokens: int, arrivals: list[float] | None = None
) -> list[list[tuple[float, int]]]:
    """The moments and tokens of each answer. Raises Gone, also when one came out short."""
    arrivals = arrivals or [0.0] * len(prompts)
    found = child.ask(do="write", prompts=prompts, arrivals=arrivals, tokens=tokens)
    written: list[list[tuple[float, int]]] = found["written"]
    if any(len(answer) != tokens for answer in written):
        raise Gone(f"answers of {[len(answer) for answer in written]} tokens, not {tokens}")
    return written


def measure(plan: Plan, seat: Seat, child: Child, prompts: Prompts, seed: str) -> None:
    """One round of one engine."""
    for users in plan.users:
        count = min(users, GENERATE_REQUESTS) if seat.kind == "generate" else users
        written = write(child, prompts.usual(f"{seed} {users}", count), plan.tokens)
        last = max(answer[-1][0] for answer in written)
        seat.note(f"c{users}", count * plan.tokens / last)
    (first,) = write(child, prompts.some(f"{seed} prefill", [PREFILL_TOKENS]), 1)
    seat.note("prefill", PREFILL_TOKENS / first[0][0])
    (alone,) = write(child, prompts.some(f"{seed} alone", [16]), plan.tokens)
    seat.note("bs1", (plan.tokens - 1) / (alone[-1][0] - alone[0][0]))
    if seat.kind in OURS:
        turns(seat, child, prompts, seed)
    if seat.kind in OURS or seat.kind == "llama.cpp":
        staggered(plan, seat, child, prompts, seed)


def turns(seat: Seat, child: Child, prompts: Prompts, seed: str) -> None:
    """The first token of a second turn, against that of the same length without a first."""
    (first,) = prompts.some(f"{seed} turn", [PREFILL_TOKENS])
    (said,) = write(child, [first], 16)
    (more,) = prompts.some(f"{seed} more", [32])
    again = first + [token for _, token in said] + more[2:]
    (second,) = write(child, [again], 2)
    (cold,) = write(child, prompts.some(f"{seed} cold", [len(again)]), 2)
    seat.note("second turn", second[0][0] / cold[0][0])
    seat.note("second turn ms", 1000 * second[0][0])
    seat.note("cold ms", 1000 * cold[0][0])


def staggered(plan: Plan, seat: Seat, child: Child, prompts: Prompts, seed: str) -> None:
    """Arrivals spread over time: the first token against an empty engine's, the longest gap."""
    alone = []
    for number in range(3):
        (answer,) = write(child, prompts.usual(f"{seed} unloaded {number}", 1), 2)
        alone.append(answer[0][0])
    arrivals = [STAGGER_SECONDS * place / plan.most for place in range(plan.most)]
    texts = prompts.usual(f"{seed} staggered", plan.most)
    written = write(child, texts, plan.tokens, arrivals)
    firsts = [answer[0][0] - arrival for answer, arrival in zip(written, arrivals, strict=True)]
    gaps = [
        after[0] - before[0] for answer in written for before, after in itertools.pairwise(answer)
    ]
    seat.note("unloaded ms", 1000 * statistics.median(alone))
    seat.note("staggered ms", 1000 * statistics.median(firsts))
    seat.note("staggered", statistics.median(firsts) / statistics.median(alone))
    seat.note("gap ms", 1000 * max(gaps))


def product(plan: Plan, model: str, engine: str) -> dict[str, Any]:
    """The figures of the way through the supervisor; empty if it failed."""
    print(f"… the whole way, {model} with {engine}", file=sys.stderr, flush=True)
    spec = {
        "model": model,
        "models_dir": str(plan.models_dir.resolve()),
        "engine": engine,
        "threads": 0,
        "users": plan.most,
        "tokens": 12 if plan.quick else NEW_TOKENS,
        "rounds": 1 if plan.quick else plan.rounds,
    }
    command = [sys.executable, "-m", "benchmarks.engine_product", json.dumps(spec)]
    log = plan.temporary / f"product-{model}-{engine}.log"
    before = time.monotonic(), busy_seconds(), own_seconds()
    try:
        with log.open("wb") as errors:
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=LIMIT_SECONDS,
                check=True,
                env=environment(plan.threads, backend="native"),
            )
        found: dict[str, Any] = json.loads(done.stdout)
        return found | {"foreign": foreign_share(before, own_seconds())}
    except (subprocess.SubprocessError, ValueError):
        lines = log.read_text(errors="replace").strip().splitlines()
        print(f"the whole way with {model} was left out: {lines[-1] if lines else 'no word'}")
        return {}


@dataclass
class Results:
    """Everything that was found."""

    bandwidth: float
    seats: dict[str, dict[str, Seat]] = field(default_factory=dict)
    products: dict[str, dict[str, Any]] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    agreement: dict[str, Any] = field(default_factory=dict)

    def get(self, model: str, kind: str, name: str) -> float | None:
        seat = self.seats.get(model, {}).get(kind)
        return seat.get(name) if seat else None

    def best(self, model: str, name: str, kinds: Sequence[str]) -> float | None:
        """The highest value among these engines."""
        values = [self.get(model, kind, name) for kind in kinds]
        return max((value for value in values if value is not None), default=None)

    def share(self, model: str, kind: str) -> float | None:
        """Decode of one user as a share of what memory allows."""
        seat = self.seats.get(model, {}).get(kind)
        rate = seat.get("bs1") if seat else None
        if seat is None or rate is None or not self.bandwidth:
            return None
        return float(rate * seat.facts["weight_bytes"] / self.bandwidth)


def ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


@dataclass(frozen=True)
class Goal:
    """One line of the table; `value` None: not measured in this run."""

    name: str
    what: str
    value: float | None
    limit: float
    least: bool
    form: str = "{:.2f}"

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "–"
        met = self.value >= self.limit if self.least else self.value <= self.limit
        return "met" if met else "missed"


def goals(results: Results, most: int) -> list[Goal]:
    """The goals of the design with what this run says."""
    rows = []
    load = f"c{most}"
    best = {
        model: results.best(model, load, OURS) for model in (GEMMA, SMOL) if model in results.seats
    }
    for model, value in best.items():
        native = results.best(model, load, ("native-int8", "native-bf16"))
        peers: tuple[tuple[str, Sequence[str], float], ...] = (
            ("transformers batching", BATCHING, 3.0),
            ("llama.cpp server", ("llama.cpp",), 3.0),
            ("generate", ("generate",), 14.0),
        )
        for peer, kinds, limit in peers:
            other = results.best(model, load, kinds)
            what = f"{model}, {most} users, best / {peer}"
            rows.append(Goal("C1", what, ratio(value, other), limit, True, "{:.1f}x"))
            if peer != "generate" and model == GEMMA:
                what = f"{model}, {most} users, native / {peer}"
                rows.append(Goal("C1", what, ratio(native, other), 2.5, True, "{:.1f}x"))
    shares = [results.share(GEMMA, kind) for kind in OURS]
    top = max((share for share in shares if share is not None), default=None)
    rows.append(Goal("C2", "270M, one user, share of bandwidth", top, 0.45, True, "{:.0%}"))
    large = results.share(ONE_B, "native-int8")
    rows.append(Goal("C2", "1B shape, native, share of bandwidth", large, 0.5, True, "{:.0%}"))
    for model in best:
        mine = results.best(model, "prefill", OURS)
        theirs = results.best(model, "prefill", ("generate", *BATCHING))
        what = f"{model}, cold prefill, best / transformers"
        rows.append(Goal("C3", what, ratio(mine, theirs), 1.3, True, "{:.1f}x"))
    for model, kind in ((GEMMA, "native-int8"), (GEMMA, "openvino"), (SMOL, "openvino")):
        if kind not in results.seats.get(model, {}):
            continue
        name = f"{model}, {kind}"
        value = results.get(model, kind, "second turn")
        rows.append(Goal("C4", f"{name}, second turn / cold", value, 0.15, False, "{:.0%}"))
        value = results.get(model, kind, "staggered")
        rows.append(Goal("C5", f"{name}, TTFT staggered / unloaded", value, 2.0, False, "{:.1f}x"))
        value = results.get(model, kind, "gap ms")
        rows.append(Goal("C5", f"{name}, longest gap", value, 150.0, False, "{:.0f} ms"))
    for name, found in results.products.items():
        rows += product_goals(name, found)
    quality = results.quality
    value = quality.get("KL int8 to bfloat16")
    rows.append(Goal("C9", "270M, KL int8 to bf16", value, 0.03, False, "{:.4f}"))
    value = quality.get("top-1 int8 to bfloat16")
    rows.append(Goal("C9", "270M, top-1 int8 as bf16", value, 0.93, True, "{:.1%}"))
    value = results.get(GEMMA, "native-int8", "overhead share")
    what = f"native, {most} users, scheduler + IPC + text of a step"
    rows.append(Goal("C10", what, value, 0.05, False, "{:.1%}"))
    return rows


def product_goals(name: str, found: dict[str, Any]) -> list[Goal]:
    """The goals of the whole way."""
    if not found:
        return []
    step = ratio(found["cancel median ms"], found["step ms"])
    held = found["running after"] + found["answers held after"] + found["cache held after"]
    load, ended = found["load to first token s"], found["process gone"]
    bare = found["bare load to first token s"]
    late, over = found["loop late p99 ms"], found["tokens after cancel, most"]
    return [
        Goal("C4", f"{name}, second turn / cold, as text", found["second to cold"], 0.15, False),
        Goal("C6", f"{name}, cancel / step, medians", step, 1.0, False, "{:.2f}x"),
        Goal("C6", f"{name}, tokens after a cancel", over, 1, False, "{:.0f}"),
        Goal("C6", f"{name}, answers and cache held after", held, 0.01, False, "{:.3f}"),
        Goal("C7", f"{name}, load to first token", load, 2.5, False, "{:.1f} s"),
        Goal("C7", f"{name}, the same while no worker waits", bare, 2.5, False, "{:.1f} s"),
        Goal("C7", f"{name}, process gone after unload", ended, 1.0, True, "{:.0f}"),
        Goal("C8", f"{name}, loop late, p99", late, 5.0, False, "{:.1f} ms"),
    ]


def show(plan: Plan, results: Results) -> None:
    """The tables of all models."""
    columns: list[tuple[str, str]] = [("prefill", "{:.0f}"), ("bs1", "{:.1f}")]
    columns += [(f"c{users}", "{:.0f}") for users in plan.users]
    print(f"\nmemory read: {results.bandwidth / 1e9:.1f} GB/s with {plan.threads} threads")
    for model, seats in results.seats.items():
        print(f"\n{model} (tokens/s)")
        titles = "".join(f"{name:>9}" for name, _ in columns)
        print(f"{'':16}{titles}{'limit':>8}{'second':>8}{'TTFT':>8}{'gap':>8}{'foreign':>9}")
        for kind, seat in seats.items():
            cells = "".join(text(seat.get(name), form, 9) for name, form in columns)
            cells += text(results.share(model, kind), "{:.0%}", 8)
            cells += text(seat.get("second turn"), "{:.0%}", 8)
            cells += text(seat.get("staggered ms"), "{:.0f}", 8)
            cells += text(seat.get("gap ms"), "{:.0f}", 8)
            print(f"{kind:16}{cells}{seat.foreign:>9.0%}")
        for kind in OURS:
            if kind not in seats:
                continue
            for other in seats:
                if other in OURS:
                    continue
                names = [f"c{users}" for users in plan.users]
                numbers = [ratio(seats[kind].get(n), seats[other].get(n)) for n in names]
                cells = "".join(text(number, "{:.2f}x", 9) for number in numbers)
                print(f"  {kind + ' / ' + other:32}{cells}")
    for name, found in results.products.items():
        print(f"\nthe whole way, {name}")
        for label, value in found.items():
            print(
                f"  {label:28} {value:.3f}" if isinstance(value, float) else f"  {label:28} {value}"
            )
    for title, found in (("quality", results.quality), ("agreement", results.agreement)):
        if found:
            print(f"\n{title}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))


def text(value: float | None, form: str, width: int) -> str:
    return f"{'–' if value is None else form.format(value):>{width}}"


def run(plan: Plan) -> Results:
    """The whole benchmark."""
    found = work(plan, "bandwidth", threads=plan.threads)
    results = Results(bandwidth=float(found.get("bytes_per_second", 0.0)))
    here = sources(plan)
    for model, kinds in here.items():
        results.seats[model] = compare(plan, model, kinds)
    if GEMMA in here and plan.wants("product") and "native-int8" in here[GEMMA]:
        results.products[f"{GEMMA}, native"] = product(plan, GEMMA, "native")
    for model in (GEMMA, SMOL):
        if plan.wants("product") and "openvino" in here.get(model, {}):
            results.products[f"{model}, openvino"] = product(plan, model, "openvino")
    if plan.wants("quality") and "native-int8" in here.get(GEMMA, {}):
        path = here[GEMMA]["native-int8"][1]
        results.quality = work(plan, "quality", path=path, threads=plan.threads)
    smol = here.get(SMOL, {})
    if plan.wants("quality") and "openvino" in smol and "native-bf16" in smol:
        results.agreement = work(
            plan,
            "agreement",
            gguf=smol["openvino"][1],
            converted=smol["native-bf16"][1],
            threads=plan.threads,
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models_cache")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--users", default="", help="how many at once, with commas: 1,8,16")
    parser.add_argument("--only", default="", help="beginnings of engines' names, with commas")
    parser.add_argument("--models", default="", help="beginnings of models' names, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs, no more")
    options = parser.parse_args()
    # As an interrupt from the keyboard: the engines' processes are ended.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    users = options.users or ("1,3" if options.quick else "1,8,16")
    with tempfile.TemporaryDirectory(prefix="engine-benchmark-") as folder:
        plan = Plan(
            users=tuple(int(number) for number in users.split(",")),
            rounds=1 if options.quick else options.rounds,
            threads=options.threads,
            only=tuple(name for name in options.only.split(",") if name),
            models=tuple(name for name in options.models.split(",") if name),
            quick=options.quick,
            models_dir=options.models_dir,
            temporary=Path(folder),
        )
        began = time.monotonic()
        results = run(plan)
    show(plan, results)
    table = goals(results, plan.most)
    print(f"\n{'goal':6}{'what':62}{'value':>10}{'wanted':>12}  verdict")
    for goal in table:
        sign = "≥ " if goal.least else "≤ "
        wanted = sign + goal.form.format(goal.limit)
        value = text(goal.value, goal.form, 10)
        print(f"{goal.name:6}{goal.what:62}{value}{wanted:>12}  {goal.verdict}")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes")
    print(
        json.dumps(
            {
                "bandwidth": results.bandwidth,
                "threads": plan.threads,
                "seats": {
                    model: {
                        kind: {
                            "facts": seat.facts,
                            "values": {name: seat.get(name) for name in seat.values},
                            "foreign": seat.foreign,
                        }
                        for kind, seat in seats.items()
                    }
                    for model, seats in results.seats.items()
                },
                "products": results.products,
                "quality": results.quality,
                "agreement": results.agreement,
                "goals": [[goal.name, goal.what, goal.value, goal.verdict] for goal in table],
            }
        )
    )


if __name__ == "__main__":
    main()
