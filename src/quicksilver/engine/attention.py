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
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.engine import kernels
from quicksilver.engine.pages import PagePool, PageTable
from quicksilver.errors import EngineError
from quicksilver.models.config import DenoiserConfig


class PageMemory:
    """The tensors behind a page pool: one for the keys and one for the values of every layer.

    One tensor per layer: a single big one is slower on a CPU.
    """

    def __init__(self, config: DenoiserConfig, pool: PagePool, dtype: torch.dtype, device: torch.device) -> None:
        self.page_size = pool.page_size
        kinds = config.attentions
        self.is_even = len(set(kinds)) == 1 and kinds[0].window is None
        """Whether all layers are alike and see everything."""
        self.group = config.num_heads // kinds[0].num_kv_heads
        """Query heads that share a key/value head, where layers are alike."""
        shapes = [(pool.num_pages * pool.page_size, each.num_kv_heads, each.head_width) for each in kinds]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]

    @property
    def num_bytes(self) -> int:
        return sum(each.nbytes for each in (*self.keys, *self.values))

    def slots(self, table: PageTable, count: int) -> Int[Tensor, " n"]:
        """The slots of a table's first ``count`` positions, on the CPU."""
        pages = torch.tensor(table.pages, dtype=torch.int64)
        return (pages[:, None] * self.page_size + torch.arange(self.page_size)).flatten()[:count]


@dataclass(frozen=True, slots=True)
class RequestRows:
    """One request's rows in a forward."""

    rows: slice
    """Where they are among the T packed tokens."""
    slots: Int[Tensor, " n"] | None
    """Slots of all its positions, the window's too, with or without a row; None: a canvas of which nothing is kept, all
    rows are window."""
    num_cached: int = 0
    num_context: int = 0
    context_blocks: Int[Tensor, " final"] | None = None
    """Block number of the positions that are final; None: each its own, that is causal."""
    has_causal_window: bool = False
    """Whether a window row sees only the window rows before it."""
    window_blocks: Int[Tensor, " rows"] | None = None
    """Block number of the rows, where nothing is kept; they rise. None: all rows see each other."""
    columns: Int[Tensor, " window"] | None = None
    """Where in the window its rows stand: what is kept of the others is seen as it is. None: they are all of it."""

    def written(self) -> Int[Tensor, " rows"]:
        """The slots that take the rows' keys and values; none if nothing is kept."""
        if self.slots is None:
            return torch.zeros(0, dtype=torch.int64)
        if self.columns is None:
            return self.slots[self.num_cached :]
        end = self.num_cached + self.num_context
        return torch.cat([self.slots[self.num_cached : end], self.slots[end + self.columns]])

    def limits(self) -> Int[Tensor, " rows"]:
        """How many of its request's positions, from the first one on, each row sees.

        Raises:
            EngineError: block numbers fall, so that what a row sees is not a beginning.
        """
        first, end = self.num_cached, self.num_cached + self.num_context
        num_window = self.rows.stop - self.rows.start - self.num_context
        last = end + num_window if self.columns is None or self.slots is None else len(self.slots)
        if self.context_blocks is None:
            context = torch.arange(first, end) + 1
        else:
            blocks = self.context_blocks[:end].contiguous()
            if bool((blocks.diff() < 0).any()):
                raise EngineError(f"block numbers {blocks.tolist()} fall; the attention kernel needs them in order")
            context = torch.searchsorted(blocks, blocks[first:], right=True)
        if self.window_blocks is not None:
            return torch.searchsorted(self.window_blocks, self.window_blocks, right=True)
        window = torch.arange(end, last) + 1 if self.has_causal_window else torch.full((num_window,), last)
        return torch.cat([context, window])


