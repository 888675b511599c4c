"""Adapters: what is trained, and that merging them changes nothing. Needs peft, of the adapt extra."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training import trainer as trainer_module
from quicksilver.training.lora import LoraConfig, add_adapters, merged_weights
from quicksilver.training.optimizers import OptimizerConfig
from quicksilver.training.trainer import Trainer
from tests.tiny import TINY, logits_of, random_denoiser, random_tokens
from tests.training_runs import adaptation_recipe, losses, tiny_recipe, tiny_spec, write_corpus

pytest.importorskip("peft", reason="adapters need the adapt extra")
CONFIG = LoraConfig(rank=4, alpha=8.0)
MASK = 2


def with_adapters(seed: int = 0) -> Denoiser:
    denoiser = random_denoiser(dtype=torch.float32)
    add_adapters(denoiser, CONFIG, MASK, seed)
    return denoiser


def test_merged_weights_give_the_same_logits():
    denoiser = with_adapters()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    plain = Denoiser(TINY)
    plain.load_state_dict(merged_weights(TINY, CONFIG, MASK, denoiser.state_dict()))
    token_ids = random_tokens(2, 20)
    topology = Topology.block_causal(torch.arange(20).expand_as(token_ids) // 4)
    expected = logits_of(denoiser, token_ids, topology)
    torch.testing.assert_close(logits_of(plain, token_ids, topology), expected, rtol=1e-4, atol=1e-4)
    untouched = logits_of(random_denoiser(dtype=torch.float32), token_ids, topology)
    assert (expected - untouched).abs().max() > 0.1


def test_new_adapters_change_nothing_and_follow_the_seed():
    token_ids = random_tokens(1, 12)
    topology = Topology.block_causal(torch.arange(12)[None])
    one, same, other = with_adapters(1), with_adapters(1), with_adapters(2)
    bare = random_denoiser()
    state = torch.random.get_rng_state()
    add_adapters(bare, CONFIG, MASK, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    plain = logits_of(random_denoiser(dtype=torch.float32), token_ids, topology)
    assert torch.equal(logits_of(one, token_ids, topology), plain)
    pairs = zip(one.state_dict().items(), same.state_dict().values(), other.state_dict().values(), strict=True)
    changes = [(torch.equal(a, b), torch.equal(a, c)) for (name, a), b, c in pairs if "lora_A" in name]
    assert changes == [(True, False)] * len(changes)
    assert len(changes) == 7 * TINY.num_layers


def test_of_the_frozen_weights_only_the_masks_row_learns():
    denoiser = with_adapters()
    token_ids = random_tokens(2, 12)
    logits_of(
        denoiser, token_ids, Topology.block_causal(torch.arange(12).expand_as(token_ids))
    ).square().sum().backward()
    table = denoiser.model.embed_tokens.weight.grad
    assert table is not None
    assert table[MASK].abs().sum() > 0
    assert table[torch.arange(61) != MASK].abs().sum() == 0
    trained = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"model.embed_tokens.weight"}


def test_a_run_with_adapters_resumes_and_exports_a_plain_model(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda precision, device: 1e12)
    AcceleratorState._reset_state(reset_partial_state=True)
    corpus, twin = write_corpus(tmp_path), tmp_path / "twin"
    model = tiny_recipe(corpus).model
    save_folder(twin, random_denoiser(model, dtype=torch.float32), tiny_spec(Objective.AUTOREGRESSIVE), torch.float32)
    recipe = replace(
        adaptation_recipe(twin, corpus), lora=CONFIG, optimizer=OptimizerConfig(has_muon=False, adam_weight_decay=0.0)
    )
    whole = Trainer(recipe, tmp_path / "whole")
    frozen = {name: value.clone() for name, value in whole.denoiser.named_parameters() if not value.requires_grad}
    result = whole.run()
    assert all(torch.equal(dict(whole.denoiser.named_parameters())[name], value) for name, value in frozen.items())
    Trainer(recipe, tmp_path / "stopped").run(max_minutes=0.0)
    again = Trainer(recipe, tmp_path / "stopped")
    assert again.resume()
    again.run()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    state = torch.load(tmp_path / "whole" / "checkpoints" / "step-00000010.pt", weights_only=True)
    assert {name for name in state["average"]["weights"] if "lora_" not in name} == {"model.embed_tokens.weight"}
    exported, _ = load_folder(result.folder)
    expected = merged_weights(model, CONFIG, recipe.spec.special.mask, state["denoiser"] | state["average"]["weights"])
    for name, value in exported.state_dict().items():
        assert torch.equal(value, expected[name].to(torch.bfloat16).float())
    assert json.loads((tmp_path / "whole" / "recipe.json").read_text())["lora"] == {"rank": 4, "alpha": 8.0}


def test_adapters_need_a_source_and_adam(tmp_path):
    corpus = write_corpus(tmp_path)
    with pytest.raises(ConfigError, match="source"):
        replace(tiny_recipe(corpus), lora=CONFIG)
    with pytest.raises(ConfigError, match="rank"):
        LoraConfig(rank=0)
