"""GGUF to safetensors: the converted model computes what the original computes."""

from pathlib import Path
from typing import Any

import pytest

from chat_app.llm import convert, gguf_header

gguf = pytest.importorskip("gguf")
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}


def random_model(family: str) -> Any:
    """A tiny model with random weights that bfloat16 holds exactly; windows of 8 tokens."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    if family == "llama":
        config = LlamaConfig(
            **SIZES,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 5e4},
        )
        model = LlamaForCausalLM(config)
    else:
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **SIZES,
                sliding_window=8,
                query_pre_attn_scalar=16,
                layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
                rope_parameters={
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            )
        )
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
        parameter.data = parameter.data.bfloat16().float()
    return model.eval()


def finish(writer: Any) -> None:
    """Put what it was told into its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(model: Any, family: str, path: Path) -> None:
    """The model as a GGUF file with the layout that such files have."""
    names = {
        part: short for short, part in (convert._LAYER | convert._FAMILY_LAYER[family]).items()
    }
    writer = gguf.GGUFWriter(str(path), family)
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family == "gemma3":
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base(1e6)
    else:
        writer.add_rope_freq_base(5e4)
    for name, values in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        if family == "gemma3" and name.endswith("norm.weight"):
            values = values + 1
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            rows, columns = values.shape
            halves = values.view(heads, 2, rows // heads // 2, columns)
            values = halves.transpose(1, 2).reshape(rows, columns)
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            short = f"blk.{layer}.{names[rest.removesuffix('.weight')]}.weight"
        else:
            short = {"model.embed_tokens.weight": "token_embd.weight"}.get(
                name, "output_norm.weight"
            )
        writer.add_tensor(short, values.contiguous().numpy())
    finish(writer)


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_a_converted_model_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    original = random_model(family)
    write_gguf(original, family, tmp_path / "m.gguf")
    folder = tmp_path / "out"
    folder.mkdir()
    assert convert.model(tmp_path / "m.gguf", folder) == family
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.randint(0, 96, (1, 40), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, got = original(tokens).logits, converted(tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "mamba")
    finish(writer)
    with pytest.raises(convert.Unreadable, match="mamba"):
        convert.convert(tmp_path / "m.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_cut_file_is_refused(share: float, tmp_path: Path) -> None:
    whole = tmp_path / "m.gguf"
    write_gguf(random_model("llama"), "llama", whole)
    whole.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(convert.Unreadable, match=r"m\.gguf"):
        convert.convert(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("said", [(), ("attention.head_count", "block_count", "embedding_length")])
def test_a_file_without_its_measures_is_refused(said: tuple[str, ...], tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    for name in said:
        writer.add_uint32(f"llama.{name}", 4)
    finish(writer)
    with pytest.raises(convert.Unreadable, match="no embedding" if said else "head count"):
        convert.convert(tmp_path / "m.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alignment", [0, "32"])
def test_a_wrong_alignment_is_refused(alignment: int | str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    if isinstance(alignment, int):
        writer.add_uint32("general.alignment", alignment)
    else:
        writer.add_string("general.alignment", alignment)
    finish(writer)
    with pytest.raises(gguf_header.NotGguf, match="damaged"):
        gguf_header.read(tmp_path / "m.gguf")


def test_numbers_of_an_unknown_kind_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(bytes(64))
    tensor = gguf_header.Tensor("blk.0.attn_q.weight", (2, 4), kind=999, start=0)
    with pytest.raises(convert.Unreadable, match=r"blk\.0\.attn_q\.weight"):
        convert._numbers(file, tensor)
