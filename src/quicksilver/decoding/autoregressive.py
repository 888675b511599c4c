"""The autoregressive counterpart: one token per forward, left to right. The yardstick of the diffusion samplers."""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from quicksilver.decoding.adjustments import adjust, canvas_adjustments
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.constrained import ConstrainedRows, Terms, first_candidates
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.guidance import check_guidance
from quicksilver.decoding.ledger import Ledger, Marks, Places, Step, commits
from quicksilver.decoding.params import (
    DEFAULT_MAX_TOKENS,
    SamplingParams,
    end_ids,
    forbidden_tokens,
    kept_tokens,
    require_no_stale_rows,
    special_ids,
)
from quicksilver.decoding.protocol import CanvasLogits
from quicksilver.decoding.regions import Region, constrained_response
from quicksilver.decoding.sampler import select_rows
from quicksilver.decoding.selection import Candidates
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.errors import ConfigError


def generate_autoregressive(
    logits_fn: CanvasLogits, spec: DiffusionSpec, prompt_ids: Sequence[int], params: SamplingParams
) -> Iterator[Event]:
    """Continue a prompt token by token until eos, a stop, ``max_tokens`` or ``max_nfe``; the last event is Done.

    Raises:
        ConfigError: the checkpoint is not autoregressive, or a policy, block length or cache is given, or a stop
            id is a special token.
    """
    if spec.objective is not Objective.AUTOREGRESSIVE:
        raise ConfigError(f"a checkpoint of objective {spec.objective} is not autoregressive; use generate")
    for name in ("policy", "block_length"):
        if getattr(params, name) is not None:
            raise ConfigError(f"an autoregressive checkpoint has no {name}")
    require_no_stale_rows(params)
    check_guidance(params.guidance, spec, is_exact=True)
    return _generate(logits_fn, spec, prompt_ids, params, end_ids(spec, params))


def _generate(
    logits_fn: CanvasLogits,
    spec: DiffusionSpec,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    ends: frozenset[int],
) -> Iterator[Event]:
    ledger = Ledger()
    temperature = spec.decoding.temperature if params.temperature is None else params.temperature
    banned = (special_ids(spec) - {spec.special.eos}) | set(params.forbidden_ids)
    canvas = Canvas.of_prompt(prompt_ids)
    limit = len(prompt_ids) + (params.max_tokens or DEFAULT_MAX_TOKENS)
    response = constrained_response(
        params.constraint, spec, never=banned, ends=ends, max_tokens=limit - len(prompt_ids)
    )
    reason = FinishReason.LENGTH
    while len(canvas) < limit:
        if ledger.nfe == params.max_nfe:
            reason = FinishReason.MAX_NFE
            break
        last = len(canvas)
        yield Resize(hole=0, start=last - len(prompt_ids), added=1)
        canvas = Canvas.join([canvas, Canvas.of_masks(1, mask_id=spec.special.mask, hole=0)])
        positions = torch.arange(len(canvas))
        # One block per position is causal attention; the row of the dummy mask predicts the next token.
        logits = ledger.forward(logits_fn, canvas.token_ids, positions)
        params.check_vocabulary(logits.shape[1])
        regions = ()
        if response is not None:
            # A deadline ends the text behind a token that did not know it; max_nfe must repeat what it cut.
            regions = response.regions([spec.special.mask], [State.MASK], [0], is_last=False)
        found = _candidate(logits[last:], canvas, params, temperature, banned, regions)
        step = _write_last(canvas, found)
        yield from ledger.record(Places.of(canvas), Marks.of(step), spec.special.mask)
        yield from commits(canvas, step.commit)
        canvas = canvas.commit(
            step.commit,
            step.token_ids,
            step.confidence,
            step=ledger.nfe,
            state=State.FINAL,
            alternatives=step.alternatives,
        )
        yield ledger.frame(canvas)
        ending = _ending(canvas.token_ids[len(prompt_ids) :].tolist(), ends, spec.special.eos, params)
        if ending is not None:
            reason, kept = ending
            end = len(prompt_ids) + kept
            if end < len(canvas):
                yield Resize(hole=0, start=kept, added=end - len(canvas))
            canvas = canvas.take(positions[:end])
            break
        if response is not None:
            response.take(canvas.token_ids[last:].tolist())
    yield ledger.done(canvas, 1, reason)


def _candidate(
    logits: Float[Tensor, "1 V"],
    canvas: Canvas,
    params: SamplingParams,
    temperature: float,
    banned: Collection[int],
    regions: Sequence[Region],
) -> Candidates:
    """The token for the canvas' last position; the regions' one row is its own."""
    positions, adjustments = torch.tensor([len(canvas) - 1]), canvas_adjustments(params, canvas, 1)
    found = select_rows(
        logits,
        params,
        temperature=temperature,
        positions=positions,
        step=0,
        is_forbidden=forbidden_tokens(logits.shape[1], banned)[None],
        adjustments=adjustments,
    )
    if not regions:
        return found
    terms = Terms.of(params, temperature=temperature, step=0, positions=positions)
    return first_candidates(ConstrainedRows(regions, adjust(logits.cpu(), adjustments), found, terms))


def _ending(
    response: Sequence[int], ends: frozenset[int], eos_id: int, params: SamplingParams
) -> tuple[FinishReason, int] | None:
    """Why the response ends with its last token, and how many of its tokens remain; None: it goes on."""
    last = response[-1]
    if last in ends:
        return FinishReason.EOS if last == eos_id else FinishReason.STOP, len(response) - 1
    kept = kept_tokens(params.stop, response)
    return None if kept is None else (FinishReason.STOP, kept)


def _write_last(canvas: Canvas, found: Candidates) -> Step:
    """The step that writes the one candidate at the last position."""
    last = torch.tensor([len(canvas) - 1])
    is_last = torch.arange(len(canvas)) == last
    nothing = torch.zeros_like(is_last)
    return Step(
        token_ids=canvas.token_ids.index_copy(0, last, found.token_ids),
        confidence=canvas.confidence.index_copy(0, last, found.confidence),
        commit=is_last,
        edit=nothing,
        remask=nothing,
        is_settled=True,
        alternatives=None if found.alternatives is None else found.alternatives.spread(last, len(canvas)),
    )
