"""LLaDA-8B and 1.5 (Nie et al. 2025, arXiv:2502.09992): a bidirectional Llama with OLMo's names for its tensors."""

import re
from collections.abc import Mapping
from typing import Final

from quicksilver.checkpoints.family import Family, Source, Whole
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig

_OUTER: Final = {
    "model.embed_tokens.weight": "model.transformer.wte.weight",
    "model.norm.weight": "model.transformer.ln_f.weight",
    # Not the tensors of the same ending inside the blocks.
    "lm_head.weight": "model.transformer.ff_out.weight",
}
_INNER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def _recognises(values: Mapping[str, object]) -> bool:
    return values.get("model_type") == "llada"


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    _require_known_parts(keys)
    width, heads = keys.integer("d_model"), keys.integer("n_heads")
    vocab_size = keys.integer("vocab_size")
    config = DenoiserConfig(
        vocab_size=keys.integer("embedding_size", vocab_size),
        num_layers=keys.integer("n_layers"),
        model_width=width,
        num_heads=heads,
        num_kv_heads=keys.integer("n_kv_heads", heads),
        head_width=width // max(heads, 1),
        ffn_width=_ffn_width(keys, width),
        max_length=keys.integer("max_sequence_length"),
        rope_theta=keys.number("rope_theta", 10_000.0),
        norm_eps=keys.number("rms_norm_eps", 1e-5),
        has_tied_embeddings=keys.flag("weight_tying", default=True),
        has_qkv_bias=keys.flag("include_qkv_bias", default=False),
        has_qk_norm=False,
    )
    spec = DiffusionSpec(
        objective=Objective.MASK,
        special=SpecialIds(eos=_end(keys, tokens), mask=keys.integer("mask_token_id", tokens.role("mask"))),
        layouts=(Layout.IN_PLACE,),
        block_length=32,
        trained_block_lengths=(32,),
        is_mask_predicted=True,
        decoding=DecodingDefaults(policy="confidence_order", ends="free"),
    )
    return config, spec


def _require_known_parts(keys: Keys) -> None:
    keys.fixed("block_type", "llama")
    keys.fixed("block_group_size", 1)
    keys.fixed("activation_type", "silu")
    keys.fixed("layer_norm_type", "rms")
    keys.fixed("layer_norm_with_affine", True)
    keys.fixed("rope", True)
    keys.fixed("multi_query_attention", None, False)
    for name in ("alibi", "attention_layer_norm", "bias_for_layer_norm", "include_bias", "input_emb_norm"):
        keys.fixed(name, None, False)
    keys.fixed("scale_logits", False)
    # Widths and switches of parts that are off, of training, and of how the reference computes.
    keys.inert("alibi_bias_max", "attention_layer_norm_with_affine", "flash_attention", "precision")
    keys.inert("attention_dropout", "embedding_dropout", "residual_dropout", "rope_full_precision")
    keys.inert("init_cutoff_factor", "init_device", "init_fn", "init_std", "train_max_sequence_length")


def _ffn_width(keys: Keys, width: int) -> int:
    """``mlp_hidden_size``; the published ``mlp_ratio`` contradicts it, and counts only where it is missing."""
    return keys.integer("mlp_hidden_size", keys.integer("mlp_ratio", 4) * width)


def _end(keys: Keys, tokens: TokenNames) -> int:
    ids = keys.integers("eos_token_id")
    found = ids[0] if ids else tokens.role("eos")
    if found is None:
        raise ConfigError("config.json lacks eos_token_id, and no tokenizer file names the token that ends a text")
    return found


def _source(name: str, config: DenoiserConfig) -> Source:
    if name in _OUTER:
        return Whole(_OUTER[name])
    inner = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if inner is None or inner[2] not in _INNER:
        raise ConfigError(f"LLaDA has no tensor for {name}")
    return Whole(f"model.transformer.blocks.{inner[1]}.{_INNER[inner[2]]}.{inner[3]}")


LLADA = Family(name="LLaDA", recognises=_recognises, read=_read, source=_source, unused=("rotary_emb.inv_freq",))
