"""One attention kernel over the packed rows of all requests.

Blocks of a request are final in order, so the positions that a row may see are always the first few of its request: for
a context row those up to the end of its block, for a window row all, for a causal window those up to itself. One number
per row, its limit, therefore stands for every mask.

A program serves one tile, rows of one request, and one key/value head. Its lanes are pairs of a row and one of the
query heads that share the key/value head, so that keys are read once for all of them:

    lane:  0         1         ...  group     group + 1 ...
           row 0     row 0          row 1     row 1
           head 0    head 1         head 0    head 1

Keys come in tiles of consecutive positions, whose slots are looked up in the request's pages: slot = page * page size +
position % page size. The softmax is the online one (Milakov and Gimelshein 2018, arXiv:1805.02867) in the loop order of
FlashAttention-2 (Dao 2023, arXiv:2307.08691): queries stay, keys pass by, one division at the end. Keys beyond a row's
limit have weight exactly zero and leave its sums as they are. Tiles have a fixed size and start at position 0, so no
row's arithmetic depends on what shares its tile or its forward: context rows, window rows and strict forwards need no
calls of their own.

A canvas in place keeps nothing. Its keys are the packed rows themselves: the same kernel, with the packed rows for
memory and pages of one slot.

Legend: T packed tokens, H query heads, G key/value heads, K head width, P page numbers of all requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.engine.kernels._triton import jit, tl

LANES = 64
"""Of a tile; more only where more query heads share a key/value head."""
KEY_TILE_BYTES = 2**14
"""Of the keys of one tile, so that two stages of keys and values fit a small GPU's 99 KB of shared memory."""


