"""Our engine on a GPU against transformers and against what the memory's speed allows.

    python -m benchmarks.engine_gpu [--out results.json] [--smoke] [--seconds 440]

Random weights of the shapes of Gemma 3 1B and 12B, made on the device: nothing is downloaded. In
one run, on one machine, it prints for one and for 100 users

- tokens per second while all are written, and the share of the bandwidth limit: reading every
  weight once a step and every user's cache once
- the share of a step in which the GPU waits (graphs replayed back to back against real steps)
- the same for 8-bit floats and nf4, and how far their next-token distributions are from bfloat16
- transformers' `generate`, one by one, and its continuous batching, as the baselines

It first proves the kernels and the graphs on this very GPU. Every part runs in a process of its
own with a limit, so that one that breaks costs its own figures only. `--smoke` runs the same code
on the CPU with a tiny shape. Needs torch with CUDA, triton, transformers; bitsandbytes for nf4.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from chat_app.llm.engine import Sampling
from chat_app.llm.native import gpu, plain, proof, shape, small
from chat_app.llm.native.ahead import Ahead
from chat_app.llm.native.cache import Cache, blocks
from chat_app.llm.native.graphs import Decoder
from chat_app.llm.native.linear import Plain
from chat_app.llm.native.memory import Memory
from chat_app.llm.native.model import Layer, Model
from chat_app.llm.native.runner import Runner

_GEMMA: dict[str, Any] = {
    "model_type": "gemma3_text",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 4096,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "1b": _GEMMA
    | {
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "vocab_size": 262144,
        "sliding_window": 512,
    },
    "12b": _GEMMA
    | {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 262208,
        "sliding_window": 1024,
    },
    "smoke": _GEMMA
    | {
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "sliding_window": 32,
    },
}
FORMS: tuple[gpu.Form, ...] = ("bfloat16", "float8", "nf4")
USERS = 100
# The middle of these answers is at 600 tokens, as the goals are stated.
PROMPT, NEW = 472, 256
SLOTS, CHUNK = 128, 2048
WARM = Sampling(temperature=0.8, top_k=64, top_p=0.95)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], times: int) -> float:
    """Of one `work`, the median of three rounds after a warm-up."""
    work()
    rounds = []
    for _ in range(3):
        wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        wait()
        rounds.append((time.perf_counter() - began) / times)
    return sorted(rounds)[1]


# --- the parts ----------------------------------------------------------------------------------


def limits(name: str) -> dict[str, Any]:
    """What the device is, and how fast its memory moves bytes."""
    place = device()
    size = (4 << 30) if place.type == "cuda" else (16 << 20)
    one = torch.randint(0, 127, (size,), dtype=torch.int8, device=place)
    two = torch.empty_like(one)
    apart = seconds(lambda: two.copy_(one), 10)
    cuda = place.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "memory_gib": torch.cuda.mem_get_info()[1] / 2**30 if cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bytes_per_second": 2 * size / apart,
    }


def checks(name: str) -> dict[str, Any]:
    """Kernels against PyTorch with the model's measures, and whole texts against plain steps."""
    measures, place = shape.of(CONFIGS[name]), device()
    maths = _maths()
    kind = torch.bfloat16 if place.type == "cuda" else torch.float32
    found: dict[str, Any] = {"differs": proof.differs(maths, measures, kind, place)}
    tiny = shape.of(CONFIGS["smoke"])
    model = random_model(tiny, "bfloat16", work=torch.float32)
    texts = []
    for ahead in (False, True):
        runner, decoder, why = runner_of(model, dtype=torch.float32, ahead=ahead, users=8)
        for user in range(8):
            way = WARM if user % 2 else Sampling(temperature=0.0)
            runner.add(str(user), tokens(user, 40 + user, 512), way, 24, seed=user, scope="")
        texts.append(finish(runner))
    found |= {"same_texts": texts[0] == texts[1], "graphs": decoder.captured, "why": why}
    return found


def ours(name: str) -> dict[str, Any]:
    """Our engine in every form, for one user and for many."""
    measures = shape.of(CONFIGS[name])
    users, prompt, new = _traffic(name)
    found: dict[str, Any] = {}
    reference: torch.Tensor | None = None
    for form in FORMS:
        try:
            model = random_model(measures, form)
        except ImportError as error:
            found[form] = {"missing": str(error)}
            continue
        runner, decoder, why = runner_of(model, ahead=True, users=users + 1)
        found[form] = figures = {"why": why, "weights_bytes": model.bytes}
        with torch.inference_mode():
            logits = _logits(model, runner, tokens(1, 64, measures.vocabulary))
        if reference is None:
            reference = logits
        figures["kl"] = float((reference.exp() * (reference - logits)).sum(-1).mean())
        figures["agreement"] = float((reference.argmax(-1) == logits.argmax(-1)).float().mean())
        for count in (1, *({64} if users > 64 else ()), users):
            figures[str(count)] = traffic(runner, measures, count, prompt, new)
        figures["step_seconds"] = _replay(decoder, users)
        figures["one_step_seconds"] = _replay(decoder, 1)
        del model, runner, decoder
        _clear()
    return found


