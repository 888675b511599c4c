"""The denoiser against transformers' Qwen3, Qwen2 and Llama, in both directions: small random weights, float32."""

import pytest
import torch
import transformers

from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.models.config import RotaryScaling
from quicksilver.models.topology import Topology
from tests.tiny import logits_of, random_denoiser, random_tokens, tiny_config

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
SPEC = DiffusionSpec(
    objective=Objective.AUTOREGRESSIVE,
    special=SpecialIds(pad=0, eos=1, mask=2),
    layouts=(Layout.BLOCK_CAUSAL,),
    block_length=1,
    trained_block_lengths=(1,),
    prediction_shift=1,
)


SCALING = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
OUR_SCALING = RotaryScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=64)
TOKENS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
THEIRS = {
    "qwen3": lambda **keys: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(head_dim=8, **keys)),
    "qwen2": lambda **keys: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**keys)),
    "llama": lambda **keys: transformers.LlamaForCausalLM(transformers.LlamaConfig(**keys)),
    "llama3": lambda **keys: transformers.LlamaForCausalLM(transformers.LlamaConfig(rope_parameters=SCALING, **keys)),
}


def build_theirs(family, is_tied):
    model = THEIRS[family](**SHAPE, **TOKENS, tie_word_embeddings=is_tied)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * draw if name.endswith("norm.weight") else 0.3 * draw)
    return model.eval()


def causal(token_ids):
    return Topology.block_causal(torch.arange(token_ids.shape[1]).expand_as(token_ids))


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("family", list(THEIRS))
@torch.no_grad()
def test_their_folder_read_by_us_gives_their_logits(family, is_tied, tmp_path):
    theirs = build_theirs(family, is_tied)
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours, spec = load_folder(tmp_path)
    assert ours.config.has_tied_embeddings == is_tied
    assert (spec.objective, spec.prediction_shift, spec.special.eos) == (Objective.AUTOREGRESSIVE, 1, 1)
    token_ids = random_tokens(2, 60)
    expected = theirs(input_ids=token_ids).logits
    torch.testing.assert_close(logits_of(ours, token_ids, causal(token_ids)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(has_tied_embeddings=False, rope_theta=1e6),
        tiny_config(has_qkv_bias=True, has_qk_norm=False),
        tiny_config(has_qk_norm=False),
        tiny_config(
            has_qk_norm=False,
            rotary_scaling=OUR_SCALING,
        ),
    ],
    ids=["qwen3", "qwen3-untied", "qwen2", "llama", "llama3"],
)
@torch.no_grad()
def test_our_folder_read_by_them_gives_our_logits(config, tmp_path):
    ours = random_denoiser(config, dtype=torch.float32)
    save_folder(tmp_path, ours, SPEC, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    token_ids = random_tokens(2, 30)
    expected = logits_of(ours, token_ids, causal(token_ids))
    torch.testing.assert_close(theirs(input_ids=token_ids).logits, expected, rtol=0, atol=1e-4)
