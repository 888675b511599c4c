"""The denoiser's forward in fewer and wider operators, for inference on a CPU.

Over the few rows of a denoising step a small model's time goes to starting operators and to streaming weights from
memory, not to arithmetic. Here queries, keys and values are one product, gate and up another; a norm is three
operators (torch composes it of eight on a CPU); residuals are added by the product before them. Matrices lie with
their input axis first: a product of few rows reads them faster that way (docs/log.md).

``Denoiser`` says what is right; this must agree with it up to rounding.

Legend: B batch, T tokens, D model width, H query heads, G key/value heads, K head width.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quicksilver.errors import ConfigError
from quicksilver.models.attention import Attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.layers import DenoiserLayer, FeedForward, RmsNorm, SelfAttention, rotary_angles
from quicksilver.models.parallel import ParallelDenoiser
from quicksilver.models.ranks import Ranks


class FusedDenoiser:
    """A denoiser for inference. Nothing is held twice: its matrices become views into those of this object."""

    def __init__(self, denoiser: Denoiser) -> None:
        """Rearrange the denoiser's matrices in memory; their values stay, and so do names and shapes.

        Args:
            denoiser: one that ``can_fuse``. Its norms' gains must not change from here on.
        """
        config = denoiser.config
        self._config = config
        self._embedding = denoiser.model.embed_tokens
        ranks = denoiser.ranks if isinstance(denoiser, ParallelDenoiser) else None
        self._layers = [_FusedLayer(layer, config.norm_eps, ranks) for layer in denoiser.layers()]
        _fuse([denoiser.lm_head or self._embedding])
        self._norm = _Norm(denoiser.model.norm.weight, config.norm_eps)

    def __call__(
        self,
        token_ids: Int[Tensor, "1 T"],
        positions: Int[Tensor, "1 T"],
        attention: Attention,
        read: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "1 T D"]:
        """As ``Denoiser.forward``.

        Args:
            token_ids: the rows' tokens.
            positions: and where they stand.
            attention: between them, and to what is kept of others.
            read: the rows that are read, different ones; the others are zero, since behind the last attention no row
                needs them. None: all.
        """
        hidden = self._embedding(token_ids[0])
        cos, sin = rotary_angles(positions.T, self._config.rotary, self._norm.dtype)
        sin[..., : self._config.head_width // 2].neg_()
        rotation = cos[:, 0], sin[:, 0]
        for layer in self._layers[:-1]:
            hidden = layer(hidden, rotation, attention, self._config.num_kv_heads)
        hidden = self._norm(self._layers[-1](hidden, rotation, attention, self._config.num_kv_heads, read))
        if read is None:
            return hidden[None]
        return hidden.new_zeros(len(token_ids[0]), hidden.shape[1]).index_copy_(0, read, hidden)[None]


def can_fuse(denoiser: Denoiser) -> bool:
    """Whether its matrices are ordinary ones on a CPU, neither quantized nor in training, and all its options known."""
    if denoiser.config.strange_options(_UNDERSTOOD):
        return False
    if denoiser.model.embed_tokens.weight.device.type != "cpu" or any(p.requires_grad for p in denoiser.parameters()):
        return False
    inner = [
        module for layer in denoiser.layers() for part in (layer.self_attn, layer.mlp) for module in part.children()
    ]
    return all(
        type(module) in _PLAIN and all(type(parameter) is nn.Parameter for parameter in module.parameters())
        for module in inner
    )


_UNDERSTOOD = {
    "vocab_size", "num_layers", "model_width", "num_heads", "num_kv_heads", "head_width", "ffn_width", "max_length",
    "rope_theta", "rotary_scaling", "norm_eps", "has_tied_embeddings", "has_qkv_bias", "has_qk_norm",
}  # fmt: skip
"""Options of ``DenoiserConfig``."""
_PLAIN = (nn.Linear, RmsNorm, nn.Identity)


@torch.no_grad()
def _fuse(modules: Sequence[nn.Linear | nn.Embedding]) -> Tensor:
    """The matrices side by side, input axis first; the modules' own become views of it."""
    weights = [module.weight for module in modules]
    shape = weights[0].shape[1], sum(weight.shape[0] for weight in weights)
    if _are_fused(weights, shape[1]):
        return weights[0].detach().as_strided(shape, (shape[1], 1))
    fused, start = torch.cat([weight.T for weight in weights], dim=1), 0
    for module in modules:
        stop = start + module.weight.shape[0]
        module.weight.data = fused[:, start:stop].T
        start = stop
    return fused


