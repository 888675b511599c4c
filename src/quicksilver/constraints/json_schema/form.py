"""The one form in which values are written: what JSON leaves open is decided here."""

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from quicksilver.constraints.json_schema.numbers import exact, number_text

Separators = Literal["compact", "spaced"]


@dataclass(frozen=True)
class JsonForm:
    """How arrays and objects are written."""

    between: str
    """Elements."""
    colon: str


FORMS: dict[Separators, JsonForm] = {"compact": JsonForm(",", ":"), "spaced": JsonForm(", ", ": ")}


def write_json(value: Any, separators: Separators = "compact") -> str:  # noqa: ANN401  # JSON
    """A value in the form that constraints write: properties in the order of the value's own.

    Numbers have neither exponents nor zeros that can be left out: 1.0 is ``1``. Strings have only the escapes that JSON
    asks for.
    """
    form = FORMS[separators]
    match value:
        case bool() | None | str():
            return json.dumps(value, ensure_ascii=False)
        case int() | float() | Fraction():
            return number_text(value if isinstance(value, Fraction) else exact(value))
        case list():
            return f"[{form.between.join(write_json(each, separators) for each in value)}]"
        case dict():
            pairs = (f"{write_json(key)}{form.colon}{write_json(each, separators)}" for key, each in value.items())
            return f"{{{form.between.join(pairs)}}}"
        case _:
            raise TypeError(f"a {type(value).__name__} is no value of JSON")
