"""Guidance: logits moved away from what the denoiser says without the prompt, and towards what a classifier wants.

Order of operations: denoiser, classifier-free guidance, classifier, bias and penalties, temperature, constraint. So
what is never written stays so, and a constraint holds exactly.

Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598; for masked diffusion Nie et al. 2024,
arXiv:2410.18514): l = l_u + (scale + 1) (l_c - l_u). The rows of l_u see a *twin* of the canvas: the same masks and
tokens written so far behind a negative prompt, or without the prompt.

A classifier guides by its gradient, in the first-order approximation of Schiff et al. 2024 (arXiv:2412.10193): of all
replacements of one token at once, log p(y | x with v at i) - log p(y | x) is about g[i, v] - g[i, x_i], and the second
term is the same for all v.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.canvas import NO_HOLE, Canvas
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.errors import ConfigError

MAX_SCALE = 20.0


@runtime_checkable
class Classifier(Protocol):
    """Judges a canvas; shipped ones are in ``quicksilver.api.steering``."""

    def gradient(self, token_ids: Int[Tensor, " L"], is_masked: Bool[Tensor, " L"]) -> Float[Tensor, "L V"]:
        """Of the log-probability of what is wanted, by the one-hot input; a function of the arguments alone."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """What one request is guided by."""

    scale: float = 0.0
    """Of classifier-free guidance; 0 is none."""
    until: float = 1.0
    """Share of a block's tokens, or of all holes', from which on the second row is dropped; in (0, 1]."""
    negative_ids: tuple[int, ...] | None = None
    """What the second row has in place of the prompt, or of the text before the first hole; None: nothing, or masks."""
    classifier: Classifier | None = None
    classifier_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("scale", "classifier_scale"):
            if not 0 <= getattr(self, name) <= MAX_SCALE:
                raise ConfigError(f"guidance: {name} must lie in [0, {MAX_SCALE:g}], got {getattr(self, name)}")
        if not 0 < self.until <= 1:
            raise ConfigError(f"guidance: until must lie in (0, 1], got {self.until}")
        if self.negative_ids is not None and not self.scale:
            raise ConfigError("guidance: a negative prompt needs a scale above 0")
        if not self.scale and self.classifier is None:
            raise ConfigError("guidance needs a scale above 0 or a classifier")


@dataclass(frozen=True, kw_only=True, slots=True)
class Twin:
    """What the second row sees."""

    token_ids: Int[Tensor, " M"]
    block_ids: Int[Tensor, " M"]
    """As in ``CanvasLogits``."""
    moved: int
    """From a position of the canvas that is written to that of its twin."""


def check_guidance(guidance: Guidance | None, spec: DiffusionSpec, *, is_exact: bool) -> None:
    """Raise ConfigError where a checkpoint or a cache does not go together with guidance.

    Args:
        guidance: of a request.
        spec: of the checkpoint.
        is_exact: whether every forward computes all rows.
    """
    if guidance is None:
        return
    if spec.objective is not Objective.MASK:
        raise ConfigError(f"guidance is of checkpoints that denoise masks, this one's objective is {spec.objective}")
    if not is_exact:
        raise ConfigError("guidance needs cache exact: a second row has no rows of its own to keep")


def twin_of(
    guidance: Guidance, spec: DiffusionSpec, canvas: Canvas, block_ids: Int[Tensor, " L"] | None
) -> Twin | None:
    """The twin of a canvas for the coming forward; None where there is none, or no more.

    Args:
        guidance: of the request.
        spec: of the checkpoint.
        canvas: all of it, prompt included.
        block_ids: its blocks as ``CanvasLogits`` has them; None under full attention.
    """
    if not guidance.scale:
        return None
    is_given = canvas.hole == NO_HOLE
    is_last_block = ~is_given if block_ids is None else ~is_given & (block_ids == block_ids[-1])
    num_written = int((is_last_block & ~canvas.is_masked).sum())
    if num_written >= guidance.until * int(is_last_block.sum()):
        return None
    token_ids = canvas.token_ids
    known = torch.tensor(sorted(_special(spec)))
    if block_ids is None and guidance.negative_ids is None:
        is_hidden = is_given & ~torch.isin(token_ids, known)
        hidden = token_ids.masked_fill(is_hidden, spec.special.mask)
        return Twin(token_ids=hidden, block_ids=torch.zeros_like(hidden), moved=0)
    first = int((~is_given).nonzero()[0, 0])
    is_special = torch.isin(token_ids[:first], known)
    num_leading = int(is_special.long().cumprod(dim=0).sum())
    negative = torch.tensor(guidance.negative_ids or (), dtype=torch.int64)
    # Sentinels stay: without them a hole behind prefix and suffix would be none.
    head = torch.cat([token_ids[:num_leading], negative, token_ids[num_leading:first][is_special[num_leading:]]])
    moved = torch.cat([head, token_ids[first:]])
    blocks = torch.zeros_like(moved) if block_ids is None else _blocks(spec, len(head), block_ids[first:])
    return Twin(token_ids=moved, block_ids=blocks, moved=len(head) - first)


def _special(spec: DiffusionSpec) -> set[int]:
    """Tokens that say what a canvas is; the literal mask may stand in a prompt."""
    special = spec.special
    named = (special.file, special.canvas, special.fim_prefix, special.fim_suffix, special.fim_middle)
    return {token for token in named if token is not None}


def _blocks(spec: DiffusionSpec, num_head: int, written: Int[Tensor, " R"]) -> Int[Tensor, " M"]:
    """Of a head, and of what is written behind it as the canvas has it."""
    head = torch.arange(num_head)
    if not spec.has_causal_context:
        head = head // spec.block_length
    start = int(head[-1]) + 1 if num_head else 0
    return torch.cat([head, written - written[0] + start])


def guided(
    logits: Float[Tensor, "N V"], unguided: Float[Tensor, "N V"], scale: Float[Tensor, " N"]
) -> Float[Tensor, "N V"]:
    """Classifier-free guidance of rows."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    with_prompt, without = logits.to(wide), unguided.to(wide)
    return without + (scale.double() + 1).to(wide)[:, None] * (with_prompt - without)


def classifier_rows(guidance: Guidance, canvas: Canvas, columns: Sequence[int]) -> Float[Tensor, "N V"] | None:
    """What a classifier adds to the logits of some columns; None: there is none."""
    if guidance.classifier is None or not guidance.classifier_scale:
        return None
    gradient = guidance.classifier.gradient(canvas.token_ids, canvas.is_masked)
    return guidance.classifier_scale * gradient[torch.tensor(list(columns), dtype=torch.int64)]
