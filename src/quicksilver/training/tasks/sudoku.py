"""The sudoku task: fill the unknown cells of a puzzle by masked diffusion, or autoregressively after its text.

Legend: R rows, one puzzle each. A row of masked diffusion is 81 cells under full attention, unknown cells masked. An
autoregressive row is 162 tokens under causal attention: the 81 cells of the puzzle, a separator, and 80 digits of
the solution.

Positions are chosen so that rotary angles tell rows, columns and boxes apart: see ``cell_positions``.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.estimator import Weighting, draw_counts, mask_exact_count, stratified_uniforms, token_weights
from quicksilver.diffusion.spec import DiffusionSpec, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.attention import plan_attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training.batch import LossSums, MicroBatch, cross_entropy_sums
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.tasks.sudoku_puzzles import CELLS, Puzzles, Split, base_puzzles, vary

SPECIAL = SpecialIds(pad=0, eos=10, mask=11)
"""Token d is digit d of a grid."""
SEPARATOR = 12
ANSWER = 12
"""Token ANSWER + d is digit d of an autoregressive solution. It stands where the next cell does."""
VOCAB_SIZE = 22
NOT_A_DIGIT = tuple(token for token in range(VOCAB_SIZE) if not 1 <= token <= 9)
ROPE_THETA = 2.0**16
"""With heads of 32: rotary rates 1, 1/2, 1/4, ... 2^-15, which ``cell_positions`` relies on."""
_VALIDATION_STREAM = 1 << 40


def cell_positions() -> Int[Tensor, " 81"]:
    """Rotary positions 5680 r + 4 c of the cells, where r and c count rows and columns with a gap of two between boxes.

    5680 is 1808 pi, nearly, so the rates 1 to 1/8 turn by whole circles from row to row: they see columns only. Rates
    of 2^-11 and below hardly turn within a row: they see rows only. The gaps make "same box" mean "nearer than three"
    both ways. So the three relations of sudoku are functions of the differences that rotary attention sees, and need
    not be learned for 81 cells one by one.
    """
    line = torch.arange(9) + torch.arange(9) // 3 * 2
    return (5680 * line[:, None] + 4 * line[None, :]).flatten()


@dataclass(frozen=True, kw_only=True, slots=True)
class SudokuTaskConfig:
    """Puzzles and noise."""

    num_base_puzzles: int = 600
    """Puzzles that are searched for; every row is a random symmetric image of one with random clues added."""
    min_clues: int = 26
    max_clues: int = 40
    batch_size: int = 128
    """Rows per step, all ranks together."""
    rows_per_forward: int = 128
    weighting: Weighting = Weighting.CLIPPED
    """Of masked cells, for ``Objective.MASK``."""
    num_validation_puzzles: int = 64

    def __post_init__(self) -> None:
        if not 25 <= self.min_clues <= self.max_clues < CELLS:
            raise ConfigError(f"need 25 <= min_clues <= max_clues < 81, got {self.min_clues} and {self.max_clues}")
        if min(self.num_base_puzzles, self.batch_size, self.rows_per_forward, self.num_validation_puzzles) < 1:
            raise ConfigError(f"counts must be at least 1: {self}")

    def build(self, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int) -> "SudokuTask":
        """Search for the base puzzles: some 30 a second on one core."""
        del schedule
        return SudokuTask(self, spec, seed)


class SudokuTask:
    """Builds the micro-batches of every step from (seed, step) and trains masked diffusion or next-token prediction."""

    def __init__(self, config: SudokuTaskConfig, spec: DiffusionSpec, seed: int) -> None:
        if spec.objective not in (Objective.MASK, Objective.AUTOREGRESSIVE):
            raise ConfigError(f"the sudoku task trains the objectives mask and ar, not {spec.objective}")
        self._config, self._seed = config, seed
        self._is_ar = spec.objective is Objective.AUTOREGRESSIVE
        self.bases = _bases(config.num_base_puzzles, config.min_clues, seed)

    @property
    def bytes_per_token(self) -> None:
        """A grid is no text."""
        return None

    def puzzles(self, step: int) -> Puzzles:
        """The puzzles of a step, all ranks together."""
        config = self._config
        rng = np.random.Generator(np.random.Philox(key=[self._seed, step]))
        index = rng.integers(0, len(self.bases), config.batch_size)
        return vary(
            self.bases.take(index), rng.integers(config.min_clues, config.max_clues + 1, config.batch_size), rng
        )

    def micro_batches(self, step: int, rank: int, num_ranks: int) -> list[MicroBatch]:
        """This rank's share of the step's puzzles; the union over ranks does not depend on their number."""
        config = self._config
        puzzles = self.puzzles(step)
        uniforms = stratified_uniforms(config.batch_size, 1, seed=self._seed, step=step)
        mine = np.arange(rank, config.batch_size, num_ranks)
        batches = []
        for at in range(0, len(mine), config.rows_per_forward):
            rows = mine[at : at + config.rows_per_forward]
            part = puzzles.take(rows)
            if self._is_ar:
                batches.append(autoregressive_batch(part))
            else:
                row_ids = step * config.batch_size + torch.from_numpy(rows)
                scores = counter_uniform(self._seed, row_ids[:, None], torch.arange(CELLS))
                batches.append(masked_batch(part, uniforms[rows], scores, config.weighting))
        return batches

    def loss(self, denoiser: Denoiser, batch: MicroBatch) -> LossSums:
        """Weighted cross-entropy of the unknown cells."""
        return cross_entropy_sums(denoiser, batch)

    def validate(self, denoiser: Denoiser) -> dict[str, float]:
        """Share of unknown cells that one forward gets right, on fresh images of the training puzzles.

        Masked diffusion sees the clues only; the autoregressive model also the true digits before the cell.
        """
        count = self._config.num_validation_puzzles
        puzzles = self.puzzles(_VALIDATION_STREAM)
        puzzles = puzzles.take(np.arange(count) % len(puzzles))
        is_right, is_unknown = first_guess(denoiser, puzzles, is_autoregressive=self._is_ar)
        return {"validation_cells_right": float(is_right[is_unknown].float().mean())}

    def export_extras(self, folder: Path) -> None:
        """A grid needs no tokenizer."""
        del folder


@cache
def _bases(count: int, num_clues: int, seed: int) -> Puzzles:
    """Shared by the runs of one process, because the search takes a minute."""
    return base_puzzles(count, num_clues, seed=seed, split=Split.TRAIN)


def masked_batch(
    puzzles: Puzzles, uniforms: Float[Tensor, "R 1"], scores: Float[Tensor, "R 81"], weighting: Weighting
) -> MicroBatch:
    """Mask exactly k of the n unknown cells of every puzzle, k = floor(u n) + 1; the rest show the solution."""
    solutions, is_unknown = torch.from_numpy(puzzles.solutions), torch.from_numpy(~puzzles.is_clue)
    sizes = is_unknown.sum(1, keepdim=True)
    counts = draw_counts(uniforms, sizes)
    is_masked = mask_exact_count(torch.zeros_like(solutions), is_unknown, counts, scores)

    def at_masks(weighting: Weighting) -> Tensor:
        return token_weights(counts, sizes, weighting).float().expand(-1, CELLS)[is_masked]

    return MicroBatch(
        token_ids=solutions.masked_fill(is_masked, SPECIAL.mask),
        positions=cell_positions().expand(len(puzzles), CELLS),
        topology=_full_attention(),
        target_rows=is_masked.flatten().nonzero()[:, 0],
        labels=solutions[is_masked],
        weights=at_masks(weighting),
        bound_weights=at_masks(Weighting.ELBO),
        num_targets=int(sizes.sum()),
        num_bound_targets=int(sizes.sum()),
    )


def autoregressive_batch(puzzles: Puzzles) -> MicroBatch:
    """Predict every unknown digit of the solution from the puzzle and the digits before it."""
    solutions, is_unknown = torch.from_numpy(puzzles.solutions), torch.from_numpy(~puzzles.is_clue)
    puzzle = torch.where(is_unknown, SPECIAL.mask, solutions)
    separator = torch.full_like(puzzle[:, :1], SEPARATOR)
    is_trained = torch.cat([torch.zeros_like(is_unknown), is_unknown], dim=1)
    labels = (solutions + ANSWER)[is_unknown]
    return MicroBatch(
        token_ids=torch.cat([puzzle, separator, solutions[:, :-1] + ANSWER], dim=1),
        # A row of the solution stands where the cell it predicts does.
        positions=cell_positions().repeat(2).expand(len(puzzles), 2 * CELLS),
        topology=Topology.block_causal(torch.arange(2 * CELLS)[None]),
        target_rows=is_trained.flatten().nonzero()[:, 0],
        labels=labels,
        weights=torch.ones(len(labels)),
        bound_weights=torch.ones(len(labels)),
        num_targets=len(labels),
        num_bound_targets=len(labels),
    )


def grid_logits(denoiser: Denoiser, token_ids: Int[Tensor, "R 81"]) -> Float[Tensor, "R 81 V"]:
    """Logits of every cell of masked grids."""
    positions = cell_positions().expand_as(token_ids)
    return denoiser.logits(denoiser(token_ids, positions, plan_attention(_full_attention())))


@torch.no_grad()
def first_guess(denoiser: Denoiser, puzzles: Puzzles, *, is_autoregressive: bool) -> tuple[Tensor, Tensor]:
    """Which cells the likeliest digit of a single forward gets right, and which were unknown, both Bool [R, 81].

    For an autoregressive model the digits before a cell are the true ones. Greedy decoding follows exactly this path as
    long as it is right, so it solves a puzzle if and only if every unknown cell is right here.
    """
    solutions, is_unknown = torch.from_numpy(puzzles.solutions), torch.from_numpy(~puzzles.is_clue)
    if is_autoregressive:
        batch = autoregressive_batch(puzzles)
        hidden = denoiser(batch.token_ids, batch.positions, plan_attention(batch.topology))[:, CELLS:]
        digits = denoiser.logits(hidden)[..., ANSWER + 1 : ANSWER + 10]
    else:
        digits = grid_logits(denoiser, solutions.masked_fill(is_unknown, SPECIAL.mask))[..., 1:10]
    return digits.argmax(-1) + 1 == solutions, is_unknown


def _full_attention() -> Topology:
    # One row: it broadcasts over the batch.
    return Topology.block_causal(torch.zeros(1, CELLS, dtype=torch.int64))
