"""Low-rank adapters beside the frozen matrices (Hu et al. 2021, arXiv:2106.09685), by peft; merged before export.

The mask's row of the embedding table is trained too: it is new, and no product of the frozen matrices can replace it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser

_MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Size of the adapters, which stand beside every matrix of every layer."""

    rank: int = 64
    alpha: float = 64.0
    """The adapters' product is scaled by alpha / rank."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(f"rank must be at least 1 and alpha positive, got {self.rank} and {self.alpha}")


def add_adapters(denoiser: Denoiser, config: LoraConfig, mask_id: int, seed: int) -> None:
    """Freeze the denoiser but for new adapters, which change nothing yet, and the mask's row of the table."""
    import peft

    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=_MATRICES)  # pyright: ignore[reportArgumentType]
    with torch.random.fork_rng():  # peft draws from the global generator
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, denoiser)
    table = denoiser.model.embed_tokens.weight.requires_grad_(True)

    def keep_row(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[mask_id] = gradient[mask_id]
        return kept

    table.register_hook(keep_row)


def merged_weights(
    model: DenoiserConfig, config: LoraConfig, mask_id: int, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A plain denoiser's state dict from that of one with adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    denoiser = Denoiser(model)
    add_adapters(denoiser, config, mask_id, seed=0)
    denoiser.load_state_dict(dict(weights))
    for module in denoiser.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    return {
        name.replace(".base_layer.", "."): value
        for name, value in denoiser.state_dict().items()
        if ".lora_" not in name
    }
