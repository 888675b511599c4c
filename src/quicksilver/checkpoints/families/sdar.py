"""SDAR (Cheng et al. 2025, arXiv:2510.06303) and TraDo (Wang et al. 2025, arXiv:2509.06949): Qwen3 by short blocks.

Blocks lie at absolute positions. Dense, or with Qwen3's experts.
"""

from collections.abc import Mapping
from dataclasses import replace

from quicksilver.checkpoints.families.endings import first_eos
from quicksilver.checkpoints.family import Family, Source, Whole
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import read_layout
from quicksilver.checkpoints.published_experts import read_qwen3_experts, stacked_experts
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.models.config import DenoiserConfig


def _recognises(values: Mapping[str, object]) -> bool:
    return values.get("model_type") in ("sdar", "sdar_moe")


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    config = read_layout(keys, "qwen3")
    if keys.text("model_type") == "sdar_moe":
        config = replace(config, experts=read_qwen3_experts(keys))
    # Of its training code.
    keys.inert("debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep")
    block_length = keys.integer("block_size", 4)
    spec = DiffusionSpec(
        objective=Objective.MASK,
        special=SpecialIds(eos=first_eos(keys, tokens), mask=keys.integer("mask_token_id", tokens.role("mask"))),
        layouts=(Layout.BLOCK_CAUSAL,),
        block_length=block_length,
        trained_block_lengths=(block_length,),
        has_absolute_grid=True,
        is_mask_predicted=True,
        decoding=DecodingDefaults(policy="confidence_threshold", threshold=0.85, ends="free"),
    )
    return config, spec


def _source(name: str, config: DenoiserConfig) -> Source:
    return stacked_experts(name, config) or Whole(name)


SDAR = Family(name="SDAR", recognises=_recognises, read=_read, source=_source, unused=("rotary_emb.inv_freq",))
