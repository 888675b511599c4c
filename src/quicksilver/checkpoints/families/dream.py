"""Dream-7B (Ye et al. 2025, arXiv:2508.15487) and what was trained from or like it, in Qwen2's layout.

Dream-Coder, DiffuCoder and DreamOn have Dream's configuration. DreamOn's tokenizer has a token that expands, and its
eos inside a hole deletes. Open-dCoder has Qwen2's, and only its tokenizer names a mask.
"""

from collections.abc import Mapping
from typing import Final

from quicksilver.checkpoints.family import Family
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import read_layout
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, NoiseRates, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig

LONGEST_BLOCK: Final = 2048
"""Tokens: the context trained for. A response of up to so many is one block, as in the published loop."""
EXPAND: Final = "<|expand|>"
"""DreamOn's, by which it is known from Dream. Its holes are published with 4 masks to begin with and 64 at most."""


def _is_dream(values: Mapping[str, object]) -> bool:
    return values.get("model_type") == "Dream"


def _is_open_dcoder(values: Mapping[str, object]) -> bool:
    """A Qwen2 with a mask, or with the published modelling file, which an autoregressive one has not."""
    named = values.get("auto_map")
    classes = [str(each) for each in named.values()] if isinstance(named, dict) else []
    has_file = any(each.startswith("modeling_qwen2.") for each in classes)
    return values.get("model_type") == "qwen2" and (has_file or values.get("mask_token_id") is not None)


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    keys.fixed("use_mrope", False)
    config = read_layout(keys, "qwen2")
    eos, expand = _id(keys, tokens, "eos"), tokens.id_of(EXPAND)
    finds_lengths = expand is not None
    spec = DiffusionSpec(
        objective=Objective.MASK,
        special=SpecialIds(
            eos=eos, mask=_id(keys, tokens, "mask"), expand=expand, delete=eos if finds_lengths else None
        ),
        layouts=(Layout.IN_PLACE,),
        block_length=LONGEST_BLOCK,
        trained_block_lengths=(LONGEST_BLOCK,),
        prediction_shift=1,
        is_mask_predicted=True,
        noise=NoiseRates(has_length_noise=finds_lengths),
        decoding=DecodingDefaults(policy="entropy_order", lengths="competing", hole_length=4, ends="free"),
    )
    return config, spec


def _id(keys: Keys, tokens: TokenNames, role: str) -> int:
    given = keys.integers(f"{role}_token_id")
    found = given[0] if given else tokens.role(role)
    if found is None:
        raise ConfigError(f"config.json lacks {role}_token_id, and no tokenizer file names the {role} token")
    return found


_UNUSED: Final = ("rotary_emb.inv_freq",)
DREAM = Family(name="Dream", recognises=_is_dream, read=_read, unused=_UNUSED)
OPEN_DCODER = Family(name="Open-dCoder", recognises=_is_open_dcoder, read=_read, unused=_UNUSED)
