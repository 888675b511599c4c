"""Random numbers as a pure function of integer counters.

A draw depends only on its key, for example (seed, position, step), never on a generator's history or on what else is
in the batch. That is what makes training resumable bit for bit and decoding independent of its neighbours.

The mixer is SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195), applied once per counter. Torch has
no unsigned 64-bit arithmetic on every device, so products wrap in int64 and right shifts are made logical by a mask.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value`` modulo 2**64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def counter_bits(seed: int | Int[Tensor, "*#shape"], *counters: int | Int[Tensor, "*#shape"]) -> Int[Tensor, "*shape"]:
    """64 pseudo-random bits as int64 for every element of the broadcast seeds and counters."""
    state = _mix(torch.tensor(_signed(seed), dtype=torch.int64) if isinstance(seed, int) else seed.to(torch.int64))
    for counter in counters:
        if isinstance(counter, int):  # stays on the device of the tensors before it
            state = _mix(state ^ _signed(counter))
        else:
            state = _mix(state.to(counter.device) ^ counter.to(torch.int64))
    return state


def counter_uniform(
    seed: int | Int[Tensor, "*#shape"], *counters: int | Int[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Uniform float64 draws in the open interval (0, 1), with 52 random bits.

    The half-step offset keeps both ends out, so ``log(u)`` and ``log(-log(u))`` are finite.
    """
    bits = _shift_right(counter_bits(seed, *counters), 12)
    return (bits.to(torch.float64) + 0.5) * 2.0**-52
