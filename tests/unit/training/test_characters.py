import math
from pathlib import Path

import pytest
import torch

from quicksilver.diffusion.estimator import Weighting
from quicksilver.diffusion.spec import DiffusionSpec, NoiseRates, Objective
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.tasks.characters import (
    CharactersTask,
    CharactersTaskConfig,
    CharacterText,
    NoisyBatch,
    autoregressive_batch,
    make_noise,
    masked_batch,
    read_text,
    score,
    start_id,
    unigram_bits,
    validation_windows,
)

TEXT = "abcd dcba " * 40
LENGTH = 8
OBJECTIVES = list(Objective)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def _spec(objective: Objective) -> DiffusionSpec:
    fraction = 0.2 if objective is Objective.HYBRID else 0.0
    return DiffusionSpec(
        objective=objective,
        special=CharacterText(TEXT).special(),
        block_length=1 if objective is Objective.AUTOREGRESSIVE else LENGTH,
        noise=NoiseRates(uniform_fraction=fraction),
    )


def _task(path: Path, objective: Objective, batch_size: int = 6) -> CharactersTask:
    config = CharactersTaskConfig(
        text=path, length=LENGTH, batch_size=batch_size, rows_per_forward=2, num_validation_windows=2
    )
    return config.build(_spec(objective), WarmupStableDecay(num_steps=1, num_warmup_steps=0, num_decay_steps=0), 3)


def _denoiser(is_random: bool) -> Denoiser:
    config = DenoiserConfig(
        vocab_size=CharacterText(TEXT).vocab_size,
        num_layers=1,
        model_width=16,
        num_heads=1,
        num_kv_heads=1,
        head_width=16,
        ffn_width=16,
    )
    model = Denoiser(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            # A zero table gives zero logits everywhere.
            parameter.data.normal_(0, 0.4, generator=generator) if is_random else parameter.data.zero_()
    return model.eval()


def test_text_is_split_and_numbered_in_code_point_order() -> None:
    text = CharacterText(TEXT)
    assert text.symbols == " abcd"
    assert (len(text.train), len(text.validation)) == (360, 40)
    assert "".join(text.symbols[i] for i in torch.cat([text.train, text.validation]).tolist()) == TEXT
    assert (text.special().mask, text.vocab_size) == (5, 9)


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_text(tmp_path / "nowhere.txt")


def test_a_spec_of_another_text_is_refused(path: Path) -> None:
    spec = DiffusionSpec(objective=Objective.MASK, special=CharacterText("ab").special())
    schedule = WarmupStableDecay(num_steps=1, num_warmup_steps=0, num_decay_steps=0)
    with pytest.raises(ConfigError, match="special ids"):
        CharactersTaskConfig(text=path, length=LENGTH).build(spec, schedule, 0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_batches_do_not_depend_on_the_number_of_ranks(path: Path, objective: Objective) -> None:
    task = _task(path, objective)
    alone = torch.cat([batch.token_ids for batch in task.micro_batches(2, 0, 1)])
    ranks = [torch.cat([batch.token_ids for batch in task.micro_batches(2, rank, 2)]) for rank in range(2)]
    assert torch.equal(alone, torch.stack(ranks, dim=1).flatten(0, 1))


def test_all_objectives_train_on_the_same_windows(path: Path) -> None:
    clean = []
    for objective in (Objective.UNIFORM, Objective.HYBRID, Objective.AUTOREGRESSIVE):
        clean.append(torch.cat([batch.labels for batch in _task(path, objective).micro_batches(1, 0, 1)]))
    assert torch.equal(clean[0], clean[1])
    assert torch.equal(clean[0], clean[2])
    masked = _task(path, Objective.MASK).micro_batches(1, 0, 1)
    windows = clean[0].view(3, 2, LENGTH)
    for batch, window in zip(masked, windows, strict=True):
        assert torch.equal(batch.labels, window.flatten()[batch.target_rows])


def test_masked_batch_masks_exact_counts() -> None:
    windows = torch.arange(16).view(2, 8) % 5
    scores = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    batch = masked_batch(windows, torch.tensor([[0.3], [0.9]]).double(), scores, 5, Weighting.ELBO)
    assert (batch.token_ids == 5).sum(1).tolist() == [3, 8]
    torch.testing.assert_close(batch.bound_weights, torch.cat([torch.full((3,), 8 / 3), torch.ones(8)]))


def test_autoregressive_rows_read_what_comes_before() -> None:
    windows = torch.tensor([[1, 2, 3]])
    batch = autoregressive_batch(windows, 8)
    assert batch.token_ids.tolist() == [[8, 1, 2]]
    assert batch.labels.tolist() == [1, 2, 3]


def test_noise_stays_among_the_symbols(path: Path) -> None:
    for objective, top in ((Objective.UNIFORM, 4), (Objective.HYBRID, 5)):
        for batch in _task(path, objective).micro_batches(0, 0, 1):
            assert isinstance(batch, NoisyBatch)
            assert int(batch.token_ids.max()) <= top
            assert (batch.times == batch.times[:, :1]).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_has_a_gradient_and_its_bound_matches_the_definition(path: Path, objective: Objective) -> None:
    task, denoiser = _task(path, objective), _denoiser(is_random=True)
    batch = task.micro_batches(0, 0, 1)[0]
    sums = task.loss(denoiser, batch)
    sums.loss.backward()
    gradient = denoiser.model.embed_tokens.weight.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().sum()) > 0
    assert float(sums.bound) > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_model_that_knows_nothing_costs_log_of_the_symbols(objective: Objective) -> None:
    # Uniform logits: log 5 nats per symbol, exactly for masks; the autoregressive model spreads over nine ids. Under
    # uniform and hybrid noise it is log 5 in expectation only; 64 windows x 64 strata leave an error of about 1 %.
    windows = validation_windows(CharacterText(TEXT), LENGTH).repeat(13, 1)[:64]
    nats = score(_denoiser(is_random=False), _spec(objective), windows, num_times=64) / LENGTH
    if objective is Objective.MASK:
        torch.testing.assert_close(nats, torch.full_like(nats, math.log(5)))
    elif objective is Objective.AUTOREGRESSIVE:
        torch.testing.assert_close(nats, torch.full_like(nats, math.log(9)))
    else:
        assert float(nats.mean()) == pytest.approx(math.log(5), rel=0.05)


def test_autoregressive_score_is_the_sum_over_one_character_at_a_time() -> None:
    spec, denoiser = _spec(Objective.AUTOREGRESSIVE), _denoiser(is_random=True)
    windows = torch.tensor([[1, 2, 3, 4]])
    whole = score(denoiser, spec, windows)
    parts = [score(denoiser, spec, windows[:, :stop]) for stop in (1, 2, 3, 4)]
    steps = torch.diff(torch.cat([torch.zeros(1), *parts]).double())
    assert float(steps.sum()) == pytest.approx(float(whole))
    assert (steps > 0).all()  # each prefix costs more: no row sees its own label


def test_only_timed_objectives_have_a_noise() -> None:
    with pytest.raises(ConfigError, match="no times"):
        make_noise(_spec(Objective.MASK))
    assert start_id(_spec(Objective.AUTOREGRESSIVE)) == 8


def test_unigram_bits_of_even_symbols() -> None:
    # Four letters and the blank, each a fifth of both splits.
    assert unigram_bits(CharacterText(TEXT)) == pytest.approx(math.log2(5), abs=1e-3)


def test_validation_gives_one_figure(path: Path) -> None:
    figures = _task(path, Objective.HYBRID).validate(_denoiser(is_random=False))
    assert list(figures) == ["validation_bits_per_character"]