class PagedAttention:
    """``models.attention.Attention`` for one forward; each layer calls it once, in order."""

    def __init__(self, memory: PageMemory, requests: Sequence[RequestRows], *, is_strict: bool = False) -> None:
        """Prepare what all layers share.

        Args:
            memory: keys and values of all slots.
            requests: their rows, in order; packed rows behind the last of them belong to nobody and get zeros.
            is_strict: whether a context row's result must not depend, to the last bit, on which rows share its forward.
        """
        device = memory.keys[0].device
        self._memory, self._layer = memory, 0
        self._packed = None
        if memory.is_even and kernels.are_used(memory.keys[0]):
            from quicksilver.engine.kernels.attention import PackedAttention, SeenRows

            # A row's sums never depend on its company there, so strict arithmetic asks for nothing.
            seen = [SeenRows(each.rows, each.slots, each.limits()) for each in requests]
            self._packed = PackedAttention(seen, memory.page_size, memory.group, device)
        self._requests, self._is_strict = requests, is_strict
        self._plans: dict[int | None, list[_Plan]] = {}
        kept = [each for each in requests if each.slots is not None]
        self._kept_rows = _in_place(_joined([torch.arange(each.rows.start, each.rows.stop) for each in kept]), device)
        self._kept_slots = _in_place(_joined([each.written() for each in kept]), device)

    def __call__(
        self,
        query: Float[Tensor, "1 H T K"],
        key: Float[Tensor, "1 G T K"],
        value: Float[Tensor, "1 G T K"],
        window: int | None = None,
    ) -> Float[Tensor, "1 H T K"]:
        keys, values = self._memory.keys[self._layer], self._memory.values[self._layer]
        self._layer += 1
        keys[self._kept_slots] = key[0].transpose(0, 1)[self._kept_rows]
        values[self._kept_slots] = value[0].transpose(0, 1)[self._kept_rows]
        if self._packed is not None:
            return self._packed(query, key, value, keys, values)
        if window not in self._plans:
            self._plans[window] = [
                _Plan.of(each, self._memory, sliding=window, is_strict=self._is_strict) for each in self._requests
            ]
        out = [part for plan in self._plans[window] for part in plan.attend(query, key, value, keys, values)]
        num_idle = query.shape[2] - sum(part.shape[2] for part in out)
        if num_idle:
            out.append(query.new_zeros(1, query.shape[1], num_idle, query.shape[3]))
        # Heads lie inside rows, as the next product reads them.
        return torch.cat([part.transpose(1, 2) for part in out], dim=1).transpose(1, 2) if len(out) > 1 else out[0]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What every layer needs of one request, prepared once per forward."""

    window: slice
    """Its window rows, behind its context rows."""
    pages: "_Pages | None" = None
    """Of all its positions; None: nothing is kept."""
    groups: tuple["_Group", ...] = ()
    """Its context rows."""
    window_bias: Float[Tensor, "W seen"] | None = None
    """None: window rows see everything from ``first_key`` on."""
    first_key: int = 0
    """The first position that any window row sees."""

    @classmethod
    def of(cls, request: RequestRows, memory: PageMemory, *, sliding: int | None, is_strict: bool) -> "_Plan":
        start, stop = request.rows.start, request.rows.stop
        window = slice(start + request.num_context, stop)
        if request.slots is None:
            blocks = request.window_blocks
            if blocks is None:
                return cls(window)
            mask = blocks[None, :] <= blocks[:, None]
            if sliding is not None:
                mask &= torch.arange(len(blocks))[None, :] > torch.arange(len(blocks))[:, None] - sliding
            return cls(window, window_bias=_bias(mask, memory.keys[0]))
        pages = _Pages.of(request.slots, memory)
        groups = _strict_groups(request, sliding) if is_strict else _one_group(request, sliding)
        end = request.num_cached + request.num_context
        first, bias = 0 if sliding is None else max(end + 1 - sliding, 0), None
        if request.has_causal_window:
            mask = _causal_window(window.stop - window.start, pages.count, sliding)
            bias = _bias(mask[:, first:], memory.keys[0])
        prepared = tuple(group.prepared(memory.keys[0], is_strict=is_strict) for group in groups)
        return cls(window, pages, prepared, bias, first)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> list[Tensor]:
        """The rows' results, context before window.

        Each part by a call of its own, so that a window's arithmetic is the same whether or not a commit shares its
        forward; and a window needs no mask.
        """
        if self.pages is None:
            key, value = key[:, :, self.window], value[:, :, self.window]
        else:
            key, value = (self.pages.read(each).transpose(0, 1)[None] for each in (keys, values))
        is_grouped = query.shape[1] != key.shape[1]
        out = [group.attend(query, key, value, is_grouped=is_grouped) for group in self.groups]
        if self.window.stop > self.window.start:
            rows = query[:, :, self.window], key[:, :, self.first_key :], value[:, :, self.first_key :]
            out.append(F.scaled_dot_product_attention(*rows, attn_mask=self.window_bias, enable_gqa=is_grouped))
        return out


@dataclass(frozen=True, slots=True)
class _Pages:
    """Where a request's positions lie in the memory."""

    found: slice | Int[Tensor, " pages"]
    """Slots where they are consecutive, so that they are read in place; else pages, copied whole."""
    count: int
    """Positions."""
    size: int
    """Slots of a page."""

    @classmethod
    def of(cls, slots: Int[Tensor, " n"], memory: PageMemory) -> "_Pages":
        place = _in_place(slots, memory.keys[0].device)
        if not isinstance(place, slice):
            place = place[:: memory.page_size] // memory.page_size
        return cls(place, len(slots), memory.page_size)

    def read(self, data: Float[Tensor, "N G K"]) -> Float[Tensor, "n G K"]:
        if isinstance(self.found, slice):
            return data[self.found]
        return data.unflatten(0, (-1, self.size)).index_select(0, self.found).flatten(0, 1)[: self.count]


