"""Packed rows: documents side by side in rows of one length, with the arrays that attention and noise need.

Legend: R rows, L positions of a row, S block slots of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.training.data.views import Document


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Clean documents in rows. Padding is a document of its own, never a target."""

    token_ids: Int[Tensor, "R L"]
    is_target: Bool[Tensor, "R L"]
    documents: Int[Tensor, "R L"]
    """Document number within the row; padding has the number after the last."""
    positions: Int[Tensor, "R L"]
    """Position within the document."""
    blocks: Int[Tensor, "R L"]
    """Block number within the document."""
    slots: Int[Tensor, "R L"]
    """Block number within the row, for the estimator; -1 on padding."""
    token_share: Float[Tensor, "R L"]

    @property
    def num_targets(self) -> int:
        """Tokens that may carry loss; the eos fill of a document counts as one."""
        return round(float((self.is_target * self.token_share).sum()))


def pack_rows(rows: Sequence[Sequence[Document]], length: int, pad: int) -> PackedRows:
    """Lay documents out in rows of ``length``; a document that runs over the end is cut there."""
    shape = (len(rows), length)
    token_ids = np.full(shape, pad, dtype=np.int64)
    is_target = np.zeros(shape, dtype=bool)
    documents, positions, blocks = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    slots = np.full(shape, -1, dtype=np.int64)
    token_share = np.zeros(shape, dtype=np.float32)
    for row, packed in enumerate(rows):
        start, slot = 0, 0
        for number, document in enumerate(packed):
            size = min(len(document), length - start)
            if size <= 0:
                break
            at = slice(start, start + size)
            token_ids[row, at] = document.token_ids[:size]
            is_target[row, at] = document.is_target[:size]
            documents[row, at] = number
            positions[row, at] = np.arange(size)
            blocks[row, at] = document.blocks[:size]
            slots[row, at] = slot + document.blocks[:size]
            token_share[row, at] = document.token_share[:size]
            slot += int(document.blocks[size - 1]) + 1
            start += size
        documents[row, start:] = len(packed)
        positions[row, start:] = np.arange(length - start)
    arrays = (token_ids, is_target, documents, positions, blocks, slots, token_share)
    return PackedRows(*map(torch.from_numpy, arrays))
