"""Likelihoods of sequences under a denoiser, comparable across objectives: nats, then bits per byte.

Three readings of the same mask denoiser, from loose to exact: the bound (any order, averaged), exact any-order
enumeration of that same average for tiny blocks, and the chain rule for the left-to-right order. State which one.

Sources: the k / n form of the bound from Ou et al. 2024 (RADD, arXiv:2406.03736); blocks from Arriola et al. 2025
(BD3-LM, arXiv:2503.09573); any-order equivalence from Hoogeboom et al. 2021 (ARDM, arXiv:2110.02037). Differs: a
deterministic grid of masked counts, so small blocks have no noise from the count at all.

In every function ``is_target`` marks the tokens to be scored; the others (prompt, padding) are given and stay visible.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.diffusion.block import block_grid
from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.estimator import at_positions, draw_counts, mask_exact_count, target_counts
from quicksilver.diffusion.interpolating import InterpolatingNoise
from quicksilver.diffusion.prediction import LeaveOneOutPrediction, clean_log_probs
from quicksilver.diffusion.protocol import LogitsFn
from quicksilver.errors import ConfigError

MAX_COUNT_GRID = 16
"""Blocks of at most this many tokens are averaged over every masked count, longer ones over this many strata."""
_MAX_ENUMERATED_BLOCK = 12
_END_OF_TIME = 1e-4  # the transformed integrand is smooth, so clamping here moves the bound by about as little


@dataclass(frozen=True, slots=True)
class LikelihoodEstimate:
    """Nats per sequence with the standard error of the Monte Carlo part."""

    nats: Float[Tensor, " B"]
    standard_error: Float[Tensor, " B"]
    """Zero for exact values; NaN when a single repetition leaves it unknown."""


def mask_bound(
    logits_fn: LogitsFn,
    token_ids: Int[Tensor, "B L"],
    is_target: Bool[Tensor, "B L"],
    *,
    block_length: int,
    mask_id: int,
    num_subsets: int = 1,
    seed: int = 0,
) -> LikelihoodEstimate:
    """Upper bound on the negative log-likelihood under a mask denoiser (negative ELBO with weight n / k).

    Costs ``num_subsets`` times min(block_length, 16) forwards. For blocks of up to 16 tokens every count k is used
    equally; longer ones draw one count from each of 16 strata, anew for every block and subset.
    """
    blocks = block_grid(token_ids.shape[0], token_ids.shape[1], block_length).to(token_ids.device)
    sizes = target_counts(blocks, is_target, int(blocks.max()) + 1)
    num_points = max(1, min(MAX_COUNT_GRID, int(sizes.max())))
    rows, slots = torch.arange(sizes.shape[0])[:, None], torch.arange(sizes.shape[1])
    positions = torch.arange(token_ids.shape[1])
    repetitions = []
    for repetition in range(num_subsets):
        jitter = counter_uniform(seed, repetition, rows, slots).to(sizes.device)
        nats = torch.zeros(token_ids.shape[0], dtype=torch.float64, device=token_ids.device)
        for point in range(num_points):
            counts, shares = _grid_point(sizes, point, num_points, jitter)
            scores = counter_uniform(seed, repetition, rows, positions, point).to(token_ids.device)
            is_masked = mask_exact_count(blocks, is_target, counts, scores)
            weights = at_positions(shares * sizes / counts.clamp(min=1), blocks)
            nats += (weights * _masked_nats(logits_fn, token_ids, is_masked, block_length, mask_id)).sum(1)
        repetitions.append(nats)
    return _summarise(repetitions)


def chain_rule_nats(
    logits_fn: LogitsFn,
    token_ids: Int[Tensor, "B L"],
    is_target: Bool[Tensor, "B L"],
    *,
    block_length: int,
    mask_id: int,
) -> Float[Tensor, "B L"]:
    """Exact negative log-likelihood of each target for left-to-right decoding, one token per step; zero elsewhere.

    Step j masks every target at offset j or later of every block and reads the targets at offset j: ``block_length``
    forwards for any number of blocks.
    """
    nats = torch.zeros(token_ids.shape, dtype=torch.float64, device=token_ids.device)
    for is_read, log_probs in chain_rule_steps(
        logits_fn, token_ids, is_target, block_length=block_length, mask_id=mask_id
    ):
        step = -log_probs.gather(-1, token_ids[..., None].long())[..., 0].double()
        nats = torch.where(is_read, step, nats)
    return nats


def chain_rule_steps(
    logits_fn: LogitsFn,
    token_ids: Int[Tensor, "B L"],
    is_target: Bool[Tensor, "B L"],
    *,
    block_length: int,
    mask_id: int,
) -> Iterator[tuple[Bool[Tensor, "B L"], Float[Tensor, "B L V"]]]:
    """The steps of ``chain_rule_nats``: which targets are read, and all log-probabilities at that step."""
    offset = torch.arange(token_ids.shape[1], device=token_ids.device) % block_length
    for j in range(min(block_length, token_ids.shape[1])):
        noisy_ids = torch.where(is_target & (offset >= j), mask_id, token_ids)
        yield is_target & (offset == j), clean_log_probs(logits_fn(noisy_ids, token_ids, block_length), mask_id)


def any_order_nats(
    logits_fn: LogitsFn,
    token_ids: Int[Tensor, "B L"],
    is_target: Bool[Tensor, "B L"],
    *,
    block_length: int,
    mask_id: int,
) -> Float[Tensor, " B"]:
    """The value that ``mask_bound`` estimates, exactly: all subsets of all blocks, so for tiny blocks only.

    Raises:
        ConfigError: blocks are longer than 12 tokens (4096 forwards).
    """
    length = token_ids.shape[1]
    if min(block_length, length) > _MAX_ENUMERATED_BLOCK:
        raise ConfigError(f"exact any-order likelihood is for blocks of up to {_MAX_ENUMERATED_BLOCK} tokens")
    blocks = block_grid(token_ids.shape[0], token_ids.shape[1], block_length).to(token_ids.device)
    num_slots = int(blocks.max()) + 1
    sizes = target_counts(blocks, is_target, num_slots)
    # Rank of each target among its block's targets, so that short blocks enumerate their own subsets only.
    before = torch.nn.functional.pad(sizes.cumsum(1), (1, 0))[:, :-1]
    rank = is_target.cumsum(1) - 1 - before.gather(1, blocks)
    nats = torch.zeros(token_ids.shape[0], dtype=torch.float64, device=token_ids.device)
    for subset in _subsets(int(sizes.max())):
        is_masked = is_target & torch.isin(rank, torch.tensor(subset, device=rank.device))
        counts = target_counts(blocks, is_masked, num_slots)
        # A short block sees this subset only if all of it fits; probability of the subset is 1 / (n C(n, k)).
        shares = torch.where(counts == len(subset), _subset_weight(sizes, len(subset)), 0.0)
        step = _masked_nats(logits_fn, token_ids, is_masked, block_length, mask_id)
        nats += (at_positions(shares, blocks) * step).sum(1)
    return nats


def noise_bound(
    logits_fn: LogitsFn,
    noise: InterpolatingNoise,
    token_ids: Int[Tensor, "B L"],
    is_target: Bool[Tensor, "B L"],
    *,
    block_length: int,
    num_times: int = 32,
    num_repetitions: int = 1,
    seed: int = 0,
) -> LikelihoodEstimate:
    """Upper bound on the negative log-likelihood under a denoiser trained with uniform or hybrid noise.

    Each block draws one v from each of ``num_times`` strata of [0, 1] and takes t = sin^2(pi v / 2). The substitution
    cancels the 1 / sqrt(t (1 - t)) of the hybrid integrand; cutting uniform times off at 1e-4 instead loses several per
    cent of that bound. Costs ``num_times * num_repetitions`` forwards.
    """
    blocks = block_grid(token_ids.shape[0], token_ids.shape[1], block_length).to(token_ids.device)
    rows, slots = torch.arange(token_ids.shape[0])[:, None], torch.arange(int(blocks.max()) + 1)
    positions = torch.arange(token_ids.shape[1])
    repetitions = []
    for repetition in range(num_repetitions):
        nats = torch.zeros(token_ids.shape[0], dtype=torch.float64, device=token_ids.device)
        for point in range(num_times):
            jitter = counter_uniform(seed, repetition, rows, slots, point).to(token_ids.device)
            v = at_positions((point + jitter) / num_times, blocks).clamp(_END_OF_TIME, 1 - _END_OF_TIME)
            t = (torch.pi / 2 * v).sin().square()
            jacobian = torch.pi / 2 * (torch.pi * v).sin()
            draws = counter_uniform(seed, repetition, rows, positions, point, 1).to(token_ids.device)
            noisy_ids = torch.where(is_target, noise.q_sample(token_ids, t, draws), token_ids)
            prediction = LeaveOneOutPrediction.from_logits(logits_fn(noisy_ids, token_ids, block_length), noise.mask_id)
            integrand = noise.nelbo(prediction, token_ids, noisy_ids, t)
            nats += torch.where(is_target, jacobian * integrand, 0.0).sum(1) / num_times
        repetitions.append(nats)
    return _summarise(repetitions)


def bits_per_byte(nats: float, num_bytes: int | float) -> float:
    """Total nats over UTF-8 bytes, which may be a mean estimate: the unit in which tokenizers can be compared."""
    if num_bytes < 1:
        raise ConfigError(f"bits per byte needs at least one byte, got {num_bytes}")
    return nats / math.log(2) / num_bytes


def _masked_nats(logits_fn: LogitsFn, token_ids: Tensor, is_masked: Tensor, block_length: int, mask_id: int) -> Tensor:
    """float64 cross-entropy at masked positions, zero elsewhere."""
    noisy_ids = torch.where(is_masked, mask_id, token_ids)
    log_probs = clean_log_probs(logits_fn(noisy_ids, token_ids, block_length), mask_id)
    nats = -log_probs.gather(-1, token_ids[..., None].long())[..., 0].double()
    return torch.where(is_masked, nats, 0.0)


def _grid_point(sizes: Tensor, point: int, num_points: int, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """Masked counts at one grid point, and the share of each block's average that this point carries.

    A block no longer than the grid meets every count; where it meets one more than once they split that count's 1 / n.
    """
    grid = (torch.arange(num_points, device=sizes.device) + 0.5) / num_points
    all_counts = draw_counts(grid.expand(*sizes.shape, -1), sizes[..., None].expand(*sizes.shape, num_points))
    repeats = (all_counts == all_counts[..., point : point + 1]).sum(-1)
    is_short = sizes <= num_points
    counts = torch.where(is_short, all_counts[..., point], draw_counts((point + jitter) / num_points, sizes))
    shares = torch.where(is_short, 1 / (sizes.clamp(min=1) * repeats).double(), 1 / num_points)
    return counts, torch.where(sizes > 0, shares, 0.0)


def _subsets(size: int) -> Iterator[tuple[int, ...]]:
    for count in range(1, size + 1):
        yield from itertools.combinations(range(size), count)


def _subset_weight(sizes: Tensor, count: int) -> Tensor:
    """Weight n / k times the probability 1 / (n C(n, k)) of one subset of k = ``count`` tokens; 0 where n < k."""
    table = [1 / (count * math.comb(n, count)) if n >= count else 0.0 for n in range(int(sizes.max()) + 1)]
    return torch.tensor(table, dtype=torch.float64, device=sizes.device)[sizes]


def _summarise(repetitions: list[Tensor]) -> LikelihoodEstimate:
    values = torch.stack(repetitions)
    if len(repetitions) == 1:
        return LikelihoodEstimate(values[0], torch.full_like(values[0], torch.nan))
    return LikelihoodEstimate(values.mean(0), values.std(0) / math.sqrt(len(repetitions)))
