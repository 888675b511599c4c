"""JSON under a schema: small schemas of our own, with a document that is valid under each. An example shows the form.

* ``valid_rate``: the answer begins with a document that is valid under the schema.
* ``parse_rate``: it begins with JSON at all.
* ``clean_rate``: it is JSON and nothing else.
"""

import json
import math
from collections.abc import Mapping
from random import Random

from jsonschema import Draft202012Validator

from quicksilver.evaluation.suite import Mark
from quicksilver.evaluation.suites.prompting import PromptItem, PromptSuite

DEFAULT_COUNT = 1000
MOST_SCHEMA_CHARS = 600
"""About 200 of the bundled models' tokens: their context is 512."""
MAX_TOKENS = 128
DEEPEST = 2
"""Objects within the document; the document is the first."""
_HEAD = """Write a JSON document that is valid under the schema.

schema: {"type": "object", "properties": {"x": {"type": "integer", "minimum": 3}}, "required": ["x"]}
document: {"x": 5}

"""
_NAMES = (
    "name", "title", "count", "price", "active", "tags", "owner", "address", "city", "score", "id", "items", "email",
    "status", "size", "color", "year", "author", "unit", "note", "level", "kind", "width", "height", "total",
)  # fmt: skip
_WORDS = ("red", "green", "blue", "small", "large", "open", "closed", "draft", "final", "north", "south", "daily")


def json_suite(*, count: int | None, seed: int) -> PromptSuite:
    """The suite ``json``.

    Args:
        count: schemas; None: 1,000.
        seed: item ``i`` is a function of (seed, i) alone.
    """
    return PromptSuite(
        name="json",
        headline="valid_rate",
        prompts=tuple(make_item(seed, number) for number in range(count or DEFAULT_COUNT)),
        rule=judge_json,
        max_tokens=MAX_TOKENS,
        stop=("\n\n", "\nschema:"),
        source={"items_seed": seed},
    )


def make_item(seed: int, number: int) -> PromptItem:
    """A schema as a prompt, and a document that is valid under it."""
    rng = Random(f"{seed}:{number}")
    schema, document = _object(rng, 1)
    while len(json.dumps(schema)) > MOST_SCHEMA_CHARS:
        schema, document = _object(rng, 1)
    prompt = f"{_HEAD}schema: {json.dumps(schema)}\ndocument:"
    return PromptItem(item_id=str(number), prompt=prompt, reference=f" {json.dumps(document)}", given=schema)


def judge_json(item: PromptItem, text: str) -> Mark:
    """Whether a text begins with JSON, and with what."""
    text = text.strip()
    try:
        document, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(text)
    except (ValueError, RecursionError):
        return Mark(values={"valid_rate": 0.0, "parse_rate": 0.0, "clean_rate": 0.0})
    is_valid = Draft202012Validator(item.given).is_valid(document)
    return Mark(values={"valid_rate": float(is_valid), "parse_rate": 1.0, "clean_rate": float(end == len(text))})


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_Schema = Mapping[str, object]


def _object(rng: Random, depth: int) -> tuple[dict[str, object], dict[str, object]]:
    names = rng.sample(_NAMES, rng.randint(2, 4 if depth == 1 else 2))
    parts = {name: _value(rng, depth) for name in names}
    required = names if rng.random() < 0.5 else sorted(rng.sample(names, rng.randint(1, len(names))), key=names.index)
    schema = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in parts.items()},
        "required": required,
        "additionalProperties": False,
    }
    return schema, {name: parts[name][1] for name in required}


def _value(rng: Random, depth: int) -> tuple[_Schema, object]:
    kind = rng.choice(("string", "choice", "integer", "number", "boolean", "array", "object"))
    if kind == "object" and depth < DEEPEST:
        return _object(rng, depth + 1)
    if kind == "array":
        return _array(rng)
    return _scalar(rng, kind)


def _array(rng: Random) -> tuple[_Schema, object]:
    least = rng.randint(1, 2)
    schema, first = _scalar(rng, rng.choice(("string", "integer", "boolean")))
    return {"type": "array", "items": schema, "minItems": least, "maxItems": least + 2}, [first] * least


def _scalar(rng: Random, kind: str) -> tuple[_Schema, object]:
    if kind == "choice":
        choices = rng.sample(_WORDS, rng.randint(2, 4))
        return {"enum": choices}, rng.choice(choices)
    if kind == "integer":
        low = rng.randint(-5, 20)
        high = low + rng.randint(1, 100)
        return {"type": "integer", "minimum": low, "maximum": high}, rng.randint(low, high)
    if kind == "number":
        low = rng.randint(0, 10)
        return {"type": "number", "minimum": low}, math.floor(100 * (low + rng.random())) / 100 + 0.5
    if kind == "boolean":
        return {"type": "boolean"}, rng.random() < 0.5
    least = rng.randint(1, 3)
    return {"type": "string", "minLength": least, "maxLength": least + 8}, rng.choice(_WORDS)
