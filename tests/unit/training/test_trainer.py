"""The trainer on a tiny model, in this process."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from quicksilver.checkpoints.folder import model_hash
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import TrainingError
from quicksilver.models.denoiser import Denoiser
from quicksilver.training import trainer as trainer_module
from quicksilver.training.recipe import Precision
from quicksilver.training.trainer import Trainer
from tests.training_runs import tiny_recipe, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch):
    """Accelerate keeps its precision for the whole process; measuring the peak takes a second."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda precision, device: 1e12)


@pytest.fixture(scope="module")
def whole_run(corpus, tmp_path_factory):
    """An uninterrupted run of 20 steps that other tests compare with."""
    AcceleratorState._reset_state(reset_partial_state=True)
    path = tmp_path_factory.mktemp("whole")
    trainer = Trainer(replace(tiny_recipe(corpus), num_kept_checkpoints=9), path)
    return trainer, trainer.run(), path


def log(path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def losses(path) -> list[float]:
    return [line["loss"] for line in log(path)]


def assert_same_state(left, right) -> None:
    """Two checkpoint states, equal to the last bit."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same_state(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, two in zip(left, right, strict=True):
            assert_same_state(one, two)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


def test_twenty_steps_lower_the_loss(whole_run):
    trainer, result, path = whole_run
    assert (result.last_step, result.is_finished) == (20, True)
    assert len(losses(path)) == 20
    recipe = trainer.recipe
    task = recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)
    fresh = Denoiser(recipe.model)
    fresh.initialise(recipe.seed)

    def loss(denoiser: Denoiser) -> float:
        """On batches that no step has trained on."""
        batches = [batch for step in (20, 21) for batch in task.micro_batches(step, 0, 1)]
        total = sum(float(task.loss(denoiser, batch).loss.detach()) for batch in batches)
        return total / sum(batch.num_targets for batch in batches)

    assert loss(trainer.denoiser) < loss(fresh) - 0.5


def test_the_log_has_every_figure_of_every_step(whole_run):
    _, _, path = whole_run
    lines = log(path)
    assert [line["step"] for line in lines] == list(range(20))
    # Bits per byte end where edit noise begins, at step 8: what follows is no bound.
    assert ["bits_per_byte" in line for line in lines] == [step < 8 for step in range(20)]
    names = {"loss", "grad_norm", "lr_multiplier", "tokens_per_s", "mfu", "seconds_left", "tokens"}
    assert all(names <= line.keys() for line in lines)
    assert [line["lr_multiplier"] for line in lines[:3]] == [0.5, 1.0, 1.0]
    assert json.loads((path / "recipe.json").read_text())["precision"] == "float32"


def test_the_export_is_the_weight_average(whole_run):
    trainer, result, path = whole_run
    denoiser, spec = load_folder(result.folder)
    assert result.folder == path / "final"
    assert spec == trainer.recipe.spec
    average = torch.load(path / "checkpoints" / "step-00000020.pt", weights_only=True)["average"]["weights"]
    for name, weight in denoiser.named_parameters():
        assert torch.equal(weight, average[name].to(torch.bfloat16).float())
    assert not torch.equal(average["model.norm.weight"], trainer.denoiser.model.norm.weight)
    assert (result.folder / "tokenizer.json").is_file()


def test_a_stopped_run_goes_on_bit_for_bit(corpus, whole_run, tmp_path):
    _, _, whole = whole_run
    stopped = Trainer(tiny_recipe(corpus), tmp_path).run(max_minutes=0.0)
    assert (stopped.last_step, stopped.is_finished, stopped.folder) == (1, False, tmp_path)
    again = Trainer(tiny_recipe(corpus), tmp_path)
    assert again.resume()
    assert again.run().is_finished
    assert losses(tmp_path) == losses(whole)
    name = "checkpoints/step-00000020.pt"
    assert_same_state(torch.load(tmp_path / name, weights_only=True), torch.load(whole / name, weights_only=True))


def test_a_decay_branches_off_a_checkpoint(corpus, whole_run, tmp_path):
    _, _, whole = whole_run
    recipe = tiny_recipe(corpus)
    # Edit noise begins at step 5.2 of 13, so step 5 is as it was in the run of 20.
    schedule = replace(recipe.schedule, num_steps=13, num_decay_steps=7)
    branch = Trainer(replace(recipe, schedule=schedule), tmp_path)
    assert branch.resume(whole / "checkpoints" / "step-00000005.pt")
    assert branch.run().last_step == 13
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == list(range(5, 13))
    assert lines[0]["loss"] == losses(whole)[5]
    assert [line["lr_multiplier"] for line in lines[1:]] == pytest.approx([k / 8 for k in range(7, 0, -1)], abs=1e-6)


def test_a_run_may_start_from_a_finished_model(corpus, whole_run, tmp_path):
    _, _, whole = whole_run
    finished, _ = load_folder(whole / "final")
    trainer = Trainer(tiny_recipe(corpus, seed=6), tmp_path)
    trainer.start_from(whole / "final")
    for name, value in trainer.denoiser.state_dict().items():
        assert torch.equal(value, finished.state_dict()[name])
    origin = {"model": str(whole / "final"), "sha256": model_hash(whole / "final")}
    trainer.run(max_minutes=0.0)
    assert json.loads((tmp_path / "origin.json").read_text()) == origin
    (tmp_path / "origin.json").unlink()
    again = Trainer(tiny_recipe(corpus, seed=6), tmp_path)
    assert again.resume()
    again.run(max_minutes=0.0)
    assert json.loads((tmp_path / "origin.json").read_text()) == origin
    assert not (whole / "origin.json").exists()
    recipe = tiny_recipe(corpus)
    wider = replace(recipe, model=replace(recipe.model, ffn_width=2 * recipe.model.ffn_width))
    with pytest.raises(TrainingError, match="recipe trains"):
        Trainer(wider, tmp_path).start_from(whole / "final")


def test_nothing_to_resume(corpus, tmp_path):
    assert not Trainer(tiny_recipe(corpus), tmp_path).resume()


def test_a_checkpoint_of_another_recipe_is_refused(corpus, whole_run, tmp_path):
    _, _, whole = whole_run
    with pytest.raises(TrainingError, match="different recipe"):
        Trainer(tiny_recipe(corpus, seed=6), tmp_path).resume(whole / "checkpoints" / "step-00000005.pt")


def test_a_checkpoint_beyond_the_schedule_is_refused(corpus, whole_run, tmp_path):
    _, _, whole = whole_run
    with pytest.raises(TrainingError, match="beyond the schedule's 10"):
        Trainer(tiny_recipe(corpus, num_steps=10), tmp_path).resume(whole / "checkpoints" / "step-00000015.pt")


def test_a_folder_with_later_checkpoints_is_not_run_over(corpus, whole_run):
    _, _, whole = whole_run
    before = sorted((whole / "checkpoints").iterdir())
    with pytest.raises(TrainingError, match="beyond step 0"):
        Trainer(tiny_recipe(corpus), whole).run()
    assert sorted((whole / "checkpoints").iterdir()) == before


def test_a_finished_run_only_exports_again(corpus, whole_run):
    _, _, whole = whole_run
    trainer = Trainer(tiny_recipe(corpus), whole)
    assert trainer.resume()
    before = losses(whole)
    assert trainer.run().is_finished
    assert losses(whole) == before


def test_validation_is_logged_when_it_is_due(corpus, tmp_path):
    recipe = replace(tiny_recipe(corpus, num_steps=4), validation_steps=2)
    trainer = Trainer(recipe, tmp_path)
    trainer.run()
    lines = log(tmp_path)
    assert ["validation_bits_per_byte" in line for line in lines] == [False, True, False, True]
    task = recipe.task.build(recipe.spec, recipe.schedule, recipe.seed)
    with torch.no_grad():
        expected = task.validate(trainer.denoiser)["validation_bits_per_byte"]
    assert lines[3]["validation_bits_per_byte"] == pytest.approx(expected, abs=1e-6)


def test_a_gradient_that_is_not_finite_stops_the_run(corpus, tmp_path):
    trainer = Trainer(tiny_recipe(corpus), tmp_path)
    with torch.no_grad():
        trainer.denoiser.model.norm.weight[0] = torch.nan
    with pytest.raises(TrainingError, match="gradient of step 0 is not finite"):
        trainer.run()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_more_processes_than_rows_is_an_error(corpus, tmp_path, monkeypatch):
    trainer = Trainer(tiny_recipe(corpus), tmp_path)
    monkeypatch.setattr(trainer._task, "micro_batches", lambda step, rank, num_ranks: [])
    with pytest.raises(TrainingError, match="use fewer"):
        trainer.run()


# RMSNorm's fused kernel wants gains in bf16; under autocast they are float32 master weights.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("objective", [Objective.MASK, Objective.AUTOREGRESSIVE])
def test_bf16_keeps_float32_weights(corpus, tmp_path, objective):
    recipe = replace(tiny_recipe(corpus, objective, num_steps=2), precision=Precision.BF16)
    trainer = Trainer(recipe, tmp_path / "bf16")
    trainer.run()
    assert {parameter.dtype for parameter in trainer.denoiser.parameters()} == {torch.float32}
    AcceleratorState._reset_state(reset_partial_state=True)
    Trainer(tiny_recipe(corpus, objective, num_steps=2), tmp_path / "float32").run()
    low, full = losses(tmp_path / "bf16"), losses(tmp_path / "float32")
    # bf16 has 8 bits: the loss near 5.7 agrees to a few hundredths, and is not the same number.
    assert low == pytest.approx(full, abs=0.05)
    assert low != full


def test_the_twin_trains(corpus, tmp_path):
    Trainer(tiny_recipe(corpus, Objective.AUTOREGRESSIVE, num_steps=8), tmp_path).run()
    found = log(tmp_path)
    assert found[-1]["loss"] < found[0]["loss"] - 0.2
    assert all("bits_per_byte" in line for line in found)
