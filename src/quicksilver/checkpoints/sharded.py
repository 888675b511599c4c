"""Tensors of a folder's safetensors files, read one at a time from memory-mapped files."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quicksilver.checkpoints.family import Joined, Part, Source, Stack, Whole
from quicksilver.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class ShardedWeights:
    """Every tensor of a folder by name, whichever file it is in. A context manager that closes the files."""

    def __init__(self, folder: Path) -> None:
        """Open the folder's files.

        Raises:
            CheckpointError: there are none, one that the index names is missing, or one is damaged.
        """
        self.folder, self._stack = folder, ExitStack()
        self._files: dict[str, safe_open] = {}
        for path in weight_files(folder):
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                self._stack.close()
                raise CheckpointError(f"{path} is damaged: {error}") from error
            self._files.update(dict.fromkeys(file.keys(), file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._files)

    def read(self, source: Source) -> Tensor:
        """A source's values in the dtype they are stored in. One that is whole is mapped, not copied.

        Raises:
            CheckpointError: a file is damaged, or a part reaches beyond its tensor.
        """
        try:
            return self._read(source)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.folder}: {', '.join(names_of(source))} cannot be read: {error}") from error

    def _read(self, source: Source) -> Tensor:
        match source:
            case Whole(name):
                return self._files[name].get_tensor(name)
            case Part(name, start, stop, axis):
                tensor = self._files[name].get_slice(name)
                if tensor.get_shape()[axis] < stop:
                    raise CheckpointError(f"{self.folder}: {name} has shape {tensor.get_shape()}, too small for {stop}")
                return tensor[(slice(None),) * axis + (slice(start, stop),)]
            case Stack(parts):
                return torch.stack([self._read(part) for part in parts])
            case Joined(parts, axis):
                return torch.cat([self._read(part) for part in parts], dim=axis)


def names_of(source: Source) -> tuple[str, ...]:
    """The tensors that a source reads."""
    if isinstance(source, Stack | Joined):
        return tuple(name for part in source.parts for name in names_of(part))
    return (source.name,)


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files in order; raises CheckpointError if there are none or one is missing."""
    index = folder / INDEX_FILE
    if not index.is_file():
        if not (folder / WEIGHTS_FILE).is_file():
            raise CheckpointError(f"{folder} lacks {WEIGHTS_FILE} (or {INDEX_FILE} and the files it names)")
        return [folder / WEIGHTS_FILE]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not readable: {error}") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}, which {INDEX_FILE} names")
    return [folder / name for name in names]
