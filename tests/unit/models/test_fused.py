"""The fused forward against the plain one, and what it leaves as it was."""

import copy

import pytest
import torch

from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.models.attention import DenseAttention
from quicksilver.models.fused import FusedDenoiser, can_fuse
from quicksilver.models.topology import Topology
from quicksilver.quantization.convert import quantize
from quicksilver.quantization.scheme import Scheme
from tests.fakes import fake_spec
from tests.tiny import hidden_of, random_denoiser, random_tokens, tiny_config

LENGTH = 9
KINDS = {
    "qwen3": {},
    "qwen2": {"has_qkv_bias": True, "has_qk_norm": False},
    "untied": {"has_tied_embeddings": False},
    "one head each": {"num_heads": 3, "num_kv_heads": 3},
}


def fused_hidden(fused: FusedDenoiser, token_ids: torch.Tensor, topology: Topology) -> torch.Tensor:
    return fused(token_ids, torch.arange(3, 3 + LENGTH)[None], DenseAttention(topology))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_it_is_the_plain_forward_in_another_order_of_sums(kind, dtype, tolerance):
    denoiser = random_denoiser(tiny_config(**KINDS[kind]), dtype=dtype)
    topology = Topology.block_causal(torch.arange(LENGTH)[None] // 4)
    token_ids = random_tokens(1, LENGTH)
    expected = hidden_of(denoiser, token_ids, topology, torch.arange(3, 3 + LENGTH)[None])
    logits = denoiser.logits(expected)
    found = fused_hidden(FusedDenoiser(denoiser), token_ids, topology)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(denoiser.logits(expected), logits, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_names_shapes_values_and_memory_stay(kind):
    denoiser = random_denoiser(tiny_config(**KINDS[kind]))
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    FusedDenoiser(denoiser)
    after = denoiser.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in after.values()}
    assert sum(storages.values()) == sum(value.nbytes for value in before.values())


def test_a_second_engine_shares_the_matrices():
    denoiser = random_denoiser()
    FusedDenoiser(denoiser)
    places = [parameter.data_ptr() for parameter in denoiser.parameters()]
    again = FusedDenoiser(denoiser)
    assert [parameter.data_ptr() for parameter in denoiser.parameters()] == places
    topology, token_ids = Topology.block_causal(torch.zeros(1, LENGTH, dtype=torch.int64)), random_tokens(1, LENGTH)
    expected = hidden_of(random_denoiser(), token_ids, topology, torch.arange(3, 3 + LENGTH)[None])
    torch.testing.assert_close(fused_hidden(again, token_ids, topology), expected)


def test_a_fused_denoiser_is_saved_and_quantized_like_any_other(tmp_path):
    config = tiny_config(model_width=32, ffn_width=64, head_width=16)
    denoiser = random_denoiser(config, dtype=torch.float32)
    plain = copy.deepcopy(denoiser)
    FusedDenoiser(denoiser)
    save_folder(tmp_path / "model", denoiser, fake_spec(), torch.float32)
    loaded, _ = load_folder(tmp_path / "model")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in plain.state_dict().items())
    smaller, expected = (quantize(each, Scheme.INT8_DYNAMIC, dtype=torch.float32) for each in (denoiser, plain))
    assert not can_fuse(smaller)
    topology, token_ids = Topology.block_causal(torch.zeros(1, LENGTH, dtype=torch.int64)), random_tokens(1, LENGTH)
    torch.testing.assert_close(hidden_of(smaller, token_ids, topology), hidden_of(expected, token_ids, topology))


def test_what_is_trained_is_not_fused():
    denoiser = random_denoiser()
    assert can_fuse(denoiser)
    assert not can_fuse(denoiser.requires_grad_())


def test_rows_that_nobody_reads_are_zero_and_change_no_other():
    denoiser = random_denoiser(dtype=torch.float64)
    topology, token_ids = Topology.block_causal(torch.zeros(1, LENGTH, dtype=torch.int64)), random_tokens(1, LENGTH)
    fused, read = FusedDenoiser(denoiser), torch.tensor([1, 4, 5])
    positions = torch.arange(LENGTH)[None]
    whole = fused(token_ids, positions, DenseAttention(topology))[0]
    found = fused(token_ids, positions, DenseAttention(topology), read)[0]
    torch.testing.assert_close(found[read], whole[read], atol=1e-11, rtol=1e-11)
    others = [row for row in range(LENGTH) if row not in read.tolist()]
    assert not found[others].any()
    assert whole[others].any()
