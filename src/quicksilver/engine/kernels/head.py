"""The head in one kernel: from hidden rows to the numbers a candidate needs, without a tensor of all logits.

The vocabulary is cut into spans of ``SPAN`` tokens. A program multiplies a tile of rows with one span of the embedding,
tile after tile, and keeps per row what ``decoding.selection.select`` would take from the logits:

    found [FIELDS, N, S]   best       greatest logit of a token that may be chosen, and ``second``, the next one
                           greatest   greatest logit of an allowed token, the reference of the two sums
                           total      sum of exp(logit - greatest) over allowed tokens: the online softmax
                                      (Milakov and Gimelshein 2018, arXiv:1805.02867)
                           moment     sum of exp(logit - greatest) * (logit - greatest), for the entropy
                           drawn      greatest logit / temperature + Gumbel noise, and ``drawn_logit``, its logit
    ids [2, N, S]          tokens of ``best`` and ``drawn``, the lowest of equals

A few sums over the S spans then make the candidates. Tiles and spans do not depend on N, so neither does a row.

The noise is that of ``decoding.draws``, with the same bits: all counters but the token are mixed by torch, the last one
here, in float64. Logits are rounded to the embedding's dtype as torch rounds them; exponentials are float32 and summed
in float64. Against torch only the order of sums differs.

Not here, left to torch row by row: adjusted logits, and samples from a truncated distribution.

Legend: N rows, D model width, V vocabulary, S spans, R sets of forbidden tokens.
"""

from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.draws import Purpose
from quicksilver.decoding.selection import Candidates
from quicksilver.diffusion.counter_rng import counter_bits
from quicksilver.engine.kernels._triton import jit, tl

ROWS, TOKENS, DEPTH = 32, 64, 64
"""Of a tile: hidden rows, embedding rows, columns of both."""
SPAN = 1024
"""Tokens of one program: many programs even for one row."""
FIELDS = 7


