"""Loading of any checkpoint folder: our own, or one of a known family as its makers published it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quicksilver.checkpoints.families import find_family
from quicksilver.checkpoints.family import Family, Source, Whole
from quicksilver.checkpoints.folder import CONFIG_FILE, is_own, read_config, read_values, require_known_ids
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.sharded import ShardedWeights, names_of
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser

Progress = Callable[[int, int], None]
"""Called with the bytes loaded so far and those of all weights."""
_SMALL = 50_000_000
"""Parameters up to which a network is first filled with random numbers: cheaper than torch's meta device, whose first
use imports its compiler (over a second)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a folder's config.json says."""

    family: Family | None
    """None: a folder of our own."""
    config: DenoiserConfig
    spec: DiffusionSpec

    def source(self, name: str) -> Source:
        """Where one of our tensors is."""
        return Whole(name) if self.family is None else self.family.source(name, self.config)

    @property
    def unused(self) -> tuple[str, ...]:
        return () if self.family is None else self.family.unused


def open_folder(folder: Path) -> Opened:
    """Read a folder's configuration, not its weights.

    Raises:
        CheckpointError: no such folder, of no known family, or one that asks for what is not supported here.
    """
    values, path = read_values(folder), folder / CONFIG_FILE
    if is_own(values):
        return Opened(None, *read_config(folder))
    family = find_family(values)
    keys = Keys(values)
    try:
        config, spec = family.read(keys, TokenNames.of_folder(folder))
        keys.finish()
    except ConfigError as error:
        raise CheckpointError(f"{path} ({family.name}): {error}") from error
    require_known_ids(path, config, spec)
    return Opened(family, config, spec)


def load_folder(
    folder: Path,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> tuple[Denoiser, DiffusionSpec]:
    """Load weights, one tensor after the other, straight into a denoiser of ``dtype`` in evaluation mode.

    Args:
        folder: of our own or of a known family.
        dtype: of the denoiser; None: as the weights are stored, then they stay mapped from their files on a CPU.
        device: of the denoiser; None: the CPU.
        progress: told after every tensor.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    opened, device = open_folder(folder), device or torch.device("cpu")
    with ShardedWeights(folder) as weights:
        denoiser = _empty(opened.config)
        expected = denoiser.state_dict()
        _require_fit(folder, opened, weights, expected)
        total, done = sum(tensor.numel() for tensor in expected.values()), 0
        is_mapped, dtype = dtype is None, dtype or weights.dtype
        for name, parameter in expected.items():
            value = weights.read(opened.source(name))
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"{folder}: {name} has shape {list(value.shape)}, its config.json says {list(parameter.shape)}"
                )
            _set(denoiser, name, value.to(device=device, dtype=dtype, copy=not is_mapped))
            done += value.numel()
            if progress is not None:
                progress(done * dtype.itemsize, total * dtype.itemsize)
    return denoiser.eval().requires_grad_(False), opened.spec


def _empty(config: DenoiserConfig) -> Denoiser:
    """A denoiser whose values do not matter."""
    if config.num_parameters <= _SMALL:
        return Denoiser(config)
    with torch.device("meta"):
        return Denoiser(config)


def _require_fit(folder: Path, opened: Opened, weights: ShardedWeights, expected: dict[str, Tensor]) -> None:
    """Every tensor of ours is in the files, and every tensor of the files is one of ours."""
    needed = {name for ours in expected for name in names_of(opened.source(ours))}
    missing = needed - weights.names
    more = {name for name in weights.names - needed if not name.endswith(opened.unused)}
    if opened.config.has_tied_embeddings:
        more.discard("lm_head.weight")  # some writers repeat the tied table
    wrong = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has no place for", more)) if names]
    if wrong:
        raise CheckpointError(f"the weights of {folder} do not fit its {CONFIG_FILE}: it {'; '.join(wrong)}")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _set(denoiser: Denoiser, name: str, value: Tensor) -> None:
    *path, leaf = name.split(".")
    module = denoiser.get_submodule(".".join(path))
    kept = nn.Parameter(value, requires_grad=False) if leaf in module._parameters else value
    setattr(module, leaf, kept)
