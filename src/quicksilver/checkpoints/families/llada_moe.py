"""LLaDA-MoE (Zhu et al. 2025, arXiv:2509.24389): OLMoE's layout with QK-norm, bidirectional."""

from collections.abc import Mapping

from quicksilver.checkpoints.families.endings import first_eos
from quicksilver.checkpoints.family import Family, Source, Whole
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import read_rotary
from quicksilver.checkpoints.published_experts import num_leading, stacked_experts
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig, Experts

_MASK = "<|mask|>"


def _recognises(values: Mapping[str, object]) -> bool:
    # Published under the model_type of LLaDA too, whose keys are others.
    return values.get("model_type") in ("llada", "lladamoe") and "moe_layer_freq" in values


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    keys.fixed("hidden_act", "silu")
    keys.fixed("attention_bias", False)
    keys.fixed("clip_qkv", None)
    keys.inert("attention_dropout", "rope_theta", "rope_scaling", "output_router_logits", "router_aux_loss_coef")
    theta, scaling = read_rotary(keys)
    width, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    config = DenoiserConfig(
        vocab_size=keys.integer("vocab_size"),
        num_layers=keys.integer("num_hidden_layers"),
        model_width=width,
        num_heads=heads,
        num_kv_heads=keys.integer("num_key_value_heads", heads),
        head_width=width // max(heads, 1),
        ffn_width=keys.integer("dense_intermediate_size"),
        max_length=keys.integer("max_position_embeddings", 4096),
        rope_theta=theta,
        rotary_fraction=keys.number("partial_rotary_factor", 1.0),
        rotary_scaling=scaling,
        norm_eps=keys.number("rms_norm_eps", 1e-5),
        has_tied_embeddings=keys.flag("tie_word_embeddings", default=False),
        has_qk_norm=keys.flag("qk_layernorm", default=False),
        experts=_read_experts(keys),
    )
    mask = tokens.id_of(_MASK) if tokens.role("mask") is None else tokens.role("mask")
    spec = DiffusionSpec(
        objective=Objective.MASK,
        special=SpecialIds(eos=first_eos(keys, tokens), mask=keys.integer("mask_token_id", mask)),
        layouts=(Layout.IN_PLACE,),
        block_length=32,
        trained_block_lengths=(32,),
        is_mask_predicted=True,
        decoding=DecodingDefaults(policy="confidence_order", ends="free"),
    )
    return config, spec


def _read_experts(keys: Keys) -> Experts:
    # The published router ignores norm_topk_prob and the factor, and adds the bias to the weights as well.
    keys.fixed("moe_router_score_function", "softmax")
    keys.fixed("moe_router_enable_expert_bias", None, False)
    keys.fixed("routed_scaling_factor", 1, 1.0)
    keys.inert("norm_topk_prob", "router_num_group", "router_topk_group")
    frequencies = keys.integers("moe_layer_freq")
    if set(frequencies) - {0, 1}:
        raise ConfigError(f"moe_layer_freq = {list(frequencies)}; only 0 and 1 are supported")
    shared = "shared_expert_intermediate_size"
    return Experts(
        num_experts=keys.integer("num_experts"),
        num_chosen=keys.integer("num_experts_per_tok"),
        width=keys.integer("expert_intermediate_size"),
        shared_width=keys.integer(shared, 0),
        num_dense_layers=num_leading(
            "moe_layer_freq", tuple(layer for layer, each in enumerate(frequencies) if not each)
        ),
        is_normalised=False,
    )


def _source(name: str, config: DenoiserConfig) -> Source:
    return stacked_experts(name, config) or Whole(name.replace("mlp.shared_experts", "shared_expert"))


LLADA_MOE = Family(name="LLaDA-MoE", recognises=_recognises, read=_read, source=_source)
