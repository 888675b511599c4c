"""Adaptation against plain computations: what is predicted from where, growing blocks, the mask's row, the start."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

import quicksilver
from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, TrainingError
from quicksilver.evaluation.likelihood import LikelihoodConfig, Reading, Window, window_nats
from quicksilver.models.attention import DenseAttention
from quicksilver.models.topology import Topology
from quicksilver.training import trainer as trainer_module
from quicksilver.training.adaptation import adapted_architecture, with_mask_row
from quicksilver.training.alignment import AlignmentConfig, Distance
from quicksilver.training.recipe import Recipe
from quicksilver.training.tasks.adaptation import AdaptationTaskConfig, BlockStage
from quicksilver.training.trainer import Trainer
from tests.tiny import logits_of, random_denoiser, random_tokens
from tests.training_runs import adaptation_recipe, losses, tiny_recipe, tiny_spec, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def twin(corpus, tmp_path_factory) -> Path:
    """An autoregressive checkpoint whose weights all matter."""
    folder = tmp_path_factory.mktemp("twin")
    model = tiny_recipe(corpus).model
    save_folder(folder, random_denoiser(model, dtype=torch.float32), tiny_spec(Objective.AUTOREGRESSIVE), torch.float32)
    (folder / "tokenizer.json").write_bytes((corpus / "tokenizer.json").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda precision, device: 1e12)


def task_of(recipe: Recipe):
    return recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)


def test_blocks_grow_with_the_run(twin, corpus):
    task = task_of(adaptation_recipe(twin, corpus, num_steps=20))
    assert [task.block_length(step) for step in range(20)] == [1] * 4 + [4] * 6 + [8] * 10
    for step, length in ((0, 1), (5, 4), (15, 8)):
        batch = task.micro_batches(step, 0, 1)[0]
        blocks, is_noisy = batch.topology.blocks[0], batch.topology.is_noisy[0]
        same = batch.topology.documents[0, is_noisy] == 0
        sizes = torch.unique_consecutive(blocks[is_noisy][same], return_counts=True)[1]
        assert int(sizes.max()) == length


def test_stages_must_begin_at_the_start_and_follow_each_other(corpus):
    for starts in ((0.1,), (0.0, 0.0), (0.5, 0.0), (0.0, 1.0), ()):
        with pytest.raises(ConfigError, match="stages"):
            AdaptationTaskConfig(
                tokens=corpus, stages=tuple(BlockStage(block_length=4, start=start) for start in starts)
            )


def canvas_logits(denoiser, canvas: list[int], num_clean: int) -> torch.Tensor:
    """What a server sees: a causal past of ``num_clean`` tokens and one block behind it that sees all."""
    index = torch.arange(len(canvas))[None]
    topology = Topology.block_causal(index.clamp(max=num_clean))
    return denoiser.logits(denoiser(torch.tensor([canvas]), index, DenseAttention(topology)))[0].log_softmax(-1)


def test_the_loss_is_that_of_decoding_block_by_block_with_shifted_predictions(twin, corpus):
    """Every mask from the row before it and every next token from a causal row, one canvas at a time."""
    recipe = adaptation_recipe(twin, corpus, num_steps=20, num_rows=1)
    task = task_of(recipe)
    denoiser = load_folder(twin)[0]
    for step in (2, 6, 12):
        [batch] = task.micro_batches(step, 0, 1)
        noisy, clean = batch.token_ids[0].chunk(2)
        documents, blocks = (values[0, :96] for values in (batch.topology.documents, batch.topology.blocks))
        expected, bound = 0.0, 0.0
        for document in range(int(documents.max()) + 1):
            places = (documents == document).nonzero()[:, 0].tolist()
            text = clean[places].tolist()
            for _, members in itertools.groupby(range(len(places)), key=lambda i: int(blocks[places[i]])):
                block = list(members)
                masked = [i for i in block if noisy[places[i]] == recipe.spec.special.mask]
                if not masked or text == [recipe.spec.special.pad] * len(text):
                    continue
                size = len([i for i in block if i > 0])
                canvas = text[: block[0]] + noisy[[places[i] for i in block]].tolist()
                log_p = canvas_logits(denoiser, canvas, num_clean=block[0])
                weight, nats = size / len(masked), -sum(float(log_p[i - 1, text[i]]) for i in masked)
                mean = sum(min(4.0, size / k) * k for k in range(1, size + 1)) / size
                expected += min(4.0, weight) * size / mean * nats
                if text.count(recipe.spec.special.eos) == 0:
                    bound += weight * nats
            causal = canvas_logits(denoiser, text, num_clean=len(text))
            if text != [recipe.spec.special.pad] * len(text):
                expected -= 0.3 * sum(float(causal[i, text[i + 1]]) for i in range(len(text) - 1))
        found = task.loss(denoiser, batch)
        assert float(found.loss) == pytest.approx(expected, rel=1e-4)
        if recipe.spec.special.eos not in clean:
            assert float(found.bound) == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("reading", [Reading.BOUND, Reading.CHAIN])
def test_in_blocks_of_one_token_the_adapted_model_is_the_twin(twin, corpus, tmp_path, reading):
    """Before its first step, but for the mask: no text holds it, and it has a new row."""
    recipe = adaptation_recipe(twin, corpus)
    adapted, (denoiser, _) = Trainer(recipe, tmp_path).denoiser, load_folder(twin)
    token_ids = random_tokens(1, 60, vocab_size=adapted.config.vocab_size - 48)[0] + 48
    window = Window(token_ids=token_ids.numpy(), num_bytes=60, document=0)
    config = LikelihoodConfig(block_length=1, num_samples=1)
    [[found]] = window_nats(adapted, recipe.spec, [window], reading, config)
    canvas = torch.cat([torch.tensor([recipe.spec.special.file]), token_ids])[None]
    logits = logits_of(denoiser, canvas, Topology.block_causal(torch.arange(61)[None]))[0, :-1]
    logits[:, recipe.spec.special.mask] = -torch.inf
    expected = -logits.log_softmax(-1).gather(-1, token_ids[:, None]).double().sum()
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_the_masks_row_is_the_mean_and_a_table_without_a_free_row_grows():
    table = torch.arange(12.0).view(4, 3)
    mean = table.mean(0)
    same, grown = with_mask_row(table, 4, 1), with_mask_row(table, 6, 4)
    assert torch.equal(same[1], mean)
    assert torch.equal(same[[0, 2, 3]], table[[0, 2, 3]])
    assert torch.equal(grown, torch.cat([table, mean.expand(2, 3)]))
    assert torch.equal(with_mask_row(table, 5, 4, like=2), torch.cat([table, table[2:3]]))


def test_all_else_starts_as_in_the_source(twin, corpus, tmp_path):
    recipe = adaptation_recipe(twin, corpus)
    trainer, source = Trainer(recipe, tmp_path), load_folder(twin)[0].state_dict()
    for name, value in trainer.denoiser.state_dict().items():
        if name == "model.embed_tokens.weight":
            kept = torch.arange(len(value)) != recipe.spec.special.mask
            assert torch.equal(value[kept], source[name][kept])
            assert torch.allclose(value[~kept][0], source[name].mean(0))
        else:
            assert torch.equal(value, source[name])
    with pytest.raises(TrainingError, match="no other weights"):
        trainer.start_from(twin)


def test_the_masks_row_may_start_as_another_token_s(twin, corpus, tmp_path):
    recipe = adaptation_recipe(twin, corpus)
    table = Trainer(replace(recipe, mask_like=1), tmp_path).denoiser.model.embed_tokens.weight
    assert torch.equal(table[recipe.spec.special.mask], table[1])
    assert torch.equal(table[1], load_folder(twin)[0].model.embed_tokens.weight[1])


def test_a_stopped_run_goes_on_bit_for_bit_and_the_result_generates(twin, corpus, tmp_path):
    recipe = adaptation_recipe(twin, corpus, alignment=AlignmentConfig(teacher=twin))
    result = Trainer(recipe, tmp_path / "whole").run()
    assert Trainer(recipe, tmp_path / "stopped").run(max_minutes=0.0).last_step == 1
    again = Trainer(recipe, tmp_path / "stopped")
    assert again.resume()
    assert again.run().is_finished
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert json.loads((tmp_path / "stopped" / "origin.json").read_text())["model"] == str(twin)
    model = quicksilver.load(result.folder)
    spec = model.spec
    assert (spec.objective, spec.prediction_shift, spec.has_causal_context) == (Objective.MASK, 1, True)
    assert (spec.block_length, spec.trained_block_lengths) == (8, (1, 4, 8))
    text = model.generate("def f(x", max_tokens=16, seed=1).text
    assert text == quicksilver.load(tmp_path / "stopped" / "final").generate("def f(x", max_tokens=16, seed=1).text


def test_a_diffusion_checkpoint_is_no_source(tmp_path, corpus):
    save_folder(tmp_path, random_denoiser(tiny_recipe(corpus).model), tiny_spec(Objective.MASK))
    with pytest.raises(ConfigError, match="autoregressive"):
        adapted_architecture(tmp_path, [1, 4])


@pytest.mark.parametrize("distance", list(Distance))
def test_alignment_adds_the_mean_distance_of_rows_that_predict_masks(twin, corpus, distance):
    alignment = AlignmentConfig(teacher=twin, weight=2.0, layers=(1,), distance=distance)
    plain = task_of(adaptation_recipe(twin, corpus))
    aligned = task_of(adaptation_recipe(twin, corpus, alignment=alignment))
    student, teacher = (
        random_denoiser(adaptation_recipe(twin, corpus).model, seed=3, dtype=torch.float32),
        load_folder(twin)[0],
    )
    batch = plain.micro_batches(6, 0, 1)[0]
    seen: list[torch.Tensor] = []
    for denoiser in (student, teacher):
        with torch.no_grad():
            hook = denoiser.layers()[1].register_forward_hook(lambda layer, given, output: seen.append(output))
            denoiser(batch.token_ids, batch.positions, DenseAttention(batch.topology))
            hook.remove()
    expected = 0.0
    for at in batch.target_rows.tolist():
        row, column = divmod(at, 192)
        if column < 96:
            one, two = seen[0][row, column], seen[1][row, 96 + column]  # the clean half is the causal text
            if distance is Distance.COSINE:
                expected += 1 - float(one @ two / one.norm() / two.norm())
            else:
                expected += float((one - two).square().sum() / two.square().sum())
    difference = float(aligned.loss(student, batch).loss - plain.loss(student, batch).loss)
    assert difference == pytest.approx(2.0 * expected, rel=1e-4)
    with pytest.raises(ConfigError, match="layers 0 to 1"):
        task_of(adaptation_recipe(twin, corpus, alignment=replace(alignment, layers=(2,))))


def test_the_models_own_tokens_need_predictions_in_place(twin, corpus):
    recipe = adaptation_recipe(twin, corpus)
    noise = replace(recipe.task.noise, own_rate=0.5)
    with pytest.raises(ConfigError, match="own_rate"):
        task_of(replace(recipe, task=replace(recipe.task, noise=noise))).micro_batches(0, 0, 1)
