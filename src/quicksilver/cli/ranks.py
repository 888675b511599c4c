"""Commands under torchrun: several processes hold one model, and the first of them is the command.

The others load their parts and do what the first asks until it ends; they read and print nothing.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, TypedDict, Unpack

import typer

from quicksilver.errors import ConfigError

if TYPE_CHECKING:
    from quicksilver.api import Model


class LoadKeywords(TypedDict, total=False):
    """Options that ``quicksilver.load`` takes beside model and device."""

    dtype: str | None
    quantize: str | None
    num_pages: int | None
    progress: Callable[[int, int], None]


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdigit():
        raise ConfigError(f"{name} in the environment must be a number, as torchrun sets it, got {value!r}")
    return int(value)


def count() -> int:
    """How many processes torchrun started; 1 without it."""
    return _number("WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this process is the first of them, or the only one."""
    return count() == 1 or _number("RANK", 0) == 0


def follow_unless_first(model: str, device: str | None, **options: Unpack[LoadKeywords]) -> None:
    """Return at once in the first process, or the only one. In any other: work for the first, then exit."""
    if is_first():
        return
    from quicksilver.api import Ranks, load

    with Ranks.join(device) as ranks:
        loaded = load(model, ranks=ranks, **options)
        # Signals go to all processes. The first may still have requests to answer; this one ends with it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        loaded.follow()
    raise typer.Exit


def load(context: typer.Context, model: str, device: str | None, **options: Unpack[LoadKeywords]) -> "Model":
    """The model of a command. If torchrun started several processes they hold it together until the command ends."""
    from quicksilver import api

    if count() == 1:
        return api.load(model, device=device, **options)
    ranks = api.Ranks.join(device)
    context.call_on_close(ranks.close)
    # Ends the context, and the others with it. A server, which handles signals itself, raises them again when it ends.
    signal.signal(signal.SIGTERM, _exit)
    return api.load(model, ranks=ranks, **options)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
