"""Loading of any checkpoint folder: our own, or one of a known family as its makers published it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quicksilver.checkpoints.families import find_family
from quicksilver.checkpoints.family import Family, Source, Whole
from quicksilver.checkpoints.folder import (
    CONFIG_FILE,
    is_own,
    read_config,
    read_scheme,
    read_values,
    require_known_ids,
)
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.sharded import ShardedWeights, names_of
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import CheckpointError, ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.parallel import ParallelDenoiser
from quicksilver.models.ranks import Ranks
from quicksilver.quantization import Scheme
from quicksilver.quantization.convert import projections, quantize_linear
from quicksilver.quantization.scheme import require_device, require_dtype, require_widths
from quicksilver.quantization.stored import restored

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
    scheme: Scheme | None = None
    """How its projections are quantized."""

    def source(self, name: str) -> Source:
        """Where one of our tensors is."""
        return Whole(name) if self.family is None else self.family.source(name, self.config)

    @property
    def unused(self) -> tuple[str, ...]:
        return () if self.family is None else self.family.unused

    @property
    def other_parts(self) -> tuple[str, ...]:
        return () if self.family is None else self.family.other_parts


def open_folder(folder: Path) -> Opened:
    """Read a folder's configuration, not its weights.

    Raises:
        CheckpointError: no such folder, of no known family, or one that asks for what is not supported here.
    """
    values, path = read_values(folder), folder / CONFIG_FILE
    if is_own(values):
        return Opened(None, *read_config(folder), read_scheme(folder))
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
    scheme: Scheme | None = None,
    ranks: Ranks | None = None,
) -> tuple[Denoiser, DiffusionSpec]:
    """Load weights, one tensor after the other, straight into a denoiser of ``dtype`` in evaluation mode.

    Args:
        folder: of our own or of a known family.
        dtype: of the denoiser; None: as the weights are stored, then they stay mapped from their files on a CPU.
        device: of the denoiser; None: the CPU.
        progress: told after every tensor.
        scheme: quantize each projection as soon as it is read; None: none, or as they are stored.
        ranks: the processes that hold the denoiser together: this one reads its own part of every tensor.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the architecture.
        ConfigError: the scheme does not suit device, dtype or widths, or the folder is quantized otherwise already; the
            ranks cannot divide the architecture.
    """
    opened, device = open_folder(folder), device or torch.device("cpu")
    if scheme is not None and opened.scheme not in (None, scheme):
        raise ConfigError(f"{folder} is quantized as {opened.scheme} already; {scheme} needs the original")
    if ranks is not None and (scheme or opened.scheme) is not None:
        raise ConfigError(f"{scheme or opened.scheme} projections cannot be divided over {ranks.size} processes")
    with ShardedWeights(folder) as weights:
        denoiser = empty_denoiser(opened.config, ranks)
        reader = _Reader(opened, weights, denoiser, dtype, device)
        reader.require_fit()
        wanted = scheme or opened.scheme
        if wanted is not None:
            require_quantizable(denoiser, wanted, reader.dtype, device)
        total, done = sum(tensor.numel() for tensor in reader.expected.values()), 0
        # Biases first: a quantized layer is made whole when its weight comes.
        for name in sorted(reader.expected, key=lambda name: not name.endswith(".bias")):
            reader.take(name, scheme)
            done += reader.expected[name].numel()
            if progress is not None:
                progress(done * reader.dtype.itemsize, total * reader.dtype.itemsize)
    return denoiser.eval().requires_grad_(False), opened.spec


class _Reader:
    """Fills a denoiser from a folder's tensors."""

    def __init__(
        self,
        opened: Opened,
        weights: ShardedWeights,
        denoiser: Denoiser,
        dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.dtype = _table_dtype(opened, weights) if dtype is None else dtype
        self.expected = denoiser.state_dict()
        self._opened, self._weights, self._denoiser = opened, weights, denoiser
        self._device, self._is_mapped = device, dtype is None
        self._projections = {f"{name}.weight": name for name in projections(denoiser)}

    def require_fit(self) -> None:
        """Every tensor of ours is in the files, and every tensor of the files is one of ours."""
        needed = {name for ours in self.expected for name in self._stored_names(ours)}
        missing = needed - self._weights.names
        unused, other_parts = self._opened.unused, self._opened.other_parts
        more = {
            name for name in self._weights.names - needed if not (name.endswith(unused) or name.startswith(other_parts))
        }
        if self._opened.config.has_tied_embeddings:
            more.discard("lm_head.weight")  # some writers repeat the tied table
        wrong = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has no place for", more)) if names]
        if wrong:
            folder = self._weights.folder
            raise CheckpointError(f"the weights of {folder} do not fit its {CONFIG_FILE}: it {'; '.join(wrong)}")

    def take(self, name: str, scheme: Scheme | None) -> None:
        """Read one tensor of ours, and quantize it if it is a projection's weight and a scheme is given."""
        projection = self._projections.get(name)
        if projection is not None and self._opened.scheme is not None:
            self._restore(projection, self._opened.scheme, self._parts(name))
            return
        source, shape = self._opened.source(name), list(self.expected[name].shape)
        cut = self._denoiser.cut(name) if isinstance(self._denoiser, ParallelDenoiser) else None
        if cut is not None:
            shape[cut.axis] = cut.length
        found = self._weights.shape(source)
        if found != shape:
            raise CheckpointError(f"{self._weights.folder}: {name} has shape {found}, its config.json says {shape}")
        value = self._weights.read(source, cut)
        _set(self._denoiser, name, value.to(device=self._device, dtype=self.dtype, copy=not self._is_mapped))
        if projection is not None and scheme is not None:
            linear = self._denoiser.get_submodule(projection)
            self._denoiser.set_submodule(projection, quantize_linear(linear, scheme))  # pyright: ignore[reportArgumentType]  # a Linear

    def _stored_names(self, ours: str) -> tuple[str, ...]:
        if self._opened.scheme is not None and ours in self._projections:
            return self._part_names(ours) or (ours,)
        return names_of(self._opened.source(ours))

    def _part_names(self, name: str) -> tuple[str, ...]:
        return tuple(stored for stored in self._weights.names if stored.startswith(f"{name}."))

    def _parts(self, name: str) -> dict[str, Tensor]:
        return {
            stored.removeprefix(f"{name}."): self._weights.read(Whole(stored)).to(self._device, copy=True)
            for stored in self._part_names(name)
        }

    def _restore(self, projection: str, scheme: Scheme, parts: dict[str, Tensor]) -> None:
        layer = self._denoiser.get_submodule(projection)
        out_width, in_width = self.expected[f"{projection}.weight"].shape
        empty = nn.Linear(in_width, out_width, bias=False, dtype=self.dtype, device=self._device).requires_grad_(False)
        empty.bias = layer.bias  # pyright: ignore[reportAttributeAccessIssue]  # a Linear's
        self._denoiser.set_submodule(projection, restored(parts, scheme, empty))


def require_quantizable(denoiser: Denoiser, scheme: Scheme, dtype: torch.dtype, device: torch.device) -> None:
    """Raises ConfigError if a scheme does not suit a device, the dtype of the rest, or the widths of a projection."""
    require_device(scheme, device)
    require_dtype(scheme, dtype)
    for name, linear in projections(denoiser).items():
        require_widths(scheme, device, name, linear.in_features, linear.out_features)


def empty_denoiser(config: DenoiserConfig, ranks: Ranks | None = None) -> Denoiser:
    """A denoiser, or this rank's part, whose values do not matter. A large one takes no memory: torch's meta device."""
    with nullcontext() if config.num_parameters <= _SMALL else torch.device("meta"):
        return Denoiser(config) if ranks is None else ParallelDenoiser(config, ranks)


def stored_dtype(folder: Path, opened: Opened) -> torch.dtype:
    """Of a folder's weights as they lie in its files, by its table of embeddings."""
    with ShardedWeights(folder) as weights:
        return _table_dtype(opened, weights)


def _table_dtype(opened: Opened, weights: ShardedWeights) -> torch.dtype:
    table = opened.source("model.embed_tokens.weight")
    missing = set(names_of(table)) - weights.names
    if missing:
        raise CheckpointError(
            f"the weights of {weights.folder} do not fit its {CONFIG_FILE}: it lacks {_some(missing)}"
        )
    return weights.read(table).dtype


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _set(denoiser: Denoiser, name: str, value: Tensor) -> None:
    *path, leaf = name.split(".")
    module = denoiser.get_submodule(".".join(path))
    kept = nn.Parameter(value, requires_grad=False) if leaf in module._parameters else value
    setattr(module, leaf, kept)
