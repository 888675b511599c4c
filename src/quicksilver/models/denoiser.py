"""The denoiser: one network for every objective and topology, with Qwen3's state-dict names.

It knows token ids, positions and an attention; masks, noise levels and prediction shift belong to its callers. There is
no time input: for mask and edit noise the clean-data prediction does not depend on it (Ou et al. 2024, RADD,
arXiv:2406.03736).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.models.attention import Attention
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.layers import DenoiserLayer, rotary_angles
from quicksilver.models.loss import LogitGradient, linear_cross_entropy, logit_gradient


class _Body(nn.Module):
    """Container that gives parameters their ``model.`` prefix."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.model_width)
        self.layers = nn.ModuleList(DenoiserLayer(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.model_width, eps=config.norm_eps)


class Denoiser(nn.Module):
    """Predicts a distribution over tokens at every position of a canvas."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self._logit_gradient: LogitGradient = logit_gradient
        self.model = _Body(config)
        self.lm_head = (
            None if config.has_tied_embeddings else nn.Linear(config.model_width, config.vocab_size, bias=False)
        )

    def forward(
        self, token_ids: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], attention: Attention
    ) -> Float[Tensor, "B T D"]:
        """Final hidden states; pass the rows that matter to ``logits``.

        Both halves of a training pair have the same positions.
        """
        hidden = self.model.embed_tokens(token_ids)
        rotation = rotary_angles(positions, self.config, hidden.dtype)
        for layer in self.layers():
            hidden = layer(hidden, rotation, attention)
        return self.model.norm(hidden)

    def logits(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """Float32 logits of the given hidden rows over the whole vocabulary, special tokens included."""
        return F.linear(hidden, self._head()).to(torch.float32)

    def cross_entropy(
        self, hidden: Float[Tensor, "N D"], labels: Int[Tensor, " N"], weights: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
        """Weighted sum of negative log-likelihoods of ``labels``, and each of them; see ``linear_cross_entropy``."""
        return linear_cross_entropy(hidden, self._head(), labels, weights, self._logit_gradient)

    def _head(self) -> Tensor:
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def compile_parts(self) -> None:
        """Compile the layers around their attention and the loss around its products; needs a C++ compiler on a CPU."""
        for layer in self.layers():
            layer.compile_parts()
        self._logit_gradient = torch.compile(logit_gradient, dynamic=True)

    def layers(self) -> list[DenoiserLayer]:
        """The layers, input side first."""
        return [layer for layer in self.model.layers if isinstance(layer, DenoiserLayer)]

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal(0, 0.02) matrices, output projections zero, gains one: every layer starts as the identity.

        Draws come from counters, so the same seed gives the same weights on any machine and device.
        """
        for index, (name, parameter) in enumerate(self.named_parameters()):
            if parameter.ndim < 2:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            elif name.removesuffix(".weight").endswith(("o_proj", "down_proj")):
                parameter.zero_()
            else:
                counters = torch.arange(parameter.numel())
                u, v = (counter_uniform(seed, index, stream, counters) for stream in (0, 1))
                normal = (-2.0 * u.log()).sqrt() * (2.0 * torch.pi * v).cos()
                parameter.copy_((0.02 * normal).view_as(parameter))
