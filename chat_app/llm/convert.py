"""GGUF to safetensors, once after the download: slow to do at every start, quick to load then.

Two layouts differ from what transformers expects: Gemma's norm weights are stored plus one, and
the rows of Llama's query and key projections are interleaved. It knows only these families.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat_app.llm import gguf_header
from chat_app.llm.gguf_header import Header, NotGguf, Tensor

Progress = Callable[[float], None]

_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
_FAMILY_LAYER = {
    "gemma3": {
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    "llama": {"ffn_norm": "post_attention_layernorm"},
}
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# Gemma 3: every sixth layer sees everything, the others a window.
_GEMMA_PATTERN = 6
_GEMMA_LOCAL_ROPE = 10_000.0


class Unreadable(Exception):
    """The file is no GGUF of a family that can be converted; the sentence says what it is."""


def convert(gguf_path: Path, folder: Path, progress: Progress = lambda _share: None) -> None:
    """Write `folder` with bfloat16 safetensors, the configuration and the tokenizer.

    The folder appears whole or not at all. Raises Unreadable.
    """
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    family = model(gguf_path, draft, progress)
    _tokenizer(gguf_path, family, draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def model(gguf_path: Path, folder: Path, progress: Progress = lambda _share: None) -> str:
    """Write the configuration and the weights into `folder`; the family's name."""
    try:
        header = gguf_header.read(gguf_path)
    except NotGguf as error:
        raise Unreadable(str(error)) from error
    family = _family(header)
    config = _config(header, family)
    config.save_pretrained(folder)
    _weights(gguf_path, header, config, folder, progress)
    return family


def _family(header: Header) -> str:
    name = str(header.fields.get("general.architecture", "unknown"))
    if name not in _FAMILY_LAYER:
        raise Unreadable(f"This file holds a model of the family {name}, which is not supported.")
    return name


def _config(header: Header, family: str) -> Any:
    from transformers import Gemma3TextConfig, LlamaConfig

    def get(name: str, default: Any = None) -> Any:
        value = header.fields.get(f"{family}.{name}", default)
        if value is None:
            raise Unreadable(f"The file does not say its {name.replace('_', ' ')}.")
        return value

    heads = int(get("attention.head_count"))
    layers = int(get("block_count"))
    hidden = int(get("embedding_length"))
    words = next((t.shape[0] for t in header.tensors if t.name == "token_embd.weight"), None)
    if words is None:
        raise Unreadable("The file has no embedding.")
    common = {
        "architectures": ["Gemma3ForCausalLM" if family == "gemma3" else "LlamaForCausalLM"],
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": int(get("feed_forward_length")),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": int(get("attention.head_count_kv", heads)),
        "head_dim": int(get("attention.key_length", hidden // heads)),
        "max_position_embeddings": int(get("context_length")),
        "rms_norm_eps": float(get("attention.layer_norm_rms_epsilon")),
        "bos_token_id": header.fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": header.fields.get("tokenizer.ggml.padding_token_id"),
        "tie_word_embeddings": all(t.name != "output.weight" for t in header.tensors),
        "dtype": "bfloat16",
    }
    base = float(get("rope.freq_base", 10_000.0))
    if family == "llama":
        return LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": base}, **common)
    kinds = [
        "full_attention" if (index + 1) % _GEMMA_PATTERN == 0 else "sliding_attention"
        for index in range(layers)
    ]
    return Gemma3TextConfig(
        sliding_window=int(get("attention.sliding_window")),
        query_pre_attn_scalar=common["head_dim"],
        layer_types=kinds,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": base},
            "sliding_attention": {"rope_type": "default", "rope_theta": _GEMMA_LOCAL_ROPE},
        },
        **common,
    )


def _weights(
    gguf_path: Path, header: Header, config: Any, folder: Path, progress: Progress
) -> None:
    import torch
    from safetensors.torch import save_file

    family = _family(header)
    tensors = {}
    for index, tensor in enumerate(header.tensors):
        name = _name(tensor.name, family)
        if name is None:
            continue
        values = torch.from_numpy(_numbers(gguf_path, tensor))
        if family == "gemma3" and name.endswith("norm.weight"):
            values = values - 1
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            rows, columns = values.shape
            values = values.view(heads, rows // heads // 2, 2, columns).transpose(1, 2)
            values = values.reshape(rows, columns)
        tensors[name] = values.to(torch.bfloat16).contiguous()
        progress((index + 1) / len(header.tensors))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _numbers(gguf_path: Path, tensor: Tensor) -> Any:
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    try:
        kind = GGMLQuantizationType(tensor.kind)
        shape = quant_shape_to_byte_shape(tensor.shape, kind)
        packed = np.memmap(gguf_path, np.uint8, mode="r", offset=tensor.start, shape=shape)
        return np.require(dequantize(packed, kind), np.float32, "W")
    except (ValueError, OverflowError, NotImplementedError) as error:
        sentence = f"The tensor {tensor.name} of {gguf_path.name} cannot be read: {error}"
        raise Unreadable(sentence) from error


def _name(name: str, family: str) -> str | None:
    if name in _TOP:
        return _TOP[name]
    kind, _, rest = name.partition(".")
    if kind != "blk":
        return None
    layer, _, rest = rest.partition(".")
    part, _, suffix = rest.partition(".")
    known = _LAYER | _FAMILY_LAYER[family]
    if part not in known:
        raise Unreadable(f"The file has a tensor {name}, which this family should not have.")
    return f"model.layers.{layer}.{known[part]}.{suffix}"


def _tokenizer(gguf_path: Path, family: str, folder: Path) -> None:
    from transformers import GemmaTokenizer, PreTrainedTokenizerFast

    # By name, because `AutoTokenizer` reads the whole file once more to know that name.
    kind = GemmaTokenizer if family == "gemma3" else PreTrainedTokenizerFast
    tokenizer = kind.from_pretrained(str(gguf_path.parent), gguf_file=gguf_path.name)
    tokenizer.save_pretrained(folder)
    # Once more on one line: half the bytes, and every load reads them.
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    # Answers must not end only at the end of the text: a chat's turn has its own end.
    ends = {tokenizer.eos_token_id}
    turn = "<end_of_turn>" if family == "gemma3" else "<|im_end|>"
    if (token := tokenizer.convert_tokens_to_ids(turn)) is not None:
        ends.add(token)
    ends.discard(None)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": sorted(ends)}, indent=2), encoding="utf-8")
