"""Published families, one file each: what their configurations mean and what they call their tensors."""

from collections.abc import Mapping
from typing import Final

from quicksilver.checkpoints.families.autoregressive import AUTOREGRESSIVE
from quicksilver.checkpoints.families.dream import DREAM, OPEN_DCODER
from quicksilver.checkpoints.families.llada import LLADA
from quicksilver.checkpoints.family import Family
from quicksilver.errors import CheckpointError

FAMILIES: Final[tuple[Family, ...]] = (LLADA, DREAM, OPEN_DCODER, AUTOREGRESSIVE)


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
