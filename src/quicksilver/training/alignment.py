"""Alignment: hidden states of a model in adaptation, held near those of the frozen model that it came from.

Row i of the noisy half, where it predicts a mask, is compared with the teacher's row i over the clean text: under
prediction shift 1 both are about token i + 1. Source: Open-dLLM's alignment to a causal teacher (arXiv:2605.06885).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from quicksilver.checkpoints.loading import load_folder
from quicksilver.errors import ConfigError
from quicksilver.models.attention import plan_attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training.batch import MicroBatch


class Distance(StrEnum):
    """Between two hidden states."""

    COSINE = "cosine"
    """1 minus the cosine of their angle."""
    SQUARED = "squared"
    """Squared length of their difference over that of the teacher's state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentConfig:
    """What is aligned, and how much it counts beside the cross-entropy."""

    teacher: Path
    """Checkpoint folder of the frozen model."""
    weight: float = 1.0
    """Of the mean over layers of a row's distance, against a nat of a token."""
    layers: tuple[int, ...] | None = None
    """Layers whose outputs are compared, from 0; None: all."""
    distance: Distance = Distance.COSINE

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ConfigError(f"the weight of an alignment must be positive, got {self.weight}; None turns it off")


class Teacher:
    """The frozen model."""

    def __init__(self, config: AlignmentConfig) -> None:
        """Load it.

        Raises:
            ConfigError: it has no layer of that number.
        """
        self._config = config
        self._denoiser, _ = load_folder(config.teacher)
        num_layers = self._denoiser.config.num_layers
        self._layers = tuple(range(num_layers)) if config.layers is None else config.layers
        if not self._layers or not set(self._layers) <= set(range(num_layers)):
            raise ConfigError(f"the teacher has layers 0 to {num_layers - 1}, asked for {config.layers}")

    @contextmanager
    def watch(self, denoiser: Denoiser) -> Iterator[list[Tensor]]:
        """Collects the outputs of the compared layers, in order, of a forward that runs meanwhile."""
        found: list[Tensor] = []

        def keep(layer: nn.Module, given: tuple[object, ...], output: Tensor) -> None:
            del layer, given
            found.append(output)

        layers = denoiser.layers()
        hooks = [layers[index].register_forward_hook(keep) for index in sorted(self._layers)]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, student: list[Tensor], batch: MicroBatch) -> Float[Tensor, ""]:
        """Weighted sum over the noisy half's predicting rows of their mean distance over layers; carries the gradient.

        Args:
            student: outputs of the compared layers over the batch's training pair, as ``watch`` collects them.
            batch: the training pair; its clean half is what the teacher reads.
        """
        length = batch.token_ids.shape[1] // 2
        clean = slice(length, 2 * length)
        documents, positions = batch.topology.documents[:, clean], batch.positions[:, clean]
        with torch.no_grad(), self.watch(self._denoiser.to(batch.token_ids.device)) as teacher:
            self._denoiser(
                batch.token_ids[:, clean], positions, plan_attention(Topology.block_causal(positions, documents))
            )
        row, column = batch.target_rows // (2 * length), batch.target_rows % (2 * length)
        row, column = row[column < length], column[column < length]
        distances = [
            _distance(s[row, column], t[row, column], self._config.distance)
            for s, t in zip(student, teacher, strict=True)
        ]
        return self._config.weight * torch.stack(distances).mean(0).sum()


def _distance(student: Float[Tensor, "N D"], teacher: Float[Tensor, "N D"], kind: Distance) -> Float[Tensor, " N"]:
    student, teacher = student.float(), teacher.float()
    if kind is Distance.COSINE:
        return 1.0 - F.cosine_similarity(student, teacher, dim=-1)
    return (student - teacher).square().mean(-1) / teacher.square().mean(-1)
