"""Weights that anyone can draw again from a tensor's name: golden files need not hold them, and no framework's random
numbers matter.

Golden files of other families' reference implementations are made with them too, so this module needs numpy alone.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

GAIN = 2.0
"""Of matrices: large enough that the smallest wrong detail of a layer shows in the logits."""


def seeded_array(name: str, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Float32 values that depend on the tensor's name in its checkpoint, its shape and the seed.

    Matrices keep the scale of what they multiply times ``GAIN``, vectors scatter around 1 where they are a norm's gain
    or another factor, and around 0 elsewhere.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    draws = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little"))).standard_normal(tuple(shape))
    if len(shape) >= 2:
        draws *= GAIN / np.sqrt(shape[-1])
    else:
        is_gain = any(word in name for word in ("norm", "ln_f", "scale", "scalar"))
        draws = 0.2 * draws + (1 if is_gain else 0)
    return draws.astype(np.float32)
