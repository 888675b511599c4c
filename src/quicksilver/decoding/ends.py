"""How a block that may hold the end of the text is written.

Held, which is the rule of this file: where a text ends is told once
per block from its masks alone, after that by the text in front of the end, and what is behind a written end is void.

A block is filled with eos behind its text, so "position i is eos" says no more than "the text has at most i tokens":
along a block the probabilities of eos are the distribution function of the text's length, and the greatest come last. A
policy that commits what it is surest of commits eos at the last position, looks again, now at texts that are one
token shorter, and so walks to the first position: every step is likely, and the empty text that they lead to is not.
Differs from LLaDA's instruct model (arXiv:2502.09992), where eos has no confidence at all, which suits answers of given
length only.

Free, as in the published loops of LLaDA and Dream: eos is a token like any other until its block is full.
"""

from dataclasses import replace
from enum import StrEnum

import torch
from jaxtyping import Bool
from torch import Tensor

from quicksilver.decoding.lengths import MEDIAN
from quicksilver.decoding.window import Window


class Ends(StrEnum):
    """How a block is written that may hold eos."""

    HELD = "held"
    FREE = "free"


def hold_ends(window: Window, end_id: int) -> Window:
    """The window in which ends are as sure as they should be, for policies that commit the surest first.

    At the first look of a block the median length is sure. Every other end is no surer than the least sure mask in
    front of it, so that it comes with that mask or later; of equally sure positions the lowest comes first. Rows whose
    ends are free stay as they are.
    """
    is_end = (window.candidate_ids == end_id) & (window.is_masked | window.is_draft) & window.holds_ends[:, None]
    if not bool(is_end.any()):
        return window
    # All three at once, each so that more is surer: a step of a small model is short beside so many small operators.
    values = torch.stack([window.confidence, window.margin, -window.entropy])
    least = values.masked_fill(~window.is_masked, torch.inf).cummin(dim=-1).values
    held = torch.where(is_end, torch.minimum(values, least), values)
    if bool((window.step == 0).any()):
        held = torch.where(_median_end(window, is_end), _SUREST.to(held)[:, None, None], held)
    return replace(window, confidence=held[0], margin=held[1], entropy=-held[2])


_SUREST = torch.tensor([1.0, 1.0, 0.0])


def _median_end(window: Window, is_end: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
    """The first of the ends that are likelier than not up to the end of the block, at the block's first look."""
    is_open = window.is_masked | window.is_draft
    is_likely = is_end & (window.confidence > MEDIAN)
    # Positions that are not open, behind the greatest length, do not count.
    is_trailing = (is_likely | ~is_open).flip(-1).long().cumprod(dim=-1).flip(-1).bool() & is_likely
    return is_trailing & (is_trailing.long().cumsum(dim=-1) == 1) & (window.step == 0)[:, None]
