"""Optimizers: Muon for the hidden matrices, AdamW for embeddings, head, gains and biases.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of each matrix. It
does not suit embedding tables, whose rows are updated sparsely, nor vectors; stacks of experts, of which each row
updates a few, are left to AdamW as well.
"""

from dataclasses import dataclass

import torch
from torch import nn

from quicksilver.errors import ConfigError
from quicksilver.training.muon import Muon


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Peak learning rates and regularisation."""

    has_muon: bool = True
    """False trains everything with AdamW."""
    muon_lr: float = 0.02
    muon_momentum: float = 0.95
    muon_weight_decay: float = 0.1
    adam_lr: float = 3e-3
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_weight_decay: float = 0.1
    """On matrices only; gains, biases and embeddings are never decayed."""
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("muon_lr", "adam_lr", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")


def build_optimizers(
    model: nn.Module, config: OptimizerConfig, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """One optimizer per kind of parameter; each group remembers its peak rate under ``peak_lr``.

    Args:
        model: whose parameters are trained.
        config: rates and regularisation.
        dtype: of Muon's products: bf16 where the hardware multiplies it fast.
    """
    hidden, tables, vectors, stacks = [], [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif "embed_tokens" in name or "lm_head" in name:
            tables.append(parameter)
        elif parameter.ndim > 2:
            stacks.append(parameter)
        else:
            hidden.append(parameter)
    groups = [{"params": tables + vectors, "weight_decay": 0.0}]
    if stacks:
        groups.append({"params": stacks, "weight_decay": config.adam_weight_decay})
    optimizers: list[torch.optim.Optimizer] = []
    if config.has_muon:
        optimizers.append(
            Muon(
                hidden,
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.muon_weight_decay,
                dtype=dtype,
            )
        )
    else:
        groups.append({"params": hidden, "weight_decay": config.adam_weight_decay})
    optimizers.append(torch.optim.AdamW(groups, lr=config.adam_lr, betas=config.adam_betas))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
