"""The second rows of guided requests, packed behind all others, and what they say about the rows that are decided."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from quicksilver.decoding.guidance import Twin
from quicksilver.engine.head import GuidedRows
from quicksilver.engine.sequence import Look, Sequence


@dataclass(frozen=True, slots=True)
class TwinRows:
    """The second rows of a forward."""

    twins: tuple[Twin, ...]
    """What they see, in order."""
    index: tuple[int | None, ...]
    """The packed row of a twin for every open column that has one; None: nothing predicts its token."""


def twin_rows(looks: Seq[Look], first: int, prediction_shift: int) -> TwinRows:
    """The second rows that looks ask for.

    Args:
        looks: of the forward.
        first: the first twin's first row.
        prediction_shift: of the checkpoint.
    """
    guided = [(look, look.twin) for look in looks if look.twin is not None]
    start, index = first, list[int | None]()
    for look, twin in guided:
        places = [column + twin.moved - prediction_shift for column in look.open_columns]
        index += [start + place if place >= 0 else None for place in places]
        start += len(twin.token_ids)
    return TwinRows(tuple(twin for _, twin in guided), tuple(index))


def guided_rows(
    sequences: Seq[Sequence], looks: Seq[Look], hidden: Float[Tensor, "T D"], second: TwinRows
) -> GuidedRows | None:
    """What guides the decided rows; None: nothing.

    Args:
        sequences: whose rows are decided.
        looks: one of each.
        hidden: all packed rows.
        second: of the looks.
    """
    rows, scale, added_rows, added, start = [], [], [], [], 0
    for sequence, look in zip(sequences, looks, strict=True):
        here, guidance = range(start, start + len(look.open_columns)), sequence.params.guidance
        if look.twin is not None and guidance is not None:
            rows += here
            scale += [guidance.scale] * len(here)
        if look.added is not None:
            added_rows += here
            added.append(look.added)
        start = here.stop
    if not (rows or added_rows):
        return None
    device, index = hidden.device, second.index
    is_predicted = torch.tensor([at is not None for at in index], dtype=torch.bool, device=device)
    others = hidden[torch.tensor([at or 0 for at in index], dtype=torch.int64, device=device)]
    return GuidedRows(
        hidden=others.masked_fill(~is_predicted[:, None], 0.0),
        row=torch.tensor(rows, dtype=torch.int64, device=device),
        scale=torch.tensor(scale, device=device),
        added=torch.cat(added).to(device) if added else torch.zeros(0, 0, device=device),
        added_row=torch.tensor(added_rows, dtype=torch.int64, device=device),
    )
