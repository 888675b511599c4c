"""What the machine can do: the precision it multiplies fast, and its measured matrix-product peak."""

import time

import torch

from quicksilver.training.recipe import Precision


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """bf16 only where the hardware multiplies it.

    Without AVX512-BF16 or AMX a CPU emulates bf16, at a quarter of its float32 speed (measured on a Xeon, 2026-11).
    """
    if precision is not Precision.AUTO:
        return precision
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported()
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Precision.BF16 if has_bf16 else Precision.FLOAT32


def matmul_peak(precision: Precision, device: torch.device) -> float:
    """Best of several large square matrix products, in FLOP/s. Takes about a second on two CPU cores."""
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
