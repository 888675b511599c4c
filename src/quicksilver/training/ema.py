"""Exponential moving average of the weights, in float32 beside the model."""

from collections.abc import Iterator

import torch
from torch import nn

from quicksilver.errors import ConfigError


class WeightAverage:
    """Averages trained parameters: ``average = decay * average + (1 - decay) * weight``, with a warm-up of the decay.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that early averages are not dominated by the
    initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"the decay of the weight average must lie in [0, 1), got {decay}")
        self._decay = decay
        self.num_updates = 0
        self.weights = {name: parameter.detach().clone().float() for name, parameter in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        for name, parameter in _trained(model):
            self.weights[name].lerp_(parameter.detach().float(), 1.0 - decay)

    def state_dict(self) -> dict[str, object]:
        return {"num_updates": self.num_updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore in place what ``state_dict`` returned."""
        weights = state["weights"]
        if not isinstance(weights, dict) or weights.keys() != self.weights.keys():
            raise ConfigError("the checkpoint's weight average does not belong to this model")
        for name, value in weights.items():
            self.weights[name].copy_(value)
        self.num_updates = int(str(state["num_updates"]))


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
