"""Experts against a plain loop over positions, and what a choice may depend on."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.errors import ConfigError
from quicksilver.models.config import Experts
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.experts import ExpertFeedForward, gated_by_expert
from quicksilver.models.fused import can_fuse
from quicksilver.models.layers import FeedForward
from quicksilver.quantization.convert import quantize
from quicksilver.quantization.scheme import Scheme
from tests.tiny import random_denoiser, tiny_config

VARIANTS = {
    "qwen3": Experts(num_experts=6, num_chosen=2, width=10),
    "not normalised": Experts(num_experts=6, num_chosen=3, width=10, is_normalised=False),
    "llada2": Experts(
        num_experts=8,
        num_chosen=3,
        width=10,
        shared_width=20,
        has_sigmoid_scores=True,
        scale=2.5,
        has_bias=True,
        num_groups=4,
        num_chosen_groups=2,
    ),
}


def random_experts(experts, seed=0, dtype=torch.float64, width=24):
    shared = FeedForward(width, experts.shared_width) if experts.shared_width else None
    module = ExpertFeedForward(width, experts, shared).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.requires_grad_(False)


def swiglu(x, gate, up, down):
    return down @ (F.silu(gate @ x) * (up @ x))


def of_one_position(module, experts, x):
    """What a position gets, by the published rules, one expert after the other."""
    logits = module.gate.weight @ x
    scores = (torch.sigmoid(logits) if experts.has_sigmoid_scores else torch.softmax(logits, 0)).tolist()
    bias = [0.0] * experts.num_experts if module.expert_bias is None else module.expert_bias.tolist()
    liking = [score + more for score, more in zip(scores, bias, strict=True)]
    size = experts.num_experts // experts.num_groups
    groups = [range(start, start + size) for start in range(0, experts.num_experts, size)]
    if experts.num_groups > 1:
        groups.sort(key=lambda group: -sum(sorted((liking[at] for at in group), reverse=True)[:2]))
        groups = groups[: experts.num_chosen_groups]
    chosen = sorted((at for group in groups for at in group), key=lambda at: -liking[at])[: experts.num_chosen]
    total = sum(scores[at] for at in chosen) if experts.is_normalised else 1.0
    out = torch.zeros_like(x)
    for at in chosen:
        out += (
            experts.scale
            * scores[at]
            / total
            * swiglu(x, module.gate_proj[at], module.up_proj[at], module.down_proj[at])
        )
    return out if module.shared_experts is None else out + module.shared_experts(x[None, None])[0, 0]


@pytest.mark.parametrize("name", VARIANTS)
@given(seed=st.integers(0, 1000), num_positions=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_experts_are_the_plain_sum_over_the_chosen_ones(name, seed, num_positions):
    experts = VARIANTS[name]
    module = random_experts(experts, seed)
    x = torch.randn(1, num_positions, 24, generator=torch.Generator().manual_seed(seed)).double()
    expected = torch.stack([of_one_position(module, experts, each) for each in x[0]])[None]
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_position_gets_the_same_bits_in_any_company(name):
    module = random_experts(replace(VARIANTS[name], width=48), dtype=torch.float32, width=64)
    x = torch.randn(1, 70, 64, generator=torch.Generator().manual_seed(1))
    # The router's own product of few rows is the caller's to fill up, as all products of a layer are.
    whole, some = module(x), module(x[:, 30:37])
    assert torch.equal(whole[:, 30:37], some)


def test_the_bias_changes_the_choice_and_not_the_weights():
    experts = Experts(num_experts=4, num_chosen=1, width=8, is_normalised=False, has_bias=True)
    module = random_experts(experts)
    x = torch.randn(5, 24).double()
    module.expert_bias = torch.nn.Parameter(torch.tensor([0.0, 0.0, 9.0, 0.0]), requires_grad=False)
    chosen, weights = module.route(x)
    assert chosen.eq(2).all()
    torch.testing.assert_close(weights, torch.softmax(x @ module.gate.weight.T, -1)[:, 2:3])


def test_one_kernel_for_all_experts_agrees_with_one_after_the_other():
    module = random_experts(replace(VARIANTS["qwen3"], width=48), dtype=torch.float32)
    size = torch.tensor([4, 0, 5, 4, 0, 6])
    rows = torch.randn(19, 24, generator=torch.Generator().manual_seed(2))
    stacks = (module.gate_proj, module.up_proj, module.down_proj)
    one_by_one = gated_by_expert(rows.double(), size, *(stack.double() for stack in stacks))
    torch.testing.assert_close(gated_by_expert(rows, size, *stacks), one_by_one.float())


def test_gradients_reach_router_and_experts():
    module = random_experts(VARIANTS["llada2"]).requires_grad_(True)
    x = torch.randn(1, 3, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))
    module(x).sum().backward()
    assert module.gate.weight.grad is not None
    assert module.gate_proj.grad is not None
    assert dict(module.named_parameters())["expert_bias"].grad is None  # a choice has no derivative


def test_parameters_are_counted_with_all_experts_and_with_the_chosen_ones():
    experts = Experts(num_experts=6, num_chosen=2, width=10, shared_width=12, num_dense_layers=1)
    config = tiny_config(experts=experts)
    counted = sum(parameter.numel() for parameter in Denoiser(config).parameters() if parameter.ndim >= 2)
    assert config.num_parameters == counted
    per_expert = 3 * 24 * 10
    assert config.num_body_parameters - config.num_active_parameters == 2 * (6 - 2) * per_expert
    assert [type(layer.mlp).__name__ for layer in Denoiser(config).layers()] == ["FeedForward"] + 2 * [
        "ExpertFeedForward"
    ]


def test_experts_are_neither_fused_nor_quantized():
    denoiser = random_denoiser(tiny_config(experts=VARIANTS["qwen3"]), dtype=torch.float32)
    assert not can_fuse(denoiser)
    with pytest.raises(ConfigError, match="experts cannot be quantized"):
        quantize(denoiser, Scheme.INT8_DYNAMIC, dtype=torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 0}, "num_experts must be at least 1"),
        ({"num_groups": 4}, "6 experts cannot be 4 groups"),
        ({"num_groups": 6}, "groups of two or more"),
        ({"num_chosen": 7}, "7 experts of 1 groups"),
        ({"num_groups": 3, "num_chosen_groups": 1, "num_chosen": 3}, "3 experts of 1 groups"),
    ],
)
def test_experts_that_cannot_be_chosen_are_an_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        Experts(**{"num_experts": 6, "num_chosen": 2, "width": 8} | changes)
