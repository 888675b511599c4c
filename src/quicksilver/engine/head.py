"""From hidden rows to candidates, a few rows at a time.

Logits of all rows over a large vocabulary are the biggest tensors of a step (32 rows of 152k tokens take 20 MB in
float32, and choosing needs several such). Here at most ``TILE_ELEMENTS`` logits exist at once. A row's result depends
on its own hidden state and parameters only; ``decoding.selection`` chooses, as it does for the reference samplers.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from quicksilver.decoding.adjustments import Adjustments, adjust
from quicksilver.decoding.guidance import guided
from quicksilver.decoding.selection import Candidates, distribution, select
from quicksilver.engine import kernels
from quicksilver.models.denoiser import Denoiser

TILE_ELEMENTS = 2**19
"""Logits held at once: 2 MB in float32, 64 rows of 8,192. Fewer multiply slower; more are no faster (docs/log.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadParams:
    """How each of N rows is decided; the fields mean what ``select``'s arguments mean."""

    is_forbidden: Bool[Tensor, "K V"]
    """The different sets of forbidden tokens among the rows."""
    is_withheld: Bool[Tensor, "K V"] | None = None
    """The withheld tokens that go with them; None: no row has any."""
    rule: Int[Tensor, " N"]
    """Which of the sets each row has."""
    temperature: Float[Tensor, " N"]
    seed: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    step: Int[Tensor, " N"]
    top_k: Int[Tensor, " N"] | None = None
    """None if no row asks for it; rows that do not have the vocabulary's size."""
    top_p: Float[Tensor, " N"] | None = None
    """None if no row asks for it; rows that do not have 1."""

    adjustments: Adjustments | None = None
    """Of all rows."""
    has_entropy: bool = True
    """Whether a row's policy reads it."""
    measured_at: Float[Tensor, " N"] | None = None
    """None if it is 1 for all rows."""
    watched: Int[Tensor, "N k"] | None = None
    """Tokens whose probabilities are wanted beside the candidates; None: no row asks for any."""
    num_alternatives: Int[Tensor, " N"] | None = None
    """Likeliest tokens that each row wants named; it may get more. None: no row asks for any."""
    guided: "GuidedRows | None" = None
    """None: no row is guided."""
    is_constrained: tuple[bool, ...] | None = None
    """Rows whose logits are wanted, because a constraint decides them (``decoding.constrained``); None: no row."""

    def packed(self) -> dict[str, Tensor | bool | None]:
        """What the kernel for rows that need no logits asks for."""
        rules, per_row = (
            ("is_forbidden", "is_withheld", "rule"),
            ("temperature", "seed", "positions", "step", "watched"),
        )
        return {name: getattr(self, name) for name in (*rules, *per_row, "has_entropy")}

    def need_logits(self) -> list[bool] | None:
        """Which rows change logits, truncate their distribution or rank it, so that all are needed; None: none."""
        if self.measured_at is not None:
            return [True] * self.rule.shape[0]
        reasons = (self.adjustments, self.top_k, self.top_p, self.num_alternatives, self.is_constrained)
        reasons = (*reasons, self.guided)
        if all(each is None for each in reasons):
            return None
        found = torch.zeros_like(self.rule, dtype=torch.bool)
        if self.is_constrained is not None:
            found |= torch.tensor(self.is_constrained, device=found.device)
        if self.guided is not None:
            found[self.guided.row] = True
            found[self.guided.added_row] = True
        if self.adjustments is not None:
            found[self.adjustments.row] = True
        if self.top_k is not None:
            found |= (self.temperature > 0) & (self.top_k < self.is_forbidden.shape[1])
        if self.top_p is not None:
            found |= (self.temperature > 0) & (self.top_p < 1)
        if self.num_alternatives is not None:
            found |= self.num_alternatives > 0
        return found.tolist()

    def rows(self, start: int, stop: int) -> dict[str, Tensor | Adjustments | bool | int | None]:
        """``select``'s arguments for the rows [start, stop)."""
        index = slice(start, stop)
        per_row = ("temperature", "seed", "positions", "step", "top_k", "top_p", "measured_at")
        taken = {name: None if getattr(self, name) is None else getattr(self, name)[index] for name in per_row}
        # One set for all rows broadcasts.
        rule = slice(0, 1) if self.is_forbidden.shape[0] == 1 else self.rule[index]
        return taken | {
            "is_forbidden": self.is_forbidden[rule],
            "is_withheld": None if self.is_withheld is None else self.is_withheld[rule],
            "has_entropy": self.has_entropy,
            "adjustments": None if self.adjustments is None else self.adjustments.rows(start, stop),
            "num_alternatives": 0 if self.num_alternatives is None else int(self.num_alternatives[index].amax()),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidedRows:
    """Rows of which others are taken into account, or to which a classifier adds; both may be of the same row."""

    hidden: Float[Tensor, "M D"]
    """Of the second rows."""
    row: Int[Tensor, " M"]
    """Whose they are, rising."""
    scale: Float[Tensor, " M"]
    added: Float[Tensor, "A V"]
    added_row: Int[Tensor, " A"]

    def apply(self, denoiser: Denoiser, logits: Float[Tensor, "n V"], start: int, row_multiple: int) -> Tensor:
        """The logits of the rows from ``start`` on with what guides them."""
        bounds = torch.tensor([start, start + logits.shape[0]], device=logits.device)
        first, last = torch.searchsorted(self.row, bounds).tolist()
        if last > first:
            rows, hidden = self.row[first:last] - start, self.hidden[first:last]
            others = _logits(denoiser, hidden, row_multiple)
            moved = guided(logits[rows], others, self.scale[first:last])
            logits = logits.to(moved.dtype).index_put((rows,), moved)
        first, last = torch.searchsorted(self.added_row, bounds).tolist()
        if last > first:
            rows, added = self.added_row[first:last] - start, self.added[first:last]
            logits = logits.to(torch.promote_types(logits.dtype, added.dtype))
            logits = logits.index_add(0, rows, added.to(logits.dtype))
        return logits


class Chosen(NamedTuple):
    """What the head says of N rows."""

    candidates: Candidates
    watched: Float[Tensor, "N k"] | None = None
    """Probabilities of the tokens watched."""
    predicted: Float[Tensor, "N D"] | None = None
    """Mean embeddings of what is predicted, where the denoiser sees them at its next step."""
    logits: Float[Tensor, "M V"] | None = None
    """Of the constrained rows, bias and penalties made. Their candidates do not know of the constraint, and mean
    nothing where no alternatives are asked for."""


def choose(denoiser: Denoiser, hidden: Float[Tensor, "N D"], params: HeadParams, row_multiple: int = 1) -> Chosen:
    """One candidate per hidden row, and what else is asked for.

    Args:
        denoiser: whose head is used.
        hidden: the rows.
        params: how each is decided.
        row_multiple: rows of a product are filled up to a multiple.
    """
    weight = _plain_weight(denoiser) if kernels.are_used(hidden) else None
    if weight is None or weight.dtype != hidden.dtype:
        return _joined(_choose_rows(denoiser, hidden, params, 0, hidden.shape[0], row_multiple))
    from quicksilver.engine.kernels.head import choose as choose_packed

    candidates, watched = choose_packed(hidden, weight, **params.packed())  # pyright: ignore[reportArgumentType]
    need_logits = params.need_logits()
    if need_logits is None or not any(need_logits):
        return Chosen(candidates, watched)
    found: list[Chosen] = []
    bounds = [0, *(at for at in range(1, len(need_logits)) if need_logits[at] != need_logits[at - 1]), len(need_logits)]
    for start, stop in pairwise(bounds):
        if need_logits[start]:
            found += _choose_rows(denoiser, hidden, params, start, stop, row_multiple)
        else:
            index = slice(start, stop)
            found.append(Chosen(candidates.rows(index), None if watched is None else watched[index]))
    return _joined(found)


def _plain_weight(denoiser: Denoiser) -> Tensor | None:
    """The head's matrix; None where it is not an ordinary one, but quantized or a part, or its products are not all."""
    if denoiser.config.logit_cap is not None or denoiser.config.has_canvas_pass:
        return None
    weight = (denoiser.lm_head or denoiser.model.embed_tokens).weight
    is_whole = weight.shape[0] == denoiser.config.vocab_size
    return weight if is_whole and type(weight) in (Tensor, nn.Parameter) else None


def _joined(found: list[Chosen]) -> Chosen:
    if len(found) == 1:
        return found[0]
    watched = [each.watched for each in found if each.watched is not None]
    predicted = [each.predicted for each in found if each.predicted is not None]
    logits = [each.logits for each in found if each.logits is not None]
    return Chosen(
        Candidates.join([each.candidates for each in found]),
        torch.cat(watched) if watched else None,
        torch.cat(predicted) if predicted else None,
        torch.cat(logits) if logits else None,
    )


def _choose_rows(
    denoiser: Denoiser, hidden: Tensor, params: HeadParams, start: int, stop: int, row_multiple: int
) -> list[Chosen]:
    """By torch, a tile at a time."""
    tile = max(1, TILE_ELEMENTS // denoiser.config.vocab_size)
    starts = range(start, stop, tile)
    return [_choose_tile(denoiser, hidden[at : min(at + tile, stop)], params, at, row_multiple) for at in starts]


def _logits(denoiser: Denoiser, hidden: Float[Tensor, "n D"], row_multiple: int) -> Float[Tensor, "n V"]:
    missing = -hidden.shape[0] % row_multiple
    return denoiser.logits(F.pad(hidden, (0, 0, 0, missing)) if missing else hidden)[: hidden.shape[0]]


def _choose_tile(denoiser: Denoiser, hidden: Tensor, params: HeadParams, start: int, row_multiple: int) -> Chosen:
    logits = _logits(denoiser, hidden, row_multiple)
    if params.guided is not None:
        logits = params.guided.apply(denoiser, logits, start, row_multiple)
    stop = start + hidden.shape[0]
    given = params.rows(start, stop)
    wanted = () if params.is_constrained is None else params.is_constrained[start:stop]
    kept = None
    if any(wanted):
        adjusted = adjust(logits, given["adjustments"])  # pyright: ignore[reportArgumentType]
        kept = adjusted if all(wanted) else adjusted[torch.tensor(wanted, device=logits.device)]
    if wanted and all(wanted) and not given["num_alternatives"]:
        candidates = _undecided(logits)
    else:
        candidates = select(logits, **given)  # pyright: ignore[reportArgumentType]
    terms = {name: given[name] for name in ("is_forbidden", "adjustments")}
    watched = predicted = None
    if params.watched is not None:
        watched = distribution(logits, **terms).gather(-1, params.watched[start:stop])  # pyright: ignore[reportArgumentType]
    if denoiser.config.has_canvas_pass:
        terms["measured_at"] = given["measured_at"]
        predicted = denoiser.mean_embedding(distribution(logits, **terms))  # pyright: ignore[reportArgumentType]
    return Chosen(candidates, watched, predicted, kept)


def _undecided(logits: Float[Tensor, "N V"]) -> Candidates:
    """In place of the candidates of rows that are all decided elsewhere."""
    nothing = torch.zeros(logits.shape[0], device=logits.device)
    return Candidates(
        token_ids=nothing.long(),
        argmax_ids=nothing.long(),
        confidence=nothing,
        argmax_confidence=nothing,
        margin=nothing,
        entropy=nothing,
    )
