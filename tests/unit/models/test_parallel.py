"""How a denoiser divides: what each rank holds, and what cannot be divided."""

from dataclasses import replace

import pytest
import torch

from quicksilver.errors import ConfigError
from quicksilver.models import parallel
from quicksilver.models.config import Experts
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.parallel import cut_of, part_of
from tests.tiny import TINY, random_denoiser, tiny_config

EXPERTS = Experts(num_experts=6, num_chosen=2, width=12, shared_width=20, num_dense_layers=1, has_bias=True)


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_parts_together_are_the_whole(num_ranks, experts):
    """Two key/value heads: with four ranks, two of them hold each."""
    config = tiny_config(has_tied_embeddings=False, has_qkv_bias=True, experts=experts)
    for name, tensor in random_denoiser(config).state_dict().items():
        cuts = [cut_of(name, config, rank, num_ranks) for rank in range(num_ranks)]
        if "norm" in name or "mlp.gate." in name or "expert_bias" in name:
            assert cuts == [None] * num_ranks
            continue
        assert {cut.length for cut in cuts} == {tensor.shape[cuts[0].axis]}
        distinct = sorted({(cut.start, cut.stop) for cut in cuts})
        assert len(distinct) == (2 if num_ranks == 4 and ("k_proj" in name or "v_proj" in name) else num_ranks)
        parts = [tensor.narrow(cuts[0].axis, start, stop - start) for start, stop in distinct]
        assert torch.equal(torch.cat(parts, dim=cuts[0].axis), tensor)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_part_is_a_denoiser_of_the_shapes_that_are_cut(num_ranks):
    config = tiny_config(experts=EXPERTS)
    part = Denoiser(part_of(config, num_ranks))
    for name, tensor in part.state_dict().items():
        cut = cut_of(name, config, num_ranks - 1, num_ranks)
        if cut is not None and "embed" not in name:
            assert tensor.shape[cut.axis] == cut.stop - cut.start


def test_a_rank_has_the_key_value_head_of_its_query_heads():
    """Query head h reads key/value head h // 2."""
    for rank in range(4):
        query = cut_of("model.layers.0.self_attn.q_proj.weight", TINY, rank, 4)
        key = cut_of("model.layers.0.self_attn.k_proj.weight", TINY, rank, 4)
        assert query.start // TINY.head_width // 2 == key.start // TINY.head_width


@pytest.mark.parametrize(
    ("change", "num_ranks", "numbers"),
    [
        ({}, 3, "3 processes cannot divide num_heads 4"),
        ({"experts": replace(EXPERTS, width=15)}, 2, "2 processes cannot divide width 15"),
        ({"ffn_width": 41}, 2, "2 processes cannot divide ffn_width 41"),
        ({"num_heads": 12, "num_kv_heads": 3, "ffn_width": 48}, 4, "4 processes cannot divide num_kv_heads 3"),
    ],
)
def test_what_cannot_be_divided_is_named_with_both_numbers(change, num_ranks, numbers):
    with pytest.raises(ConfigError, match=numbers):
        part_of(tiny_config(**change), num_ranks)


def test_a_tensor_without_a_plan_is_named():
    with pytest.raises(ConfigError, match=r"no plan to divide model\.layers\.0\.router\.weight"):
        cut_of("model.layers.0.router.weight", TINY, 0, 2)


def test_an_architecture_without_a_plan_is_named(monkeypatch):
    monkeypatch.setattr(parallel, "_PLANNED", parallel._PLANNED - {"has_qkv_bias"})
    assert part_of(TINY, 2).num_heads == 2
    with pytest.raises(ConfigError, match="no plan to divide a model with has_qkv_bias"):
        part_of(tiny_config(has_qkv_bias=True), 2)
