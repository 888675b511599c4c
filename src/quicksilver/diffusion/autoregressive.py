"""Autoregressive likelihood: block diffusion with blocks of one token, where the only noise is to mask it.

The yardstick of everything else. A block of one token has one masked subset with weight one, so the exact-count bound
*is* the autoregressive loss (BD3-LM, arXiv:2503.09573); the tests hold the identity.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.errors import ConfigError


def align_predictions(logits: Float[Tensor, "B L V"], prediction_shift: int) -> Float[Tensor, "B L V"]:
    """Logits moved so that row i is about token i.

    With shift 1 row i of the input is about token i + 1. Token 0 then has no prediction: its row is all zeros, that is
    uniform, and must be given (a start token, a prompt), not scored.
    """
    if prediction_shift not in (0, 1):
        raise ConfigError(f"prediction_shift must be 0 or 1, got {prediction_shift}")
    return logits if prediction_shift == 0 else F.pad(logits[:, :-1], (0, 0, 1, 0))


def autoregressive_nats(
    logits: Float[Tensor, "B L V"],
    token_ids: Int[Tensor, "B L"],
    is_target: Bool[Tensor, "B L"],
    prediction_shift: int,
) -> Float[Tensor, "B L"]:
    """Negative log-likelihood of every target token given the tokens before it; zero at other positions.

    Raises:
        ConfigError: with shift 1 the first token of a row is a target, which no row predicts.
    """
    if prediction_shift == 1 and bool(is_target[:, :1].any()):
        raise ConfigError("with prediction_shift 1 nothing predicts the first token of a row: it cannot be a target")
    aligned = align_predictions(logits, prediction_shift)
    nats = -aligned.log_softmax(-1).gather(-1, token_ids[..., None].long())[..., 0]
    return torch.where(is_target, nats, 0.0)
