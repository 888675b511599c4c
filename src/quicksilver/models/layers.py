"""Layers of the denoiser, with Qwen3's parameter names. Legend: B batch, T tokens, D model width, K head width."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quicksilver.models.attention import Attention
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.experts import ExpertFeedForward

Rotation = tuple[Float[Tensor, "B 1 T K"], Float[Tensor, "B 1 T K"]]


def rotary_angles(positions: Int[Tensor, "B T"], config: DenoiserConfig, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of the rotary angles (Su et al. 2021, arXiv:2104.09864), halves laid out as Qwen and Llama do.

    They are as wide as what turns of a head.
    """
    angles = positions[:, None, :, None].to(torch.float32) * _rotary_rates(config, positions.device)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotary_rates(config: DenoiserConfig, device: torch.device) -> Float[Tensor, " half"]:
    """Radians per position."""
    width, scaling = config.rotary_width, config.rotary_scaling
    rates = config.rope_theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
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


class SelfAttention(nn.Module):
    """Grouped-query attention with per-head RMS norm of queries and keys."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self._head_width = config.head_width
        self._widths = (config.num_heads * config.head_width, config.num_kv_heads * config.head_width)
        query_width, kv_width = self._widths
        self.q_proj = nn.Linear(config.model_width, query_width, bias=config.has_qkv_bias)
        self.k_proj = nn.Linear(config.model_width, kv_width, bias=config.has_qkv_bias)
        self.v_proj = nn.Linear(config.model_width, kv_width, bias=config.has_qkv_bias)
        self.o_proj = nn.Linear(query_width, config.model_width, bias=False)
        has_norm = config.has_qk_norm
        self.q_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps) if has_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_width, eps=config.norm_eps) if has_norm else nn.Identity()

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self._head_width))

    def project(self, x: Float[Tensor, "B T D"], rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, K], keys and values [B, G, T, K], rotated to their positions."""
        query = _rotate(self.q_norm(self._split(self.q_proj(x))).transpose(1, 2), rotation)
        key = _rotate(self.k_norm(self._split(self.k_proj(x))).transpose(1, 2), rotation)
        value = self._split(self.v_proj(x)).transpose(1, 2)
        # Under autocast the norms and the rotation come out in float32, the products in bf16.
        return query.to(value.dtype), key.to(value.dtype), value


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, model_width: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(model_width, width, bias=False)
        self.up_proj = nn.Linear(model_width, width, bias=False)
        self.down_proj = nn.Linear(width, model_width, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def _feed_forward(config: DenoiserConfig, layer: int) -> FeedForward | ExpertFeedForward:
    experts = config.experts
    if experts is None or not config.has_experts(layer):
        return FeedForward(config.model_width, config.ffn_width)
    shared = FeedForward(config.model_width, experts.shared_width) if experts.shared_width else None
    return ExpertFeedForward(config.model_width, experts, shared)


class DenoiserLayer(nn.Module):
    """One pre-norm residual layer."""

    def __init__(self, config: DenoiserConfig, layer: int) -> None:
        """Layers are counted from 0."""
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = _feed_forward(config, layer)
        self.input_layernorm = nn.RMSNorm(config.model_width, eps=config.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.model_width, eps=config.norm_eps)

    def project(self, x: Float[Tensor, "B T D"], rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """The layer up to its attention."""
        return self.self_attn.project(self.input_layernorm(x), rotation)

    def finish(self, x: Float[Tensor, "B T D"], attended: Float[Tensor, "B H T K"]) -> Float[Tensor, "B T D"]:
        """The layer after its attention."""
        x = x + self.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.post_attention_layernorm(x))

    def forward(self, x: Float[Tensor, "B T D"], rotation: Rotation, attention: Attention) -> Float[Tensor, "B T D"]:
        return self.finish(x, attention(*self.project(x, rotation)))

    def compile_parts(self) -> None:
        """Compile what stands around the attention, whose shapes are few; the attention changes with every batch."""
        self.project = torch.compile(self.project, dynamic=False)
        if isinstance(self.mlp, FeedForward):  # how many rows an expert gets changes at every step
            self.finish = torch.compile(self.finish, dynamic=False)
