"""What one family of published checkpoints has of its own: its configuration and its tensors' names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.models.config import DenoiserConfig


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor of the files as it is."""

    name: str


@dataclass(frozen=True, slots=True)
class Part:
    """Positions ``start`` to ``stop`` of a tensor along an axis: one of several that lie fused in one."""

    name: str
    start: int
    stop: int
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Stack:
    """Several sources of one shape along a new first axis: experts."""

    parts: tuple["Source", ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """Several sources one behind the other along an axis they have."""

    parts: tuple["Source", ...]
    axis: int = 0


Source = Whole | Part | Stack | Joined
"""Where the values of one of our tensors are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A published layout. ``families`` has one file for each."""

    name: str
    """For messages: ``LLaDA``."""
    recognises: Callable[[Mapping[str, object]], bool]
    """Whether a ``config.json`` is of this family."""
    read: Callable[[Keys, TokenNames], tuple[DenoiserConfig, DiffusionSpec]]
    """Architecture and spec; raises ConfigError for what cannot be honoured. It need not call ``Keys.finish``."""
    source: Callable[[str, DenoiserConfig], Source] = lambda name, config: Whole(name)
    """Where the tensor of our state dict with that name is; the published names are ours where it is left out."""
    unused: tuple[str, ...] = ()
    """Endings of names of tensors that may lie in the files and mean nothing here."""
    other_parts: tuple[str, ...] = ()
    """Beginnings of names of tensors of parts that are not loaded, for example of a vision tower."""
