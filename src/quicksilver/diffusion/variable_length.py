"""Length noise for holes of unknown length: a mask may stand for several tokens (expand) or for none (delete).

Source: Wu et al. 2026 (DreamOn, arXiv:2602.01326) and its code at github.com/DreamLM/DreamOn. Differs: a token of its
own for delete instead of end-of-sequence, so a model may also end a text in a hole; merged positions are removed, not
hidden from attention; a mask that stands for content is never merged with one that stands for nothing; and delete
labels do not share the loss of one token, which would divide the odds of delete by their number (docs/log.md).

One hole at a time, as 1-D tensors: n content tokens, m canvas positions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.errors import ConfigError


class LengthNoise(NamedTuple):
    """The canvas of a hole whose number of masks differs from the number of missing tokens."""

    canvas_ids: Int[Tensor, " m"]
    labels: Int[Tensor, " m"]
    """The content token, ``expand_id`` or ``delete_id`` that belongs at each position."""
    is_masked: Bool[Tensor, " m"]
    """Positions that carry loss; the others show their label."""
    stands_for: Int[Tensor, " m"]
    """Content tokens each position stands for: 0 at delete labels, 2 or more at expand labels."""


def length_noise(
    content: Int[Tensor, " n"],
    is_masked: Bool[Tensor, " n"],
    num_extra: int,
    merge_uniforms: Float[Tensor, " n"],
    merge_probability: float,
    *,
    mask_id: int,
    expand_id: int,
    delete_id: int,
) -> LengthNoise:
    """Append masks to be deleted and merge neighbouring masks.

    Position i takes in position i + 1 if both are masked and ``merge_uniforms[i] < merge_probability``. Merges chain:
    the first position of a chain stands for all of it and is labelled expand, the others vanish.

    Args:
        content: the true tokens of the hole.
        is_masked: which of them are masked.
        num_extra: masks appended with label delete.
        merge_uniforms: draws in [0, 1); the last one is unused.
        merge_probability: DreamOn uses 0.5, or 0.5 (1 - masked share).
        mask_id: input at masked positions.
        expand_id: label of merged positions.
        delete_id: label of extra positions.
    """
    if num_extra < 0 or not 0 <= merge_probability <= 1:
        raise ConfigError(
            f"need num_extra >= 0 and a merge probability in [0, 1], got {num_extra}, {merge_probability}"
        )
    is_merged = torch.zeros_like(is_masked)  # into the position before
    is_merged[1:] = is_masked[:-1] & is_masked[1:] & (merge_uniforms[:-1] < merge_probability)
    is_head = ~is_merged
    span = torch.bincount(is_head.cumsum(0) - 1, minlength=int(is_head.sum()))
    labels = torch.where(span > 1, expand_id, content[is_head])
    labels = torch.cat([labels, labels.new_full((num_extra,), delete_id)])
    masked = torch.cat([is_masked[is_head], is_masked.new_ones(num_extra)])
    return LengthNoise(
        canvas_ids=torch.where(masked, mask_id, labels),
        labels=labels,
        is_masked=masked,
        stands_for=torch.cat([span, span.new_zeros(num_extra)]),
    )


def resized_noise(
    content: Int[Tensor, " n"], is_masked: Bool[Tensor, " m"], *, mask_id: int, expand_id: int, delete_id: int
) -> LengthNoise:
    """A hole of n tokens spread over m positions, whatever n is: as decoding meets it before it knows its length.

    If n < m the last m - n positions are deleted. Else every position stands for n // m tokens and the last n % m for
    one more. So position i is deleted if n <= i, and below 2m tokens it expands if n >= 2m - i: in a hole of masks the
    probabilities of these labels are the length's distribution function.

    A position that is not masked has been decided: it shows all its tokens, so one that stands for nothing is gone.
    Which positions are masked must not depend on what they stand for, or masks alone would tell of the length.

    Args:
        content: the true tokens of the hole.
        is_masked: which of the m positions are masks.
        mask_id: input at masked positions.
        expand_id: label of masks that stand for several tokens.
        delete_id: label of masks that stand for none.

    Raises:
        ConfigError: there is no position.
    """
    num_positions = len(is_masked)
    if num_positions < 1:
        raise ConfigError(f"a hole starts with at least one position, got {num_positions}")
    each, more = divmod(len(content), num_positions)
    place = torch.arange(num_positions)
    stands_for = each + (place >= num_positions - more).long() if each else (place < more).long()
    copies = torch.where(is_masked, 1, stands_for)
    origin = place.repeat_interleave(copies)
    masked = is_masked[origin]
    span = torch.where(masked, stands_for[origin], 1)
    within = torch.arange(len(origin)) - (copies.cumsum(0) - copies)[origin]
    # Positions that stand for nothing begin at n, just behind the content.
    tokens = torch.cat([content, content.new_tensor([delete_id])])[(stands_for.cumsum(0) - stands_for)[origin] + within]
    labels = torch.where(span > 1, expand_id, tokens)
    return LengthNoise(torch.where(masked, mask_id, labels), labels, masked, span)


def apply_length_tokens(
    canvas_ids: Int[Tensor, " m"],
    is_masked: Bool[Tensor, " m"],
    predicted: Int[Tensor, " m"],
    *,
    mask_id: int,
    expand_id: int,
    delete_id: int,
) -> tuple[Int[Tensor, " k"], Bool[Tensor, " k"]]:
    """One step of the inverse: at masked positions expand becomes two masks, delete vanishes, a token is written.

    Returns:
        The new canvas and which of its positions are masked. With the right predictions the masks left double towards
        the true length, so about log2 of the longest merged chain steps restore the content.
    """
    copies = torch.ones_like(canvas_ids)
    copies[is_masked & (predicted == expand_id)] = 2
    copies[is_masked & (predicted == delete_id)] = 0
    still_masked = is_masked & (predicted == expand_id)
    filled = torch.where(is_masked, torch.where(still_masked, mask_id, predicted), canvas_ids)
    return filled.repeat_interleave(copies), still_masked.repeat_interleave(copies)
