"""DiffusionGemma, text only: Gemma 4's layers, read causally for final tokens and both ways over a canvas of noise.

One set of weights does both; the causal pass has layer scalars of its own. ``transformers`` from 5.23 on writes keys of
its own for what single layers have of their own, and leaves the cap on logits out; both ways are read here.
"""

from collections.abc import Mapping
from typing import Final

from quicksilver.checkpoints.family import Family, Part, Source, Whole
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.config import Activation, DenoiserConfig, Experts, SlidingLayers

_SLIDING: Final = "sliding_attention"
_FULL: Final = "full_attention"
_DECODER: Final = "model.decoder."
_NAMES: Final = {
    "post_attention_layernorm.weight": "pre_feedforward_layernorm.weight",
    "attention_output_norm.weight": "post_attention_layernorm.weight",
    "ffn_output_norm.weight": "post_feedforward_layernorm.weight",
    "beside.mlp_output_norm.weight": "post_feedforward_layernorm_1.weight",
    "beside.input_norm.weight": "pre_feedforward_layernorm_2.weight",
    "beside.output_norm.weight": "post_feedforward_layernorm_2.weight",
    "beside.experts.gate.weight": "router.proj.weight",
    "beside.experts.gate_norm.weight": "router.scale",
    "beside.experts.expert_scale": "router.per_expert_scale",
    "beside.experts.down_proj": "experts.down_proj",
    "scalars.canvas": "layer_scalar",
}
"""What a layer's tensors are called there, where they are not called as here."""


def _recognises(values: Mapping[str, object]) -> bool:
    return values.get("model_type") == "diffusion_gemma"


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    keys.fixed("tie_word_embeddings", True)
    # What is about images.
    keys.inert("vision_config", "boi_token_id", "eoi_token_id", "image_token_id")
    text = keys.nested("text_config")
    if text is None:
        raise ConfigError("config.json lacks text_config")
    config = _read_network(text)
    spec = _read_spec(keys.integer("canvas_length", 256), text, tokens, config)
    text.finish()
    return config, spec


def _read_network(text: Keys) -> DenoiserConfig:
    text.fixed("hidden_activation", "gelu_pytorch_tanh")
    text.fixed("attention_bias", False)
    text.fixed("attention_k_eq_v", True)
    text.fixed("tie_word_embeddings", True)
    text.fixed("use_bidirectional_attention", None, "vision")  # without images both are causal
    text.inert("attention_dropout")
    kinds = text.texts("layer_types")
    if len(kinds) != text.integer("num_hidden_layers") or set(kinds) - {_SLIDING, _FULL} or kinds[-1] != _FULL:
        raise ConfigError(
            f"layer_types = {list(kinds)}: {_SLIDING} or {_FULL} is needed for every layer, and at last {_FULL}"
        )
    sliding_theta, _ = _read_rotary(text, _SLIDING)
    theta, moving_share = _read_rotary(text, _FULL)
    head_width, num_kv_heads = _read_full_heads(text, kinds)
    width = text.integer("hidden_size")
    return DenoiserConfig(
        vocab_size=text.integer("vocab_size"),
        num_layers=len(kinds),
        model_width=width,
        num_heads=text.integer("num_attention_heads"),
        num_kv_heads=num_kv_heads,
        head_width=head_width,
        ffn_width=text.integer("intermediate_size"),
        max_length=text.integer("max_position_embeddings"),
        rope_theta=theta,
        rotary_moving_share=moving_share,
        norm_eps=text.number("rms_norm_eps", 1e-6),
        sliding=SlidingLayers(
            layers=tuple(number for number, kind in enumerate(kinds) if kind == _SLIDING),
            window=text.integer("sliding_window"),
            num_kv_heads=text.integer("num_key_value_heads"),
            head_width=text.integer("head_dim"),
            rope_theta=sliding_theta,
        ),
        has_keys_as_values=True,
        has_value_norm=True,
        has_unit_attention_scale=True,
        has_output_norms=True,
        activation=Activation.GELU_TANH,
        embedding_scale=width**0.5,
        logit_cap=text.number("final_logit_softcapping", 30.0),
        has_canvas_pass=True,
        experts=Experts(
            num_experts=text.integer("num_experts"),
            num_chosen=text.integer("top_k_experts"),
            width=text.integer("moe_intermediate_size"),
            are_beside=True,
            has_normed_router=True,
        ),
    )


