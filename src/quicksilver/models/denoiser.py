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
from quicksilver.errors import ConfigError
from quicksilver.models.attention import Attention
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.layers import CanvasRows, DenoiserLayer, SelfConditioning, rotary_angles
from quicksilver.models.loss import LogitGradient, linear_cross_entropy, logit_gradient


class _Body(nn.Module):
    """Container that gives parameters their ``model.`` prefix."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.model_width)
        self.layers = nn.ModuleList(DenoiserLayer(config, index) for index in range(config.num_layers))
        self.norm = nn.RMSNorm(config.model_width, eps=config.norm_eps)
        self.self_conditioning = SelfConditioning(config) if config.has_canvas_pass else None


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
        self,
        token_ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        attention: Attention,
        canvas: CanvasRows | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Final hidden states; pass the rows that matter to ``logits``.

        Args:
            token_ids: the rows.
            positions: both halves of a training pair have the same.
            attention: who sees whom.
            canvas: where ``has_canvas_pass``, which rows are of a canvas; None: none, all tokens are final.

        Raises:
            ConfigError: ``canvas`` is given to a denoiser that does not tell its rows from others.
        """
        hidden = self._embedded(token_ids)
        if canvas is not None:
            if self.model.self_conditioning is None:
                raise ConfigError("this denoiser does not tell rows of a canvas from others: has_canvas_pass is False")
            embedded = self.model.self_conditioning(hidden[canvas.is_canvas], canvas.predicted)
            hidden = hidden.masked_scatter(canvas.is_canvas[..., None], embedded)
        kinds = {layer.shape.rotary for layer in self.layers()}
        rotations = {rotary: rotary_angles(positions, rotary, hidden.dtype) for rotary in kinds}
        is_canvas = None if canvas is None else canvas.is_canvas
        for layer in self.layers():
            hidden = layer(hidden, rotations[layer.shape.rotary], attention, is_canvas)
        return self.model.norm(hidden)

    def _embedded(self, token_ids: Tensor) -> Tensor:
        return self._scaled(self.model.embed_tokens(token_ids))

    def _scaled(self, embedded: Tensor) -> Tensor:
        # The factor in the embeddings' own precision, as the families that have one were trained.
        scale = self.config.embedding_scale
        return embedded if scale == 1 else embedded * embedded.new_tensor(scale)

    def mean_embedding(self, probabilities: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows D"]:
        """The embedding to expect of tokens with these probabilities."""
        table = self.model.embed_tokens.weight
        return self._scaled(probabilities.to(table.dtype) @ table)

    def logits(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """Float32 logits of the given hidden rows over the whole vocabulary, special tokens included."""
        logits = F.linear(hidden, self._head()).to(torch.float32)
        cap = self.config.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def num_parameters(self) -> int:
        """All of them, the tied table counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def cross_entropy(
        self, hidden: Float[Tensor, "N D"], labels: Int[Tensor, " N"], weights: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
        """Weighted sum of negative log-likelihoods of ``labels``, and each of them; see ``linear_cross_entropy``.

        Raises:
            ConfigError: logits are capped, which it cannot do.
        """
        if self.config.logit_cap is not None:
            raise ConfigError("a denoiser with capped logits (logit_cap) cannot be trained here")
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
                is_factor = name.endswith(("norm.weight", "scalars.context", "scalars.canvas", "expert_scale"))
                parameter.fill_(1.0 if is_factor else 0.0)
            elif name.removesuffix(".weight").endswith(("o_proj", "down_proj")):
                parameter.zero_()
            else:
                counters = torch.arange(parameter.numel())
                u, v = (counter_uniform(seed, index, stream, counters) for stream in (0, 1))
                normal = (-2.0 * u.log()).sqrt() * (2.0 * torch.pi * v).cos()
                parameter.copy_((0.02 * normal).view_as(parameter))
