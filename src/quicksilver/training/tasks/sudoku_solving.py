"""Decoding many puzzles at once with the policies of ``quicksilver.decoding``, whose samplers take one canvas each.

Legend: N puzzles still open, U unknown cells of all of them.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from quicksilver.decoding.canvas import State
from quicksilver.decoding.draws import hole_position
from quicksilver.decoding.params import forbidden_tokens
from quicksilver.decoding.policies import Policy, decide
from quicksilver.decoding.selection import select
from quicksilver.decoding.window import Window
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.tasks.sudoku import NOT_A_DIGIT, SPECIAL, VOCAB_SIZE, grid_logits
from quicksilver.training.tasks.sudoku_puzzles import CELLS, Puzzles


@torch.no_grad()
def fill(
    denoiser: Denoiser, puzzles: Puzzles, policy: Policy, *, seed: int = 0, batch_size: int = 64
) -> Int[Tensor, "N 81"]:
    """Grids with every unknown cell decoded greedily by a policy whose commits are final.

    Equals the reference sampler ``decoding.infill`` on each puzzle alone: the same candidates, decisions and draws.
    """
    is_forbidden = forbidden_tokens(VOCAB_SIZE, NOT_A_DIGIT)[None]
    parts = [
        puzzles.take(np.arange(at, min(at + batch_size, len(puzzles)))) for at in range(0, len(puzzles), batch_size)
    ]
    return torch.cat([_fill(denoiser, part, policy, seed, is_forbidden) for part in parts])


def _fill(denoiser: Denoiser, puzzles: Puzzles, policy: Policy, seed: int, is_forbidden: Tensor) -> Tensor:
    is_masked = torch.from_numpy(~puzzles.is_clue)
    grids = torch.from_numpy(puzzles.solutions).masked_fill(is_masked, SPECIAL.mask)
    positions = _draw_positions(is_masked)
    step = 0
    while bool(is_masked.any()):
        rows = is_masked.any(1).nonzero()[:, 0]
        logits = grid_logits(denoiser, grids[rows])
        window = _window(logits, grids[rows], is_masked[rows], positions[rows], is_forbidden, seed, step)
        commit = decide(window, [policy] * len(rows)).commit
        grids[rows] = torch.where(commit, window.candidate_ids, grids[rows])
        is_masked[rows] &= ~commit
        step += 1
    return grids


def _draw_positions(is_masked: Tensor) -> Tensor:
    """Where ``decoding.infill`` would place each cell's random draws if every run of unknown cells were one hole."""
    starts = is_masked.clone()
    starts[:, 1:] &= ~is_masked[:, :-1]
    hole = (starts.cumsum(1) - 1).clamp(min=0)
    index = torch.arange(CELLS).expand_as(hole)
    offset = index - torch.where(starts, index, 0).cummax(1).values
    return torch.where(is_masked, hole_position(hole, offset), 0)


def _window(
    logits: Tensor, grids: Tensor, is_masked: Tensor, positions: Tensor, is_forbidden: Tensor, seed: int, step: int
) -> Window:
    index = is_masked.flatten().nonzero()[:, 0]
    nothing = torch.zeros(len(index))
    found = select(
        logits.flatten(0, 1)[index],
        is_forbidden=is_forbidden,
        temperature=nothing,
        seed=nothing.long() + seed,
        positions=positions.flatten()[index],
        step=nothing.long() + step,
    )

    def place(values: Tensor) -> Tensor:
        return torch.zeros(grids.numel(), dtype=values.dtype).scatter(0, index, values).view_as(grids)

    argmax_ids = place(found.argmax_ids)
    per_row = torch.zeros(len(grids), dtype=torch.int64)
    return Window(
        token_ids=grids,
        state=torch.where(is_masked, int(State.MASK), int(State.PROMPT)).to(torch.int8),
        candidate_ids=place(found.token_ids),
        argmax_ids=argmax_ids,
        previous_argmax_ids=torch.full_like(argmax_ids, -1),
        confidence=place(found.confidence),
        margin=place(found.margin),
        entropy=place(found.entropy),
        commit_confidence=(~is_masked).float(),
        num_edits=torch.zeros_like(grids),
        positions=positions,
        seed=per_row + seed,
        step=per_row + step,
        num_post_steps=per_row,
        num_masks=is_masked.sum(dim=-1),
        holds_ends=torch.zeros(len(grids), dtype=torch.bool),
    )
