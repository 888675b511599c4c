"""Absorbing (mask) noise: every token is independently replaced by the mask and never comes back.

Legend: x_0 clean tokens, z noised tokens, t time in [0, 1] (0 clean), alpha(t) probability that a token is kept.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.diffusion.prediction import clean_log_probs
from quicksilver.diffusion.schedules import NoiseSchedule


class MaskNoise:
    """Masked diffusion: MDLM, LLaDA and the training side of MaskGIT are this one process.

    Sources: Sahoo et al. 2024 (MDLM, arXiv:2406.07524) for the bound and the SUBS parametrisation; Shi et al. 2024
    (MD4, arXiv:2406.04329), Nie et al. 2025 (LLaDA, arXiv:2502.09992) and Chang et al. 2022 (MaskGIT,
    arXiv:2202.04200) for the same process under other names. Differs: whether a position is masked is an explicit
    tensor, never read off a token id, so text may contain the literal mask token. Training uses the exact-count form
    in ``estimator``.
    """

    def __init__(self, schedule: NoiseSchedule, mask_id: int) -> None:
        self.schedule = schedule
        self.mask_id = mask_id

    def q_sample(
        self, x_0: Int[Tensor, "B L"], t: Float[Tensor, "B L"], uniforms: Float[Tensor, "B L"]
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Noised tokens and which of them are masked; ``uniforms`` are draws in [0, 1)."""
        is_masked = uniforms >= self.schedule.alpha(t)
        return torch.where(is_masked, self.mask_id, x_0), is_masked

    def nelbo(
        self,
        logits: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        is_masked: Bool[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Integrand of the bound at time t, nats per position; its mean over t ~ U(0, 1) is the bound.

        Visible positions contribute zero (SUBS: they are copied). The weight diverges at t = 0.
        """
        nats = -clean_log_probs(logits, self.mask_id).gather(-1, x_0[..., None])[..., 0]
        return torch.where(is_masked, self.schedule.weight(t) * nats, 0.0)

    def reverse_posterior(
        self,
        logits: Float[Tensor, "B L V"],
        z: Int[Tensor, "B L"],
        is_masked: Bool[Tensor, "B L"],
        s: Float[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L V"]:
        """Distribution of z_s given z_t for s < t, float64.

        A masked position stays masked with probability (1 - alpha_s) / (1 - alpha_t); visible positions are copied.
        """
        alpha_s, alpha_t = self.schedule.alpha(s.double()), self.schedule.alpha(t.double())
        stays_masked = ((1 - alpha_s) / (1 - alpha_t))[..., None]
        probs = (1 - stays_masked) * clean_log_probs(logits.double(), self.mask_id).exp()
        mask = torch.tensor(self.mask_id, device=z.device).expand_as(z)[..., None]
        probs = probs.scatter(-1, mask, stays_masked)
        copied = torch.zeros_like(probs).scatter_(-1, z[..., None].long(), 1.0)
        return torch.where(is_masked[..., None], probs, copied)
