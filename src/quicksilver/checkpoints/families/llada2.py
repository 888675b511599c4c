"""LLaDA2.0 (arXiv:2512.15745) and 2.1 (arXiv:2602.08676): Ling's Bailing MoE layout by blocks of 32.

2.1 was trained to mend visible tokens, which its configuration does not say: where only its code's own model_type tells
it, editing is the default, elsewhere a request asks for it. 2.2 chooses the experts of a whole block together, which is
not built here.
"""

import re
from collections.abc import Mapping
from typing import Final

from quicksilver.checkpoints.families.endings import first_eos
from quicksilver.checkpoints.family import Family, Part, Source, Whole
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import read_rotary
from quicksilver.checkpoints.published_experts import stacked_experts
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, NoiseRates, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig, Experts

_MASK: Final = "<|mask|>"
_PUBLISHED: Final = {"mask": 156895, "eos": 156892, "vocab_size": 157184}
"""Ids that the published code has in the place of configuration."""
_NAMES: Final = {
    "model.embed_tokens.weight": "model.word_embeddings.weight",
    "self_attn.q_norm": "attention.query_layernorm",
    "self_attn.k_norm": "attention.key_layernorm",
    "self_attn.o_proj": "attention.dense",
    "mlp.expert_bias": "mlp.gate.expert_bias",
}


def _recognises(values: Mapping[str, object]) -> bool:
    return str(values.get("model_type")).startswith(("llada2_moe", "llada21_moe"))


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    if "expert_capacity" in keys:
        raise ConfigError(
            "expert_capacity: a block's rows choose their experts together (LLaDA2.2), which is not supported; "
            "LLaDA2.0 and 2.1 are"
        )
    config = _read_network(keys)
    keys.fixed("use_qk_norm", True)
    edits = keys.text("model_type").startswith("llada21")
    decoding = DecodingDefaults(
        policy="joint_threshold" if edits else "confidence_threshold",
        threshold=0.95,
        edit_threshold=0.9,
        max_edits=None,
        max_post_steps=16,
        ends="free",
    )
    spec = DiffusionSpec(
        objective=Objective.MASK,
        special=_read_special(keys, tokens, config.vocab_size),
        layouts=(Layout.BLOCK_CAUSAL,),
        block_length=32,
        trained_block_lengths=(32,),
        has_absolute_grid=True,
        is_mask_predicted=True,
        noise=NoiseRates(edit_rate=0.1),  # that wrong tokens were seen in training is published, how many is not
        decoding=decoding,
    )
    return config, spec


def _read_network(keys: Keys) -> DenoiserConfig:
    keys.fixed("hidden_act", "silu")
    for name in ("use_bias", "use_qkv_bias", "norm_head", "norm_softmax", "use_sliding_window"):
        keys.fixed(name, False)
    keys.fixed("use_rmsnorm", True)
    keys.fixed("using_split_qkv_in_self_attention", False)
    keys.inert("attention_dropout", "embedding_dropout", "output_dropout", "output_router_logits", "router_dtype")
    keys.inert("max_window_layers", "sliding_window", "rope_theta", "rope_scaling", "rope_parameters")
    theta, scaling = read_rotary(keys)
    width, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    head_width = keys.integer("head_dim", width // max(heads, 1))
    fraction = keys.number("partial_rotary_factor", 0.5)
    keys.fixed("rotary_dim", round(fraction * head_width))
    return DenoiserConfig(
        vocab_size=keys.integer("vocab_size"),
        num_layers=keys.integer("num_hidden_layers"),
        model_width=width,
        num_heads=heads,
        num_kv_heads=keys.integer("num_key_value_heads", heads),
        head_width=head_width,
        ffn_width=keys.integer("intermediate_size"),
        max_length=keys.integer("max_position_embeddings"),
        rope_theta=theta,
        rotary_fraction=fraction,
        rotary_scaling=scaling,
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        has_tied_embeddings=keys.flag("tie_word_embeddings", default=False),
        experts=_read_experts(keys),
    )


def _read_experts(keys: Keys) -> Experts:
    keys.fixed("score_function", "sigmoid")
    keys.fixed("norm_topk_prob", True)
    keys.fixed("moe_router_enable_expert_bias", True)
    width = keys.integer("moe_intermediate_size")
    return Experts(
        num_experts=keys.integer("num_experts"),
        num_chosen=keys.integer("num_experts_per_tok"),
        width=width,
        shared_width=width * keys.integer("num_shared_experts", 0),
        num_dense_layers=keys.integer("first_k_dense_replace", 0),
        has_sigmoid_scores=True,
        scale=keys.number("routed_scaling_factor", 2.5),
        has_bias=True,
        num_groups=keys.integer("n_group", 8),
        num_chosen_groups=keys.integer("topk_group", 4),
    )


def _read_special(keys: Keys, tokens: TokenNames, vocab_size: int) -> SpecialIds:
    """Mask and end by the tokenizer's files; where they are silent, those of the published vocabulary."""
    mask = tokens.id_of(_MASK) if tokens.role("mask") is None else tokens.role("mask")
    is_published = vocab_size == _PUBLISHED["vocab_size"]
    if mask is None and is_published:
        mask = _PUBLISHED["mask"]
    if mask is None:
        raise ConfigError(f"no tokenizer file names the mask {_MASK}, and config.json does not say its id")
    if is_published and tokens.role("eos") is None:
        return SpecialIds(eos=_PUBLISHED["eos"], mask=mask)
    return SpecialIds(eos=first_eos(keys, tokens), mask=mask)


def _source(name: str, config: DenoiserConfig) -> Source:
    experts = stacked_experts(name, config)
    if experts is not None:
        return experts
    fused = re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.weight", name)
    if fused is not None:
        heads = {"q": (0, config.num_heads), "k": (config.num_heads, config.num_kv_heads)}
        first, count = heads.get(fused[2], (config.num_heads + config.num_kv_heads, config.num_kv_heads))
        start, stop = first * config.head_width, (first + count) * config.head_width
        return Part(f"{fused[1]}.attention.query_key_value.weight", start, stop)
    for ours, theirs in _NAMES.items():
        name = name.replace(ours, theirs)
    return Whole(name)


LLADA2 = Family(name="LLaDA2", recognises=_recognises, read=_read, source=_source, unused=("rotary_emb.inv_freq",))
