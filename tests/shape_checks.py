"""The run-time checker that the import hook puts on every function of the package: beartype in jaxtyping's scopes.

jaxtyping's own decorator binds each call to the signature and checks arguments twice, before the call and after it:
a quarter of the suite's time. Here beartype checks once, what has shapes in a scope of its own, so that axes of one
name have one size in arguments and result.
"""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from types import SimpleNamespace
from typing import Self, TypeVar, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError

Function = TypeVar("Function", bound=Callable[..., object])
_check = beartype(conf=BeartypeConf(violation_type=TypeCheckError))
_library = jaxtyping.jaxtyped


def install(packages: list[str]) -> None:
    """Check every function and dataclass of these packages, which must not have been imported yet."""
    # The hook's code looks its decorator up there.
    jaxtyping.jaxtyped = _jaxtyped
    jaxtyping.install_import_hook(packages, "tests.shape_checks.checked")


def checked(function: Function) -> Function:
    """Check arguments and result against the annotations at every call.

    Unchecked is, as with jaxtyping's own decorator, what cannot be read yet: names that only a type checker imports,
    and classes that are being defined. So is ``Self``, which beartype resolves only where it decorates the class
    itself, but the hook decorates methods one by one.
    """
    annotations = getattr(function, "__annotations__", {})
    for name, hint in annotations.items():
        annotations[name] = object if hint is Self else _read(hint, function.__globals__)
    return _check(function)


def _read(hint: object, names: dict[str, object]) -> object:
    """The hint without quotes; ``object`` where a name in quotes is not known."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"hint": hint}), names, include_extras=True)["hint"]
    except NameError:
        return object


def _jaxtyped(target: object = None, *, typechecker: Callable[[Function], Function]) -> object:
    """In place of ``jaxtyping.jaxtyped`` as the hook calls it."""
    if target is None:
        return lambda target: _jaxtyped(target, typechecker=typechecker)
    if inspect.isclass(target):
        init = vars(target).get("__init__")
        if is_dataclass(target) and init is not None and not hasattr(init, "__wrapped__"):
            target.__init__ = _scoped(init)
        return target
    # beartype would check a generator's arguments in whatever scope its first value is taken.
    return _library(target, typechecker=typechecker) if inspect.isgeneratorfunction(target) else _scoped(target)


def _scoped(function: Function) -> Function:
    inner = checked(function)
    if inner is function or not any(map(_is_shaped, function.__annotations__.values())):
        return inner

    @wraps(function)
    def outer(*args: object, **kwargs: object) -> object:
        with _library("context"):
            return inner(*args, **kwargs)

    return outer


def _is_shaped(hint: object) -> bool:
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_is_shaped, get_args(hint)))
