"""Triton's names, or stand-ins with which kernels can be defined but not run, so that every module can be imported."""

from types import SimpleNamespace
from typing import Any

try:
    import triton
    import triton.language
except ModuleNotFoundError:
    triton = None


def _undone(kernel: Any = None, **_: object) -> Any:  # noqa: ANN401  # as untyped as Triton's own
    return _undone if kernel is None else kernel


tl: Any = SimpleNamespace(constexpr=object) if triton is None else triton.language
jit: Any = _undone if triton is None else triton.jit
