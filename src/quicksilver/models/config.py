"""The architecture of a denoiser, in Qwen3's layout and Hugging Face's key names at the border."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

from quicksilver.errors import ConfigError

# Hugging Face's key for each of our fields; everything else in a config.json must be inert for the architecture.
_HF_KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "model_width": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "ffn_width": "intermediate_size",
    "max_length": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "has_tied_embeddings": "tie_word_embeddings",
    "has_qkv_bias": "attention_bias",
}
# Keys that do not change the network, or whose only accepted value is given.
_HF_INERT = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_range",
    "bos_token_id", "eos_token_id", "pad_token_id", "max_window_layers", "attention_dropout", "quicksilver",
    "rope_theta", "_name_or_path",
}  # fmt: skip
_HF_FIXED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "use_sliding_window": (False,),
    "sliding_window": (None,),
}
_SIZES = tuple(_HF_KEYS)[:8]


def _hf_family(values: dict[str, object]) -> str:
    """The model type, once every key that we do not read is known to change nothing."""
    family = values.get("model_type")
    if family not in ("qwen3", "qwen2"):
        raise ConfigError(f"model_type must be qwen3 or qwen2, got {family!r}")
    unknown = set(values) - set(_HF_KEYS.values()) - _HF_INERT - set(_HF_FIXED) - {"rope_parameters", "layer_types"}
    if unknown:
        raise ConfigError(f"config.json has keys this denoiser does not know: {', '.join(sorted(unknown))}")
    for key, accepted in _HF_FIXED.items():
        if key in values and values[key] not in accepted:
            raise ConfigError(f"config.json sets {key} = {values[key]!r}; only {accepted[0]!r} is supported")
    if set(values.get("layer_types") or ()) - {"full_attention"}:  # pyright: ignore[reportArgumentType]
        raise ConfigError(f"config.json sets layer_types = {values['layer_types']!r}; only full_attention is supported")
    return str(family)


def _integer(key: str, value: object) -> int:
    if not isinstance(value, int):
        raise ConfigError(f"config.json sets {key} = {value!r}; it must be an integer")
    return value


def _rope_theta(values: dict[str, object]) -> object:
    """The rotary base, or None if it is not given. transformers 5 nests it, and says there which scaling is meant."""
    nested = values.get("rope_parameters")
    if not isinstance(nested, dict):
        return values.get("rope_theta")
    if set(nested) - {"rope_theta", "rope_type"} or nested.get("rope_type", "default") != "default":
        raise ConfigError(f"config.json sets rope_parameters = {nested!r}; only rope_type 'default' is supported")
    return nested.get("rope_theta")


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
class AttentionShape:
    """What the attention of one layer is made of."""

    num_kv_heads: int
    head_width: int
    rope_theta: float
    rotary_share: float
    window: int | None
    has_keys_as_values: bool


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
    norm_eps: float = 1e-6
    has_tied_embeddings: bool = True
    has_qkv_bias: bool = False
    """Bias on the query, key and value projections (Qwen2, Dream)."""
    has_qk_norm: bool = True
    sliding: SlidingLayers | None = None
    """None: every layer sees everything. What is said of heads and rotary elsewhere is about the others then."""
    rotary_share: float = 1.0
    """Share of a head's frequencies that turn, the fastest; the others stand still (Gemma 4's proportional rotary)."""
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

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_width % 2:
            raise ConfigError(f"head_width must be even for rotary positions, got {self.head_width}")
        if not 0 < self.rotary_share <= 1:
            raise ConfigError(f"rotary_share must lie in (0, 1], got {self.rotary_share}")
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
                rope_theta=self.rope_theta,
                rotary_share=self.rotary_share,
                window=None,
                has_keys_as_values=self.has_keys_as_values,
            )
        return AttentionShape(
            num_kv_heads=self.sliding.num_kv_heads,
            head_width=self.sliding.head_width,
            rope_theta=self.sliding.rope_theta,
            rotary_share=1.0,
            window=self.sliding.window,
            has_keys_as_values=False,
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
    def num_body_parameters(self) -> int:
        """Parameters outside the embedding table and head; they do the matrix products of every position."""
        count = self.num_layers * 3 * self.model_width * self.ffn_width
        for each in self.attentions:
            kv_products = 1 if each.has_keys_as_values else 2
            count += self.model_width * each.head_width * (2 * self.num_heads + kv_products * each.num_kv_heads)
        return count + (3 * self.model_width * self.ffn_width if self.has_canvas_pass else 0)

    @property
    def num_parameters(self) -> int:
        """Parameters in matrices (norm gains and biases left out), the tied table counted once."""
        tables = 1 if self.has_tied_embeddings else 2
        return self.num_body_parameters + tables * self.vocab_size * self.model_width

    def to_hf(self) -> dict[str, object]:
        """Keys of a Hugging Face ``Qwen3Config`` (``Qwen2Config`` if there is a bias and no QK-norm)."""
        strange = self.strange_options({*_HF_KEYS, "rope_theta", "has_qk_norm"})
        if strange:
            raise ConfigError(f"neither Qwen3Config nor Qwen2Config has a name for {', '.join(strange)}")
        if self.has_qk_norm == self.has_qkv_bias:
            raise ConfigError(
                "only QK-norm without bias (Qwen3) or bias without QK-norm (Qwen2) have a Hugging Face name"
            )
        family = "qwen3" if self.has_qk_norm else "qwen2"
        shape = {key: getattr(self, name) for name, key in _HF_KEYS.items()}
        return {
            "architectures": [f"{family.capitalize()}ForCausalLM"],
            "model_type": family,
            **shape,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
        }

    @classmethod
    def from_hf(cls, values: dict[str, object]) -> Self:
        """Read a Hugging Face configuration; raises ConfigError on an unknown family or a key it cannot honour."""
        family = _hf_family(values)
        read: dict[str, object] = {name: values[key] for name, key in _HF_KEYS.items() if key in values}
        read["has_qk_norm"] = family == "qwen3"
        read.setdefault("has_qkv_bias", family == "qwen2")
        if read["has_qk_norm"] == read["has_qkv_bias"]:
            # Qwen3 with a bias puts one on the output projection too; Qwen2 has no way to leave its bias out.
            raise ConfigError(f"config.json sets attention_bias = {read['has_qkv_bias']!r}, unsupported for {family}")
        theta = _rope_theta(values)
        if theta is not None:
            read["rope_theta"] = theta
        if "head_width" not in read and family == "qwen2" and {"model_width", "num_heads"} <= set(read):
            read["head_width"] = _integer("hidden_size", read["model_width"]) // _integer(
                "num_attention_heads", read["num_heads"]
            )
        optional = {"norm_eps", "max_length", "has_tied_embeddings"}
        missing = set(_HF_KEYS) - optional - set(read)
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(sorted(_HF_KEYS[name] for name in missing))}")
        for name in _SIZES:
            if name in read:
                read[name] = _integer(_HF_KEYS[name], read[name])
        return cls(**read)  # pyright: ignore[reportArgumentType]