def _read_rotary(text: Keys, kind: str) -> tuple[float, float]:
    """Base and share of the pairs that turn, of the layers of a kind."""
    default_theta, default_type, default_share = (
        (1e4, "default", 1.0) if kind == _SLIDING else (1e6, "proportional", 0.25)
    )
    every = text.nested("rope_parameters")
    rotary = None if every is None else every.nested(kind)
    if every is None or rotary is None:
        return default_theta, default_share
    every.inert(_SLIDING, _FULL)
    every.finish()
    rotary.fixed("rope_type", default_type)
    rotary.fixed("factor", 1.0)
    found = rotary.number("rope_theta", default_theta), rotary.number("partial_rotary_factor", 1.0)
    rotary.finish()
    if kind == _SLIDING and found[1] != 1:
        raise ConfigError(f"{rotary.where} sets partial_rotary_factor = {found[1]}; only 1.0 is supported")
    return found


def _read_full_heads(text: Keys, kinds: tuple[str, ...]) -> tuple[int, int]:
    """Head width and key/value heads of the layers that see everything."""
    listed = text.nested("per_layer_config")
    num_kv_heads = text.integer("num_key_value_heads")
    if listed is None:
        return text.integer("global_head_dim", 512), text.integer("num_global_key_value_heads", num_kv_heads)
    text.inert("global_head_dim", "num_global_key_value_heads")  # of no account beside the list, as there
    found: set[tuple[int, int]] = set()
    for number, kind in enumerate(kinds):
        layer = listed.nested(str(number)) if kind == _FULL else None
        if layer is not None:
            found.add(
                (
                    layer.integer("head_dim", text.integer("head_dim")),
                    layer.integer("num_key_value_heads", num_kv_heads),
                )
            )
            layer.finish()
        elif kind == _FULL:
            found.add((text.integer("head_dim"), num_kv_heads))
    listed.finish()
    if len(found) != 1:
        raise ConfigError(
            f"{listed.where}: layers of {_FULL} differ in head_dim and num_key_value_heads: {sorted(found)}"
        )
    return found.pop()


def _read_spec(canvas_length: int, text: Keys, tokens: TokenNames, config: DenoiserConfig) -> DiffusionSpec:
    ends = text.integers("eos_token_id")
    eos, pad = ends[0] if ends else 1, text.integer("pad_token_id", 0)
    named = tokens.role("mask")
    return DiffusionSpec(
        objective=Objective.UNIFORM,
        # A canvas of noise shows no mask; the last row of the table, if the tokenizer names none, stands for it.
        special=SpecialIds(eos=eos, pad=pad, mask=config.vocab_size - 1 if named is None else named),
        layouts=(Layout.BLOCK_CAUSAL,),
        block_length=canvas_length,
        trained_block_lengths=(canvas_length,),
        has_causal_context=True,
        decoding=DecodingDefaults(policy="renoise", temperature=0.8),
    )


def _source(name: str, config: DenoiserConfig) -> Source:
    parts = name.split(".", 3)
    if parts[1] == "self_conditioning":
        return Whole(_DECODER + name.removeprefix("model.").replace(".mlp.", ".").replace("input_norm", "pre_norm"))
    if parts[1] != "layers":
        return Whole(_DECODER + name.removeprefix("model."))
    layer, inner = f"layers.{parts[2]}.", parts[3]
    if inner == "scalars.context":
        return Whole(f"model.encoder.language_model.{layer}layer_scalar")
    if inner in ("beside.experts.gate_proj", "beside.experts.up_proj") and config.experts is not None:
        width = config.experts.width
        start = 0 if inner.endswith("gate_proj") else width
        return Part(f"{_DECODER}{layer}experts.gate_up_proj", start, start + width, axis=1)
    return Whole(_DECODER + layer + _NAMES.get(inner, inner))


DIFFUSION_GEMMA = Family(
    name="DiffusionGemma",
    recognises=_recognises,
    read=_read,
    source=_source,
    other_parts=("model.encoder.vision_tower.", "model.encoder.embed_vision."),
)
