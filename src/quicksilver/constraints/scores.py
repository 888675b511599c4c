"""The logits of open columns, class by class. Legend: N rows, V tokens of a trellis, C classes."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.constraints.lattice import Trellis
from quicksilver.errors import InputError

_LEAST = -1e4
"""In place of minus infinity: what a constraint asks for may be written however unlikely the denoiser thinks it."""
_DEPTH = 60.0
"""Classes that lie deeper under a row's greatest logit are summed by themselves, since float32 ends at e^-87."""


class ClassScores:
    """Logits of N rows, only of tokens that may stand somewhere, those of one class side by side."""

    def __init__(self, trellis: Trellis, values: Float[np.ndarray, "N V"], temperature: float = 1.0) -> None:
        """Take values as they are; minus infinity is what cannot be chosen.

        Args:
            trellis: whose ``token_ids`` the values belong to.
            values: of ``token_ids``, before temperature.
            temperature: by which they are divided.
        """
        self.trellis, self.values, self.temperature = trellis, values, temperature

    @cached_property
    def greatest(self) -> Float[np.ndarray, "N C"]:
        """The greatest value of every class, before temperature."""
        return np.maximum.reduceat(self.values, self.trellis.first_token[:-1], axis=1).astype(np.float64)

    @classmethod
    def of(cls, trellis: Trellis, logits: Float[Tensor, "N all"]) -> "ClassScores":
        """Pick the tokens of a trellis out of rows of logits.

        Raises:
            InputError: they hold NaN or plus infinity.
        """
        index = torch.from_numpy(trellis.token_ids).to(logits.device)
        values = logits.index_select(1, index).float().cpu().numpy()
        scores = cls(trellis, values)
        if not (scores.greatest < np.inf).all():
            raise InputError("the denoiser gave NaN or infinite logits")
        return scores if (scores.greatest > -np.inf).all() else cls(trellis, np.maximum(values, np.float32(_LEAST)))

    def tempered(self, temperature: float, values: Float[np.ndarray, "N V"] | None = None) -> "ClassScores":
        """The same at another temperature, with other values if they are given."""
        found = ClassScores(self.trellis, self.values if values is None else values, temperature)
        if values is None:
            found.greatest = self.greatest
        return found

    def with_bonus(self, places: Int[np.ndarray, " N"], bonus: float) -> "ClassScores":
        """With something added to one token of every row: to none where its place is negative."""
        values = self.values.copy()
        rows = (places >= 0).nonzero()[0]
        values[rows, places[rows]] += np.float32(bonus)
        return ClassScores(self.trellis, values, self.temperature)

    def totals(self) -> Float[np.ndarray, "N C"]:
        """Logarithm of the summed exponentials of every class, at the temperature."""
        heads, sizes = self.trellis.first_token[:-1], np.diff(self.trellis.first_token)
        top = self.greatest.max(axis=1, keepdims=True)
        spread = self.values - top.astype(np.float32)
        if self.temperature != 1:
            spread /= np.float32(self.temperature)
        sums = np.add.reduceat(np.exp(spread, out=spread), heads, axis=1, dtype=np.float64)
        greatest, top = self.greatest / self.temperature, top / self.temperature
        with np.errstate(divide="ignore"):
            found = np.log(sums) + top
        is_deep = (greatest < top - _DEPTH) & (sizes > 1)
        found = np.where((sizes == 1) | is_deep, greatest, found)
        for kind in is_deep.any(axis=0).nonzero()[0]:
            rows = (is_deep[:, kind] & (greatest[:, kind] > -np.inf)).nonzero()[0]
            part = self._of_class(rows, kind).astype(np.float64) / self.temperature
            found[rows, kind] += np.log(np.exp(part - greatest[rows, kind][:, None]).sum(axis=1))
        return found

    def _of_class(self, rows: int | Int[np.ndarray, " n"], kind: int) -> Float[np.ndarray, "..."]:
        return self.values[rows, self.trellis.first_token[kind] : self.trellis.first_token[kind + 1]]

    def best(self, row: int, kind: int) -> int:
        """Place among ``token_ids`` of the greatest token of a class, the lowest id among equals."""
        return int(self.trellis.first_token[kind] + self._of_class(row, kind).argmax())

    def drawn(self, row: int, kind: int, uniform: float) -> int:
        """Place of a token of a class, drawn by its probability at the temperature."""
        part = self._of_class(row, kind).astype(np.float64)
        weights = np.exp((part - part.max()) / self.temperature)
        return int(self.trellis.first_token[kind] + index_of(weights, uniform))

    def second_best(self, row: int, kind: int) -> float:
        """The greatest value of a class beside its greatest; minus infinity in a class of one."""
        part = self._of_class(row, kind)
        return float(np.partition(part, -2)[-2]) if len(part) > 1 else -np.inf


def index_of(weights: Float[np.ndarray, " n"], uniform: float) -> int:
    """The index that a uniform number in (0, 1) draws by unnormalised weights."""
    steps = weights.cumsum()
    return int(min(np.searchsorted(steps, uniform * steps[-1], side="right"), len(weights) - 1))
