"""Every parameter has exactly one optimizer, of the right kind."""

from dataclasses import replace

import pytest
import torch

from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.muon import Muon
from quicksilver.training.optimizers import OptimizerConfig, build_optimizers

SHAPE = DenoiserConfig(
    vocab_size=20, num_layers=2, model_width=8, num_heads=2, num_kv_heads=1, head_width=4, ffn_width=16
)
SHAPES = [SHAPE, replace(SHAPE, has_tied_embeddings=False), replace(SHAPE, has_qkv_bias=True, has_qk_norm=False)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_muon", [True, False])
def test_every_parameter_is_in_exactly_one_group(shape, has_muon):
    model = Denoiser(shape)
    optimizers = build_optimizers(model, OptimizerConfig(has_muon=has_muon))
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_muon_gets_the_hidden_matrices_and_nothing_else():
    model = Denoiser(replace(SHAPE, has_tied_embeddings=False))
    muon, adam = build_optimizers(model, OptimizerConfig())
    assert isinstance(muon, Muon)
    assert isinstance(adam, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    hidden = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert hidden == {n for n in names.values() if n.endswith("_proj.weight")}
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= {
        names[id(p)] for group in adam.param_groups for p in group["params"]
    }


def test_gains_and_tables_are_never_decayed():
    model = Denoiser(SHAPE)
    for has_muon in (True, False):
        for optimizer in build_optimizers(model, OptimizerConfig(has_muon=has_muon)):
            for group in optimizer.param_groups:
                is_hidden = [p.ndim == 2 and p is not model.model.embed_tokens.weight for p in group["params"]]
                assert all(is_hidden) if group["weight_decay"] else not any(is_hidden)


def test_groups_remember_their_peak_rate():
    config = OptimizerConfig(muon_lr=0.5, adam_lr=0.25)
    muon, adam = build_optimizers(Denoiser(SHAPE), config)
    assert [group["peak_lr"] for group in muon.param_groups] == [0.5]
    assert [group["peak_lr"] for group in adam.param_groups] == [0.25]


@pytest.mark.parametrize("name", ["muon_lr", "adam_lr", "max_grad_norm"])
def test_rates_must_be_positive(name):
    with pytest.raises(ConfigError, match=name):
        OptimizerConfig(**{name: 0.0})
