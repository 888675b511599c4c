"""The head of every decoding step: logits rows to candidate tokens and the numbers that policies judge them by.

Rows are independent: a row's result depends on its own logits and parameters only, never on its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.adjustments import Adjustments, adjust
from quicksilver.decoding.alternatives import NO_TOKEN, Alternatives, ranked
from quicksilver.decoding.draws import Purpose, draw_per_token


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """One proposed token per row. Probabilities are float32, at temperature 1, over the allowed tokens."""

    token_ids: Int[Tensor, " N"]
    """Argmax at temperature 0, a sample otherwise."""
    argmax_ids: Int[Tensor, " N"]
    confidence: Float[Tensor, " N"]
    """Probability of ``token_ids``."""
    argmax_confidence: Float[Tensor, " N"]
    """Probability of ``argmax_ids``."""
    margin: Float[Tensor, " N"]
    """Probability of the best token minus that of the second best, of those that may be chosen."""
    entropy: Float[Tensor, " N"]
    """Nats, at the temperature that was asked for; NaN where nobody asked for it."""
    alternatives: Alternatives | None = None
    """The likeliest tokens of those that may be chosen; None: nobody asked for them."""

    @classmethod
    def join(cls, parts: "Sequence[Candidates]") -> "Candidates":
        """The rows of all parts, in order."""
        return cls(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in _PER_ROW},
            alternatives=Alternatives.join(
                [part.alternatives for part in parts], [part.token_ids.shape[0] for part in parts]
            ),
        )

    def rows(self, index: slice) -> "Candidates":
        return Candidates(
            **{name: getattr(self, name)[index] for name in _PER_ROW},
            alternatives=None if self.alternatives is None else self.alternatives.rows(index),
        )

    def to(self, device: torch.device) -> "Candidates":
        return Candidates(
            **{name: getattr(self, name).to(device) for name in _PER_ROW},
            alternatives=None if self.alternatives is None else self.alternatives.to(device),
        )


_PER_ROW = ("token_ids", "argmax_ids", "confidence", "argmax_confidence", "margin", "entropy")


def select(
    logits: Float[Tensor, "N V"],
    *,
    is_forbidden: Bool[Tensor, "#N V"],
    temperature: Float[Tensor, " N"],
    seed: Int[Tensor, " N"],
    positions: Int[Tensor, " N"],
    step: Int[Tensor, " N"],
    is_withheld: Bool[Tensor, "#N V"] | None = None,
    top_k: Int[Tensor, " N"] | None = None,
    top_p: Float[Tensor, " N"] | None = None,
    adjustments: Adjustments | None = None,
    has_entropy: bool = True,
    measured_at: Float[Tensor, " N"] | None = None,
    num_alternatives: int = 0,
) -> Candidates:
    """Choose one token per row.

    Forbidden tokens get logit minus infinity before the softmax (SUBS, Sahoo et al. 2024, arXiv:2406.07524), so they
    have neither probability nor a chance. Every row needs at least one allowed token. Ties go to the lowest id.

    Args:
        logits: rows of one or many requests.
        is_forbidden: tokens that cannot stand there, for all rows or row by row.
        is_withheld: tokens that may stand there and keep their probability, but are decided on elsewhere (expand and
            delete) and never chosen here: where they are likely, every candidate has little confidence.
        temperature: 0 is greedy. Otherwise Gumbel-max in float64: float32 Gumbel noise is truncated and silently
            lowers the entropy (Zheng et al. 2024, arXiv:2409.02908).
        seed: the request's seed.
        positions: the random-number position, see ``draws``.
        step: the denoising step within the block.
        top_k: keep the k likeliest tokens when sampling.
        top_p: keep the smallest set of likeliest tokens whose probability at this temperature reaches p.
        adjustments: bias and penalties, made first: all numbers are those of the adjusted logits.
        has_entropy: whether a policy reads the entropy, which costs as much as everything else.
        measured_at: temperature of the distribution whose entropy it is; None: 1.
        num_alternatives: likeliest tokens to name beside each candidate.
    """
    allowed = without(adjust(logits, adjustments), is_forbidden)
    choosable = allowed if is_withheld is None else without(allowed, is_withheld)
    argmax_ids, best, second = _two_best(choosable)
    greatest = best if is_withheld is None else allowed.amax(dim=-1)
    total = _total(allowed, greatest)
    token_ids, chosen = argmax_ids, best
    is_sampled = temperature > 0
    if bool(is_sampled.any()):
        scaled = choosable.double() / torch.where(is_sampled, temperature, 1.0).double()[:, None]
        drawn = _drawn(_truncate(scaled, top_k, top_p), seed, positions, step)
        token_ids = torch.where(is_sampled, drawn, argmax_ids)
        chosen = allowed.gather(-1, token_ids[:, None])[:, 0]
    return Candidates(
        token_ids=token_ids,
        argmax_ids=argmax_ids,
        confidence=((chosen - greatest).exp() / total).float(),
        argmax_confidence=((best - greatest).exp() / total).float(),
        margin=(((best - greatest).exp() - (second - greatest).exp()) / total).float(),
        entropy=_entropy(_tempered(allowed, measured_at)) if has_entropy else torch.full_like(best, torch.nan),
        alternatives=_alternatives(choosable, greatest, total, num_alternatives) if num_alternatives else None,
    )


def _drawn(scaled: Float[Tensor, "N V"], seed: Tensor, positions: Tensor, step: Tensor) -> Int[Tensor, " N"]:
    vocabulary = torch.arange(scaled.shape[1], device=scaled.device)
    uniform = draw_per_token(Purpose.TOKEN, seed, positions, step, vocabulary)
    return _argmax(scaled - torch.log(-torch.log(uniform)))


def likeliest_tokens(
    logits: Float[Tensor, "N V"],
    count: int,
    *,
    is_forbidden: Bool[Tensor, "#N V"],
    is_withheld: Bool[Tensor, "#N V"] | None = None,
    adjustments: Adjustments | None = None,
) -> Alternatives:
    """The ``alternatives`` of what ``select`` finds, where nothing is to be selected."""
    allowed = without(adjust(logits, adjustments), is_forbidden)
    choosable = allowed if is_withheld is None else without(allowed, is_withheld)
    greatest = allowed.amax(dim=-1)
    return _alternatives(choosable, greatest, _total(allowed, greatest), count)


def _total(allowed: Float[Tensor, "N V"], greatest: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """What exponentials of logits less ``greatest`` are divided by."""
    # Summed in float64: rows of equal probabilities in another order of tokens must not differ in the last bit.
    return (allowed - greatest[:, None]).exp_().sum(dim=-1, dtype=torch.float64)


def _alternatives(
    choosable: Float[Tensor, "N V"], greatest: Float[Tensor, " N"], total: Float[Tensor, " N"], count: int
) -> Alternatives:
    values, ids = ranked(choosable, count)
    return Alternatives(
        token_ids=ids.masked_fill(values == -torch.inf, NO_TOKEN),
        probability=((values - greatest[:, None]).exp() / total[:, None]).float(),
    )


def without(values: Float[Tensor, "N V"], is_left_out: Bool[Tensor, "#N V"]) -> Float[Tensor, "N V"]:
    """Minus infinity at what is left out."""
    # A sum, because filling by a mask that is repeated over rows takes six times as long on a CPU. Minus infinity plus
    # infinity is not a number, which a row that holds infinity gives in any case.
    return values + torch.zeros(is_left_out.shape, device=values.device).masked_fill_(is_left_out, -torch.inf)


TILE = 64
"""Values of which the greatest is found first: two steps take a third of topk's time over the whole row on a CPU."""


