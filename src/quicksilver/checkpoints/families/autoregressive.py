"""Autoregressive checkpoints in the layouts of Qwen3, Qwen2 and Llama: to be served as they are, or adapted."""

from collections.abc import Mapping

from quicksilver.checkpoints.family import Family
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import LAYOUTS, read_layout
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig


def _recognises(values: Mapping[str, object]) -> bool:
    return values.get("model_type") in LAYOUTS


def _read(keys: Keys, tokens: TokenNames) -> tuple[DenoiserConfig, DiffusionSpec]:
    config = read_layout(keys, keys.text("model_type"))
    stops = keys.integers("eos_token_id")
    eos = tokens.role("eos") if not stops else stops[0]
    if eos is None:
        raise ConfigError("config.json lacks eos_token_id, and no tokenizer file names the token that ends a text")
    spec = DiffusionSpec(
        objective=Objective.AUTOREGRESSIVE,
        special=SpecialIds(eos=eos, mask=_unused_id(config, tokens, eos), file=tokens.begin),
        layouts=(Layout.BLOCK_CAUSAL,),
        block_length=1,
        trained_block_lengths=(1,),
        prediction_shift=1,
    )
    return config, spec


def _unused_id(config: DenoiserConfig, tokens: TokenNames, eos: int) -> int:
    """A row of the table for the mask, which such a model never needs: its last one, which no text means.

    Tables are padded (Qwen) or end in reserved tokens (Llama).
    """
    named = tokens.role("mask")
    if named is not None:
        return named
    last = config.vocab_size - 1
    return last if last != eos else last - 1


AUTOREGRESSIVE = Family(name="autoregressive", recognises=_recognises, read=_read, unused=("rotary_emb.inv_freq",))
