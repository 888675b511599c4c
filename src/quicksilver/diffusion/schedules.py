"""Noise schedules: how the probability alpha(t) of keeping a token falls from 1 at t = 0 to 0 at t = 1.

For mask noise the bound does not depend on the schedule, only its variance does (Kingma et al. 2021, arXiv:2107.00630;
Sahoo et al. 2024, arXiv:2406.07524), so training draws masked counts directly (``estimator``). Uniform noise and
samplers need the schedule itself.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor


class NoiseSchedule(ABC):
    """alpha(t) with its derivative; times are float tensors in [0, 1] of any shape."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """Probability that a token is still its clean self at time t."""

    @abstractmethod
    def alpha_prime(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """The derivative of alpha, negative."""

    def weight(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """-alpha' / (1 - alpha), the weight of a masked token in the bound; diverges at t = 0."""
        return -self.alpha_prime(t) / (1 - self.alpha(t))

    def sigma_prime(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """Rate of the noise process, the derivative of sigma = -log alpha; diverges at t = 1."""
        return -self.alpha_prime(t) / self.alpha(t)


class LinearSchedule(NoiseSchedule):
    """alpha = 1 - t: the expected masked share is t. SEDD and MDLM call it log-linear, after sigma = -log(1 - t)."""

    def alpha(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        return 1 - t

    def alpha_prime(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        return -torch.ones_like(t)


class CosineSchedule(NoiseSchedule):
    """alpha = 1 - cos(pi (1 - t) / 2): the masked share falls slowly at first when decoding from t = 1 to t = 0.

    Source: Chang et al. 2022 (MaskGIT, arXiv:2202.04200), with t counted from clean to noisy.
    """

    def alpha(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        return 2 * torch.sin(math.pi / 4 * (1 - t)) ** 2  # equal to 1 - cos, without cancellation at t = 1

    def alpha_prime(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))
