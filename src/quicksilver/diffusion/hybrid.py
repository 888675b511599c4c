"""Hybrid noise: masks and uniform flips together, so that a denoiser learns to fill and to correct."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.diffusion.interpolating import InterpolatingNoise, Rates
from quicksilver.diffusion.prediction import LeaveOneOutPrediction
from quicksilver.errors import ConfigError


class HybridNoise(InterpolatingNoise):
    """Generalised interpolating discrete diffusion: a share of flips that is zero at both ends and largest at t = 1/2.

    With c(t) = 2^g p / (1 - p) (t (1 - t))^(g / 2) and C = 1 + c, a token is kept with probability (1 - t) / C, masked
    with t / C and flipped with c / C; p is the share flipped at t = 1/2. The fully noised sequence is all masks. With
    p = 0 the bound is that of ``MaskNoise``.

    Source: von Rütte et al. 2025 (GIDD, arXiv:2503.04482). Differs: the uniform part leaves out the mask, and the
    dynamic training weight is the exact ratio of the bound's weights, where the paper approximates it by the log
    signal-to-noise ratio and clips. ``x_0`` must not contain the mask.
    """

    def __init__(self, vocab_size: int, mask_id: int, *, uniform_fraction: float, gamma: float = 1.0) -> None:
        super().__init__(vocab_size, mask_id)
        if not 0 <= uniform_fraction < 1:
            raise ConfigError(f"uniform_fraction must be in [0, 1), got {uniform_fraction}")
        if not 0 < gamma <= 2:  # beyond 2 the noise rates turn negative near t = 1
            raise ConfigError(f"gamma must be in (0, 2], got {gamma}")
        self.gamma = gamma
        self._scale = 2**gamma * uniform_fraction / (1 - uniform_fraction)

    def rates(self, t: Float[Tensor, "*P"]) -> Rates:
        t = t.double()
        flip = self._flip_odds(t)
        return Rates((1 - t) / (1 + flip), t / (1 + flip), flip / (1 + flip))

    def nelbo(
        self,
        prediction: LeaveOneOutPrediction,
        x_0: Int[Tensor, "B L"],
        z: Int[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """``bound_weights`` times ``divergence``."""
        return self.bound_weights(x_0, z, t) * self.divergence(prediction, x_0, z, t)

    def divergence(
        self,
        prediction: LeaveOneOutPrediction,
        x_0: Int[Tensor, "B L"],
        z: Int[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """KL(q_t(. | x) || q_t(. | f)) + r - log r - 1 with r = q_t(z | x) / q_t(z | f), to be weighted."""
        keep, _, flip = self.rates(t)
        each = flip / self.num_flip_ids
        mixed = keep[..., None] * prediction.log_probs.exp() + each[..., None]
        # The mask is equally likely under both; one makes its terms vanish, with zero gradient.
        mixed = mixed.index_fill(-1, torch.tensor([self.mask_id], device=mixed.device), 1.0)
        mixed_x = mixed.gather(-1, x_0[..., None].long())[..., 0]
        mixed_z = mixed.gather(-1, z[..., None].long())[..., 0]
        cross = torch.xlogy(each[..., None], mixed).sum(-1) + keep * mixed_x.log()
        entropy = torch.xlogy(keep + each, keep + each) + (self.num_flip_ids - 1) * torch.xlogy(each, each)
        true_z = torch.where(z == x_0, keep + each, each)
        ratio = torch.where(z == self.mask_id, 1.0, true_z / mixed_z)
        return entropy - cross + ratio - ratio.log() - 1

    def bound_weights(
        self, x_0: Int[Tensor, "B L"], z: Int[Tensor, "B L"], t: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Weights that make the integrand an unbiased bound; they explode at both ends of time."""
        t = t.double()
        return self.dynamic_weights(x_0, z, t) * self._slope(t) / (t * (1 - t))

    def dynamic_weights(
        self, x_0: Int[Tensor, "B L"], z: Int[Tensor, "B L"], t: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """The bound's weights relative to a flipped token's: masks 2 (for gamma 1), flips 1, kept tokens below 1."""
        t = t.double()
        each = self._flip_odds(t) / self.num_flip_ids
        kept = each / (1 - t + each)
        return torch.where(z == self.mask_id, 1 / self._slope(t), torch.where(z == x_0, kept, 1.0))

    def _flip_odds(self, t: Tensor) -> Tensor:
        """c(t): flips relative to kept and masked tokens."""
        return self._scale * (t * (1 - t)) ** (self.gamma / 2)

    def _slope(self, t: Tensor) -> Tensor:
        """h(t) in c + (1 - t) c' = c h / t."""
        return t + self.gamma / 2 * (1 - 2 * t)
