"""The smallest denoisers that still have every part, and short ways to call them."""

import dataclasses

import torch
from torch import Tensor

from quicksilver.models.attention import DenseAttention
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology

TINY = DenoiserConfig(
    vocab_size=61, num_layers=3, model_width=24, num_heads=4, num_kv_heads=2, head_width=8, ffn_width=40, max_length=64
)


def tiny_config(**changes) -> DenoiserConfig:
    """Three layers, grouped heads, 61 tokens; ``changes`` replace fields."""
    return dataclasses.replace(TINY, **changes)


def random_denoiser(config: DenoiserConfig = TINY, seed: int = 0, dtype: torch.dtype = torch.float64) -> Denoiser:
    """Every parameter drawn at a scale at which each of them matters: ``initialise`` starts as the identity."""
    denoiser = Denoiser(config).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * draw if name.endswith("norm.weight") else 0.3 * draw)
    return denoiser.eval().requires_grad_(False)


def random_tokens(num_rows: int, length: int, seed: int = 0, vocab_size: int = TINY.vocab_size) -> Tensor:
    return torch.randint(0, vocab_size, (num_rows, length), generator=torch.Generator().manual_seed(seed))


def hidden_of(denoiser: Denoiser, token_ids: Tensor, topology: Topology, positions: Tensor | None = None) -> Tensor:
    """Dense attention, float64 if the weights are; positions default to 0, 1, 2, ..."""
    if positions is None:
        positions = torch.arange(token_ids.shape[1]).expand_as(token_ids)
    return denoiser(token_ids, positions, DenseAttention(topology))


def logits_of(denoiser: Denoiser, token_ids: Tensor, topology: Topology, positions: Tensor | None = None) -> Tensor:
    return denoiser.logits(hidden_of(denoiser, token_ids, topology, positions))
