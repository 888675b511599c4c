"""What a person sees while waiting. Imports rich only, so that it can show before torch is there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.status import Status


def spinner(text: str) -> Status:
    """A context manager with a spinner on stderr; nothing at all if that is no terminal."""
    return Console(stderr=True).status(text)


def counting_bar() -> Progress:
    """A bar on stderr that counts, with the time it took and will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


@contextmanager
def loading_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, told the bytes done and those in all; a spinner until then. Nothing if that is no terminal."""
    text_column, console = TextColumn("{task.description} …"), Console(stderr=True)
    columns = (SpinnerColumn(), text_column, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
