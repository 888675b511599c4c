"""Qwen3's, Qwen2's and Llama's layouts: their configuration keys to ours and back. Many families share them."""

from dataclasses import asdict
from typing import Final

from quicksilver.checkpoints.keys import Keys
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig, RotaryScaling

LAYOUTS: Final = ("qwen3", "qwen2", "llama")
_CLASSES: Final = {"qwen3": "Qwen3ForCausalLM", "qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}


def read_layout(keys: Keys, layout: str) -> DenoiserConfig:
    """The architecture that the keys of a layout describe.

    Args:
        keys: of a ``config.json``; not finished here, so that a family can read its own keys beside these.
        layout: one of ``LAYOUTS``.

    Raises:
        ConfigError: a key is missing, no number, or asks for what the denoiser cannot do.
    """
    keys.fixed("hidden_act", "silu")
    keys.inert("attention_dropout", "pretraining_tp", "rope_theta", "rope_scaling", "rope_parameters")
    if set(keys.texts("layer_types")) - {"full_attention"}:
        raise ConfigError(f"layer_types = {list(keys.texts('layer_types'))}: only full_attention is supported")
    if layout != "llama":
        keys.fixed("use_sliding_window", False)
        keys.inert("sliding_window", "max_window_layers")  # nothing without the switch
    # Qwen3's bias would be on the output projection too; Qwen2 has no way to leave its own out.
    keys.fixed("attention_bias", layout == "qwen2")
    keys.fixed("mlp_bias", False)
    width, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    theta, scaling = read_rotary(keys)
    return DenoiserConfig(
        vocab_size=keys.integer("vocab_size"),
        num_layers=keys.integer("num_hidden_layers"),
        model_width=width,
        num_heads=heads,
        num_kv_heads=keys.integer("num_key_value_heads", heads),
        head_width=keys.integer("head_dim", None if layout == "qwen3" else width // max(heads, 1)),
        ffn_width=keys.integer("intermediate_size"),
        max_length=keys.integer("max_position_embeddings", 2048),
        rope_theta=theta,
        rotary_scaling=scaling,
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        has_tied_embeddings=keys.flag("tie_word_embeddings", default=False),
        has_qkv_bias=layout == "qwen2",
        has_qk_norm=layout == "qwen3",
    )


def read_rotary(keys: Keys) -> tuple[float, RotaryScaling | None]:
    """Base and scaling of the rotary positions, as transformers before 5 (flat) or since (nested) writes them."""
    theta = keys.number("rope_theta", 10_000.0)
    nested = keys.nested("rope_parameters") or keys.nested("rope_scaling")
    if nested is None:
        return theta, None
    theta = nested.number("rope_theta", theta)
    nested.inert("type")
    kind = nested.text("rope_type", nested.text("type", "default"))
    scaling = None
    if kind == "llama3":
        scaling = RotaryScaling(
            factor=nested.number("factor"),
            low_frequency_factor=nested.number("low_freq_factor"),
            high_frequency_factor=nested.number("high_freq_factor"),
            original_length=nested.integer("original_max_position_embeddings"),
        )
    elif kind != "default":
        raise ConfigError(f"{nested.where} has rope_type {kind!r}; only 'default' and 'llama3' are supported")
    nested.finish()
    return theta, scaling


def layout_of(config: DenoiserConfig) -> str | None:
    """Which of the layouts an architecture is; None if it is none of them."""
    plain = DenoiserConfig(
        **{
            name: getattr(config, name)
            for name in (
                "vocab_size", "num_layers", "model_width", "num_heads", "num_kv_heads", "head_width", "ffn_width",
                "max_length", "rope_theta", "rotary_scaling", "norm_eps", "has_tied_embeddings", "has_qkv_bias",
                "has_qk_norm",
            )
        }
    )  # fmt: skip
    if plain != config:
        return None
    return {(True, False): "qwen3", (False, True): "qwen2", (False, False): "llama"}.get(
        (config.has_qk_norm, config.has_qkv_bias)
    )


def write_layout(config: DenoiserConfig) -> dict[str, object]:
    """Keys of a ``Qwen3Config``, ``Qwen2Config`` or ``LlamaConfig``; raises ConfigError if it is none of them."""
    layout = layout_of(config)
    if layout is None:
        raise ConfigError("this architecture has no Hugging Face name: it is neither Qwen3's nor Qwen2's nor Llama's")
    values: dict[str, object] = {
        "architectures": [_CLASSES[layout]],
        "model_type": layout,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.model_width,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.has_tied_embeddings,
        "attention_bias": config.has_qkv_bias,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
    }
    if config.rotary_scaling is not None:
        scaling = asdict(config.rotary_scaling)
        values["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling["factor"],
            "low_freq_factor": scaling["low_frequency_factor"],
            "high_freq_factor": scaling["high_frequency_factor"],
            "original_max_position_embeddings": scaling["original_length"],
        }
    return values