@jit
@no_type_check
def _attend(
    query,  # [T, H, K], any strides of T and H
    keys,  # [slots, G, K]
    values,  # [slots, G, K]
    out,  # [T, H, K]
    limits,  # [T]: how many of its request's positions each row sees
    pages,  # [P]
    tiles,  # [tiles, 3]: first row, number of rows, where its request's pages start
    query_row,
    query_head,
    num_kv_heads,
    scale,
    GROUP: tl.constexpr,  # query heads per key/value head
    WIDTH: tl.constexpr,  # K
    PADDED: tl.constexpr,  # K as the hardware multiplies it
    PAGE: tl.constexpr,
    LANES: tl.constexpr,
    KEYS: tl.constexpr,
):
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    first_row, num_rows, first_page = (
        tl.load(tiles + 3 * tile),
        tl.load(tiles + 3 * tile + 1),
        tl.load(tiles + 3 * tile + 2),
    )
    lane, column = tl.arange(0, LANES), tl.arange(0, PADDED)
    is_row, is_column = lane // GROUP < num_rows, column < WIDTH
    row = (first_row + lane // GROUP).to(tl.int64)
    head = kv_head * GROUP + lane % GROUP
    is_there = is_row[:, None] & is_column[None, :]
    q = tl.load(query + (row * query_row + head * query_head)[:, None] + column[None, :], mask=is_there, other=0.0)
    limit = tl.load(limits + row, mask=is_row, other=0)

    greatest = tl.full((LANES,), float("-inf"), tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    result = tl.zeros((LANES, PADDED), tl.float32)
    num_seen = tl.max(limit, axis=0)
    for start in range(0, num_seen, KEYS):
        position = start + tl.arange(0, KEYS)
        is_key = position < num_seen
        page = tl.load(pages + first_page + position // PAGE, mask=is_key, other=0).to(tl.int64)
        offset = ((page * PAGE + position % PAGE) * num_kv_heads + kv_head) * WIDTH
        k = tl.load(keys + offset[None, :] + column[:, None], mask=is_key[None, :] & is_column[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where(position[None, :] < limit[:, None], scores, float("-inf"))
        new_greatest = tl.maximum(greatest, tl.max(scores, axis=1))
        # A lane without rows sees nothing, and infinity minus infinity is not a number.
        base = tl.where(new_greatest == float("-inf"), 0.0, new_greatest)
        weight = tl.exp(scores - base[:, None])
        decay = tl.exp(greatest - base)
        total = total * decay + tl.sum(weight, axis=1)
        v = tl.load(values + offset[:, None] + column[None, :], mask=is_key[:, None] & is_column[None, :], other=0.0)
        result = result * decay[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        greatest = new_greatest
    result = result / tl.where(total > 0, total, 1.0)[:, None]
    at = (row * num_kv_heads * GROUP + head)[:, None] * WIDTH + column[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=is_there)


@dataclass(frozen=True, slots=True)
class SeenRows:
    """Rows of one request and what they see."""

    rows: slice
    """Where they are among the T packed tokens."""
    slots: Int[Tensor, " n"] | None
    """Of the request's positions, page by page; None: the rows themselves are all there is to see."""
    limits: Int[Tensor, " rows"]
    """How many of the request's positions, from the first one on, each row sees."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Requests whose keys lie in one memory, on the device."""

    tiles: Int[Tensor, "tiles 3"]
    pages: Int[Tensor, " P"]
    page_size: int

    @classmethod
    def of(
        cls, parts: Sequence[tuple[slice, Int[Tensor, " _"]]], page_size: int, tile_rows: int, device: torch.device
    ) -> "_Table | None":
        """From every request's rows and pages; None: there are no requests."""
        tiles, start = [], 0
        for rows, pages in parts:
            for at in range(rows.start, rows.stop, tile_rows):
                tiles.append((at, min(tile_rows, rows.stop - at), start))
            start += len(pages)
        if not tiles:
            return None
        pages = torch.cat([pages for _, pages in parts]).int()
        return cls(torch.tensor(tiles, dtype=torch.int32).to(device), pages.to(device), page_size)


class PackedAttention:
    """Prepared once per forward, then called by every layer with its memory."""

    def __init__(self, requests: Sequence[SeenRows], page_size: int, group: int, device: torch.device) -> None:
        """Bring the tables to the device.

        Args:
            requests: in order of their rows; rows behind the last of them get zeros.
            page_size: of the memory.
            group: query heads per key/value head.
            device: of the memory.
        """
        self._group, self._lanes = group, max(LANES, _power_of_two(group))
        self._num_rows = requests[-1].rows.stop if requests else 0
        limits = [each.limits for each in requests]
        self._limits = torch.cat(limits).int().to(device) if limits else None
        kept = [(each.rows, each.slots[::page_size] // page_size) for each in requests if each.slots is not None]
        own = [(each.rows, torch.arange(each.rows.start, each.rows.stop)) for each in requests if each.slots is None]
        tile_rows = self._lanes // group
        self._kept = _Table.of(kept, page_size, tile_rows, device)
        self._own = _Table.of(own, 1, tile_rows, device)

    def __call__(
        self,
        query: Float[Tensor, "1 H T K"],
        key: Float[Tensor, "1 G T K"],
        value: Float[Tensor, "1 G T K"],
        keys: Float[Tensor, "slots G K"],
        values: Float[Tensor, "slots G K"],
    ) -> Float[Tensor, "1 H T K"]:
        rows = query[0].transpose(0, 1)
        rows = rows if rows.stride(2) == 1 else rows.contiguous()
        out = torch.empty(rows.shape, dtype=query.dtype, device=query.device)
        out[self._num_rows :] = 0
        if self._kept is not None:
            self._launch(self._kept, rows, keys, values, out)
        if self._own is not None:
            own_keys, own_values = (each[0].transpose(0, 1).contiguous() for each in (key, value))
            self._launch(self._own, rows, own_keys, own_values, out)
        return out.transpose(0, 1)[None]

    def _launch(self, table: _Table, rows: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        num_kv_heads, width = keys.shape[1:]
        padded = max(16, _power_of_two(width))
        _attend[(len(table.tiles), num_kv_heads)](
            rows,
            keys,
            values,
            out,
            self._limits,
            table.pages,
            table.tiles,
            rows.stride(0),
            rows.stride(1),
            num_kv_heads,
            width**-0.5,
            GROUP=self._group,
            WIDTH=width,
            PADDED=padded,
            PAGE=table.page_size,
            LANES=self._lanes,
            KEYS=max(16, min(64, KEY_TILE_BYTES // (padded * keys.element_size()))),
            num_warps=4,
            num_stages=2,
        )


def _power_of_two(value: int) -> int:
    """The least one that is not below."""
    return 1 << (value - 1).bit_length()
