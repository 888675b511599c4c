"""The second rows of guided requests, packed behind all others, and what they say about the rows that are decided."""

from collections.abc import Sequence as Seq

import torch
from jaxtyping import Float
from torch import Tensor

from quicksilver.decoding.guidance import Twin
from quicksilver.engine.head import GuidedRows
from quicksilver.engine.sequence import Look, Sequence


def twins(looks: Seq[Look | None]) -> list[Twin]:
    """What the second rows of a forward see, in order."""
    return [look.twin for look in looks if look is not None and look.twin is not None]


def twin_rows(looks: Seq[Look | None], first: int, prediction_shift: int) -> list[int | None]:
    """The packed row of a twin for every open column that has one; None: nothing predicts its token.

    Args:
        looks: of the forward's turns.
        first: the first twin's first row.
        prediction_shift: of the checkpoint.
    """
    start, found = first, list[int | None]()
    for look in looks:
        if look is not None and look.twin is not None:
            places = [column + look.twin.moved - prediction_shift for column in look.open_columns]
            found += [start + place if place >= 0 else None for place in places]
            start += len(look.twin.token_ids)
    return found


def guided_rows(
    sequences: Seq[Sequence], looks: Seq[Look], hidden: Float[Tensor, "T D"], index: Seq[int | None]
) -> GuidedRows | None:
    """What guides the decided rows; None: nothing.

    Args:
        sequences: whose rows are decided.
        looks: one of each.
        hidden: all packed rows.
        index: ``twin_rows``.
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
    device = hidden.device
    is_predicted = torch.tensor([at is not None for at in index], dtype=torch.bool, device=device)
    others = hidden[torch.tensor([at or 0 for at in index], dtype=torch.int64, device=device)]
    return GuidedRows(
        hidden=others.masked_fill(~is_predicted[:, None], 0.0),
        row=torch.tensor(rows, dtype=torch.int64, device=device),
        scale=torch.tensor(scale, device=device),
        added=torch.cat(added).to(device) if added else torch.zeros(0, 0, device=device),
        added_row=torch.tensor(added_rows, dtype=torch.int64, device=device),
    )
