"""The denoiser as a module: sizes, initialisation, determinism."""

import pytest
import torch

from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from tests.tiny import hidden_of, random_denoiser, random_tokens, tiny_config


def full_attention(token_ids):
    return Topology.block_causal(torch.zeros_like(token_ids))


@pytest.mark.parametrize("has_tied_embeddings", [True, False])
def test_num_parameters_counts_the_matrices(has_tied_embeddings):
    config = tiny_config(has_tied_embeddings=has_tied_embeddings)
    counted = sum(p.numel() for p in Denoiser(config).parameters() if p.ndim == 2)
    assert config.num_parameters == counted


def test_initialise_is_a_function_of_the_seed_alone():
    first, second, other = (Denoiser(tiny_config()) for _ in range(3))
    first.initialise(3)
    torch.randn(100)  # the global generator plays no part
    second.initialise(3)
    other.initialise(4)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        is_drawn = a.ndim == 2 and not name.endswith(("o_proj.weight", "down_proj.weight"))
        assert torch.equal(a, c) != is_drawn, name


def test_initial_matrices_are_normal_with_deviation_0_02():
    """52 x 1536 draws: the standard error of the deviation is 0.25 %, of the mean 7e-5; we allow 5 of each."""
    denoiser = Denoiser(tiny_config(model_width=1536, vocab_size=52, num_layers=1, ffn_width=8, head_width=2))
    denoiser.initialise(0)
    table = denoiser.model.embed_tokens.weight.detach()
    assert abs(float(table.std()) / 0.02 - 1) < 5 / (2 * table.numel()) ** 0.5
    assert abs(float(table.mean())) < 5 * 0.02 / table.numel() ** 0.5
    share_within_one_deviation = float((table.abs() < 0.02).float().mean())
    assert abs(share_within_one_deviation - 0.6827) < 0.01


def test_initialise_sets_every_parameter():
    denoiser = Denoiser(tiny_config(has_qkv_bias=True, has_tied_embeddings=False))
    for parameter in denoiser.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    denoiser.initialise(0)
    for name, parameter in denoiser.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if name.endswith("bias"):
            assert not parameter.any(), name
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name


def test_at_initialisation_every_layer_is_the_identity():
    denoiser = Denoiser(tiny_config())
    denoiser.initialise(0)
    token_ids = torch.arange(10)[None]
    hidden = hidden_of(denoiser, token_ids, full_attention(token_ids))
    expected = denoiser.model.norm(denoiser.model.embed_tokens(token_ids))
    torch.testing.assert_close(hidden, expected)


@pytest.mark.parametrize("has_tied_embeddings", [True, False])
def test_logits_are_float32_products_with_the_table(has_tied_embeddings):
    denoiser = Denoiser(tiny_config(has_tied_embeddings=has_tied_embeddings)).to(torch.bfloat16)
    denoiser.initialise(0)
    table = denoiser.model.embed_tokens.weight if denoiser.lm_head is None else denoiser.lm_head.weight
    hidden = torch.randn(7, 24, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    logits = denoiser.logits(hidden)
    assert logits.shape == (7, 61)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ table.float().T, rtol=0.02, atol=1e-2)


def test_a_row_does_not_depend_on_its_neighbours_in_the_batch():
    denoiser = random_denoiser()
    token_ids = random_tokens(3, 9)
    together = hidden_of(denoiser, token_ids, full_attention(token_ids))
    for row in range(3):
        alone = token_ids[row : row + 1]
        found = hidden_of(denoiser, alone, full_attention(alone))
        torch.testing.assert_close(found[0], together[row], rtol=0, atol=1e-10)
