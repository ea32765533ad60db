"""A model of a few thousand random weights in a models directory: fast, and it says nonsense."""

import json
import string
from pathlib import Path

from chat_app.llm import catalogue, loader

SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<unk>"]
PROSE = """Tell me a story. Count to ten. How are you? Say it again: the word of the river, the mill
and the sea, where one two three four five six seven eight nine ten birds sat and sang all day."""
TOKENS = 320


def put(folder: Path, model: str) -> Path:
    """A small Gemma 3 under the name of a real one; the models directory."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    entry = catalogue.get(model)
    place = folder / model / loader.SAFETENSORS
    place.mkdir(parents=True)
    _tokenizer(place)
    torch.manual_seed(5)
    made = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=TOKENS,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            sliding_window=32,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            max_position_embeddings=entry.context_tokens,
        )
    )
    with torch.no_grad():
        for parameter in made.parameters():
            # Far enough apart that the likeliest token changes with what was said.
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        made.get_input_embeddings().weight[: len(SPECIAL)] = 0  # so it never ends by itself
    made.generation_config.eos_token_id = [1, 4]
    made.save_pretrained(place)
    manifest = {"source": loader._identity(entry), "files": {}}
    (folder / model / loader.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer(BPE(unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    fast.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=SPECIAL,
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation),
    )
    fast.train_from_iterator([PROSE], trainer)
    assert fast.get_vocab_size() <= TOKENS
    PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(folder)
