"""The run-time checker that the import hook puts on every function of the package: beartype, taught one thing."""

from collections.abc import Callable
from typing import Self, TypeVar

import beartype

Function = TypeVar("Function", bound=Callable[..., object])


def checked(function: Function) -> Function:
    """Check arguments and result against the annotations at every call.

    beartype resolves ``Self`` only where it decorates the class itself, but the hook decorates methods one by one, so
    ``Self`` is left unchecked.
    """
    annotations = getattr(function, "__annotations__", {})
    for name, hint in annotations.items():
        if hint is Self:
            annotations[name] = object
    return beartype.beartype(function)
