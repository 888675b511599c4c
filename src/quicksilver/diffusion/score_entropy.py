"""Score entropy: losses for models that output ratios s_y = p_t(z with y at i) / p_t(z) instead of probabilities.

A baseline for comparison. For masks it is cross-entropy in other coordinates (s = r p, see ``AbsorbingScoreEntropy``);
for uniform noise it equals the bound in ``uniform`` when s_y = q_t(y | f) / q_t(z | f). The tests hold both
identities.

Source: Lou, Meng and Ermon 2023 (SEDD, arXiv:2310.16834). Legend: sigma = -log alpha, r the true ratio given x_0.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.diffusion.prediction import LeaveOneOutPrediction, clean_log_probs
from quicksilver.diffusion.schedules import NoiseSchedule
from quicksilver.diffusion.uniform import UniformNoise


class AbsorbingScoreEntropy:
    """SEDD with absorbing transitions."""

    def __init__(self, schedule: NoiseSchedule, mask_id: int) -> None:
        self.schedule = schedule
        self.mask_id = mask_id

    def nelbo(
        self,
        log_scores: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        is_masked: Bool[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Integrand sigma' [sum_{y != m} s_y - r log s_x + r (log r - 1)] at masked positions, r = alpha / (1 - alpha).

        Args:
            log_scores: log s_y; the mask's own entry is ignored.
            x_0: clean tokens.
            is_masked: masked positions.
            t: time in (0, 1).

        Returns:
            Nats per position, zero at visible ones, in the wider dtype of ``log_scores`` and ``t``.
        """
        ratio = self.schedule.alpha(t) / (1 - self.schedule.alpha(t))
        mask = torch.tensor([self.mask_id], device=log_scores.device)
        total = log_scores.index_fill(-1, mask, -torch.inf).logsumexp(-1).exp()
        log_score_x = log_scores.gather(-1, x_0[..., None].long())[..., 0]
        nats = self.schedule.sigma_prime(t) * (total - ratio * log_score_x + ratio * (ratio.log() - 1))
        return torch.where(is_masked, nats, 0.0)

    def log_scores(self, logits: Float[Tensor, "B L V"], t: Float[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """Scores of a denoiser: s_y = r p(y). The mask's entry is -inf."""
        alpha = self.schedule.alpha(t)
        return clean_log_probs(logits, self.mask_id) + (alpha.log() - (1 - alpha).log())[..., None]


class UniformScoreEntropy:
    """SEDD with uniform transitions at rate sigma' / V to every other token."""

    def __init__(self, schedule: NoiseSchedule, vocab_size: int) -> None:
        self.schedule = schedule
        self.vocab_size = vocab_size
        self._noise = UniformNoise(schedule, vocab_size)

    def nelbo(
        self,
        log_scores: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        z: Int[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Integrand sigma' / V sum_{y != z} [s_y - r_y log s_y + r_y (log r_y - 1)] with r_y = q_t(y | x) / q_t(z | x).

        Args:
            log_scores: log s_y; the entry of z itself is ignored.
            x_0: clean tokens.
            z: noised tokens.
            t: time in (0, 1).

        Returns:
            Float64 nats per position.
        """
        log_true = self._log_marginals(torch.nn.functional.one_hot(x_0.long(), self.vocab_size).double(), t)
        index = z[..., None].long()
        log_ratio = log_true - log_true.gather(-1, index)
        log_scores = log_scores.double()
        terms = log_scores.exp() + log_ratio.exp() * (log_ratio - log_scores - 1)
        return self.schedule.sigma_prime(t.double()) / self.vocab_size * terms.scatter(-1, index, 0.0).sum(-1)

    def log_scores(
        self, prediction: LeaveOneOutPrediction, z: Int[Tensor, "B L"], t: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B L V"]:
        """Scores of a denoiser: s_y = q_t(y | f) / q_t(z | f)."""
        log_marginals = self._log_marginals(prediction.log_probs.exp(), t)
        return log_marginals - log_marginals.gather(-1, z[..., None].long())

    def _log_marginals(self, probs: Tensor, t: Tensor) -> Tensor:
        keep, _, flip = self._noise.rates(t)
        return (keep[..., None] * probs + flip[..., None] / self.vocab_size).log()