def _are_fused(weights: Sequence[Tensor], width: int) -> bool:
    """Whether an earlier engine has laid them out already."""
    start = weights[0].data_ptr()
    for weight in weights:
        if weight.stride() != (1, width) or weight.data_ptr() != start:
            return False
        start += weight.shape[0] * weight.element_size()
    return True


class _Norm:
    """RMS norm with a gain: x / sqrt(|x|² + n eps) · (sqrt(n) gain), for vectors of n elements."""

    def __init__(self, gain: Float[Tensor, "*heads n"], eps: float) -> None:
        # Sums and gains in float32 at least, as torch has them.
        self.dtype = torch.promote_types(gain.dtype, torch.float32)
        width = gain.shape[-1]
        self._gain = gain.detach().to(self.dtype) * math.sqrt(width)
        self._least = torch.tensor(math.sqrt(width * eps), dtype=self.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=self.dtype)
        return x.div(length.hypot(self._least)).mul_(self._gain).to(x.dtype)


class _FusedLayer:
    """One pre-norm residual layer over T packed rows."""

    def __init__(self, layer: DenoiserLayer, eps: float, ranks: Ranks | None) -> None:
        """Lay out a layer; with ``ranks`` it is one rank's part, whose results are to be summed over all."""
        self._ranks = ranks
        attention, mlp = layer.self_attn, layer.mlp
        if not isinstance(mlp, FeedForward):
            raise ConfigError("a layer with experts cannot be fused; ask can_fuse first")
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        self._qkv = _fuse(projections)
        biases: list[Tensor] = [each.bias for each in projections if each.bias is not None]
        self._qkv_bias = torch.cat(biases).detach() if biases else None
        self._out, self._down = _fuse([attention.o_proj]), _fuse([mlp.down_proj])
        self._gate_up = _fuse([mlp.gate_proj, mlp.up_proj])
        self._input_norm = _Norm(layer.input_layernorm.weight, eps)
        self._ffn_norm = _Norm(layer.post_attention_layernorm.weight, eps)
        self._qk_norm = _qk_norm(attention, eps)

    def __call__(
        self,
        x: Float[Tensor, "T D"],
        rotation: tuple[Tensor, Tensor],
        attention: Attention,
        num_kv_heads: int,
        read: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "N D"]:
        query, key, value = (each.transpose(0, 1)[None] for each in self._project(x, rotation, num_kv_heads))
        attended = attention(query, key, value)[0].transpose(0, 1).flatten(1)
        if read is not None:
            x, attended = x[read], attended[read]
        x = self._add_product(x, attended, self._out)
        gate, up = torch.mm(self._ffn_norm(x), self._gate_up).chunk(2, dim=-1)
        return self._add_product(x, F.silu(gate).mul_(up), self._down)

    def _add_product(self, x: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
        if self._ranks is None:
            return torch.addmm(x, rows, matrix)
        return self._ranks.sum(torch.mm(rows, matrix)).add_(x)

    def _project(self, x: Tensor, rotation: tuple[Tensor, Tensor], num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, H, K], keys and values [T, G, K]."""
        cos, sin = rotation
        projected, width = torch.mm(self._input_norm(x), self._qkv), cos.shape[-1]
        if self._qkv_bias is not None:
            projected += self._qkv_bias
        heads = projected.unflatten(-1, (-1, width))
        rotated, value = heads[:, :-num_kv_heads], heads[:, -num_kv_heads:]
        if self._qk_norm is not None:
            rotated = self._qk_norm(rotated)
        # Halves of the width are swapped by rolling; the sine carries the sign.
        rotated = (rotated * cos).addcmul_(rotated.roll(width // 2, dims=-1), sin).to(x.dtype)
        return rotated[:, :-num_kv_heads], rotated[:, -num_kv_heads:], value


def _qk_norm(attention: SelfAttention, eps: float) -> _Norm | None:
    """One norm for all query and key heads; None if there is none."""
    query, key = attention.q_norm, attention.k_norm
    if not (isinstance(query, nn.RMSNorm) and isinstance(key, nn.RMSNorm)):
        return None
    width = query.weight.shape[0]
    num_heads, num_kv_heads = (each.weight.shape[0] // width for each in (attention.q_proj, attention.k_proj))
    return _Norm(torch.cat([query.weight.expand(num_heads, -1), key.weight.expand(num_kv_heads, -1)]), eps)