def _two_best(values: Float[Tensor, "N V"]) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """The lowest index of the greatest value per row, that value, and the second greatest; a single one has none."""
    num_tiles = values.shape[1] // TILE
    if values.shape[1] % TILE or num_tiles < 2:
        best, index = values.topk(min(2, values.shape[1]), dim=-1)
        second = best[:, 1] if values.shape[1] > 1 else torch.full_like(best[:, 0], -torch.inf)
        best, index = best[:, 0], index[:, 0]
    else:
        tiles = values.unflatten(-1, (num_tiles, TILE))
        outer, tile = tiles.amax(dim=-1).topk(2, dim=-1)
        inner, offset = tiles[torch.arange(values.shape[0], device=values.device), tile[:, 0]].topk(2, dim=-1)
        best, second = outer[:, 0], torch.maximum(outer[:, 1], inner[:, 1])
        index = tile[:, 0] * TILE + offset[:, 0]
    # Which of several equal values topk returns is not promised.
    if bool((best == second).any()):
        index = _argmax(values)
    return index, best, second


def _entropy(logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    return torch.special.entr(torch.softmax(logits, dim=-1)).sum(dim=-1)


def _tempered(logits: Float[Tensor, "N V"], temperature: Float[Tensor, " N"] | None) -> Float[Tensor, "N V"]:
    return logits if temperature is None else logits / temperature[:, None]


def distribution(
    logits: Float[Tensor, "N V"],
    *,
    is_forbidden: Bool[Tensor, "#N V"],
    measured_at: Float[Tensor, " N"] | None = None,
    adjustments: Adjustments | None = None,
) -> Float[Tensor, "N V"]:
    """Probabilities of all tokens; the arguments mean what those of ``select`` mean."""
    allowed = without(adjust(logits, adjustments), is_forbidden)
    return torch.softmax(_tempered(allowed, measured_at), dim=-1)


def token_probability(
    logits: Float[Tensor, "N V"],
    token_ids: Int[Tensor, " N"],
    *,
    is_forbidden: Bool[Tensor, "#N V"],
    adjustments: Adjustments | None = None,
) -> Float[Tensor, " N"]:
    """Probability of one given token per row, on the terms of ``Candidates``; 0 for a forbidden one."""
    allowed = without(adjust(logits, adjustments), is_forbidden)
    return torch.softmax(allowed, dim=-1).gather(-1, token_ids[:, None])[:, 0]


def _argmax(values: Tensor) -> Tensor:
    """The lowest index of the greatest value per row; torch.argmax does not promise which of several it returns."""
    index = torch.arange(values.shape[1], device=values.device)
    return torch.where(values == values.amax(dim=-1, keepdim=True), index, values.shape[1]).amin(dim=-1)


def _truncate(scaled: Tensor, top_k: Tensor | None, top_p: Tensor | None) -> Tensor:
    """Set tokens outside top-k, then outside top-p, to minus infinity; the likeliest token always stays."""
    if top_k is None and top_p is None:
        return scaled
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(scaled.shape[1], device=scaled.device)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k is not None:
        keep &= rank < top_k[:, None]
    if top_p is not None:
        probs = torch.softmax(ordered.masked_fill(~keep, -torch.inf), dim=-1)
        keep &= (probs.cumsum(dim=-1) - probs) < top_p[:, None].double()
        keep[:, 0] = True
    return scaled.masked_fill(~torch.zeros_like(keep).scatter(-1, order, keep), -torch.inf)
