"""Random schemas: what an automaton accepts against what the package jsonschema calls valid, in both directions."""

import itertools
import json
from random import Random

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from quicksilver.constraints.json_schema.form import write_json
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.errors import UnsupportedConstraintError
from tests.constraint_languages import language_of
from tests.constraint_schemas import orders, random_schema, random_text, random_value

_SCHEMAS_PER_TEST = 5
_NOT_IN_DRAFT_7 = ("prefixItems", "unevaluated", "dependent", "minContains", "maxContains")
_MOST_ORDERS = 2_000


def compare(schema, validator, rng):
    """Whether the schema is kept; if so, both agree on random values and on random texts of the automaton."""
    try:
        language = language_of(JsonSchema(schema))
    except UnsupportedConstraintError as error:
        if not any(name in str(error) for name in ("minProperties", "maxProperties", "additionalProperties")):
            raise
        return False
    for _ in range(20):
        value = random_value(rng)
        texts = (write_json(each) for each in itertools.islice(orders(value), _MOST_ORDERS))
        is_accepted = any(language.accepts(text.encode()) for text in texts)
        # Nothing here is nested deeper than the recursion depth, so nothing valid is cut.
        assert is_accepted == validator.is_valid(value), (schema, value)
    for _ in range(0 if language.is_empty else 10):
        text = random_text(language, rng)
        assert validator.is_valid(json.loads(text)), (schema, text)
    return True


@pytest.mark.parametrize("seed", range(24))
def test_what_is_accepted_is_what_is_valid(seed):
    rng = Random(f"schemas {seed}")
    schemas = [random_schema(rng) for _ in range(_SCHEMAS_PER_TEST)]
    kept = [compare(schema, Draft202012Validator(schema), rng) for schema in schemas]
    assert sum(kept) >= _SCHEMAS_PER_TEST - 1


@pytest.mark.parametrize("seed", range(12))
def test_draft_7(seed):
    rng = Random(f"draft 7 {seed}")
    schemas = []
    while len(schemas) < _SCHEMAS_PER_TEST:
        found = random_schema(rng)
        if isinstance(found, dict) and not any(name in json.dumps(found) for name in _NOT_IN_DRAFT_7):
            schemas.append({"$schema": "http://json-schema.org/draft-07/schema#", **found})
    for schema in schemas:
        compare(schema, Draft7Validator(schema), rng)
