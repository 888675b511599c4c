"""Attention topologies: who may see whom, from three small arrays instead of a case per model.

Every token carries its document, its block within the document and whether it belongs to the noisy copy. One rule
covers all: a query sees a key of the same document if

* both are noisy and share a block (the draft being denoised), or
* the query is noisy, the key clean and of an earlier block (the committed past), or
* both are clean and the key's block is not later (block-causal).

Full attention is one block; causal attention is blocks of one token; the training pair [noisy ⊕ clean] of BD3-LM
(Arriola et al. 2025, arXiv:2503.09573) and packed documents come from the same rule. A padding token is a document of
its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from quicksilver.errors import ConfigError

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Topology:
    """Who may see whom in a batch of token rows. All three tensors share shape [B, T]."""

    documents: Int[Tensor, "B T"]
    blocks: Int[Tensor, "B T"]
    is_noisy: Bool[Tensor, "B T"]

    def to(self, device: torch.device) -> "Topology":
        """The same for tensors of another device."""
        return Topology(self.documents.to(device), self.blocks.to(device), self.is_noisy.to(device))

    @classmethod
    def block_causal(cls, blocks: Int[Tensor, "B T"], documents: Int[Tensor, "B T"] | None = None) -> Self:
        """Clean tokens only: all zeros in ``blocks`` is full attention, ``arange`` is causal attention."""
        if documents is None:
            documents = torch.zeros_like(blocks)
        return cls(documents, blocks, torch.zeros_like(blocks, dtype=torch.bool))

    @classmethod
    def training_pair(
        cls, blocks: Int[Tensor, "B L"], documents: Int[Tensor, "B L"], *, has_causal_context: bool = False
    ) -> Self:
        """The 2L rows [noisy ⊕ clean] of block diffusion; both halves share documents and blocks.

        With a causal context the clean half is renumbered into blocks of one token, so that a clean row sees no later
        token of its own block and may be trained to predict the next one.
        """
        is_noisy = torch.zeros(blocks.shape[0], 2 * blocks.shape[1], dtype=torch.bool, device=blocks.device)
        is_noisy[:, : blocks.shape[1]] = True
        clean_blocks = blocks
        if has_causal_context:
            index = torch.arange(blocks.shape[1], device=blocks.device).expand_as(blocks)
            is_same = (blocks[:, 1:] == blocks[:, :-1]) & (documents[:, 1:] == documents[:, :-1])
            starts = torch.where(is_same, 0, index[:, 1:])
            # A block takes the number of its first token, which every earlier token's number is below.
            blocks = torch.cat([index[:, :1], starts], dim=1).cummax(dim=1).values
            clean_blocks = index
        return cls(torch.cat([documents, documents], dim=1), torch.cat([blocks, clean_blocks], dim=1), is_noisy)

    def mask_mod(self) -> MaskMod:
        """The rule as FlexAttention's ``mask_mod(batch, head, query, key)``; it also takes broadcast index tensors."""
        documents, blocks, is_noisy = self.documents, self.blocks, self.is_noisy

        def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            del h
            query_noisy, key_noisy = is_noisy[b, q], is_noisy[b, k]
            query_block, key_block = blocks[b, q], blocks[b, k]
            draft = query_noisy & key_noisy & (query_block == key_block)
            past = query_noisy & ~key_noisy & (key_block < query_block)
            clean = ~query_noisy & ~key_noisy & (key_block <= query_block)
            return (documents[b, q] == documents[b, k]) & (draft | past | clean)

        return allowed

    def dense_mask(self, window: int | None = None) -> Bool[Tensor, "B T T"]:
        """True where attention is allowed. Quadratic in T: the reference, and the source of every tile.

        Args:
            window: a row sees at most ``window - 1`` positions before the first of its block.

        Raises:
            ConfigError: a window over noisy rows or several documents, whose positions are not those of their rows.
        """
        num_rows, length = self.blocks.shape
        index = torch.arange(length, device=self.blocks.device)
        rows = torch.arange(num_rows, device=self.blocks.device)
        mask = self.mask_mod()(rows[:, None, None], rows[:, None, None], index[None, :, None], index[None, None, :])
        if window is None:
            return mask
        if bool(self.is_noisy.any()) or bool((self.documents != self.documents[:, :1]).any()):
            raise ConfigError("a sliding window needs one document per row and no noisy copy")
        is_start = torch.ones_like(self.is_noisy)
        is_start[:, 1:] = self.blocks[:, 1:] != self.blocks[:, :-1]
        start = torch.where(is_start, index, 0).cummax(dim=1).values
        return mask & (index > start[:, :, None] - window)
