"""The exact-count stratified estimator of block diffusion losses, over ragged blocks in packed rows.

Masking every token of an n-token block independently with probability t ~ U(0, 1) makes the *count* k of masked tokens
uniform on 0..n. So instead of t, draw k ~ U{1..n}, mask a uniformly random k-subset S and weight every masked token by
n / k. The expectation is the absorbing NELBO of the block (equally, its any-order autoregressive loss averaged over
orders), with no cut-off at small t, no weight above n and no block without a masked token. Stratifying k over the
global batch removes most of what is left of the variance.

Sources: the k/L form of the bound is Ou et al. 2024 (RADD, arXiv:2406.03736) and LLaDA's evaluator (Nie et al. 2025,
arXiv:2502.09992); BD3-LM (Arriola et al. 2025, arXiv:2503.09573) stratifies t. Training on exact counts is ours.

Axes: R rows of the batch, L positions of a row, S block slots of a row. A row holds blocks of unequal size (documents
start and end, prompts are clean), so every position names its slot, or -1 for none, and unused slots have size zero.
"""

from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.diffusion.counter_rng import counter_bits, counter_uniform
from quicksilver.errors import ConfigError

# Stream tags: 64-bit constants, so these draws never share a counter with draws keyed by (seed, step, sample id, ...).
_JITTER_STREAM = 0x6A69747465725F31
_PERMUTATION_STREAM = 0x7065726D7574655F
_LARGEST_BELOW_ONE = 1.0 - 2.0**-53
_GOLDEN_RATIO = 0.6180339887498949


class Weighting(StrEnum):
    """Weight of a masked token in the *training* loss, as a function of block size n and masked count k.

    All are normalised so that the total weight of a block, k times the weight, is n on average over k: a learning rate
    found with one serves the others. Evaluation always uses ELBO.
    """

    ELBO = "elbo"
    """n / k: the unbiased bound on the likelihood."""
    CLIPPED = "clipped"
    """min(n / k, clip), rescaled: between the two others, and the best of the three in our small measurements."""
    UNWEIGHTED = "unweighted"
    """Constant 2 n / (n + 1): every masked token counts the same, so noisy states count more than in the bound."""


def stratified_uniforms(num_rows: int, num_slots: int, *, seed: int, step: int) -> Float[Tensor, "R S"]:
    """One uniform draw per block slot of the global batch, one in each of the R*S equal strata of [0, 1).

    A pure function of its arguments: every data-parallel rank computes the whole array and takes its own rows, so the
    draws do not depend on the number of ranks and are stratified over all of them.

    Args:
        num_rows: rows of the global batch, all ranks and gradient accumulation steps together.
        num_slots: block slots per row, used or not.
        seed: the run's seed.
        step: the optimizer step.

    Returns:
        float64 in [0, 1), in random order.
    """
    if num_rows < 1 or num_slots < 1:
        raise ConfigError(f"a batch needs at least one row and one block slot, got {num_rows} and {num_slots}")
    stratum = torch.arange(num_rows * num_slots)
    jitter = counter_uniform(seed, step, _JITTER_STREAM, stratum)
    permutation = counter_bits(seed, step, _PERMUTATION_STREAM, stratum).argsort(stable=True)
    uniforms = (stratum + jitter) / stratum.numel()
    # The last stratum can round up to 1.0.
    return uniforms.clamp(max=_LARGEST_BELOW_ONE)[permutation].view(num_rows, num_slots)


def spread_uniforms(num_rows: int, num_slots: int, *, seed: int, step: int) -> Float[Tensor, "R S"]:
    """Uniform draws for rows that use an unknown number of their first slots, evenly spread whatever that number is.

    Packed rows have far fewer blocks than positions, and a random few of R*S strata would be no better than independent
    draws. So only the rows' first draws are stratified, over the global batch, and each row goes on from its own in
    steps of the golden ratio, modulo 1. Every draw alone is uniform. At 4 rows of 30 blocks the counts add a fourteenth
    of the loss variance that a random 120 of 4 * 512 strata do.

    Arguments and returns as ``stratified_uniforms``.
    """
    first = stratified_uniforms(num_rows, 1, seed=seed, step=step)
    return (first + _GOLDEN_RATIO * torch.arange(num_slots)) % 1.0


