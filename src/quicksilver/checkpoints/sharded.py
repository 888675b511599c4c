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
from quicksilver.models.parallel import Cut

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

    def shape(self, source: Source) -> list[int]:
        """Of a source's values, from the files' headers.

        Raises:
            CheckpointError: the sources that it joins differ in more than one axis.
        """
        match source:
            case Whole(name):
                return self._files[name].get_slice(name).get_shape()
            case Part(name, start, stop, axis):
                return _replaced(self._files[name].get_slice(name).get_shape(), axis, stop - start)
            case Stack(parts):
                return [len(parts), *self._common(source, [self.shape(part) for part in parts])]
            case Joined(parts, axis):
                shapes = [self.shape(part) for part in parts]
                others = self._common(source, [_replaced(shape, axis, 0) for shape in shapes])
                return _replaced(others, axis, sum(shape[axis] for shape in shapes))

    def _common(self, source: Source, shapes: list[list[int]]) -> list[int]:
        if any(shape != shapes[0] for shape in shapes):
            raise CheckpointError(f"{self.folder}: {', '.join(names_of(source)[:4])} … differ in shape: {shapes[:4]}")
        return shapes[0]

    def read(self, source: Source, cut: Cut | None = None) -> Tensor:
        """A source's values in the dtype they are stored in. One that is whole is mapped, not copied.

        Args:
            source: where they are.
            cut: the part of them that is wanted; nothing else is read. None: all.

        Raises:
            CheckpointError: a file is damaged, or a part reaches beyond its tensor.
        """
        try:
            return self._read(source, {} if cut is None else {cut.axis: slice(cut.start, cut.stop)})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.folder}: {', '.join(names_of(source))} cannot be read: {error}") from error

    def _read(self, source: Source, cuts: dict[int, slice]) -> Tensor:
        """The source's values within one slice of each axis that ``cuts`` names."""
        match source:
            case Whole(name):
                return self._cut(name, cuts) if cuts else self._files[name].get_tensor(name)
            case Part(name, start, stop, axis):
                within = cuts.get(axis, slice(0, stop - start))
                return self._cut(name, cuts | {axis: slice(start + within.start, start + within.stop)})
            case Stack(parts):
                inner = {axis - 1: cut for axis, cut in cuts.items() if axis}
                return torch.stack([self._read(part, inner) for part in parts[cuts.get(0, slice(None))]])
            case Joined(parts, axis):
                if axis not in cuts:
                    return torch.cat([self._read(part, cuts) for part in parts], dim=axis)
                found, start = [], 0
                for part in parts:
                    width = self.shape(part)[axis]
                    low, high = max(cuts[axis].start - start, 0), min(cuts[axis].stop - start, width)
                    if low < high:
                        found.append(self._read(part, cuts | {axis: slice(low, high)}))
                    start += width
                return torch.cat(found, dim=axis)

    def _cut(self, name: str, cuts: dict[int, slice]) -> Tensor:
        tensor = self._files[name].get_slice(name)
        shape = tensor.get_shape()
        for axis, cut in cuts.items():
            if shape[axis] < cut.stop:
                raise CheckpointError(f"{self.folder}: {name} has shape {shape}, too small for {cut.stop}")
        return tensor[tuple(cuts.get(axis, slice(None)) for axis in range(len(shape)))]


def _replaced(shape: list[int], axis: int, length: int) -> list[int]:
    return [*shape[:axis], length, *shape[axis + 1 :]]


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
