"""The trainer's steps against a plain loop: one row at a time, dense masks, all logits, no micro-batches."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import Objective
from quicksilver.models.attention import DenseAttention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.training import trainer as trainer_module
from quicksilver.training.batch import MicroBatch
from quicksilver.training.optimizers import build_optimizers
from quicksilver.training.recipe import Recipe
from quicksilver.training.trainer import Trainer
from tests.tiny import random_denoiser
from tests.training_runs import tiny_recipe, write_corpus


def plain_logits(model: Denoiser, batch: MicroBatch, row: int) -> torch.Tensor:
    """All logits of one row, by a dense mask."""
    one, topology = slice(row, row + 1), batch.topology
    alone = Topology(topology.documents[one], topology.blocks[one], topology.is_noisy[one])
    return model.logits(model(batch.token_ids[one], batch.positions[one], DenseAttention(alone)))[0]


def with_own_tokens(model: Denoiser, batch: MicroBatch, keep_weight: float, length_ids: set[int]) -> MicroBatch:
    """The batch with the model's likeliest tokens over its drafted masks, one by one; special ids are not written."""
    if batch.is_drafted is None:
        return batch
    length, token_ids, weights = batch.token_ids.shape[1], batch.token_ids.clone(), batch.weights.clone()
    for number, at in enumerate(batch.target_rows.tolist()):
        if batch.is_drafted[number]:
            with torch.no_grad():
                own = int(plain_logits(model, batch, at // length)[at % length].argmax())
            if own >= len(SPECIAL_TOKENS):
                label = int(batch.labels[number])
                token_ids[at // length, at % length] = own
                weights[number] = 0.0 if label in length_ids else keep_weight if own == label else 1.0
    return replace(batch, token_ids=token_ids, weights=weights, is_drafted=None)


def plain_loop(recipe: Recipe, model: Denoiser) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the recipe's steps, which change ``model``."""
    task = recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)
    optimizers = build_optimizers(model, recipe.optimizer)
    losses, norms = [], []
    special, keep_weight = recipe.spec.special, recipe.task.noise.keep_weight
    for step in range(recipe.schedule.num_steps):
        batches = [
            with_own_tokens(model, batch, keep_weight, {special.expand, special.delete})
            for batch in task.micro_batches(step, 0, 1)
        ]
        total = torch.zeros(())
        for batch in batches:
            length = batch.token_ids.shape[1]
            for row in range(batch.token_ids.shape[0]):
                log_p = plain_logits(model, batch, row).log_softmax(dim=-1)
                for at, label, weight in zip(batch.target_rows, batch.labels, batch.weights, strict=True):
                    if at // length == row:
                        total = total - weight * log_p[at % length, label]
        loss = total / sum(batch.num_targets for batch in batches)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.max_grad_norm)))
        losses.append(float(loss.detach()))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * recipe.schedule.multiplier(step)
            optimizer.step()
            optimizer.zero_grad()
    return losses, norms


# Muon orthogonalises in bf16 and so magnifies rounding, more with every step.
@pytest.mark.parametrize(
    ("has_muon", "num_steps", "tolerance"), [(False, 4, 1e-4), (True, 2, 0.1)], ids=["adamw", "muon"]
)
@pytest.mark.parametrize("objective", [Objective.MASK, Objective.AUTOREGRESSIVE])
def test_training_equals_the_plain_loop(tmp_path, monkeypatch, objective, has_muon, num_steps, tolerance):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda precision, device: 1e12)
    recipe = tiny_recipe(write_corpus(tmp_path), objective, num_steps=num_steps)
    recipe = replace(
        recipe,
        task=replace(recipe.task, num_block_rows=2, num_in_place_rows=2),
        optimizer=replace(recipe.optimizer, has_muon=has_muon),
    )
    # Not from a fresh model: its output projections are zero, and AdamW magnifies the rounding of next to no gradient.
    save_folder(tmp_path / "start", random_denoiser(recipe.model, dtype=torch.float32), recipe.spec, torch.float32)
    trainer = Trainer(recipe, tmp_path / "run")
    trainer.start_from(tmp_path / "start")
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    model = load_folder(tmp_path / "start")[0].requires_grad_(True)
    losses, norms = plain_loop(recipe, model)
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-5)
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-3)
    before = dict(load_folder(tmp_path / "start")[0].named_parameters())
    for (name, one), two in zip(trainer.denoiser.named_parameters(), model.parameters(), strict=True):
        assert (one - two).norm() < tolerance * (two - before[name]).norm(), name
