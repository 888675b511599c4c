"""What a person sees while waiting. Imports rich only, so that it can show before torch is there."""

from rich.console import Console
from rich.status import Status


def spinner(text: str) -> Status:
    """A context manager with a spinner on stderr; nothing at all if that is no terminal."""
    return Console(stderr=True).status(text)
