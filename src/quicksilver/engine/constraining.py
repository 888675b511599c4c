"""The rows of a forward that constraints decide, request by request."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from quicksilver.decoding.constrained import ConstrainedRows, first_candidates
from quicksilver.decoding.regions import rows_of
from quicksilver.decoding.selection import Candidates
from quicksilver.engine.sequence import Failure, Look, Sequence
from quicksilver.errors import EngineError, InputError


@dataclass(frozen=True, slots=True)
class Constrained:
    """What is known of every request that is decided."""

    parts: Seq[Candidates]
    """Its candidates: those of requests that have a constraint lie on the CPU."""
    rows: Seq[ConstrainedRows | None]
    """None: the request has no constraint, or failed."""
    failures: dict[int, Failure]
    """By place in ``parts``."""


def constrain(
    sequences: Seq[Sequence], looks: Seq[Look], parts: Seq[Candidates], logits: Float[Tensor, "M V"] | None
) -> Constrained:
    """Put the candidates of the programmes in place of those that rows have by themselves.

    Args:
        sequences: whose rows are decided.
        looks: one of each.
        parts: the rows' own candidates.
        logits: of the rows that lie in regions, one look after the other; None: none does.
    """
    if logits is None:
        return Constrained(parts, [None] * len(parts), {})
    found = list(parts)
    rows: list[ConstrainedRows | None] = [None] * len(parts)
    failures: dict[int, Failure] = {}
    counts = [len(rows_of(look.regions)) for look in looks]
    for at, (sequence, look, part, own) in enumerate(zip(sequences, looks, parts, logits.split(counts), strict=True)):
        if not counts[at]:
            continue
        terms = look.terms(sequence.params, sequence.policy)
        try:
            one = ConstrainedRows(look.regions, own, part.to(torch.device("cpu")), terms)
            found[at], rows[at] = first_candidates(one), one
        except (InputError, EngineError) as error:
            failures[at] = Failure(error)
    return Constrained(found, rows, failures)
