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
class Experts:
    """Feed-forwards of which every position passes through a few, and how it chooses; see ``models.experts``."""

    num_experts: int
    num_chosen: int
    """Experts that a position passes through."""
    width: int
    """Of one expert."""
    shared_width: int = 0
    """Of a feed-forward that every position passes through beside its experts; 0: there is none."""
    num_dense_layers: int = 0
    """First layers that have an ordinary feed-forward of ``ffn_width`` in place of experts."""
    has_sigmoid_scores: bool = False
    """An expert's score is the logistic function of its logit; else the softmax over all experts."""
    is_normalised: bool = True
    """The weights of a position's experts are divided by their sum."""
    scale: float = 1.0
    """On the weights."""
    has_bias: bool = False
    """A bias per expert enters the choice, not the weights."""
    num_groups: int = 1
    num_chosen_groups: int = 1
    """Groups of adjacent experts that a position chooses from, judged by the sum of their two best."""

    def __post_init__(self) -> None:
        for name in ("num_experts", "num_chosen", "width", "num_groups", "num_chosen_groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"experts: {name} must be at least 1, got {getattr(self, name)}")
        size, rest = divmod(self.num_experts, self.num_groups)
        if rest or (self.num_groups > 1 and size < 2):
            raise ConfigError(f"{self.num_experts} experts cannot be {self.num_groups} groups of two or more")
        if self.num_chosen_groups > self.num_groups or self.num_chosen > size * self.num_chosen_groups:
            raise ConfigError(
                f"{self.num_chosen} experts of {self.num_chosen_groups} groups cannot be chosen among "
                f"{self.num_groups} groups of {size}"
            )


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
    experts: Experts | None = None
    """In place of one feed-forward per layer; None: there are none."""

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

    def has_experts(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has experts in place of one feed-forward."""
        return self.experts is not None and layer >= self.experts.num_dense_layers

    @property
    def num_body_parameters(self) -> int:
        """Parameters outside the embedding table and head."""
        return self._num_body_parameters(0 if self.experts is None else self.experts.num_experts)

    @property
    def num_active_parameters(self) -> int:
        """Those of the body that do the matrix products of one position: of the experts only the chosen ones."""
        return self._num_body_parameters(0 if self.experts is None else self.experts.num_chosen)

    def _num_body_parameters(self, num_experts: int) -> int:
        attention = self.head_width * 2 * (self.num_heads + self.num_kv_heads)
        widths = self.num_layers * attention
        for layer in range(self.num_layers):
            if self.experts is None or not self.has_experts(layer):
                widths += 3 * self.ffn_width
            else:
                experts = self.experts
                widths += experts.num_experts + 3 * (num_experts * experts.width + experts.shared_width)
        return self.model_width * widths

    @property
    def num_parameters(self) -> int:
        """Parameters in matrices (norm gains and biases left out), the tied table counted once."""
        tables = 1 if self.has_tied_embeddings else 2
        return self.num_body_parameters + tables * self.vocab_size * self.model_width
