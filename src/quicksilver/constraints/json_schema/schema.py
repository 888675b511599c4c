"""The constraint that a JSON Schema is."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from quicksilver.constraints.expression import Expression
from quicksilver.constraints.json_schema.form import FORMS, Separators
from quicksilver.constraints.json_schema.formula import Algebra
from quicksilver.constraints.json_schema.locating import located
from quicksilver.constraints.json_schema.reading import Reader, ReadingOptions
from quicksilver.constraints.json_schema.references import root_of
from quicksilver.constraints.json_schema.writing import Writer
from quicksilver.constraints.language import Compiler
from quicksilver.errors import ConfigError, UnsupportedConstraintError


@dataclass(frozen=True)
class JsonSchema:
    """A constraint: values that are valid against a JSON Schema (draft 2020-12 or 7), each written in one way.

    Named properties come in the order in which the schema names them, then others; ``form.write_json`` says the rest.
    """

    schema: dict[str, Any] | bool
    separators: Separators = "compact"
    strict: bool = False
    """Objects that list properties have no others, unless a schema says that they are open."""
    formats: Literal["assert", "annotate"] = "assert"
    """Whether ``format`` is kept, or says nothing, as the specification has it by default."""
    unknown_keywords: Literal["refuse", "ignore"] = "refuse"

    def __post_init__(self) -> None:
        if not isinstance(self.schema, dict | bool):
            raise ConfigError(f"a JSON Schema is an object, true or false, got {type(self.schema).__name__}")

    def expression(self, compiler: Compiler) -> Expression:
        try:
            # A copy, in which no part stands twice.
            text = json.dumps(self.schema, allow_nan=False, ensure_ascii=False)
            text.encode("utf-8")  # refuses lone surrogates, which no text of tokens can hold
            schema = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the schema is not JSON: {error}") from error
        reading = ReadingOptions(
            asserts_formats=self.formats == "assert",
            ignores_unknown=self.unknown_keywords == "ignore",
            is_strict=self.strict,
        )
        reader = Reader(Algebra(), root_of(schema), reading)
        writer = Writer(reader, FORMS[self.separators], compiler, is_strict=self.strict)
        try:
            return writer.whole(reader.schema(reader.root))
        except UnsupportedConstraintError as error:
            raise located(error, schema) from error
