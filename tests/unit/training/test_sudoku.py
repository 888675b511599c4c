import numpy as np
import pytest
import torch

from quicksilver.decoding import FixedCount, Hole, Order, SamplingParams, Segment, Text, final_result, infill
from quicksilver.diffusion.estimator import Weighting
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError
from quicksilver.models.attention import plan_attention
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.tasks.sudoku import (
    ANSWER,
    NOT_A_DIGIT,
    ROPE_THETA,
    SEPARATOR,
    SPECIAL,
    VOCAB_SIZE,
    SudokuTask,
    SudokuTaskConfig,
    autoregressive_batch,
    cell_positions,
    first_guess,
    grid_logits,
    masked_batch,
)
from quicksilver.training.tasks.sudoku_puzzles import Puzzles, Split, base_puzzles, held_out_puzzles, symmetry_invariant
from quicksilver.training.tasks.sudoku_solving import fill

MASK_SPEC = DiffusionSpec(objective=Objective.MASK, special=SPECIAL, layouts=(Layout.IN_PLACE,), block_length=81)
AR_SPEC = DiffusionSpec(
    objective=Objective.AUTOREGRESSIVE,
    special=SPECIAL,
    layouts=(Layout.BLOCK_CAUSAL,),
    block_length=1,
    prediction_shift=1,
)
CONFIG = SudokuTaskConfig(
    num_base_puzzles=3, min_clues=50, max_clues=60, batch_size=8, rows_per_forward=3, num_validation_puzzles=4
)


@pytest.fixture(scope="module")
def puzzles() -> Puzzles:
    return base_puzzles(3, 60, seed=5, split=Split.TRAIN)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    """Random weights everywhere, so that predictions depend on the canvas."""
    config = DenoiserConfig(
        vocab_size=VOCAB_SIZE,
        num_layers=2,
        model_width=32,
        num_heads=1,
        num_kv_heads=1,
        head_width=32,
        ffn_width=32,
        rope_theta=ROPE_THETA,
    )
    model = Denoiser(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.3, generator=generator)
    return model.eval().requires_grad_(False)


def _task(spec: DiffusionSpec) -> SudokuTask:
    return CONFIG.build(spec, WarmupStableDecay(num_steps=1, num_warmup_steps=0, num_decay_steps=0), 7)


def test_positions_tell_rows_columns_and_boxes_by_differences() -> None:
    position = cell_positions()
    assert len(set(position.tolist())) == 81
    high, low = torch.tensor([1.0, 1 / 2, 1 / 4, 1 / 8]), torch.tensor([2.0**-11, 2.0**-12, 2.0**-13, 2.0**-14])
    same_column, same_row = position[72] - position[0], position[8] - position[0]
    # From the first row to the last the fast rates turn by whole circles; along a row the slow ones hardly turn.
    assert torch.cos(same_column * high).min() > 0.9999
    assert (same_row * low).max() < 0.03
    # Neighbours in a box are nearer than neighbours across its edge.
    assert position[1] - position[0] < position[3] - position[2]
    assert position[9] - position[0] < position[27] - position[18]


def test_masked_batch_masks_the_exact_count_of_unknown_cells(puzzles: Puzzles) -> None:
    uniforms = torch.tensor([[0.0], [0.5], [0.999]]).double()
    batch = masked_batch(
        puzzles, uniforms, torch.rand(3, 81, generator=torch.Generator().manual_seed(0)), Weighting.ELBO
    )
    is_masked = batch.token_ids == SPECIAL.mask
    assert is_masked.sum(1).tolist() == [1, 11, 21]
    assert not (is_masked & torch.from_numpy(puzzles.is_clue)).any()
    solutions = torch.from_numpy(puzzles.solutions)
    assert (batch.token_ids[~is_masked] == solutions[~is_masked]).all()
    assert (batch.labels == solutions.flatten()[batch.target_rows]).all()
    expected = torch.cat([torch.full((k,), 21 / k) for k in (1, 11, 21)])
    torch.testing.assert_close(batch.bound_weights, expected)
    assert batch.num_targets == 3 * 21


def test_autoregressive_batch_trains_the_unknown_digits_only(puzzles: Puzzles) -> None:
    batch = autoregressive_batch(puzzles)
    assert batch.token_ids.shape == (3, 162)
    assert (batch.token_ids[:, 81] == SEPARATOR).all()
    rows = batch.target_rows.view(3, 21) - torch.arange(3)[:, None] * 162
    assert (rows.min() >= 81).item()
    for row, (solution, is_clue) in enumerate(zip(puzzles.solutions, puzzles.is_clue, strict=True)):
        cells = rows[row] - 81
        assert (cells.numpy() == (~is_clue).nonzero()[0]).all()
        assert (batch.labels.view(3, 21)[row] == torch.from_numpy(solution[~is_clue]) + ANSWER).all()
        # The input at a trained row is the digit of the cell before.
        assert batch.token_ids[row, 82:].tolist() == (solution[:80] + ANSWER).tolist()


