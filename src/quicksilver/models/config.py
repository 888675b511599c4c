"""The architecture of a denoiser: Qwen3's layout and what other families have in its place."""

from dataclasses import dataclass, fields
from enum import StrEnum

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


class Activation(StrEnum):
    """What a gate goes through."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlidingLayers:
    """Layers that see a window only, between layers that see everything (Gemma)."""

    layers: tuple[int, ...]
    """Their numbers."""
    window: int
    """Positions that a row of a final token sees, itself included. A canvas sees those of its first row, and itself."""
    num_kv_heads: int
    head_width: int
    rope_theta: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotary:
    """How heads turn with their position (Su et al. 2021, arXiv:2104.09864)."""

    theta: float
    width: int
    """Elements of a head, from its front, that are turned in pairs."""
    moving_share: float = 1.0
    """Share of the pairs, the fastest, that turn at all; the others have rate zero in their places."""
    scaling: RotaryScaling | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionShape:
    """What the attention of one layer is made of."""

    num_kv_heads: int
    head_width: int
    rotary: Rotary
    window: int | None = None
    has_keys_as_values: bool = False


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
    are_beside: bool = False
    """The layer keeps its ordinary feed-forward, and what the two give is normed and added (Gemma 4)."""
    has_normed_router: bool = False
    """The router sees the stream itself, normed and divided by the root of its width, and each expert has a factor on
    its weights (Gemma 4)."""

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
    sliding: SlidingLayers | None = None
    """None: every layer sees everything. What is said of heads and rotary elsewhere is about the others then."""
    rotary_moving_share: float = 1.0
    """Share of the rotary pairs, the fastest, that turn; the others stand still (Gemma 4's "proportional" rotary)."""
    has_keys_as_values: bool = False
    """Keys are values too, before norm and rotation (Gemma 4); not in sliding layers."""
    has_value_norm: bool = False
    """RMS norm of values, without a gain."""
    has_unit_attention_scale: bool = False
    """Scores are not divided by the root of the head width."""
    has_output_norms: bool = False
    """Norms also behind attention and feed-forward, before what they give is added (Gemma 2, arXiv:2408.00118)."""
    activation: Activation = Activation.SILU
    embedding_scale: float = 1.0
    """Embeddings are multiplied by it."""
    logit_cap: float | None = None
    """Logits are cap · tanh(logits / cap)."""
    has_canvas_pass: bool = False
    """Rows of a canvas are told from those of final tokens: they have layer scalars of their own, and see by
    self-conditioning what the step before predicted (``CanvasRows``)."""
    experts: Experts | None = None
    """In place of one feed-forward per layer, or beside it; None: there are none."""

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
        if not 0 < self.rotary_moving_share <= 1:
            raise ConfigError(f"rotary_moving_share must lie in (0, 1], got {self.rotary_moving_share}")
        if self.sliding is not None:
            self._check_sliding(self.sliding)

    def _check_sliding(self, sliding: SlidingLayers) -> None:
        if not all(0 <= layer < self.num_layers for layer in sliding.layers):
            raise ConfigError(f"sliding layers {sliding.layers} are not all among {self.num_layers} layers")
        if sliding.window < 1 or sliding.num_kv_heads < 1 or sliding.head_width % 2:
            raise ConfigError(f"a window of at least 1, key/value heads and an even head width are needed: {sliding}")
        if self.num_heads % sliding.num_kv_heads:
            raise ConfigError(
                f"num_heads {self.num_heads} is not a multiple of {sliding.num_kv_heads} (sliding layers)"
            )

    def attention(self, layer: int) -> AttentionShape:
        """Of the layer of that number."""
        if self.sliding is None or layer not in self.sliding.layers:
            return AttentionShape(
                num_kv_heads=self.num_kv_heads,
                head_width=self.head_width,
                rotary=self.rotary,
                has_keys_as_values=self.has_keys_as_values,
            )
        return AttentionShape(
            num_kv_heads=self.sliding.num_kv_heads,
            head_width=self.sliding.head_width,
            rotary=Rotary(theta=self.sliding.rope_theta, width=self.sliding.head_width),
            window=self.sliding.window,
        )

    @property
    def rotary(self) -> Rotary:
        """Of the layers that see everything."""
        return Rotary(
            theta=self.rope_theta,
            width=self.rotary_width,
            moving_share=self.rotary_moving_share,
            scaling=self.rotary_scaling,
        )

    @property
    def attentions(self) -> tuple[AttentionShape, ...]:
        """Of all layers."""
        return tuple(self.attention(layer) for layer in range(self.num_layers))

    @property
    def num_kept_per_position(self) -> int:
        """Elements of the keys and values of one position, in all layers."""
        return sum(2 * each.num_kv_heads * each.head_width for each in self.attentions)

    def strange_options(self, known: set[str]) -> list[str]:
        """Options that are not at their defaults and not among ``known``: for code that cannot do everything."""
        return [f.name for f in fields(self) if f.name not in known and getattr(self, f.name) != f.default]

    @property
    def rotary_width(self) -> int:
        """How much of a head's width turns with the position."""
        return round(self.rotary_fraction * self.head_width)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has experts."""
        return self.experts is not None and layer >= self.experts.num_dense_layers

    def has_dense(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has one feed-forward that all positions pass through."""
        return self.experts is None or self.experts.are_beside or not self.has_experts(layer)

    @property
    def num_body_parameters(self) -> int:
        """Parameters outside the embedding table and head."""
        return self._num_body_parameters(0 if self.experts is None else self.experts.num_experts)

    @property
    def num_active_parameters(self) -> int:
        """Those of the body that do the matrix products of one position: of the experts only the chosen ones."""
        return self._num_body_parameters(0 if self.experts is None else self.experts.num_chosen)

    def _num_body_parameters(self, num_experts: int) -> int:
        widths = 3 * self.ffn_width if self.has_canvas_pass else 0
        for layer, shape in enumerate(self.attentions):
            num_kv_products = 1 if shape.has_keys_as_values else 2
            widths += shape.head_width * (2 * self.num_heads + num_kv_products * shape.num_kv_heads)
            if self.has_dense(layer):
                widths += 3 * self.ffn_width
            if self.experts is not None and self.has_experts(layer):
                experts = self.experts
                widths += experts.num_experts + 3 * (num_experts * experts.width + experts.shared_width)
        return self.model_width * widths

    @property
    def num_parameters(self) -> int:
        """Parameters in matrices (norm gains and biases left out), the tied table counted once."""
        tables = 1 if self.has_tied_embeddings else 2
        return self.num_body_parameters + tables * self.vocab_size * self.model_width
