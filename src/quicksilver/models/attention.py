"""Attention over a topology. Each class is prepared once per batch and then called by every layer.

Legend: B batch, T tokens, H query heads, G key/value heads, K head width.
"""

from copy import copy
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from quicksilver.errors import ConfigError
from quicksilver.models.topology import Topology

TILE = 256
"""Query and key tile edge on a CPU: smaller tiles skip more, larger ones multiply faster (docs/log.md)."""


@runtime_checkable
class Attention(Protocol):
    """Softmax attention under a fixed topology.

    With a ``window`` a row sees at most ``window - 1`` positions before the first of its block, and what its topology
    lets it see behind them. A row of a final token in a causal context is a block of its own.
    """

    def __call__(
        self,
        query: Float[Tensor, "B H T K"],
        key: Float[Tensor, "B G T K"],
        value: Float[Tensor, "B G T K"],
        window: int | None = None,
    ) -> Float[Tensor, "B H T K"]: ...


def _refuse_window(window: int | None) -> None:
    if window is not None:
        raise ConfigError("sliding-window layers can be decoded, not trained: this attention has no windows")


def _share_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat key/value heads so that every query head has one; free when the counts agree."""
    group = query.shape[1] // key.shape[1]
    if group == 1:
        return key, value
    return key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)


class DenseAttention:
    """Scaled dot-product attention under one boolean mask: the reference path."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._masks: dict[int | None, Bool[Tensor, "B 1 T T"] | None] = {}
        self._mask(None)

    def _mask(self, window: int | None) -> Bool[Tensor, "B 1 T T"] | None:
        """None where everything is seen: without a mask torch's kernel is faster and gives the same sums."""
        if window not in self._masks:
            mask = self._topology.dense_mask(window)
            self._masks[window] = None if bool(mask.all()) else mask[:, None]
        return self._masks[window]

    def to(self, device: torch.device) -> "DenseAttention":
        """The same for tensors of another device."""
        moved = copy(self)
        moved._topology = self._topology.to(device)
        moved._masks = {window: None if mask is None else mask.to(device) for window, mask in self._masks.items()}
        return moved

    def __call__(
        self,
        query: Float[Tensor, "B H T K"],
        key: Float[Tensor, "B G T K"],
        value: Float[Tensor, "B G T K"],
        window: int | None = None,
    ) -> Float[Tensor, "B H T K"]:
        key, value = _share_heads(query, key, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self._mask(window))


class _Tile(NamedTuple):
    """Queries with all keys that any of them may see."""

    rows: slice
    runs: list[slice]
    """Runs of keys."""
    mask: Bool[Tensor, "B 1 Q S"]


class TiledAttention:
    """Scaled dot-product attention that skips key tiles no query of a tile may see, in any row of the batch.

    Over the training pair half of the 2L x 2L square is left at L = 2 tiles, 1/4 in the limit.
    """

    def __init__(self, topology: Topology) -> None:
        mask = topology.dense_mask()
        length = mask.shape[-1]
        self._tiles: list[_Tile] = []
        for start in range(0, length, TILE):
            rows = slice(start, min(start + TILE, length))
            is_seen = mask[:, rows].any(dim=1).any(dim=0)
            runs = _runs([bool(is_seen[at : at + TILE].any()) for at in range(0, length, TILE)], length)
            self._tiles.append(_Tile(rows, runs, torch.cat([mask[:, None, rows, run] for run in runs], dim=-1)))
        self._biases: list[Tensor] | None = None

    def __call__(
        self,
        query: Float[Tensor, "B H T K"],
        key: Float[Tensor, "B G T K"],
        value: Float[Tensor, "B G T K"],
        window: int | None = None,
    ) -> Float[Tensor, "B H T K"]:
        _refuse_window(window)
        key, value = _share_heads(query, key, value)
        # In bf16 with gradients torch's CPU kernel takes about twice as long as plain products (docs/log.md).
        is_plain = query.dtype is torch.bfloat16 and query.requires_grad
        if is_plain and self._biases is None:
            self._biases = [_bias(tile.mask, query) for tile in self._tiles]
        out = []
        for index, (rows, runs, mask) in enumerate(self._tiles):
            tile = query[:, :, rows], _gather(key, runs), _gather(value, runs)
            if is_plain and self._biases is not None:
                out.append(_plain_attention(*tile, self._biases[index]))
            else:
                out.append(F.scaled_dot_product_attention(*tile, attn_mask=mask))
        return torch.cat(out, dim=2)


def _gather(x: Tensor, runs: list[slice]) -> Tensor:
    return torch.cat([x[:, :, run] for run in runs], dim=2) if len(runs) > 1 else x[:, :, runs[0]]


def _bias(mask: Tensor, query: Tensor) -> Tensor:
    """Zero or minus infinity, [B * H, Q, S], in the queries' dtype."""
    bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    return bias.expand(-1, query.shape[1], -1, -1).flatten(0, 1)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention with the scores written out in the inputs' dtype; products and the softmax sum in float32."""
    scale = query.shape[-1] ** -0.5
    with torch.autocast("cpu", enabled=False):
        scores = torch.baddbmm(bias, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scale)
        return (torch.softmax(scores, dim=-1) @ value.flatten(0, 1)).unflatten(0, query.shape[:2])


def _runs(is_tile_seen: list[bool], length: int) -> list[slice]:
    """Consecutive seen tiles as slices of positions."""
    runs: list[slice] = []
    for tile, seen in enumerate(is_tile_seen):
        start, stop = tile * TILE, min((tile + 1) * TILE, length)
        if not seen:
            continue
        if runs and runs[-1].stop == start:
            runs[-1] = slice(runs[-1].start, stop)
        else:
            runs.append(slice(start, stop))
    return runs


class CompiledFlexAttention:
    """FlexAttention on a GPU: the kernel skips blocks from the topology's ``mask_mod``."""

    def __init__(self, topology: Topology) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        num_rows, length = topology.blocks.shape
        # Compiled, or it materialises the dense mask (attention-gym#149). The arrays are captured, so new values do not
        # recompile.
        self._block_mask = torch.compile(create_block_mask)(
            topology.mask_mod(), num_rows, None, length, length, device=str(topology.blocks.device)
        )

    def __call__(
        self,
        query: Float[Tensor, "B H T K"],
        key: Float[Tensor, "B G T K"],
        value: Float[Tensor, "B G T K"],
        window: int | None = None,
    ) -> Float[Tensor, "B H T K"]:
        _refuse_window(window)
        out = _compiled_flex()(
            query, key, value, block_mask=self._block_mask, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out  # pyright: ignore[reportReturnType]  # without return_lse it is one tensor


_flex = None


def _compiled_flex():  # noqa: ANN202  # torch types it as an overload
    global _flex
    if _flex is None:
        from torch.nn.attention.flex_attention import flex_attention

        _flex = torch.compile(flex_attention)
    return _flex


def plan_attention(topology: Topology) -> Attention:
    """The fastest correct path for the topology's device and size."""
    if topology.blocks.device.type == "cuda":
        return CompiledFlexAttention(topology)
    if topology.blocks.shape[1] >= 2 * TILE:
        return TiledAttention(topology)
    return DenseAttention(topology)