@pytest.mark.parametrize("spec", [MASK_SPEC, AR_SPEC], ids=["mask", "ar"])
def test_batches_do_not_depend_on_the_number_of_ranks(spec: DiffusionSpec) -> None:
    task = _task(spec)
    alone = torch.cat([batch.token_ids for batch in task.micro_batches(4, 0, 1)])
    ranks = [torch.cat([batch.token_ids for batch in task.micro_batches(4, rank, 2)]) for rank in range(2)]
    assert torch.equal(alone, torch.stack(ranks, dim=1).flatten(0, 1))
    assert not torch.equal(alone, torch.cat([batch.token_ids for batch in task.micro_batches(5, 0, 1)]))


def test_other_objectives_are_refused() -> None:
    with pytest.raises(ConfigError, match="mask and ar"):
        _task(DiffusionSpec(objective=Objective.UNIFORM, special=SPECIAL))


def test_held_out_puzzles_share_no_class_with_training() -> None:
    train = {symmetry_invariant(s) for s in _task(MASK_SPEC).puzzles(0).solutions}
    held_out = held_out_puzzles(4, 50, 53, seed=7)
    assert held_out.is_clue.sum(1).tolist() == [50, 51, 52, 53]
    assert not train & {symmetry_invariant(s) for s in held_out.solutions}


@pytest.mark.parametrize("objective", ["mask", "ar"])
def test_first_guess_equals_one_puzzle_at_a_time(denoiser: Denoiser, puzzles: Puzzles, objective: str) -> None:
    is_right, is_unknown = first_guess(denoiser, puzzles, is_autoregressive=objective == "ar")
    assert torch.equal(is_unknown, torch.from_numpy(~puzzles.is_clue))
    for row in range(3):
        one, _ = first_guess(denoiser, puzzles.take(np.array([row])), is_autoregressive=objective == "ar")
        assert torch.equal(one[0], is_right[row])


def test_greedy_autoregressive_decoding_solves_iff_the_first_guess_is_right(
    denoiser: Denoiser, puzzles: Puzzles
) -> None:
    # A plain loop that feeds its own digits: up to its first wrong cell it must agree with the teacher-forced guess.
    is_right, is_unknown = first_guess(denoiser, puzzles, is_autoregressive=True)
    positions = cell_positions().repeat(2)
    for row in range(3):
        clues, solution = puzzles.clues[row], puzzles.solutions[row]
        tokens = [*np.where(clues == 0, SPECIAL.mask, clues).tolist(), SEPARATOR]
        for cell in range(81):
            index = torch.arange(len(tokens))[None]
            hidden = denoiser(torch.tensor([tokens]), positions[index], plan_attention(Topology.block_causal(index)))
            digit = int(denoiser.logits(hidden[0, -1])[ANSWER + 1 : ANSWER + 10].argmax()) + 1
            if is_unknown[row, cell]:
                assert (digit == solution[cell]) == bool(is_right[row, cell])
                if digit != solution[cell]:
                    break
            tokens.append(int(solution[cell]) + ANSWER)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("tokens_per_step", [1, 3])
def test_batched_filling_equals_the_reference_sampler(
    denoiser: Denoiser, puzzles: Puzzles, order: Order, tokens_per_step: int
) -> None:
    policy = FixedCount(order=order, tokens_per_step=tokens_per_step)
    grids = fill(denoiser, puzzles, policy, seed=11, batch_size=2)
    params = SamplingParams(policy=policy, seed=11, temperature=0.0, forbidden_ids=NOT_A_DIGIT)
    row = 0
    holes = final_result(infill(_one_grid(denoiser), MASK_SPEC, _template(puzzles.clues[row]), params)).holes
    filled = [token for hole in holes for token in hole]
    assert filled == grids[row][torch.from_numpy(~puzzles.is_clue[row])].tolist()
    assert (grids[torch.from_numpy(puzzles.is_clue)].numpy() == puzzles.solutions[puzzles.is_clue]).all()


def test_a_perfect_denoiser_solves_and_a_wrong_one_does_not(denoiser: Denoiser, puzzles: Puzzles) -> None:
    grids = fill(denoiser, puzzles, FixedCount())
    assert ((grids >= 1) & (grids <= 9)).all()
    assert not (grids.numpy() == puzzles.solutions).all(1).any()


def _one_grid(denoiser: Denoiser):
    def logits(token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
        assert not block_ids.any()
        return grid_logits(denoiser, token_ids[None])[0]

    return logits


def _template(clues: np.ndarray) -> list[Segment]:
    segments: list[Segment] = []
    for digit in clues.tolist():
        last = segments[-1] if segments else None
        if digit and isinstance(last, Text):
            segments[-1] = Text(token_ids=(*last.token_ids, digit))
        elif digit:
            segments.append(Text(token_ids=(digit,)))
        elif isinstance(last, Hole):
            segments[-1] = Hole(length=last.length + 1)
        else:
            segments.append(Hole(length=1))
    return segments
