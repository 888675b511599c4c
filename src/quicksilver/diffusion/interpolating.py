"""What uniform and hybrid noise share: marginals that mix the clean token with a fixed noise distribution.

q_t(z | x) = keep(t) [z = x] + mask(t) [z = m] + flip(t) u(z), with u uniform over all tokens but the mask. Everything
here is float64: the posterior divides small numbers by small numbers.

Legend: x_0 clean tokens, z noised tokens, s < t times in [0, 1] (0 clean), V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.diffusion.prediction import DirectPrediction, LeaveOneOutPrediction
from quicksilver.errors import ConfigError


class Rates(NamedTuple):
    """Probabilities of the three fates of a token at time t; they add up to one."""

    keep: Float[Tensor, "*P"]
    mask: Float[Tensor, "*P"]
    flip: Float[Tensor, "*P"]
    """Replaced by a uniformly drawn token, which may be the token itself."""


class InterpolatingNoise(ABC):
    """A noise process given by its rates, with the sampling rules that follow from them."""

    def __init__(self, vocab_size: int, mask_id: int | None) -> None:
        if vocab_size < 2 or (mask_id is not None and not 0 <= mask_id < vocab_size):
            raise ConfigError(f"vocabulary of {vocab_size} tokens with mask id {mask_id} cannot be noised")
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.num_flip_ids = vocab_size - (mask_id is not None)
        """Size of the support of the uniform part."""

    @abstractmethod
    def rates(self, t: Float[Tensor, "*P"]) -> Rates:
        """Marginal rates at time t, float64."""

    @abstractmethod
    def nelbo(
        self,
        prediction: LeaveOneOutPrediction,
        x_0: Int[Tensor, "B L"],
        z: Int[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L"]:
        """Integrand of the bound at time t in (0, 1), nats per position; its mean over t ~ U(0, 1) is the bound."""

    def q_sample(
        self, x_0: Int[Tensor, "B L"], t: Float[Tensor, "B L"], uniforms: Float[Tensor, "B L"]
    ) -> Int[Tensor, "B L"]:
        """Noised tokens from one draw in [0, 1) per position: its place decides the fate, the rest of it the token."""
        keep, mask, flip = self.rates(t)
        left = uniforms.double() - keep - mask
        index = (left / flip.clamp(min=torch.finfo(torch.float64).tiny) * self.num_flip_ids).floor()
        flipped = index.clamp(0, self.num_flip_ids - 1).to(x_0.dtype)
        z = torch.where(uniforms < keep, x_0, flipped)
        if self.mask_id is None:
            return z
        z = torch.where(uniforms < keep, x_0, flipped + (flipped >= self.mask_id))
        return torch.where((uniforms >= keep) & ((left < 0) | (flip <= 0)), self.mask_id, z)

    def noise_at(self, token_ids: Int[Tensor, "B L"], t: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Probability that noise, not the clean token, puts this token here."""
        _, mask, flip = self.rates(t)
        if self.mask_id is None:
            return flip / self.num_flip_ids
        return torch.where(token_ids == self.mask_id, mask, flip / self.num_flip_ids)

    def reverse_posterior(
        self,
        prediction: LeaveOneOutPrediction,
        z: Int[Tensor, "B L"],
        s: Float[Tensor, "B L"],
        t: Float[Tensor, "B L"],
    ) -> Float[Tensor, "B L V"]:
        """Distribution of z_s given z_t for 0 <= s < t by Bayes' rule; exact for an exact leave-one-out prediction."""
        keep_s, mask_s, flip_s = self.rates(s)
        keep_ts = self.rates(t).keep / keep_s
        noise_ts = (self.noise_at(z, t) - keep_ts * self.noise_at(z, s)).clamp(min=0)
        step = noise_ts[..., None].expand_as(prediction.log_probs)
        step = step.scatter_add(-1, z[..., None].long(), keep_ts[..., None])
        marginal_s = keep_s[..., None] * prediction.log_probs.exp() + (flip_s / self.num_flip_ids)[..., None]
        if self.mask_id is not None:
            marginal_s[..., self.mask_id] = mask_s
        joint = step * marginal_s
        return joint / joint.sum(-1, keepdim=True)

    def to_leave_one_out(
        self, direct: DirectPrediction, z: Int[Tensor, "B L"], t: Float[Tensor, "B L"]
    ) -> LeaveOneOutPrediction:
        """Take a position's own evidence out: p(x | z_-i) is proportional to p(x | z) / q(z_i | x). Needs t > 0."""
        return LeaveOneOutPrediction(self._add_evidence(direct.log_probs, z, -self._evidence(z, t)))

    def to_direct(
        self, leave_one_out: LeaveOneOutPrediction, z: Int[Tensor, "B L"], t: Float[Tensor, "B L"]
    ) -> DirectPrediction:
        """Put a position's own evidence in: p(x | z) is proportional to p(x | z_-i) q(z_i | x). Needs t > 0."""
        return DirectPrediction(self._add_evidence(leave_one_out.log_probs, z, self._evidence(z, t)))

    def _evidence(self, z: Tensor, t: Tensor) -> Tensor:
        """How much seeing z speaks for z: log q(z | x = z) - log q(z | x) with any other x."""
        return torch.log1p(self.rates(t).keep / self.noise_at(z, t))

    def _add_evidence(self, log_probs: Tensor, z: Tensor, evidence: Tensor) -> Tensor:
        return log_probs.scatter_add(-1, z[..., None].long(), evidence[..., None]).log_softmax(-1)
