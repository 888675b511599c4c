"""Dataclasses from the plain values that ``asdict`` and JSON make of them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, get_args, get_type_hints

from quicksilver.errors import ConfigError

T = TypeVar("T")


def from_plain(kind: type[T], values: Mapping[str, object]) -> T:
    """The dataclass that ``asdict`` made ``values`` of; inner dataclasses and tuples come back as such.

    Raises:
        ConfigError: a field is unknown or missing, or an enumeration has no such value.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]  # T is a dataclass
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{kind.__name__} has no field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return kind(**{name: _value(hints[name], value) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"not a {kind.__name__}: {error}") from error


def _value(hint: Any, value: object) -> object:  # noqa: ANN401  # a type, or a union of types
    inner = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
    if isinstance(inner, type) and isinstance(value, dict):
        return from_plain(inner, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if isinstance(value, list):
        return tuple(_value(next(iter(get_args(hint)), None), each) for each in value)
    return value
