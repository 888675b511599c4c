"""The schemes, and what each asks of device, kernels and layer widths."""

import time
from enum import StrEnum

import torch

from quicksilver.errors import ConfigError


class Scheme(StrEnum):
    """How the linear layers of attention and feed-forward are stored and multiplied.

    Activations are scaled row by row, so a row's result never depends on the others in its batch.
    """

    INT8_DYNAMIC = "int8_dynamic"
    """Integer products. CPU: 7-bit weights, 8-bit activations (``packed``). CUDA: 8 bits each, by torchao."""
    INT8_WEIGHT = "int8_weight"
    """8-bit weights, widened before a float product: a quarter of float32's memory, and slower. CPU and CUDA."""
    INT4_WEIGHT = "int4_weight"
    """4-bit weights in groups of 32. CPU only; without AVX-512 tens of times slower than float32."""
    FP8_DYNAMIC = "fp8_dynamic"
    """e4m3 weights and activations. CUDA of compute capability 8.9 or later."""


def parse_scheme(name: str | None) -> Scheme | None:
    """A scheme by its name; None stays None. Raises ConfigError if there is none of that name."""
    if name is None:
        return None
    try:
        return Scheme(name)
    except ValueError as error:
        raise ConfigError(f"no quantization {name!r}; known: {', '.join(Scheme)}") from error


INT4_GROUP = 32
"""Weights that share a scale: the finest group of torch's kernel."""

_DEVICES: dict[Scheme, tuple[str, ...]] = {
    Scheme.INT8_DYNAMIC: ("cpu", "cuda"),
    Scheme.INT8_WEIGHT: ("cpu", "cuda"),
    Scheme.INT4_WEIGHT: ("cpu",),
    Scheme.FP8_DYNAMIC: ("cuda",),
}
_CAPABILITY = {Scheme.INT8_DYNAMIC: (7, 5), Scheme.FP8_DYNAMIC: (8, 9)}
"""Least CUDA compute capability of the kernels."""
_MULTIPLES: dict[tuple[Scheme, str], tuple[int, int]] = {
    (Scheme.INT8_DYNAMIC, "cuda"): (8, 8),
    (Scheme.INT4_WEIGHT, "cpu"): (INT4_GROUP, 16),
    (Scheme.FP8_DYNAMIC, "cuda"): (16, 16),
}
"""What in- and out-widths must be multiples of; torchao leaves other layers as they are or goes a slow way."""

_MIN_BF16_GAIN = 1.2
"""Less is not worth bf16's rounding."""


def require_device(scheme: Scheme, device: torch.device) -> None:
    """Raise ConfigError, with a remedy, if ``device`` cannot run the scheme."""
    if device.type not in _DEVICES[scheme]:
        others = [other.value for other in Scheme if device.type in _DEVICES[other]]
        remedy = f"use {' or '.join(others)}" if others else "move the denoiser to cpu or cuda"
        raise ConfigError(f"{scheme} runs on {' and '.join(_DEVICES[scheme])}, not on {device.type}; {remedy}")
    if device.type == "cpu" and scheme is Scheme.INT8_DYNAMIC:
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            raise ConfigError(f"{scheme} needs a torch with fbgemm (x86 CPUs), which this one lacks; use int8_weight")
        return
    least = _CAPABILITY.get(scheme)
    if device.type == "cuda" and least is not None:
        found = torch.cuda.get_device_capability(device)
        if found < least:
            raise ConfigError(
                f"{scheme} needs CUDA compute capability {least[0]}.{least[1]} or later, this GPU has "
                f"{found[0]}.{found[1]}; use int8_weight"
            )


def require_dtype(scheme: Scheme, dtype: torch.dtype) -> None:
    """Raise ConfigError if what is not quantized cannot be of ``dtype``."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise ConfigError(f"what {scheme} leaves unquantized is torch.float32 or torch.bfloat16, not {dtype}")
    if scheme is Scheme.FP8_DYNAMIC and dtype is not torch.bfloat16:
        raise ConfigError(f"{scheme} needs the rest of the denoiser in torch.bfloat16, not {dtype}")


def require_widths(scheme: Scheme, device: torch.device, name: str, in_width: int, out_width: int) -> None:
    """Raise ConfigError if a layer of these widths cannot be cut as the scheme's kernel wants."""
    multiples = _MULTIPLES.get((scheme, device.type), (1, 1))
    for side, width, multiple in zip(("in", "out"), (in_width, out_width), multiples, strict=True):
        if width % multiple:
            raise ConfigError(
                f"{scheme} on {device.type} needs {side}-widths that are multiples of {multiple}, "
                f"{name} has {width}; use int8_weight"
            )


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it multiplies faster than float32, else float32; on a CPU that has bf16 it is measured.

    A CPU without AVX512-BF16 or AMX emulates bf16, and some that have it are slower with it (docs/log.md).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.float32
    gain = _product_seconds(torch.float32) / _product_seconds(torch.bfloat16)
    return torch.bfloat16 if gain > _MIN_BF16_GAIN else torch.float32


def _product_seconds(dtype: torch.dtype) -> float:
    """Best of several products of 32 rows, as many as a decoding step has."""
    rows, weights = torch.ones(32, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        torch.matmul(rows, weights)
        best = min(best, time.perf_counter() - start)
    return best