def target_counts(
    block_index: Int[Tensor, "R L"], is_target: Bool[Tensor, "R L"], num_slots: int
) -> Int[Tensor, "R S"]:
    """Number of target positions in every block slot: the block sizes n."""
    slot = torch.where(is_target & (block_index >= 0), block_index, num_slots).long()
    sizes = torch.zeros(slot.shape[0], num_slots + 1, dtype=torch.int64, device=slot.device)
    return sizes.scatter_add_(1, slot, torch.ones_like(slot))[:, :num_slots]


def draw_counts(u: Float[Tensor, "*S"], block_sizes: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """Masked counts k = floor(u n) + 1, uniform on 1..n for uniform ``u``; zero for empty blocks."""
    counts = (u.double() * block_sizes).floor().long() + 1
    return torch.minimum(counts, block_sizes.long())


def mask_exact_count(
    block_index: Int[Tensor, "R L"],
    is_target: Bool[Tensor, "R L"],
    counts: Int[Tensor, "R S"],
    scores: Float[Tensor, "R L"],
) -> Bool[Tensor, "R L"]:
    """Mask exactly ``counts`` target positions of every block: those of lowest score, ties to the lower position.

    With independent uniform scores the masked set is a uniformly random subset of that size.

    Args:
        block_index: slot of every position in [0, S), or -1 for a position in no block.
        is_target: positions that may be masked.
        counts: how many to mask in each slot, at most the slot's number of targets.
        scores: draws of ``counter_uniform`` keyed by (seed, step, global sample id, position).

    Raises:
        ConfigError: a count is negative or exceeds the number of targets in its block, or a block index is not below S.
    """
    num_slots, length = counts.shape[1], scores.shape[1]
    if length and int(block_index.max()) >= num_slots:
        raise ConfigError(f"block_index reaches {int(block_index.max())} but there are {num_slots} block slots")
    sizes = target_counts(block_index, is_target, num_slots)
    if bool(((counts < 0) | (counts > sizes)).any()):
        raise ConfigError("a masked count is negative or exceeds the number of target positions in its block")
    slot = torch.where(is_target & (block_index >= 0), block_index, num_slots).long()
    by_score = scores.argsort(dim=1, stable=True)
    order = by_score.gather(1, slot.gather(1, by_score).argsort(dim=1, stable=True))
    slot = slot.gather(1, order)
    # Non-targets sort last, as slot S, which starts after all targets and masks none.
    first = torch.nn.functional.pad(sizes.cumsum(1), (1, 0))
    rank = torch.arange(length, device=order.device) - first.gather(1, slot)
    is_chosen = rank < torch.nn.functional.pad(counts, (0, 1)).gather(1, slot)
    return torch.zeros_like(is_target).scatter_(1, order, is_chosen)


def token_weights(
    counts: Int[Tensor, "*S"], block_sizes: Int[Tensor, "*S"], weighting: Weighting, clip: float = 4.0
) -> Float[Tensor, "*S"]:
    """Weight of each masked token of a block, float64; zero for empty blocks.

    Args:
        counts: masked tokens k of each block, as from ``draw_counts``.
        block_sizes: target tokens n of each block.
        weighting: see ``Weighting``.
        clip: largest weight before normalisation, for ``Weighting.CLIPPED`` only; positive.
    """
    if clip <= 0:
        raise ConfigError(f"clip must be positive, got {clip}")
    k, n = counts.double().clamp(min=1), block_sizes.double().clamp(min=1)
    match weighting:
        case Weighting.ELBO:
            weights = n / k
        case Weighting.CLIPPED:
            # The mean over k = 1..n of k min(n / k, c) = min(n, c k), which is c k up to k = floor(n / c) and n beyond.
            unclipped_from = torch.minimum((n / clip).floor(), n)
            mean_total = (clip * unclipped_from * (unclipped_from + 1) / 2 + n * (n - unclipped_from)) / n
            weights = (n / k).clamp(max=clip) * n / mean_total
        case Weighting.UNWEIGHTED:
            weights = 2 * n / (n + 1)
    return torch.where((counts > 0) & (block_sizes > 0), weights, 0.0)


def at_positions(block_values: Float[Tensor, "R S"], block_index: Int[Tensor, "R L"]) -> Float[Tensor, "R L"]:
    """The value of its block at every position; zero at positions in no block."""
    values = block_values.gather(1, block_index.clamp(min=0).long())
    return torch.where(block_index >= 0, values, 0.0)