def theirs(name: str) -> dict[str, Any]:
    """transformers' generate for one user."""
    prompt = _traffic(name)[1]
    model = _their_model(name)
    new = 96 if name != "smoke" else 8
    vocabulary = CONFIGS[name]["vocab_size"]
    ids = torch.tensor([tokens(1, prompt, vocabulary)], device=device())

    def run(count: int) -> float:
        wait()
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        wait()
        return time.perf_counter() - began

    run(4)
    one, many = run(2), run(new)
    return {"tokens_per_second": (new - 2) / (many - one)}


def batching(name: str) -> dict[str, Any]:
    """transformers' continuous batching for many users; its prompts are read meanwhile."""
    from transformers import GenerationConfig

    users = _traffic(name)[0]
    model = _their_model(name)
    vocabulary = CONFIGS[name]["vocab_size"]
    new = 128 if name != "smoke" else 4
    texts = [tokens(user, 32, vocabulary) for user in range(users)]
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1)
    more: dict[str, Any] = {}
    if name == "smoke":
        # Left alone, it takes most of the machine's memory.
        from transformers.generation import ContinuousBatchingConfig

        more["continuous_batching_config"] = ContinuousBatchingConfig(
            num_blocks=16, max_batch_tokens=64
        )
    found: dict[str, Any] = {}
    # The first round is the warm-up.
    for count in (2, users) if name != "smoke" else (users,):
        began = time.perf_counter()
        out = model.generate_batch(
            texts[:count], generation_config=settings, progress_bar=False, **more
        )
        apart = time.perf_counter() - began
        made = sum(len(each.generated_tokens) for each in out.values())
        found = {"tokens_per_second": made / apart, "prompt_tokens": 32, "new_tokens": new}
    return found


PARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "limits": limits,
    "checks": checks,
    "ours": ours,
    "theirs": theirs,
    "batching": batching,
}
# Which part with which shape, and how long it may take at most, in seconds.
PLAN = [
    ("limits", "1b", 60),
    ("checks", "1b", 90),
    ("checks", "12b", 90),
    ("ours", "1b", 120),
    ("ours", "12b", 180),
    ("theirs", "1b", 60),
    ("theirs", "12b", 60),
    ("batching", "1b", 90),
]


# --- models and traffic -------------------------------------------------------------------------


def _maths() -> Any:
    if device().type == "cpu":
        return plain
    from chat_app.llm.native import kernels

    return kernels


def random_model(
    measures: shape.Shape, form: gpu.Form, *, work: torch.dtype | None = None
) -> Model:
    """Weights that keep numbers in bounds, the same for every form."""
    place = device()
    generator = torch.Generator(place).manual_seed(11)
    kind = work or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    inputs = gpu.eighths() if form == "float8" and place.type == "cuda" else None

    def random(rows: int, columns: int) -> torch.Tensor:
        made = torch.randn(rows, columns, generator=generator, device=place, dtype=torch.bfloat16)
        return made.mul_(columns**-0.5).to(kind)

    def matrix(rows: int, columns: int) -> Any:
        weight = random(rows, columns)
        if form == "bfloat16":
            return Plain(weight)
        return small.linear(weight, form, place, inputs)

    def ones(*sizes: int) -> torch.Tensor:
        return torch.ones(sizes, device=place)

    hidden, size = measures.hidden, measures.head_size
    both = measures.heads + measures.kv_heads
    layers = [
        Layer(
            before_attention=ones(hidden),
            after_attention=ones(hidden) * 0.2,
            before_mlp=ones(hidden),
            after_mlp=ones(hidden) * 0.2,
            heads_norm=ones(both, size),
            qkv=matrix((both + measures.kv_heads) * size, hidden),
            out=matrix(hidden, measures.heads * size),
            gate_up=matrix(2 * measures.inner, hidden),
            down=matrix(hidden, measures.inner),
        )
        for _ in range(measures.layers)
    ]
    embedding = random(measures.vocabulary, hidden)
    return Model(
        measures,
        embedding=embedding,
        layers=layers,
        norm=ones(hidden) * 3,
        head=Plain(embedding),
        device=place,
        work=kind,
        positions=2048,
    )


