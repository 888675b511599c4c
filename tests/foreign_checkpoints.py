"""Folders as other people publish them, with random weights, for tests of loading and importing."""

import json
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.tiny_checkpoints import SOURCE

VOCAB_SIZE = 320
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
SPECIAL = ("<|endoftext|>", "<|mask|>")


def save_tokenizer(folder: Path, special: tuple[str, ...] = SPECIAL) -> None:
    """A byte-level tokenizer.json below ``VOCAB_SIZE``, its special tokens last, and a tokenizer_config.json."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([SOURCE], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    backend.add_special_tokens(list(special))
    backend.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    config = {"eos_token": special[0], "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_autoregressive(folder: Path, dtype: torch.dtype = torch.bfloat16) -> transformers.PreTrainedModel:
    """A Qwen2 folder in several shards, as transformers writes it; returns what was written."""
    torch.manual_seed(0)
    save_tokenizer(folder)
    eos = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(SPECIAL[0])
    config = transformers.Qwen2Config(**SHAPE, eos_token_id=eos, bos_token_id=None, pad_token_id=None)
    model = transformers.Qwen2ForCausalLM(config).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.2 * draw if name.endswith("norm.weight") else 0.2 * draw)
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "README.md").write_text("by somebody else")
    return model
