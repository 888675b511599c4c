"""Published families, one file each: what their configurations mean and what they call their tensors."""

from collections.abc import Mapping
from typing import Final

from quicksilver.checkpoints.families.autoregressive import AUTOREGRESSIVE
from quicksilver.checkpoints.families.diffusion_gemma import DIFFUSION_GEMMA
from quicksilver.checkpoints.families.dream import DREAM, OPEN_DCODER
from quicksilver.checkpoints.families.fast_dllm import FAST_DLLM
from quicksilver.checkpoints.families.llada import LLADA
from quicksilver.checkpoints.families.llada2 import LLADA2
from quicksilver.checkpoints.families.llada_moe import LLADA_MOE
from quicksilver.checkpoints.families.sdar import SDAR
from quicksilver.checkpoints.family import Family
from quicksilver.errors import CheckpointError

# LLaDA-MoE before LLaDA, since it is published under the same model_type.
FAMILIES: Final[tuple[Family, ...]] = (
    LLADA_MOE,
    LLADA,
    LLADA2,
    DREAM,
    OPEN_DCODER,
    SDAR,
    FAST_DLLM,
    DIFFUSION_GEMMA,
    AUTOREGRESSIVE,
)


def find_family(values: Mapping[str, object]) -> Family:
    """The family that a ``config.json`` is of.

    Raises:
        CheckpointError: none; the message names those there are.
    """
    for family in FAMILIES:
        if family.recognises(values):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise CheckpointError(
        f"config.json is of no family known here (model_type {values.get('model_type')!r}, architectures "
        f"{values.get('architectures')!r}); known: {known}"
    )
