"""The rules that choose which masks to commit: pure tensor functions, one parameter per row.

Shared contract: a rule commits at least one token in every row that has a mask, only at masks, and breaks ties by the
lowest position. Nothing is read across rows.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def first_best(score: Float[Tensor, "B W"], eligible: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
    """Exactly the lowest eligible position of greatest score in every row; nothing in a row without eligible ones."""
    return top_count(score, eligible, torch.ones(score.shape[0], dtype=torch.int64, device=score.device))


def top_count(
    score: Float[Tensor, "B W"], eligible: Bool[Tensor, "B W"], count: Int[Tensor, " B"]
) -> Bool[Tensor, "B W"]:
    """The ``count`` eligible positions of greatest (finite) score, or all of them if there are fewer."""
    order = score.masked_fill(~eligible, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter(
        -1, order, torch.arange(score.shape[1], device=score.device).expand_as(order)
    )
    return eligible & (rank < count[:, None])


def confidence_threshold(
    confidence: Float[Tensor, "B W"], is_masked: Bool[Tensor, "B W"], threshold: Float[Tensor, " B"]
) -> Bool[Tensor, "B W"]:
    """Commit every mask with confidence >= threshold, and always the single best.

    Source: Fast-dLLM, Wu et al. 2025, arXiv:2505.22618. Differs from dInfer's vector form, whose tolerance of 1e-5
    commits near ties together.
    """
    return (is_masked & (confidence >= threshold[:, None])) | first_best(confidence, is_masked)


def dynamic_factor(
    confidence: Float[Tensor, "B W"], is_masked: Bool[Tensor, "B W"], factor: Float[Tensor, " B"]
) -> Bool[Tensor, "B W"]:
    """Commit the n most confident masks while the n-th has confidence >= 1 - factor / (n + 1).

    Source: Fast-dLLM, arXiv:2505.22618, section 3.3. Differs from its code, which also commits the last position when
    that is the only one to fail its bound.
    """
    ordered = confidence.masked_fill(~is_masked, -torch.inf).sort(dim=-1, descending=True, stable=True).values
    n = torch.arange(1, confidence.shape[1] + 1, device=confidence.device)
    passes = ordered >= 1 - factor[:, None] / (n + 1)
    return top_count(confidence, is_masked, passes.long().cumprod(dim=-1).sum(dim=-1).clamp(min=1))


def entropy_bound(
    entropy: Float[Tensor, "B W"], is_masked: Bool[Tensor, "B W"], bound: Float[Tensor, " B"]
) -> Bool[Tensor, "B W"]:
    """Commit masks by rising entropy while the entropies of those before sum to at most ``bound`` nats.

    The first always passes (its sum is empty). Source: EB-Sampler, Ben-Hamu et al. 2025, arXiv:2505.24857.
    """
    ordered = entropy.double().masked_fill(~is_masked, torch.inf).sort(dim=-1, stable=True).values
    before = torch.cat([torch.zeros_like(ordered[:, :1]), ordered.cumsum(dim=-1)[:, :-1]], dim=-1)
    return top_count(-entropy, is_masked, (before <= bound[:, None]).sum(dim=-1).clamp(min=1))


def hierarchical(
    confidence: Float[Tensor, "B W"],
    is_masked: Bool[Tensor, "B W"],
    low: Float[Tensor, " B"],
    high: Float[Tensor, " B"],
) -> Bool[Tensor, "B W"]:
    """Commit the best of every run of adjacent masks if its confidence >= low, all masks >= high, and the single best.

    Picks of different runs are far apart and so depend little on each other. Source: dInfer, arXiv:2510.08666.
    Differs from it: one pick per run under ties (the lowest position), and >= instead of >.
    """
    width = confidence.shape[1]
    starts = is_masked.clone()
    starts[:, 1:] &= ~is_masked[:, :-1]
    run = starts.long().cumsum(dim=-1)
    best = torch.full((confidence.shape[0], width + 1), -torch.inf, dtype=confidence.dtype, device=confidence.device)
    best = best.scatter_reduce(-1, run, confidence.masked_fill(~is_masked, -torch.inf), "amax")
    is_best = is_masked & (confidence == best.gather(-1, run))
    position = torch.arange(width, device=confidence.device).expand_as(run)
    first = torch.full_like(best, width, dtype=torch.int64).scatter_reduce(
        -1, run, position.masked_fill(~is_best, width), "amin"
    )
    is_pick = is_best & (position == first.gather(-1, run)) & (confidence >= low[:, None])
    return is_pick | (is_masked & (confidence >= high[:, None])) | first_best(confidence, is_masked)


def share_of_masks(
    is_masked: Bool[Tensor, "B W"], steps: Int[Tensor, " B"], step: Int[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """Masks to commit now so that ``steps`` steps suffice: ceil(masks / steps left), at least 1."""
    left = (steps - step).clamp(min=1)
    masks = is_masked.sum(dim=-1)
    return ((masks + left - 1) // left).clamp(min=1)


@lru_cache(maxsize=4096)
def timestep_counts(num_masks: int, steps: int, eps: float) -> tuple[int, ...]:
    """How many masks go at each forward if ``steps`` forwards follow a linear noise schedule from 1 down to ``eps``.

    From time t to s goes the share 1 - s / t of the masks that are left, rounded down, and at the last step all of
    them: so few go at first and many at last. Steps at which none would go are left out, since the next one sees the
    same canvas. Source: Dream, Ye et al. 2025, arXiv:2508.15487, whose float32 arithmetic this repeats.
    """
    times = torch.linspace(1, eps, steps + 1)
    shares = (1 - times[1:] / times[:-1]).tolist()
    counts, left = [], num_masks
    for share in shares[:-1]:
        # The product of two float32 numbers is exact in float64; rounded once, it is float32's.
        count = int(torch.tensor(left * share, dtype=torch.float64).float())
        left -= count
        if count:
            counts.append(count)
    return (*counts, left) if left else tuple(counts)
