"""The likeliest tokens beside each written one, for requests that ask for them (``SamplingParams.num_alternatives``).

Where nobody asks there is None instead, and nothing is computed or carried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_ALTERNATIVES = 20
"""As in the OpenAI API."""
NO_TOKEN = -1

TokenAlternatives = tuple[tuple[int, float], ...]
"""Token ids with their probabilities, likeliest first, equals by rising id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternatives:
    """The k likeliest tokens of N rows, likeliest first, equals by rising id."""

    token_ids: Int[Tensor, "N k"]
    """``NO_TOKEN`` where fewer than k tokens may be chosen, and in rows that nothing is known of."""
    probability: Float[Tensor, "N k"]
    """On the terms of ``selection.Candidates``."""

    @classmethod
    def unknown(cls, num_rows: int, count: int) -> "Alternatives":
        return cls(
            token_ids=torch.full((num_rows, count), NO_TOKEN, dtype=torch.int64),
            probability=torch.zeros(num_rows, count),
        )

    @classmethod
    def join(cls, parts: "Sequence[Alternatives | None]", num_rows: Sequence[int]) -> "Alternatives | None":
        """The rows of all parts, as wide as the widest; None if no part has any.

        Args:
            parts: on one device.
            num_rows: of every part, those that are None included.
        """
        given = [part for part in parts if part is not None]
        if not given:
            return None
        device, width = given[0].token_ids.device, max(part.token_ids.shape[1] for part in given)
        filled = [
            cls.unknown(count, width).to(device) if part is None else part._widened(width)
            for part, count in zip(parts, num_rows, strict=True)
        ]
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in filled]) for f in fields(cls)})

    def _widened(self, width: int) -> "Alternatives":
        missing = (0, width - self.token_ids.shape[1])
        return Alternatives(
            token_ids=F.pad(self.token_ids, missing, value=NO_TOKEN), probability=F.pad(self.probability, missing)
        )

    def rows(self, index: slice | Tensor) -> "Alternatives":
        return Alternatives(token_ids=self.token_ids[index], probability=self.probability[index])

    def first(self, count: int) -> "Alternatives":
        """The ``count`` likeliest of each row."""
        return Alternatives(token_ids=self.token_ids[:, :count], probability=self.probability[:, :count])

    def to(self, device: torch.device) -> "Alternatives":
        return Alternatives(token_ids=self.token_ids.to(device), probability=self.probability.to(device))

    def spread(self, index: Int[Tensor, " N"], length: int) -> "Alternatives":
        """As rows ``index`` of ``length`` rows, the others unknown."""
        spread = Alternatives.unknown(length, self.token_ids.shape[1])
        return Alternatives(
            token_ids=spread.token_ids.index_copy(0, index, self.token_ids),
            probability=spread.probability.index_copy(0, index, self.probability),
        )

    def over(self, below: "Alternatives | None", where: Bool[Tensor, " N"]) -> "Alternatives":
        """These where ``where``, elsewhere those of ``below``, which has the same width."""
        if below is None:
            return self.without(~where)
        return Alternatives(
            token_ids=torch.where(where[:, None], self.token_ids, below.token_ids),
            probability=torch.where(where[:, None], self.probability, below.probability),
        )

    def without(self, where: Bool[Tensor, " N"]) -> "Alternatives":
        """Unknown where ``where``."""
        return Alternatives(
            token_ids=self.token_ids.masked_fill(where[:, None], NO_TOKEN),
            probability=self.probability.masked_fill(where[:, None], 0.0),
        )

    def tokens(self) -> tuple[TokenAlternatives, ...]:
        """Row by row."""
        return tuple(
            tuple((token, value) for token, value in zip(ids, values, strict=True) if token != NO_TOKEN)
            for ids, values in zip(self.token_ids.tolist(), self.probability.tolist(), strict=True)
        )


def ranked(values: Float[Tensor, "N V"], count: int) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """The ``count`` greatest values per row, or all if they are fewer, and where they stand; equals by rising index."""
    count = min(count, values.shape[1])
    # One more, to see whether the last has an equal that is left out.
    found, index = values.topk(min(count + 1, values.shape[1]), dim=-1)
    # Which of several equal values topk returns, and in which order, is not promised.
    is_tied = (found[:, 1:] == found[:, :-1]).any(dim=-1)
    if bool(is_tied.any()):
        ordered, order = values[is_tied].sort(dim=-1, descending=True, stable=True)
        found[is_tied], index[is_tied] = ordered[:, : found.shape[1]], order[:, : found.shape[1]]
    return found[:, :count], index[:, :count]