@jit
@no_type_check
def _logits(
    hidden,
    weight,
    is_row,
    is_token,
    depth,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A tile of logits, [ROWS, TOKENS], from the first elements of its hidden and embedding rows."""
    logits = tl.zeros((ROWS, TOKENS), tl.float32)
    for at in range(0, depth, DEPTH):
        column = at + tl.arange(0, DEPTH)
        is_column = column < depth
        x = tl.load(hidden + column[None, :], is_row[:, None] & is_column[None, :], 0.0)
        w = tl.load(weight + column[:, None], is_token[None, :] & is_column[:, None], 0.0)
        logits = tl.dot(x, w, logits, input_precision="ieee")
    return logits.to(weight.dtype.element_ty).to(tl.float32)


@jit
@no_type_check
def _gumbel(state, token):
    """Float64 Gumbel noise from the last round of ``counter_rng``'s SplitMix64, its constants as signed numbers."""
    bits = (state ^ token.to(tl.int64)) + -7046029254386353131
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    bits = bits ^ ((bits >> 31) & 0x1FFFFFFFF)
    uniform = (((bits >> 12) & 0xFFFFFFFFFFFFF).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return -tl.log(-tl.log(uniform))


# Another number of rows is no reason to compile again.
@jit(do_not_specialize=("num_rows",))
@no_type_check
def _scan(  # noqa: PLR0915  # one function, see below
    hidden,  # [N, D]
    weight,  # [V, D]
    kinds,  # [R, V]: 0 may be chosen, 2 withheld, 1 and 3 forbidden
    sets,  # [N]: which row of kinds
    temperature,  # [N], float32, positive
    state,  # [N], int64: of the counters before the token
    found,  # [FIELDS, N, S], float64
    ids,  # [2, N, S], int32
    num_rows,
    vocab_size,
    depth,
    hidden_row,
    weight_row,
    num_spans,
    IS_SAMPLED: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPAN: tl.constexpr,
):
    # Long because a kernel is one function; its parts share two dozen names.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    span = tl.program_id(1)
    is_row = row < num_rows
    kind_row = tl.load(sets + row, mask=is_row, other=0) * vocab_size
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    second, greatest, drawn_logit = best, best, best
    total = tl.zeros((ROWS,), tl.float64)
    moment, drawn = total, total + float("-inf")
    best_id = tl.zeros((ROWS,), tl.int32)
    drawn_id = best_id
    if IS_SAMPLED:
        row_state = tl.load(state + row, mask=is_row, other=0)
        divisor = tl.load(temperature + row, mask=is_row, other=1.0).to(tl.float64)
    for start in range(span * SPAN, tl.minimum(span * SPAN + SPAN, vocab_size), TOKENS):
        token = start + tl.arange(0, TOKENS)
        is_token = token < vocab_size
        logits = _logits(
            hidden + (row * hidden_row)[:, None],
            weight + (token.to(tl.int64) * weight_row)[None, :],
            is_row,
            is_token,
            depth,
            ROWS,
            TOKENS,
            DEPTH,
        )
        kind = tl.load(kinds + kind_row[:, None] + token[None, :], is_row[:, None] & is_token[None, :], 1)
        is_allowed = (kind & 1) == 0
        choosable = tl.where(kind == 0, logits, float("-inf"))

        tile_best = tl.max(choosable, axis=1)
        tile_id = tl.min(tl.where(choosable == tile_best[:, None], token[None, :], vocab_size - 1), axis=1)
        tile_second = tl.max(tl.where(token[None, :] == tile_id[:, None], float("-inf"), choosable), axis=1)
        second = tl.maximum(tl.maximum(second, tile_second), tl.minimum(best, tile_best))
        best_id = tl.where(tile_best > best, tile_id, best_id)
        best = tl.maximum(best, tile_best)

        tile_greatest = tl.max(tl.where(is_allowed, logits, float("-inf")), axis=1)
        new_greatest = tl.maximum(greatest, tile_greatest)
        # Where nothing is allowed yet, any finite reference will do.
        base = tl.where(new_greatest == float("-inf"), 0.0, new_greatest)
        below = tl.where(is_allowed, logits - base[:, None], 0.0)
        share = tl.where(is_allowed, tl.exp(below), 0.0).to(tl.float64)
        fall = tl.where(greatest == float("-inf"), 0.0, greatest - base).to(tl.float64)
        decay = tl.exp(fall)
        if HAS_ENTROPY:
            moment = (moment + total * fall) * decay + tl.sum(share * below, axis=1)
        total = total * decay + tl.sum(share, axis=1)
        greatest = new_greatest

        if IS_SAMPLED:
            perturbed = choosable.to(tl.float64) / divisor[:, None] + _gumbel(row_state[:, None], token[None, :])
            tile_drawn = tl.max(perturbed, axis=1)
            tile_id = tl.min(tl.where(perturbed == tile_drawn[:, None], token[None, :], vocab_size - 1), axis=1)
            tile_logit = tl.max(tl.where(token[None, :] == tile_id[:, None], choosable, float("-inf")), axis=1)
            drawn_id = tl.where(tile_drawn > drawn, tile_id, drawn_id)
            drawn_logit = tl.where(tile_drawn > drawn, tile_logit, drawn_logit)
            drawn = tl.maximum(drawn, tile_drawn)

    at = row * num_spans + span
    step = num_rows * num_spans
    tl.store(found + at, best.to(tl.float64), mask=is_row)
    tl.store(found + step + at, second.to(tl.float64), mask=is_row)
    tl.store(found + 2 * step + at, greatest.to(tl.float64), mask=is_row)
    tl.store(found + 3 * step + at, total, mask=is_row)
    tl.store(found + 4 * step + at, moment, mask=is_row)
    tl.store(found + 5 * step + at, drawn, mask=is_row)
    tl.store(found + 6 * step + at, drawn_logit.to(tl.float64), mask=is_row)
    tl.store(ids + at, best_id, mask=is_row)
    tl.store(ids + step + at, drawn_id, mask=is_row)


class _Found(NamedTuple):
    """What the kernel found in each span, in float64."""

    best: Float[Tensor, "N S"]
    second: Float[Tensor, "N S"]
    greatest: Float[Tensor, "N S"]
    total: Float[Tensor, "N S"]
    moment: Float[Tensor, "N S"]
    drawn: Float[Tensor, "N S"]
    drawn_logit: Float[Tensor, "N S"]


def choose(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    *,
    is_forbidden: Bool[Tensor, "R V"],
    is_withheld: Bool[Tensor, "R V"] | None,
    rule: Int[Tensor, " N"],
    temperature: Float[Tensor, " N"],
    seed: Int[Tensor, " N"],
    positions: Int[Tensor, " N"],
    step: Int[Tensor, " N"],
    has_entropy: bool,
    watched: Int[Tensor, "N k"] | None,
) -> tuple[Candidates, Float[Tensor, "N k"] | None]:
    """``engine.head.choose`` for rows that are neither adjusted nor truncated; what it gives others means nothing.

    Args:
        hidden: the rows.
        weight: the embedding they are compared with.
        is_forbidden: this and what follows as in ``engine.head.HeadParams``.
        is_withheld: likewise.
        rule: likewise.
        temperature: likewise.
        seed: likewise.
        positions: likewise.
        step: likewise.
        has_entropy: likewise.
        watched: likewise.
    """
    is_sampled = temperature > 0
    kinds = is_forbidden.to(torch.int8)
    if is_withheld is not None:
        kinds = kinds + 2 * is_withheld.to(torch.int8)
    found, ids = _run(
        hidden,
        weight,
        kinds,
        rule if kinds.shape[0] > 1 else torch.zeros_like(rule),
        torch.where(is_sampled, temperature, 1.0).float(),
        counter_bits(int(Purpose.TOKEN), seed, positions, step),
        is_sampled=bool(is_sampled.any()),
        has_entropy=has_entropy,
    )
    greatest = found.greatest.amax(dim=1)
    # From each span's own reference of the sums to the row's.
    fall = torch.where(found.greatest == -torch.inf, 0.0, found.greatest - greatest[:, None])
    total = (found.total * fall.exp()).sum(dim=1)
    moment = ((found.moment + found.total * fall) * fall.exp()).sum(dim=1)
    entropy = (total.log() - moment / total).float() if has_entropy else torch.full_like(total, torch.nan).float()
    candidates = _candidates(found, ids, is_sampled, greatest, total, entropy)
    if watched is None:
        return candidates, None
    logits = (hidden[:, None].float() * weight[watched].float()).sum(dim=-1).to(weight.dtype).double()
    probability = (logits - greatest[:, None]).exp() / total[:, None]
    return candidates, probability.masked_fill(is_forbidden[rule[:, None], watched], 0.0).float()


def _candidates(
    found: _Found, ids: Tensor, is_sampled: Tensor, greatest: Tensor, total: Tensor, entropy: Tensor
) -> Candidates:
    """The best over all spans, and the drawn ones where rows are sampled."""
    best, argmax_ids = _lowest(found.best, ids[0])
    # The second best is the winning span's own, or the best of another span; a tie of spans makes it the best.
    is_winner = torch.arange(ids.shape[2], device=ids.device) == found.best.argmax(dim=1, keepdim=True)
    second = torch.where(is_winner, found.second, found.best).amax(dim=1)
    _, drawn_ids = _lowest(found.drawn, ids[1])
    drawn_logit = torch.where(ids[1] == drawn_ids[:, None], found.drawn_logit, -torch.inf).amax(dim=1)
    chosen = torch.where(is_sampled, drawn_logit, best)
    return Candidates(
        token_ids=torch.where(is_sampled, drawn_ids, argmax_ids),
        argmax_ids=argmax_ids,
        confidence=((chosen - greatest).exp() / total).float(),
        argmax_confidence=((best - greatest).exp() / total).float(),
        margin=(((best - greatest).exp() - (second - greatest).exp()) / total).float(),
        entropy=entropy,
    )


def _run(
    hidden: Tensor,
    weight: Tensor,
    kinds: Tensor,
    sets: Tensor,
    temperature: Tensor,
    state: Tensor,
    *,
    is_sampled: bool,
    has_entropy: bool,
) -> tuple[_Found, Int[Tensor, "2 N S"]]:
    """Launch the kernel; its arguments say what the tensors hold."""
    num_rows, (vocab_size, depth) = hidden.shape[0], weight.shape
    num_spans = -(-vocab_size // SPAN)
    found = torch.empty(FIELDS, num_rows, num_spans, dtype=torch.float64, device=hidden.device)
    ids = torch.empty(2, num_rows, num_spans, dtype=torch.int32, device=hidden.device)
    hidden, weight = (each if each.stride(1) == 1 else each.contiguous() for each in (hidden, weight))
    _scan[(-(-num_rows // ROWS), num_spans)](
        hidden,
        weight,
        kinds.contiguous(),
        sets,
        temperature,
        state,
        found,
        ids,
        num_rows,
        vocab_size,
        depth,
        hidden.stride(0),
        weight.stride(0),
        num_spans,
        IS_SAMPLED=is_sampled,
        HAS_ENTROPY=has_entropy,
        ROWS=ROWS,
        TOKENS=TOKENS,
        DEPTH=DEPTH,
        SPAN=SPAN,
        # With four the sampling kernel spills registers (compiled for sm_90).
        num_warps=8,
        num_stages=2,
    )
    return _Found(*found), ids


def _lowest(values: Float[Tensor, "N S"], ids: Int[Tensor, "N S"]) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
    """The greatest value per row and the lowest of the ids that have it."""
    greatest = values.amax(dim=1)
    # Where nothing equals it, among NaN, any of the ids: an index beyond the vocabulary would stop the device.
    lowest = torch.where(values == greatest[:, None], ids, ids.amax(dim=1, keepdim=True)).amin(dim=1)
    return greatest, lowest.long()