def runner_of(
    model: Model, *, ahead: bool, users: int, dtype: torch.dtype | None = None
) -> tuple[Runner, Any, str]:
    """A runner with room for so many users of these benchmarks."""
    place, measures = device(), model.shape
    kind = dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    count = users * (blocks(PROMPT + NEW) + 2) + 200
    cache = Cache(wide_blocks=count, near_blocks=count, window=measures.window, chunk_tokens=CHUNK)
    memory = Memory(measures, wide_blocks=count, near_blocks=count, dtype=kind, device=place)
    settings: dict[str, Any] = {
        "ends": frozenset(),
        "chunk_tokens": CHUNK // 2,
        "quiet_chunk_tokens": CHUNK,
    }
    if not ahead:
        return Runner(model, cache, memory, **settings), None, ""
    if place.type == "cuda":
        decoder, why = gpu.decoder(model, memory, slots=SLOTS, context_tokens=1024)
        if decoder is None:
            raise RuntimeError(why)
    else:
        decoder = Decoder(model, memory, slots=users, context_tokens=1024)
        why = "the steps' functions are called, without graphs"
    return Ahead(model, cache, memory, **settings, decoder=decoder), decoder, why


def tokens(seed: int, count: int, vocabulary: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    made: list[int] = torch.randint(5, vocabulary, (count,), generator=generator).tolist()
    return made


def _traffic(name: str) -> tuple[int, int, int]:
    return (3, 24, 8) if name == "smoke" else (USERS, PROMPT, NEW)


def finish(runner: Runner) -> dict[str, list[int]]:
    made: dict[str, list[int]] = {}
    while runner.running:
        for step in runner.step():
            if step.error is not None:
                raise step.error
            made.setdefault(step.id, []).extend(step.tokens)
    return made


def traffic(
    runner: Runner, measures: shape.Shape, users: int, prompt: int, new: int
) -> dict[str, float]:
    """So many users at once. Decoding is timed while all of them are written."""
    wait()
    began = time.perf_counter()
    for user in range(users):
        # Scopes differ, or the second round would find the first one's prompts.
        scope = f"{began}{user}"
        runner.add(
            str(user), tokens(user, prompt, measures.vocabulary), WARM, new, seed=user, scope=scope
        )
    have: dict[str, int] = {}
    first = start = end = 0.0
    counted = steps = 0
    while runner.running:
        done = runner.step()
        now = time.perf_counter()
        for step in done:
            if step.error is not None:
                raise step.error
            have[step.id] = have.get(step.id, 0) + len(step.tokens)
        if have and not first:
            first = now
        if start and not end:
            counted += sum(len(step.tokens) for step in done)
            steps += 1
            end = now if any(step.finish for step in done) else 0.0
        elif not start and len(have) == users and min(have.values()) >= 3:
            start = now
    wait()
    total = time.perf_counter() - began
    apart = max(end - start, 1e-9)
    return {
        "tokens_per_second": counted / apart,
        "step_seconds": apart / max(1, steps),
        "first_token_seconds": first - began,
        "tokens_per_second_with_prompts": users * new / total,
    }


def _replay(decoder: Any, users: int) -> float:
    """A step of so many users with nothing between the steps: what the GPU needs for it."""
    from chat_app.llm.native.graphs import Row

    # Where the middle of the answers is, as long as the slots' tables reach that far.
    place = min(PROMPT + NEW // 2, 1000)
    rows = [Row(slot=user, position=place, wide=1, near=1, greedy=False) for user in range(users)]
    size = next(size for size in decoder.buckets if size >= users)
    with torch.inference_mode():
        decoder.step(rows).read()
        graph = decoder._graphs.get((size, False))
        work = graph.replay if graph else lambda: decoder._step(size, False)
        return seconds(work, 20 if device().type == "cuda" else 2)


def _logits(model: Model, runner: Runner, text: list[int]) -> torch.Tensor:
    from chat_app.llm.native.memory import Gathered, Piece

    cache = runner._cache
    table = cache.open(text, len(text), "logits")
    assert table is not None, "nobody is running"
    cache.extend(table, len(text))
    places = torch.arange(len(text), device=model.device)
    look = Gathered(runner._memory, [Piece(table, 0, len(text))])
    out = model.forward(torch.tensor(text, device=model.device), places, look)
    cache.close(table)
    return out.float().log_softmax(-1)


def _their_model(name: str) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    values = {key: value for key, value in CONFIGS[name].items() if key != "model_type"}
    pattern = values.pop("sliding_window_pattern")
    near, wide = values.pop("rope_local_base_freq"), values.pop("rope_theta")
    config = Gemma3TextConfig(
        **values,
        layer_types=[
            "full_attention" if (index + 1) % pattern == 0 else "sliding_attention"
            for index in range(values["num_hidden_layers"])
        ],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": wide},
            "sliding_attention": {"rope_type": "default", "rope_theta": near},
        },
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device():
            return Gemma3ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def _clear() -> None:
    import gc

    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()


# --- the story ----------------------------------------------------------------------------------


def limit(measures: shape.Shape, form: gpu.Form, users: int, context: int, speed: float) -> float:
    """Tokens per second if a step did nothing but read weights and caches at this speed."""
    near = min(context, measures.window or context)
    cached = 2 * (
        context * measures.cache_values(near=False) + near * measures.cache_values(near=True)
    )
    return users * speed / (gpu.weights_bytes(measures, form) + users * cached)


def told(results: dict[str, Any], names: list[str]) -> list[str]:
    """The table, line by line; what has no figure is named."""
    lines = []
    speed = results["limits"].get("bytes_per_second", 0.0)
    head = f"{'model':6} {'form':9} {'users':>5} {'tok/s':>9} {'limit':>9} {'share':>6}"
    lines.append(f"{head} {'idle':>6} {'x generate':>10} {'x batching':>10} {'KL':>8}")
    for name in names:
        measures = shape.of(CONFIGS[name])
        users, prompt, new = _traffic(name)
        their = results.get(f"theirs {name}", {}).get("tokens_per_second")
        batched = results.get(f"batching {name}", {}).get("tokens_per_second")
        for form, figures in results.get(f"ours {name}", {}).items():
            if not isinstance(figures, dict) or str(users) not in figures:
                lines.append(f"{name:6} {form:9} {figures}")
                continue
            for count in (1, 64, users):
                if str(count) not in figures:
                    continue
                got = figures[str(count)]["tokens_per_second"]
                most = limit(measures, form, count, prompt + new // 2, speed)
                share, idle = f"{got / most:.0%}" if most else "–", ""
                if count in (1, users):
                    alone = figures["one_step_seconds" if count == 1 else "step_seconds"]
                    idle = f"{max(0.0, 1 - alone / figures[str(count)]['step_seconds']):.0%}"
                lines.append(
                    f"{name:6} {form:9} {count:5} {got:9.0f} {most:9.0f} {share:>6} "
                    f"{idle:>6} {_ratio(got, their):>10} "
                    f"{_ratio(got, batched if count == users else None):>10} {figures['kl']:8.4f}"
                )
    for key, found in results.items():
        if key.startswith("checks") and "same_texts" in found:
            kernels = f"another {found['differs']}" if found["differs"] else "agree"
            texts = "the same" if found["same_texts"] else "DIFFERENT"
            lines.append(f"{key}: kernels {kernels}; texts {texts}; {found['why']}")
    lines += [
        f"failed: {key}: {part['failed']}" for key, part in results.items() if "failed" in part
    ]
    return lines


def _ratio(got: float, other: float | None) -> str:
    return f"{got / other:.1f}" if other else "–"


def part(name: str, model: str, allowed: float) -> dict[str, Any]:
    """One part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.engine_gpu", "--part", name, "--model", model]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=allowed,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {allowed:.0f} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {"failed": "\n".join(done.stderr.strip().splitlines()[-6:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape, in this process")
    parser.add_argument("--seconds", type=float, default=440, help="begin no part after this time")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--model", choices=CONFIGS, default="1b", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options.model)), flush=True)
        return
    if options.smoke:
        torch.set_num_threads(1)
    began = time.monotonic()
    results: dict[str, Any] = {}
    names = ["smoke"] if options.smoke else ["1b", "12b"]
    plan = [(each, "smoke", 60) for each in PARTS] if options.smoke else PLAN
    for name, model, allowed in plan:
        key = name if name == "limits" else f"{name} {model}"
        left = options.seconds - (time.monotonic() - began)
        if options.smoke:
            results[key] = PARTS[name](model)
        elif left < 5:
            results[key] = {"failed": "no time was left"}
        else:
            results[key] = part(name, model, min(allowed, left))
        print(f"{key}: {time.monotonic() - began:.0f} s", flush=True)
    results["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results["run_seconds"] = round(time.monotonic() - began)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(json.dumps(results))
    machine = results["limits"]
    print(f"\n{machine.get('device')}, {machine.get('bytes_per_second', 0) / 1e9:.0f} GB/s")
    print("\n".join(told({k: v for k, v in results.items() if isinstance(v, dict)}, names)))


if __name__ == "__main__":
    main()
