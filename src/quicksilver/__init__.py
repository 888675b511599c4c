"""Quicksilver: an open diffusion language model stack.

``quicksilver.load()`` gives a model with ``generate``, ``infill``, ``infill_template``, ``stream``, ``score`` and
``logits``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quicksilver.api import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> object:
    # torch takes seconds to import; `quicksilver --help` must not wait for it.
    if name in ("Model", "load"):
        from quicksilver import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
