"""Fast-dLLM v2 (Wu et al. 2025, arXiv:2509.26328): Qwen2.5 by blocks of 32, its predictions shifted by one.

The first token of a block is the last final row's; the others are decided by sub-blocks, all of the block in sight.
"""

from collections.abc import Mapping
from typing import Final

from quicksilver.checkpoints.families.endings import first_eos
from quicksilver.checkpoints.family import Family
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import read_layout
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig

_MASK: Final = "|<MASK>|"


def _recognises(values: Mapping[str, object]) -> bool:
    return values.get("model_type") == "Fast_dLLM_Qwen"


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    config = read_layout(keys, "qwen2")
    keys.inert("conplemenrary_mask")  # of training; sic
    block_length = keys.integer("bd_size", 32)
    spec = DiffusionSpec(
        objective=Objective.MASK,
        special=SpecialIds(eos=first_eos(keys, tokens), mask=_mask(tokens)),
        layouts=(Layout.BLOCK_CAUSAL,),
        block_length=block_length,
        trained_block_lengths=(block_length,),
        has_absolute_grid=True,
        prediction_shift=1,
        is_mask_predicted=True,
        decoding=DecodingDefaults(
            policy="confidence_threshold", threshold=0.9, sub_block_length=8, has_first_alone=True, ends="free"
        ),
    )
    return config, spec


def _mask(tokens: TokenNames) -> int:
    found = tokens.id_of(_MASK)
    if found is None:
        raise ConfigError(f"no tokenizer file names the mask {_MASK}, and config.json does not say its id")
    return found


FAST_DLLM = Family(name="Fast-dLLM v2", recognises=_recognises, read=_read, unused=("rotary_emb.inv_freq",))
