"""Every random number of decoding: a counter function of (purpose, request seed, position, step, ...).

``position`` is the absolute position in the canvas for block-by-block generation. A hole that changes length has no
stable absolute positions, so in-place infill keys by ``(hole << 32) | offset in the hole``: one hole's draws do not
depend on the length of another.
"""

from collections.abc import Sequence
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.diffusion.counter_rng import counter_uniform


class Purpose(IntEnum):
    """Keeps draws that share seed, position and step independent of each other."""

    TOKEN = 1
    ORDER = 2
    UNMASK = 3
    REMASK = 4
    NOISE = 5
    LENGTH = 6
    PAIR = 7
    CLASS = 8


def draw(
    purpose: Purpose, seed: Int[Tensor, "*#shape"], position: Int[Tensor, "*#shape"], step: Int[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """One float64 uniform in (0, 1) per position."""
    return counter_uniform(int(purpose), seed, position, step)


def draw_for_each(
    purposes: Sequence[Purpose], seed: int, position: Int[Tensor, " N"], step: int
) -> Float[Tensor, "N P"]:
    """What ``draw`` gives for several purposes, side by side."""
    return counter_uniform(torch.tensor(purposes), seed, position[:, None], step)


def draw_per_token(
    purpose: Purpose,
    seed: Int[Tensor, " N"],
    position: Int[Tensor, " N"],
    step: Int[Tensor, " N"],
    token: Int[Tensor, " V"],
) -> Float[Tensor, "N V"]:
    """One float64 uniform in (0, 1) per position and token id."""
    return counter_uniform(int(purpose), seed[:, None], position[:, None], step[:, None], token[None, :])


def hole_position(hole: Int[Tensor, "*shape"], offset: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The stable random-number position of an offset in a hole."""
    return (hole.long() << 32) | offset.long()
