"""The denoiser against transformers' Qwen3 and Qwen2, in both directions: small random weights, float32, 1e-4."""

import json

import pytest
import torch
import transformers

from quicksilver.checkpoints.folder import save_folder
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
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


def build_theirs(family, is_tied):
    if family == "qwen3":
        config = transformers.Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=is_tied)
        model = transformers.Qwen3ForCausalLM(config)
    else:
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE, tie_word_embeddings=is_tied))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * draw if name.endswith("norm.weight") else 0.3 * draw)
    return model.eval()


def causal(token_ids):
    return Topology.block_causal(torch.arange(token_ids.shape[1]).expand_as(token_ids))


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
@torch.no_grad()
def test_their_folder_read_by_us_gives_their_logits(family, is_tied, tmp_path):
    theirs = build_theirs(family, is_tied)
    theirs.save_pretrained(tmp_path)
    config = DenoiserConfig.from_hf(json.loads((tmp_path / "config.json").read_text()))
    assert config.has_tied_embeddings == is_tied
    ours = Denoiser(config).eval()
    weights = {name: value for name, value in theirs.state_dict().items() if name in ours.state_dict()}
    ours.load_state_dict(weights)
    token_ids = random_tokens(2, 30)
    expected = theirs(input_ids=token_ids).logits
    torch.testing.assert_close(logits_of(ours, token_ids, causal(token_ids)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(has_tied_embeddings=False, rope_theta=1e6),
        tiny_config(has_qkv_bias=True, has_qk_norm=False),
    ],
    ids=["qwen3", "qwen3-untied", "qwen2"],
)
@torch.no_grad()
def test_our_folder_read_by_them_gives_our_logits(config, tmp_path):
    ours = random_denoiser(config, dtype=torch.float32)
    save_folder(tmp_path, ours, SPEC, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    token_ids = random_tokens(2, 30)
    expected = logits_of(ours, token_ids, causal(token_ids))
    torch.testing.assert_close(theirs(input_ids=token_ids).logits, expected, rtol=0, atol=1e-4)