def _causal_window(width: int, count: int, sliding: int | None) -> Bool[Tensor, "W n"]:
    """The last ``width`` of ``count`` positions see all before them and themselves, or ``sliding`` of these."""
    mask = torch.ones(width, count, dtype=torch.bool).tril(diagonal=count - width)
    return mask if sliding is None else mask.triu(diagonal=count - width + 1 - sliding)


@dataclass(frozen=True, slots=True)
class _Group:
    """Context rows that one call of the kernel serves."""

    rows: slice
    """Among the T packed tokens."""
    mask: Bool[Tensor, "rows seen"]
    """The final positions that each of them sees. Under strict arithmetic with more rows than there are, and columns
    for keys that are not there."""
    num_keys: int
    """Keys that are there."""
    before: int = 0
    """Rows of the mask before those that are there."""
    bias: Float[Tensor, "rows seen"] | None = None
    """The mask as every layer's kernel reads it; None, without strict arithmetic, where all is seen."""

    def prepared(self, like: Tensor, *, is_strict: bool) -> "_Group":
        sees_all = not is_strict and bool(self.mask.all())
        return self if sees_all else replace(self, bias=_bias(self.mask, like))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, is_grouped: bool) -> Tensor:
        count, (num_rows, width) = self.rows.stop - self.rows.start, self.mask.shape
        query = _padded(query[:, :, self.rows], self.before, num_rows - count - self.before)
        key, value = (_padded(each[:, :, : self.num_keys], 0, width - self.num_keys) for each in (key, value))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias, enable_gqa=is_grouped)
        return out[:, :, self.before : self.before + count]


def _bias(mask: Bool[Tensor, "rows seen"], like: Tensor) -> Float[Tensor, "rows seen"]:
    """Zero where a row sees, minus infinity elsewhere: what the kernel would make of the mask at every call."""
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask.to(like.device), -torch.inf)


def _padded(x: Tensor, before: int, behind: int) -> Tensor:
    """Rows of zeros around those of ``x``; itself where there are none, since padding by nothing copies."""
    return F.pad(x, (0, 0, before, behind)) if before or behind else x


def _one_group(request: RequestRows, sliding: int | None) -> list[_Group]:
    """Context rows see the final positions of their own and earlier blocks, not all of them in a sliding layer."""
    if not request.num_context:
        return []
    start, end = request.rows.start, request.num_cached + request.num_context
    blocks = torch.arange(end) if request.context_blocks is None else request.context_blocks[:end]
    own = blocks[request.num_cached :].contiguous()
    mask = blocks[None, :] <= own[:, None]
    if sliding is not None:
        mask &= torch.arange(end) > torch.searchsorted(blocks, own)[:, None] - sliding
    return [_Group(slice(start, start + request.num_context), mask, end)]


STRICT_ROWS = 32
"""Rows and keys of a strict group come in multiples of this: kernels treat the rest of a division by their tile in
another way, and the order of sums with it."""


def _strict_groups(request: RequestRows, sliding: int | None) -> list[_Group]:
    """The same by groups of ``STRICT_ROWS`` positions, each padded to full size.

    A row's group, its place there and the number of keys follow from its position alone, as long as no block is longer
    than a group.
    """
    num_ahead = STRICT_ROWS if request.context_blocks is None else 2 * STRICT_ROWS
    groups: list[_Group] = []
    for whole in _one_group(request, sliding):
        first, last = request.num_cached, request.num_cached + request.num_context
        for start in range(first // STRICT_ROWS * STRICT_ROWS, last, STRICT_ROWS):
            low, high = max(start, first), min(start + STRICT_ROWS, last)
            seen = whole.mask[low - first : high - first]
            width = max(start + num_ahead, int(seen.any(dim=0).nonzero().max()) + 1)
            num_keys = min(whole.num_keys, width)
            mask = torch.zeros(STRICT_ROWS, width, dtype=torch.bool)
            # Rows that are not there see one key: a softmax over none is not a number.
            mask[:, 0] = True
            mask[low - start : high - start, :num_keys] = seen[:, :num_keys]
            rows = slice(whole.rows.start + low - first, whole.rows.start + high - first)
            groups.append(_Group(rows, mask, num_keys, before=low - start))
    return groups


def _joined(parts: list[Tensor]) -> Int[Tensor, " rows"]:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _in_place(index: Int[Tensor, " rows"], device: torch.device) -> Int[Tensor, " rows"] | slice:
    """A slice where the numbers are consecutive: reading by it copies nothing."""
    if not len(index):
        return slice(0, 0)
    first, count = int(index[0]), len(index)
    is_run = int(index[-1]) == first + count - 1 and torch.equal(index, torch.arange(first, first + count))
    return slice(first, first + count) if is_run else index.to(device)
