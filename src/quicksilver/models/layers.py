"""Layers of the denoiser, with Qwen3's parameter names. Legend: B batch, T tokens, D model width, K head width."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from quicksilver.errors import ConfigError
from quicksilver.models.attention import Attention
from quicksilver.models.config import Activation, AttentionShape, DenoiserConfig, Rotary
from quicksilver.models.experts import ACTIVATIONS, ExpertFeedForward

Rotation = tuple[Float[Tensor, "B 1 T K"], Float[Tensor, "B 1 T K"]]


class CanvasRows(NamedTuple):
    """The rows that are of a canvas being denoised, where a denoiser tells them from those of final tokens."""

    is_canvas: Bool[Tensor, "B T"]
    predicted: Float[Tensor, "N D"]
    """For each of them the mean embedding of what the step before predicted, see ``Denoiser.mean_embedding``; zero at
    the first step."""


def rotary_angles(positions: Int[Tensor, "B T"], rotary: Rotary, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of the rotary angles (Su et al. 2021, arXiv:2104.09864), halves laid out as Qwen and Llama do.

    They are as wide as what turns of a head.
    """
    angles = positions[:, None, :, None].to(torch.float32) * _rotary_rates(rotary, positions.device)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotary_rates(rotary: Rotary, device: torch.device) -> Float[Tensor, " half"]:
    """Radians per position."""
    width, scaling = rotary.width, rotary.scaling
    rates = rotary.theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    rates[int(rotary.moving_share * width // 2) :] = 0
    if scaling is None:
        return rates
    # Turns that a rate makes over the context trained for before; between the two factors it is partly divided.
    turns = scaling.original_length * rates / (2 * torch.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return rates * (kept + (1 - kept) / scaling.factor)


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    cos, sin = rotation
    turning, still = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    left, right = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-right, left], dim=-1) * sin
    return turned if not still.shape[-1] else torch.cat([turned, still.to(turned.dtype)], dim=-1)


class RmsNorm(nn.RMSNorm):
    """Computes in its gain's number format where that is the wider.

    Under autocast projections are bf16 and gains float32, which torch has no fused kernel for.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.weight is None else x.to(torch.promote_types(x.dtype, self.weight.dtype)))


def _norm(width: int, config: DenoiserConfig, *, has_gain: bool = True) -> RmsNorm:
    return RmsNorm(width, eps=config.norm_eps, elementwise_affine=has_gain)


class SelfAttention(nn.Module):
    """Grouped-query attention with per-head RMS norm of queries and keys."""

    def __init__(self, config: DenoiserConfig, shape: AttentionShape) -> None:
        super().__init__()
        self._head_width = width = shape.head_width
        query_width, kv_width = config.num_heads * width, shape.num_kv_heads * width
        self.q_proj = nn.Linear(config.model_width, query_width, bias=config.has_qkv_bias)
        self.k_proj = nn.Linear(config.model_width, kv_width, bias=config.has_qkv_bias)
        self.v_proj = (
            None if shape.has_keys_as_values else nn.Linear(config.model_width, kv_width, bias=config.has_qkv_bias)
        )
        self.o_proj = nn.Linear(query_width, config.model_width, bias=False)
        has_norm = config.has_qk_norm
        self.q_norm = _norm(width, config) if has_norm else nn.Identity()
        self.k_norm = _norm(width, config) if has_norm else nn.Identity()
        self.v_norm = _norm(width, config, has_gain=False) if config.has_value_norm else nn.Identity()
        # Every attention divides by the root of the head width.
        self._query_scale = width**0.5 if config.has_unit_attention_scale else 1.0

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self._head_width))

    def project(self, x: Float[Tensor, "B T D"], rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, K], keys and values [B, G, T, K], rotated to their positions."""
        query = _rotate(self.q_norm(self._split(self.q_proj(x))).transpose(1, 2), rotation)
        if self._query_scale != 1:
            query = query * self._query_scale
        projected = self._split(self.k_proj(x))
        key = _rotate(self.k_norm(projected).transpose(1, 2), rotation)
        value = self.v_norm(projected if self.v_proj is None else self._split(self.v_proj(x))).transpose(1, 2)
        # Under autocast the norms and the rotation come out in float32, the products in bf16.
        return query.to(projected.dtype), key.to(projected.dtype), value.to(projected.dtype)


class FeedForward(nn.Module):
    """A gated feed-forward: SwiGLU, or GEGLU by its activation (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, model_width: int, width: int, activation: Activation = Activation.SILU) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[activation]
        self.gate_proj = nn.Linear(model_width, width, bias=False)
        self.up_proj = nn.Linear(model_width, width, bias=False)
        self.down_proj = nn.Linear(width, model_width, bias=False)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.down_proj(self._activation(self.gate_proj(x)) * self.up_proj(x))


class LayerScalars(nn.Module):
    """A factor on a layer's result, one for rows of final tokens and one for those of a canvas (DiffusionGemma)."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.ones(1))
        self.canvas = nn.Parameter(torch.ones(1))

    def forward(self, x: Float[Tensor, "B T D"], is_canvas: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        if is_canvas is None:
            return x * self.context
        return x * torch.where(is_canvas[..., None], self.canvas, self.context)


class SelfConditioning(nn.Module):
    """Mixes what the step before predicted into the embeddings of a canvas (Chen et al. 2022, arXiv:2208.04202).

    As in DiffusionGemma; the last norm is there at the first step too, which nothing was predicted before.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.input_norm = _norm(config.model_width, config)
        self.mlp = FeedForward(config.model_width, config.ffn_width, config.activation)
        self.output_norm = _norm(config.model_width, config, has_gain=False)

    def forward(self, embedded: Float[Tensor, "N D"], predicted: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return self.output_norm(embedded + self.mlp(self.input_norm(predicted)))


class BesideExperts(nn.Module):
    """Experts beside a layer's feed-forward: each side has norms of its own, and their results are added (Gemma 4)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.mlp_output_norm = _norm(config.model_width, config)
        self.input_norm = _norm(config.model_width, config)
        self.experts = _experts(config)
        self.output_norm = _norm(config.model_width, config)

    def forward(self, fed: Float[Tensor, "B T D"], x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Add to ``fed``, what the feed-forward gives, what the experts make of the stream ``x``."""
        return self.mlp_output_norm(fed) + self.output_norm(self.experts(self.input_norm(x), x))


def _experts(config: DenoiserConfig) -> ExpertFeedForward:
    if config.experts is None:
        raise ConfigError("this denoiser has no experts")
    width, shared = config.experts.shared_width, None
    if width:
        shared = FeedForward(config.model_width, width, config.activation)
    return ExpertFeedForward(config.model_width, config.experts, shared, config.activation, config.norm_eps)


class DenoiserLayer(nn.Module):
    """One pre-norm residual layer."""

    def __init__(self, config: DenoiserConfig, layer: int) -> None:
        """Layers are counted from 0."""
        super().__init__()
        self.shape = config.attention(layer)
        self.self_attn = SelfAttention(config, self.shape)
        has_dense, has_experts = config.has_dense(layer), config.has_experts(layer)
        self.mlp = (
            FeedForward(config.model_width, config.ffn_width, config.activation) if has_dense else _experts(config)
        )
        self.beside = BesideExperts(config) if has_dense and has_experts else None
        self.input_layernorm = _norm(config.model_width, config)
        self.post_attention_layernorm = _norm(config.model_width, config)
        has_output_norms = config.has_output_norms
        self.attention_output_norm = _norm(config.model_width, config) if has_output_norms else nn.Identity()
        self.ffn_output_norm = _norm(config.model_width, config) if has_output_norms else nn.Identity()
        self.scalars = LayerScalars() if config.has_canvas_pass else None

    def project(self, x: Float[Tensor, "B T D"], rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """The layer up to its attention."""
        return self.self_attn.project(self.input_layernorm(x), rotation)

    def finish(
        self,
        x: Float[Tensor, "B T D"],
        attended: Float[Tensor, "B H T K"],
        is_canvas: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The layer after its attention."""
        x = x + self.attention_output_norm(self.self_attn.o_proj(attended.transpose(1, 2).flatten(2)))
        fed = self.mlp(self.post_attention_layernorm(x))
        if self.beside is not None:
            fed = self.beside(fed, x)
        x = x + self.ffn_output_norm(fed)
        return x if self.scalars is None else self.scalars(x, is_canvas)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rotation: Rotation,
        attention: Attention,
        is_canvas: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        query, key, value = self.project(x, rotation)
        window = self.shape.window
        attended = attention(query, key, value) if window is None else attention(query, key, value, window)
        return self.finish(x, attended, is_canvas)

    def compile_parts(self) -> None:
        """Compile what stands around the attention, whose shapes are few; the attention changes with every batch."""
        self.project = torch.compile(self.project, dynamic=False)
        if (
            isinstance(self.mlp, FeedForward) and self.beside is None
        ):  # how many rows an expert gets changes at every step
            self.finish = torch.compile(self.finish, dynamic=False)
