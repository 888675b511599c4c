"""How likely a text is under a checkpoint, in nats and bits per byte."""

import math
from dataclasses import dataclass

import torch

from quicksilver.api.network import FullRecompute, PairLogits
from quicksilver.diffusion.autoregressive import autoregressive_nats
from quicksilver.diffusion.likelihood import bits_per_byte, mask_bound
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Negative log-likelihood of a text."""

    nats: float
    num_tokens: int
    num_bytes: int
    """Of the UTF-8 text."""
    is_exact: bool
    """True for autoregressive checkpoints; otherwise ``nats`` estimates an upper bound."""
    standard_error: float
    """Of ``nats``, from the random masks of the bound; 0 if exact, NaN from a single repetition."""

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nats, self.num_bytes)

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_tokens


def score_tokens(
    denoiser: Denoiser, spec: DiffusionSpec, token_ids: list[int], *, num_bytes: int, num_subsets: int, seed: int
) -> Score:
    """Score tokens behind the spec's ``<file>`` token, which is given.

    Raises:
        ConfigError: the spec has no ``<file>`` token, or its noise is not the mask.
    """
    if spec.special.file is None:
        raise ConfigError("this checkpoint has no start-of-file token to score a text from")
    device = denoiser.model.embed_tokens.weight.device
    canvas = torch.tensor([[spec.special.file, *token_ids]], device=device)
    is_target = torch.ones_like(canvas, dtype=torch.bool)
    is_target[:, 0] = False
    error = 0.0
    if spec.objective is Objective.AUTOREGRESSIVE:
        raw = FullRecompute(denoiser, spec.prediction_shift).raw(canvas[0], torch.arange(canvas.shape[1]))
        nats = float(autoregressive_nats(raw[None], canvas, is_target, spec.prediction_shift).double().sum())
    elif spec.objective is Objective.MASK:
        has_blocks = Layout.BLOCK_CAUSAL in spec.layouts
        estimate = mask_bound(
            PairLogits(denoiser, spec),
            canvas,
            is_target,
            block_length=spec.block_length if has_blocks else canvas.shape[1],
            mask_id=spec.special.mask,
            num_subsets=num_subsets,
            seed=seed,
        )
        nats, error = float(estimate.nats), float(estimate.standard_error)
    else:
        raise ConfigError(f"score knows mask and autoregressive checkpoints, this one's objective is {spec.objective}")
    if not math.isfinite(nats):
        raise ConfigError("the checkpoint gives this text no probability at all; its weights are damaged")
    is_exact = spec.objective is Objective.AUTOREGRESSIVE
    return Score(nats=nats, num_tokens=len(token_ids), num_bytes=num_bytes, is_exact=is_exact, standard_error=error)
