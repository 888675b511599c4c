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
        from quicksilver.constraints import kernels

        return kernels.greatest_of_classes(self.values, self.trellis.first_token)

    @classmethod
    def of(cls, trellis: Trellis, logits: Float[Tensor, "N all"]) -> "ClassScores":
        """Pick the tokens of a trellis out of rows of logits.

        Raises:
            InputError: they hold NaN or plus infinity.
        """
        index = torch.from_numpy(trellis.token_ids).to(logits.device)
        values = logits.index_select(1, index).float().cpu().numpy()
        if not values.max() < np.inf:
            raise InputError("the denoiser gave NaN or infinite logits")
        scores = cls(trellis, values)
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

    @cached_property
    def parts(self) -> Float[np.ndarray, "N V"]:
        """Plain weights at the temperature, the greatest of each row 1: float32, which ends at e^-87."""
        spread = self.values - self.greatest.max(axis=1, keepdims=True).astype(np.float32)
        if self.temperature != 1:
            spread /= np.float32(self.temperature)
        return np.exp(spread, out=spread)

    def totals(self) -> Float[np.ndarray, "N C"]:
        """Logarithm of the summed exponentials of every class, at the temperature."""
        from quicksilver.constraints import kernels

        return kernels.totals_of_classes(
            self.values, self.parts, self.greatest, self.trellis.first_token, self.temperature
        )

    def second_of_classes(self, rows: Int[np.ndarray, " n"], kinds: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The greatest value of a class beside its greatest, in a row; minus infinity in a class of one."""
        from quicksilver.constraints import kernels

        return kernels.second_of_classes(self.values, rows, kinds, self.trellis.first_token)
