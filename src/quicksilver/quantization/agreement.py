"""How often two denoisers decide alike on the same canvases: what quantization must be judged by.

A denoiser that is nearly as likely to be right may still commit other positions, and more or fewer of them at a step:
that changes text and tokens per forward. Legend: N open positions, L canvas length, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.errors import ConfigError, InputError
from quicksilver.models.attention import DenseAttention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionAgreement:
    """Counts over open positions; those of several canvases add up.

    A decision is a position whose best token is likelier than the threshold, together with that token.
    """

    num_open: int
    num_same_argmax: int
    num_reference: int
    """Decisions of the reference."""
    num_other: int
    """Decisions of the other denoiser."""
    num_both: int
    """Decisions of both, of the same token at the same position."""
    sum_kl: float
    """Nats; see ``mean_kl``."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def same_argmax(self) -> float:
        """Share of open positions whose best token is the same; 1 if there is none."""
        return self.num_same_argmax / self.num_open if self.num_open else 1.0

    @property
    def jaccard(self) -> float:
        """Decisions of both over decisions of either; 1 if there is none."""
        either = self.num_reference + self.num_other - self.num_both
        return self.num_both / either if either else 1.0

    @property
    def mean_kl(self) -> float:
        """Kullback-Leibler divergence of the other's distribution from the reference's, in nats per open position."""
        return self.sum_kl / self.num_open if self.num_open else 0.0


def decision_agreement(
    reference: Float[Tensor, "N V"],
    other: Float[Tensor, "N V"],
    *,
    threshold: float,
    is_forbidden: Bool[Tensor, " V"] | None = None,
) -> DecisionAgreement:
    """Compare the logits of two denoisers at the same open positions.

    Args:
        reference: of the denoiser to be equalled.
        other: of the denoiser under test.
        threshold: confidence from which a token is committed, in [0, 1].
        is_forbidden: tokens that are never written; they get no probability, as in decoding.

    Raises:
        ConfigError: the threshold is out of range, or every token is forbidden.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must lie in [0, 1], got {threshold}")
    if is_forbidden is None:
        is_forbidden = torch.zeros(reference.shape[1], dtype=torch.bool, device=reference.device)
    if bool(is_forbidden.all()):
        raise ConfigError(f"all {len(is_forbidden)} tokens are forbidden; allow at least one")
    allowed_p, allowed_q = (logits.float()[:, ~is_forbidden] for logits in (reference, other))
    (best_p, confidence_p), (best_q, confidence_q) = _best(allowed_p), _best(allowed_q)
    is_same = best_p == best_q
    passes_p, passes_q = confidence_p >= threshold, confidence_q >= threshold
    log_p, log_q = allowed_p.log_softmax(dim=-1), allowed_q.log_softmax(dim=-1)
    return DecisionAgreement(
        num_open=len(reference),
        num_same_argmax=int(is_same.sum()),
        num_reference=int(passes_p.sum()),
        num_other=int(passes_q.sum()),
        num_both=int((passes_p & passes_q & is_same).sum()),
        sum_kl=float((log_p.exp() * (log_p - log_q)).sum()),
    )


def _best(logits: Float[Tensor, "N V"]) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """The likeliest token, the lowest of several as in decoding (bf16 logits often tie), and its probability."""
    index = torch.arange(logits.shape[1], device=logits.device)
    is_best = logits == logits.amax(dim=-1, keepdim=True)
    return torch.where(is_best, index, logits.shape[1]).amin(dim=-1), logits.softmax(dim=-1).amax(dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenCanvas:
    """A canvas as a forward sees it, and the positions that are still to be decided."""

    token_ids: Int[Tensor, " L"]
    block_ids: Int[Tensor, " L"]
    """Blocks of the block-causal rule; all zero is full attention."""
    is_open: Bool[Tensor, " L"]


def compare(
    reference: Denoiser,
    other: Denoiser,
    canvases: Iterable[OpenCanvas],
    *,
    threshold: float,
    is_forbidden: Bool[Tensor, " V"] | None = None,
    prediction_shift: int = 0,
) -> DecisionAgreement:
    """``decision_agreement`` over whole canvases, each forwarded alone; the two may be on different devices.

    Raises:
        InputError: there is no canvas, or with shift 1 the first position of one is open: nothing predicts it.
        ConfigError: as ``decision_agreement``; or the shift is neither 0 nor 1.
    """
    if prediction_shift not in (0, 1):
        raise ConfigError(f"prediction_shift must be 0 or 1, got {prediction_shift}")
    total = None
    for canvas in canvases:
        if prediction_shift and bool(canvas.is_open[:1].any()):
            raise InputError("with prediction_shift 1 nothing predicts the first position: it cannot be open")
        pair = (_open_logits(denoiser, canvas, prediction_shift) for denoiser in (reference, other))
        found = decision_agreement(*pair, threshold=threshold, is_forbidden=is_forbidden)
        total = found if total is None else total + found
    if total is None:
        raise InputError("there is no canvas to compare on")
    return total


@torch.inference_mode()
def _open_logits(denoiser: Denoiser, canvas: OpenCanvas, prediction_shift: int) -> Float[Tensor, "N V"]:
    device = denoiser.model.embed_tokens.weight.device
    attention = DenseAttention(Topology.block_causal(canvas.block_ids[None].to(device)))
    positions = torch.arange(len(canvas.token_ids), device=device)[None]
    hidden = denoiser(canvas.token_ids[None].to(device), positions, attention)[0]
    rows = canvas.is_open.to(device).nonzero()[:, 0] - prediction_shift
    return denoiser.logits(hidden[rows]).cpu()
