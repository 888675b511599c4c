"""The network over page memory, and how several processes run it together.

Rank 0's engine plans and decides as if it were alone. Before each forward it orders the same rows of the others, whose
page memories have the same slots and their own heads.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from quicksilver.engine.attention import PagedAttention, PageMemory, RequestRows
from quicksilver.engine.pages import PagePool
from quicksilver.errors import EngineError
from quicksilver.models.attention import Attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.fused import FusedDenoiser, can_fuse
from quicksilver.models.parallel import Forward, Logits, ParallelDenoiser

Network = Callable[[Tensor, Tensor, Attention], Tensor]
"""Token ids [1, T], positions [1, T] and an attention to hidden rows [1, T, D]."""


def network_of(denoiser: Denoiser) -> Network:
    """A denoiser's forward in this process, the fastest there is."""
    if can_fuse(denoiser):
        return FusedDenoiser(denoiser)
    return denoiser.run if isinstance(denoiser, ParallelDenoiser) else denoiser


@dataclass(frozen=True, slots=True)
class TakePages:
    """An order: take page memory, in place of what was taken before."""

    num_pages: int
    page_size: int


@dataclass(frozen=True, slots=True)
class PagedForward:
    """An order: run packed rows over page memory. All tensors are on the CPU."""

    token_ids: Tensor
    positions: Tensor
    requests: Sequence[RequestRows]
    is_strict: bool


class Lead:
    """Rank 0's hand over the others' page memories, which belong to one page memory of its own: the latest."""

    def __init__(self, denoiser: ParallelDenoiser, memory: PageMemory) -> None:
        """Let every rank take as many pages as ``memory`` has."""
        self._ranks, self._memory = denoiser.ranks, memory
        with self._ranks.leading(TakePages(memory.keys[0].shape[0] // memory.page_size, memory.page_size)):
            self._ranks.served = memory

    def leading(
        self, token_ids: Tensor, positions: Tensor, requests: Sequence[RequestRows], *, is_strict: bool
    ) -> AbstractContextManager[None]:
        """Inside, the other ranks run these rows too.

        Raises:
            EngineError: another engine has taken the ranks' page memories.
        """
        if self._ranks.served is not self._memory:
            raise EngineError("another engine of this model has taken the page memory of its other processes")
        cpu = torch.device("cpu")
        return self._ranks.leading(PagedForward(token_ids.to(cpu), positions.to(cpu), requests, is_strict))


@torch.inference_mode()
def follow(denoiser: ParallelDenoiser) -> None:
    """Carry out what rank 0 orders, until it closes; for all other ranks.

    Raises:
        RankError: rank 0 is gone.
        Exception: whatever an order raises; this rank cannot go on then, and the others hear of its end.
    """
    network, memory, weight = network_of(denoiser), None, denoiser.model.embed_tokens.weight
    for order in denoiser.ranks.orders():
        match order:
            case TakePages(num_pages, page_size):
                memory = None  # frees the former before the new one is taken
                pool = PagePool(num_pages, page_size)
                memory = PageMemory(denoiser.config, pool, weight.dtype, weight.device)
            case PagedForward(token_ids, positions, requests, is_strict) if memory is not None:
                attention = PagedAttention(memory, requests, is_strict=is_strict)
                network(token_ids.to(weight.device), positions.to(weight.device), attention)
            case Forward(token_ids, positions, attention):
                places = token_ids.to(weight.device), positions.to(weight.device)
                denoiser.run(*places, attention.to(weight.device))
            case Logits(num_rows, dtype):
                rows = torch.empty(num_rows, denoiser.config.model_width, dtype=dtype, device=weight.device)
                denoiser.run_logits(rows)
            case _:
                raise EngineError(f"rank {denoiser.ranks.rank} cannot carry out {type(order).__name__}")
