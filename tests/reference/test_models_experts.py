"""The denoiser's experts against transformers' Qwen3-MoE: small random weights, float32."""

from typing import Any

import pytest
import torch
import transformers

from quicksilver.models.config import Experts
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from tests.tiny import TINY, logits_of, random_tokens, tiny_config


def build_theirs(is_normalised):
    keys: dict[str, Any] = dict(
        vocab_size=61,
        hidden_size=TINY.model_width,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=40,
        moe_intermediate_size=12,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=is_normalised,
        mlp_only_layers=[0],
        tie_word_embeddings=False,
        rope_theta=10_000.0,
    )
    model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**keys)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * draw if name.endswith("norm.weight") else 0.3 * draw)
    return model


def our_values(state):
    """Their tensors under our names; gate and up projections of all experts lie in one of theirs."""
    ours = {}
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            prefix = name.removesuffix("experts.gate_up_proj")
            ours[prefix + "gate_proj"], ours[prefix + "up_proj"] = value.chunk(2, dim=1)
        else:
            ours[name.replace("mlp.experts.down_proj", "mlp.down_proj")] = value
    return ours


@pytest.mark.parametrize("is_normalised", [True, False])
@torch.no_grad()
def test_qwen3_moe_gives_the_same_logits(is_normalised):
    theirs = build_theirs(is_normalised)
    experts = Experts(num_experts=6, num_chosen=2, width=12, num_dense_layers=1, is_normalised=is_normalised)
    ours = Denoiser(tiny_config(has_tied_embeddings=False, experts=experts)).eval()
    ours.load_state_dict(our_values(theirs.state_dict()))
    token_ids = random_tokens(2, 40)
    causal = Topology.block_causal(torch.arange(40).expand_as(token_ids))
    expected = theirs(input_ids=token_ids).logits
    torch.testing.assert_close(logits_of(ours, token_ids, causal), expected, rtol=0, atol=1e-4)
