"""Token-to-token edit noise: visible tokens are replaced by wrong ones, and the denoiser learns to put them right.

Trained by cross-entropy at the corrupted positions, so the denoiser's rows are a ``DirectPrediction``. A sample of
untouched visible positions must be trained too, with a small weight: without it p(keep) is not calibrated and the
editor changes what is right.

Sources: LLaDA2.1 (arXiv:2602.08676) for mixing mask-to-token and token-to-token targets; Seed Diffusion
(Song et al. 2025, arXiv:2508.02193) for edit corruption without a copy short-cut. Differs: the kept sample.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.errors import ConfigError


class EditedTokens(NamedTuple):
    """A canvas with edit noise; its labels are the tokens before the noise."""

    token_ids: Int[Tensor, "R L"]
    is_corrupted: Bool[Tensor, "R L"]
    """Positions that hold a wrong token."""
    is_kept_sample: Bool[Tensor, "R L"]
    """About as many editable positions that were left alone, drawn at random: train these to stay."""


def edit_noise(
    token_ids: Int[Tensor, "R L"],
    is_editable: Bool[Tensor, "R L"],
    replacement_ids: Int[Tensor, "R L"],
    scores: Float[Tensor, "R L"],
    *,
    rate: Float[Tensor, "R L"] | float,
    special_ids: Int[Tensor, " N"],
) -> EditedTokens:
    """Replace a random share of the editable tokens.

    A position whose replacement is a special token, or the token that is there already, is left alone and is in neither
    set; so the corrupted set is a little smaller than the kept one.

    Args:
        token_ids: the canvas, masks included.
        is_editable: visible target positions.
        replacement_ids: a candidate for every position, from ``unigram_replacements``, ``swap_replacements``, the
            model's own predictions, or a mixture (``choose_replacements``).
        scores: independent uniform draws in [0, 1).
        rate: share of editable positions to corrupt, at most one half; per position where blocks differ.
        special_ids: ids that must not be put on the canvas.

    Raises:
        ConfigError: rate is outside [0, 1/2].
    """
    rate = torch.as_tensor(rate, dtype=scores.dtype, device=scores.device)
    if not bool(((rate >= 0) & (rate <= 0.5)).all()):
        raise ConfigError("edit rate must be in [0, 0.5]: as many tokens again are kept as a sample")
    is_wrong = (replacement_ids != token_ids) & ~torch.isin(replacement_ids, special_ids)
    is_corrupted = is_editable & (scores < rate) & is_wrong
    is_kept_sample = is_editable & (scores >= rate) & (scores < 2 * rate)
    return EditedTokens(torch.where(is_corrupted, replacement_ids, token_ids), is_corrupted, is_kept_sample)


def unigram_replacements(token_counts: Float[Tensor, " V"], uniforms: Float[Tensor, "R L"]) -> Int[Tensor, "R L"]:
    """Ids drawn in proportion to their counts; set the counts of special tokens to zero."""
    cumulative = token_counts.double().cumsum(0)
    if not cumulative[-1] > 0:
        raise ConfigError("token counts must not all be zero")
    ids = torch.searchsorted(cumulative, uniforms.double() * cumulative[-1], right=True)
    # Rounding can reach the very end; step back to the last id that has a count.
    return ids.clamp(max=int(token_counts.nonzero()[-1]))


def swap_replacements(
    token_ids: Int[Tensor, "R L"], document_index: Int[Tensor, "R L"], scores: Float[Tensor, "R L"]
) -> Int[Tensor, "R L"]:
    """For every position the token of a random position of the same document: plausible words in wrong places.

    Within each document it is a permutation given by the order of ``scores``.
    """
    by_place = document_index.argsort(dim=1, stable=True)
    by_score = scores.argsort(dim=1, stable=True)
    by_score = by_score.gather(1, document_index.gather(1, by_score).argsort(dim=1, stable=True))
    return torch.zeros_like(token_ids).scatter_(1, by_place, token_ids.gather(1, by_score))


def choose_replacements(
    sources: Int[Tensor, "N R L"], shares: tuple[float, ...], uniforms: Float[Tensor, "R L"]
) -> Int[Tensor, "R L"]:
    """At every position the candidate of one of N sources, drawn in proportion to their shares."""
    if len(shares) != sources.shape[0] or min(shares) < 0 or sum(shares) <= 0:
        raise ConfigError(f"need one non-negative share for each of {sources.shape[0]} sources, got {shares}")
    choice = unigram_replacements(torch.tensor(shares, device=uniforms.device), uniforms)
    return sources.gather(0, choice[None])[0]
