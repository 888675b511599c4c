"""Triton kernels for what torch does request by request or not without a tensor of all logits; both are optional.

The torch paths in ``engine.attention`` and ``engine.head`` say what is right; the kernels must agree with them. Nothing
here imports Triton before a kernel is used, so the engine works, and starts as quickly, without it.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Sums are float32 in the kernels, so float64 stays with torch."""


def are_used(data: Tensor) -> bool:
    """Whether kernels compute with ``data``: the one place where that is chosen.

    They do on a GPU where Triton is installed, and on any device under TRITON_INTERPRET=1, as in their tests; but
    the interpreter multiplies bf16's bits as if they were integers (Triton 3.7).
    """
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1" and data.dtype != torch.bfloat16
    return (data.is_cuda or is_interpreted) and data.dtype in DTYPES and is_installed()


@cache
def is_installed() -> bool:
    """Whether Triton can be imported; it has wheels for Linux only."""
    return find_spec("triton") is not None
