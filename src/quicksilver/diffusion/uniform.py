"""Uniform noise: every token is independently replaced by a uniformly drawn one, which leaves no trace."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.diffusion.interpolating import InterpolatingNoise, Rates
from quicksilver.diffusion.prediction import LeaveOneOutPrediction
from quicksilver.diffusion.schedules import NoiseSchedule


class UniformNoise(InterpolatingNoise):
    """D3PM with uniform transitions in continuous time: q_t(z | x) = alpha [z = x] + (1 - alpha) / V.

    Sources: Austin et al. 2021 (D3PM, arXiv:2107.03006); the continuous-time bound of Schiff et al. 2024 (UDLM,
    arXiv:2412.10193), also used by Duo (Sahoo et al. 2025, arXiv:2506.10892). Differs: the bound is reduced to three
    sums over the vocabulary, and it accepts leave-one-out predictions only, because it equals the likelihood only for
    those.
    """

    def __init__(self, schedule: NoiseSchedule, vocab_size: int) -> None:
        super().__init__(vocab_size, mask_id=None)
        self.schedule = schedule

    def rates(self, t: Float[Tensor, "*P"]) -> Rates:
        alpha = self.schedule.alpha(t.double())
        return Rates(alpha, torch.zeros_like(alpha), 1 - alpha)

    def nelbo(
        self,
        prediction: LeaveOneOutPrediction,
        x_0: Int[Tensor, "B L"],
        z: Int[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """The integrand of UDLM, nats per position, for t in (0, 1).

        With y = V alpha x + 1 - alpha for the true x and m for the predicted one it is
        -alpha' / (V alpha) [ V / m_z - V / y_z + sum_j y_j / y_z log(m_z y_j / (m_j y_z)) ].
        """
        alpha = self.schedule.alpha(t.double())
        rate = -self.schedule.alpha_prime(t.double()) / (self.vocab_size * alpha)
        high, low = self.vocab_size * alpha + 1 - alpha, 1 - alpha  # y at x_0 and elsewhere
        mixed = self.vocab_size * alpha[..., None] * prediction.log_probs.exp() + low[..., None]
        log_mixed = mixed.log()
        log_mixed_x = log_mixed.gather(-1, x_0[..., None].long())[..., 0]
        log_mixed_z = log_mixed.gather(-1, z[..., None].long())[..., 0]
        true_z = torch.where(z == x_0, high, low)
        # sum_j y_j log(y_j / m_j), then the part that does not depend on j; sum_j y_j = V.
        divergence = torch.xlogy(high, high) + (self.vocab_size - 1) * torch.xlogy(low, low)
        divergence = divergence - low * log_mixed.sum(-1) - (high - low) * log_mixed_x
        divergence = divergence + self.vocab_size * (log_mixed_z - true_z.log())
        return rate * (self.vocab_size * (-log_mixed_z).exp() + (divergence - self.vocab_size) / true_z)
