"""The architecture of a denoiser: Qwen3's layout and what other families have in its place."""

from dataclasses import dataclass

from quicksilver.errors import ConfigError

_SIZES = (
    "vocab_size",
    "num_layers",
    "model_width",
    "num_heads",
    "num_kv_heads",
    "head_width",
    "ffn_width",
    "max_length",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RotaryScaling:
    """Llama 3's rotary rates for long contexts: slow ones divided by ``factor``, fast ones kept, a ramp between."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int
    """Context trained for before, in tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserConfig:
    """Shape of a denoiser: RMSNorm first, rotary positions, QK-norm, grouped-query attention, SwiGLU."""

    vocab_size: int
    num_layers: int
    model_width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ffn_width: int
    max_length: int = 1024
    """Longest canvas trained for, in tokens."""
    rope_theta: float = 10_000.0
    rotary_fraction: float = 1.0
    """Share of a head's width, from its front, that turns with the position."""
    rotary_scaling: RotaryScaling | None = None
    norm_eps: float = 1e-6
    has_tied_embeddings: bool = True
    has_qkv_bias: bool = False
    """Bias on the query, key and value projections (Qwen2, Dream)."""
    has_qk_norm: bool = True

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.rotary_width % 2 or not 0 < self.rotary_width <= self.head_width:
            raise ConfigError(
                f"head_width must be even for rotary positions, and so must their share of it, got "
                f"{self.rotary_fraction:g} of {self.head_width}"
            )

    @property
    def rotary_width(self) -> int:
        """How much of a head's width turns with the position."""
        return round(self.rotary_fraction * self.head_width)

    @property
    def num_body_parameters(self) -> int:
        """Parameters outside the embedding table and head; they do the matrix products of every position."""
        attention = self.model_width * self.head_width * 2 * (self.num_heads + self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.model_width * self.ffn_width)

    @property
    def num_parameters(self) -> int:
        """Parameters in matrices (norm gains and biases left out), the tied table counted once."""
        tables = 1 if self.has_tied_embeddings else 2
        return self.num_body_parameters + tables * self.vocab_size * self.model_width
