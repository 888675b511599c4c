"""The architecture of a denoiser, in Qwen3's layout and Hugging Face's key names at the border."""

from dataclasses import dataclass
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

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_width % 2:
            raise ConfigError(f"head_width must be even for rotary positions, got {self.head_width}")

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

    def to_hf(self) -> dict[str, object]:
        """Keys of a Hugging Face ``Qwen3Config`` (``Qwen2Config`` if there is a bias and no QK-norm)."""
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
