"""Changes to single logits that a request asks for: bias and penalties, before temperature and probabilities.

Sparse and batched: a request touches the few tokens of its bias and its canvas, and the rows of a step may belong to
many requests. Legend: E entries, one per row and token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.decoding.canvas import NO_HOLE, Canvas
from quicksilver.decoding.params import SamplingParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Adjustments:
    """What happens to the logit of ``token_ids[e]`` in row ``row[e]``. No pair occurs twice; rows rise."""

    row: Int[Tensor, " E"]
    token_ids: Int[Tensor, " E"]
    penalty: Float[Tensor, " E"]
    """Divides a positive logit and multiplies any other; 1 changes nothing."""
    bias: Float[Tensor, " E"]
    """Added after the penalty."""

    @classmethod
    def join(cls, parts: "Sequence[Adjustments | None]", num_rows: Sequence[int]) -> "Adjustments | None":
        """The adjustments of a batch in which the ``num_rows[i]`` rows of part i follow those of part i - 1."""
        shifted, start = [], 0
        for part, count in zip(parts, num_rows, strict=True):
            if part is not None:
                shifted.append((part, part.row + start))
            start += count
        if not shifted:
            return None
        return cls(
            row=torch.cat([row for _, row in shifted]),
            token_ids=torch.cat([part.token_ids for part, _ in shifted]),
            penalty=torch.cat([part.penalty for part, _ in shifted]),
            bias=torch.cat([part.bias for part, _ in shifted]),
        )

    def rows(self, start: int, stop: int) -> "Adjustments":
        """Those of the rows [start, stop), numbered from 0."""
        bounds = torch.tensor([start, stop], device=self.row.device)
        first, last = torch.searchsorted(self.row, bounds).tolist()
        part = {f.name: getattr(self, f.name)[first:last] for f in fields(self)}
        return Adjustments(**(part | {"row": part["row"] - start}))

    def to(self, device: torch.device) -> "Adjustments":
        return Adjustments(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def adjust(logits: Float[Tensor, "N V"], adjustments: Adjustments | None) -> Float[Tensor, "N V"]:
    """The logits in float32 with the changes made; the argument stays as it is."""
    logits = logits.float()
    if adjustments is None:
        return logits
    where = (adjustments.row, adjustments.token_ids)
    value = logits[where]
    value = torch.where(value > 0, value / adjustments.penalty, value * adjustments.penalty) + adjustments.bias
    return logits.index_put(where, value)


def token_adjustments(
    params: SamplingParams, *, seen_ids: Int[Tensor, " S"], written_ids: Int[Tensor, " M"], num_rows: int
) -> Adjustments | None:
    """What one request asks for, the same at all of its rows; None if it asks for nothing.

    The repetition penalty is that of CTRL (Keskar et al. 2019, arXiv:1909.05858) as it is commonly used: a negative
    logit is multiplied, because dividing it would reward the repetition. The presence and frequency penalties are those
    of the OpenAI API.

    Args:
        params: the request.
        seen_ids: every token that stands visibly on the canvas, prompt included; repeats count once.
        written_ids: those of them that stand in the response or in holes, with repeats.
        num_rows: open positions of the request.
    """
    if not params.adjusts_logits:
        return None
    device = seen_ids.device
    bias_ids = torch.tensor([token for token, _ in params.logit_bias], dtype=torch.int64, device=device)
    # What has no effect makes no entries.
    seen_ids = seen_ids if params.repetition_penalty != 1 else seen_ids[:0]
    written_ids = written_ids if params.presence_penalty or params.frequency_penalty else written_ids[:0]
    ids = torch.cat([bias_ids, seen_ids, written_ids]).unique()
    count = torch.bincount(torch.searchsorted(ids, written_ids), minlength=ids.shape[0])
    penalty = torch.ones(ids.shape[0], device=device)
    penalty[torch.searchsorted(ids, seen_ids)] = params.repetition_penalty
    # Added up in float64 and rounded once.
    bias = -params.frequency_penalty * count.double() - params.presence_penalty * (count > 0)
    given = torch.tensor([value for _, value in params.logit_bias], dtype=torch.float64, device=device)
    bias.index_add_(0, torch.searchsorted(ids, bias_ids), given)
    return Adjustments(
        row=torch.arange(num_rows, device=device).repeat_interleave(ids.shape[0]),
        token_ids=ids.repeat(num_rows),
        penalty=penalty.repeat(num_rows),
        bias=bias.float().repeat(num_rows),
    )


def canvas_adjustments(params: SamplingParams, canvas: Canvas, num_rows: int) -> Adjustments | None:
    """``token_adjustments`` for what is visible now: every position but the masks, told by state, not by token id."""
    if not params.adjusts_logits:
        return None
    is_visible = ~canvas.is_masked
    return token_adjustments(
        params,
        seen_ids=canvas.token_ids[is_visible],
        written_ids=canvas.token_ids[is_visible & (canvas.hole != NO_HOLE)],
        num_rows=num_rows,
    )
