"""Holes that start with a draft: the first forward looks at it as it stands, and what is unlikely becomes masks.

Going back part of the way and denoising again is the idea of SDEdit (Meng et al. 2021, arXiv:2108.01073) for images.
There noise is added everywhere; here, as in ReMDM (arXiv:2503.00307) and LLaDA2.1 (arXiv:2602.08676), it goes where the
denoiser doubts. Differs from both: once, before the first step, and by the token's own probability.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from quicksilver.decoding.alternatives import Alternatives
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.events import Draft, Event
from quicksilver.decoding.ledger import Marks, Places, commits, spans


def drafted_hole(token_ids: Sequence[int], is_frozen: Sequence[bool], *, hole: int) -> Canvas:
    """A hole that holds a draft: FINAL where it is frozen, else DRAFT; of confidence 1, written by no forward."""
    given = torch.tensor(list(token_ids), dtype=torch.int64)
    everywhere = torch.ones(len(token_ids), dtype=torch.bool)
    canvas = Canvas.of_masks(len(token_ids), mask_id=0, hole=hole)
    canvas = canvas.commit(everywhere, given, torch.ones(len(token_ids)), step=0, state=State.DRAFT)
    return canvas.finalize(torch.tensor(list(is_frozen), dtype=torch.bool))


def draft_events(canvas: Canvas) -> list[Event]:
    """How the drafts of a canvas that no forward has seen are told. They were not decided, so nothing is traced."""
    is_final = canvas.state == State.FINAL
    given = canvas.is_draft | is_final
    events: list[Event] = [
        Draft(
            hole=span.hole,
            start=span.start,
            token_ids=tuple(canvas.token_ids[span.index].tolist()),
            confidence=tuple(canvas.confidence[span.index].tolist()),
        )
        for span in spans(Places.of(canvas), given.tolist())
    ]
    return events + commits(canvas, is_final)


def judge_draft(
    canvas: Canvas, probability: Float[Tensor, " N"], threshold: float, alternatives: Alternatives | None = None
) -> tuple[Canvas, Bool[Tensor, " L"]]:
    """The canvas with its drafts' probabilities as confidence, and where they are below ``threshold``.

    Args:
        canvas: as the first forward saw it.
        probability: of what stands there, one per mask or draft; see ``selection.token_probability``.
        threshold: the request's ``draft_threshold``.
        alternatives: to what stands there, one row per mask or draft; None: nobody asked for them.
    """
    index = (canvas.is_masked | canvas.is_draft).nonzero()[:, 0]
    spread = torch.zeros(len(canvas)).scatter(0, index, probability)
    judged = replace(canvas, confidence=torch.where(canvas.is_draft, spread, canvas.confidence))
    if alternatives is not None:
        known = alternatives.spread(index, len(canvas)).over(canvas.alternatives, canvas.is_draft)
        judged = replace(judged, alternatives=known)
    return judged, canvas.is_draft & (spread < threshold)


def weak_marks(canvas: Canvas, is_weak: Bool[Tensor, " L"]) -> Marks:
    """The decision to make masks of the weak tokens, for the ledger."""
    nothing = [False] * len(canvas)
    return Marks(
        token_ids=canvas.token_ids.tolist(),
        confidence=canvas.confidence.tolist(),
        commit=nothing,
        edit=nothing,
        remask=is_weak.tolist(),
    )


def keep_draft(
    canvas: Canvas, is_weak: Bool[Tensor, " L"], *, mask_id: int, revises: bool
) -> tuple[Canvas, Bool[Tensor, " L"]]:
    """The canvas with masks for the weak tokens, and where other drafts became final.

    They stay drafts only where the policy revises and there is a mask for it to start from.
    """
    # What was given is not yet a change of what was written.
    canvas = replace(canvas.remask(is_weak, mask_id), num_edits=canvas.num_edits)
    if revises and bool(canvas.is_masked.any()):
        return canvas, torch.zeros_like(is_weak)
    kept = canvas.is_draft
    return canvas.finalize(kept), kept
