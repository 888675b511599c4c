"""Programs that run inside the sandbox: sent as text, never imported. They need nothing of this package."""

from pathlib import Path


def text_of(name: str) -> str:
    """The source of one of them."""
    return (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
