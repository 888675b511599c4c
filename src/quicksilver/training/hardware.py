"""What the machine can do: the precision it multiplies fast, and its measured matrix-product peak."""

import time

import torch

from quicksilver.training.recipe import Precision

_PROBE_SIZE = 1024
"""Edge of the matrices by which a CPU's bf16 is compared with its float32: a quarter of a second in all."""
_MIN_BF16_GAIN = 1.2
"""Less is not worth bf16's rounding."""


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """bf16 only where it multiplies faster than float32, which on a CPU is measured.

    Without AVX512-BF16 or AMX a CPU emulates bf16, at a quarter of its float32 speed. With AVX512-BF16 it takes half of
    float32's time on an AMD EPYC (Zen 4) and 1.7 times as long on an Intel Xeon (docs/log.md).
    """
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        return Precision.BF16 if torch.cuda.is_bf16_supported() else Precision.FLOAT32
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return Precision.FLOAT32
    bf16, float32 = (matmul_peak(each, device, _PROBE_SIZE) for each in (Precision.BF16, Precision.FLOAT32))
    return Precision.BF16 if bf16 > _MIN_BF16_GAIN * float32 else Precision.FLOAT32


def matmul_peak(precision: Precision, device: torch.device, size: int | None = None) -> float:
    """Best of several square matrix products, in FLOP/s. Takes about a second on two CPU cores.

    Args:
        precision: of the factors.
        device: where they are multiplied.
        size: their edge; None takes one large enough for the peak.
    """
    if size is None:
        size = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
