"""Attention of many requests' rows in one forward, over paged keys and values.

The rows of all requests lie side by side in one row of T tokens, so that every matrix product sees them all. Only
attention goes request by request: its rows are context rows (final tokens whose keys and values stay) and then window
rows (the draft, whose keys and values are overwritten at the next step). Both are written to the request's slots first;
then each of its rows attends over the slots it may see. Nothing is padded, so a request's arithmetic does not depend on
who else is in the batch.

Legend: T packed tokens, N slots of the memory, n positions of one request, H query heads, G key/value heads, K head
width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.engine.pages import PagePool, PageTable
from quicksilver.models.config import DenoiserConfig


class PageMemory:
    """The tensors behind a page pool: one for the keys and one for the values of every layer.

    One tensor per layer: a single big one is slower on a CPU.
    """

    def __init__(self, config: DenoiserConfig, pool: PagePool, dtype: torch.dtype, device: torch.device) -> None:
        shape = (pool.num_pages * pool.page_size, config.num_kv_heads, config.head_width)
        self._page_size = pool.page_size
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]

    @property
    def num_bytes(self) -> int:
        return sum(each.nbytes for each in (*self.keys, *self.values))

    def slots(self, table: PageTable, count: int) -> Int[Tensor, " n"]:
        """The slots of a table's first ``count`` positions, on the CPU."""
        pages = torch.tensor(table.pages, dtype=torch.int64)
        return (pages[:, None] * self._page_size + torch.arange(self._page_size)).flatten()[:count]


@dataclass(frozen=True, slots=True)
class RequestRows:
    """One request's rows in a forward."""

    rows: slice
    """Where they are among the T packed tokens."""
    slots: Int[Tensor, " n"] | None
    """Slots of all its positions, the window's too; None: a canvas of which nothing is kept, all rows are window."""
    num_cached: int = 0
    num_context: int = 0
    context_blocks: Int[Tensor, " final"] | None = None
    """Block number of the positions that are final; None: each its own, that is causal."""


class PagedAttention:
    """``models.attention.Attention`` for one forward; each layer calls it once, in order."""

    def __init__(self, memory: PageMemory, requests: Sequence[RequestRows]) -> None:
        device = memory.keys[0].device
        self._memory, self._layer = memory, 0
        self._plans = [_Plan.of(each, device) for each in requests]
        kept = [each for each in requests if each.slots is not None]
        self._kept_rows = _joined([torch.arange(each.rows.start, each.rows.stop) for each in kept], device)
        self._kept_slots = _joined([each.slots[each.num_cached :] for each in kept if each.slots is not None], device)

    def __call__(
        self, query: Float[Tensor, "1 H T K"], key: Float[Tensor, "1 G T K"], value: Float[Tensor, "1 G T K"]
    ) -> Float[Tensor, "1 H T K"]:
        keys, values = self._memory.keys[self._layer], self._memory.values[self._layer]
        self._layer += 1
        keys.index_copy_(0, self._kept_slots, key[0].transpose(0, 1)[self._kept_rows])
        values.index_copy_(0, self._kept_slots, value[0].transpose(0, 1)[self._kept_rows])
        out = [plan.attend(query, key, value, keys, values) for plan in self._plans]
        return torch.cat(out, dim=2) if len(out) > 1 else out[0]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What every layer needs of one request, prepared once per forward."""

    rows: slice
    slots: Int[Tensor, " n"] | slice | None
    """A slice where the slots are consecutive: then the keys are read in place."""
    mask: Bool[Tensor, "rows n"] | None
    """None: all rows see all positions."""

    @classmethod
    def of(cls, request: RequestRows, device: torch.device) -> "_Plan":
        if request.slots is None:
            return cls(request.rows, None, None)
        slots: Tensor | slice = request.slots
        first, count = int(request.slots[0]), len(request.slots)
        if torch.equal(request.slots, torch.arange(first, first + count)):
            slots = slice(first, first + count)
        else:
            slots = request.slots.to(device)
        mask = None if request.num_context == 0 else _mask(request).to(device)
        return cls(request.rows, slots, mask)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        query = query[:, :, self.rows]
        if self.slots is None:
            key, value = key[:, :, self.rows], value[:, :, self.rows]
        else:
            key, value = (each[self.slots].transpose(0, 1)[None] for each in (keys, values))
        is_grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, enable_gqa=is_grouped)


def _mask(request: RequestRows) -> Bool[Tensor, "rows n"]:
    """Context rows see the final positions of their own and earlier blocks, window rows everything."""
    count = request.rows.stop - request.rows.start
    length = request.num_cached + count
    end = request.num_cached + request.num_context
    blocks = torch.arange(end) if request.context_blocks is None else request.context_blocks[:end]
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[: request.num_context, :end] = blocks[None, :] <= blocks[request.num_cached :, None]
    mask[: request.num_context, end:] = False
    return mask


def _joined(parts: list[Tensor], device: torch.device) -> Int[Tensor, " rows"]:
    return torch.cat(parts).to(device) if parts else torch.zeros(0, dtype=torch.int64, device=device)
