"""What `config.json` says, read without transformers, is what transformers reads from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from chat_app.llm.native import shape

# The published configurations of Gemma 3, as facts, in the old way of writing.
HUB = {
    "1b": {
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
    },
    "4b": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    },
    "12b": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 3840,
            "intermediate_size": 15360,
            "num_attention_heads": 16,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    },
    "llama": {"model_type": "llama", "num_key_value_heads": 8, "rope_theta": 500000.0},
    "bare llama": {"model_type": "llama"},
    "bare gemma": {"model_type": "gemma3_text"},
}


def saved(folder: Path, name: str, *, anew: bool) -> Any:
    """transformers' view; with `anew`, the file is as transformers would write it today."""
    from transformers import AutoConfig

    (folder / "config.json").write_text(json.dumps(HUB[name]))
    config = AutoConfig.from_pretrained(folder)
    if anew:
        config.save_pretrained(folder)
    return config.get_text_config()


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("name", HUB)
def test_it_reads_what_transformers_reads(tmp_path: Path, name: str, *, anew: bool) -> None:
    theirs = saved(tmp_path, name, anew=anew)
    ours = shape.read(tmp_path)
    assert (ours.hidden, ours.inner) == (theirs.hidden_size, theirs.intermediate_size)
    assert (ours.heads, ours.kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert ours.head_size == theirs.head_dim
    assert (ours.vocabulary, ours.epsilon) == (theirs.vocab_size, theirs.rms_norm_eps)
    assert ours.positions == theirs.max_position_embeddings
    assert ours.tied == theirs.tie_word_embeddings
    if ours.gemma:
        near = [kind == "sliding_attention" for kind in theirs.layer_types]
        assert ours.windows == tuple(theirs.sliding_window if one else 0 for one in near)
        assert ours.attention_scale == theirs.query_pre_attn_scalar**-0.5
    else:
        assert ours.windows == (0,) * theirs.num_hidden_layers
    for index, rope in enumerate(ours.ropes):
        all_kinds = theirs.rope_parameters
        expected = all_kinds[theirs.layer_types[index]] if ours.gemma else all_kinds
        assert rope == shape.Rope(expected["rope_theta"], expected.get("factor", 1.0))
