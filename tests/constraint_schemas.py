"""Random JSON Schemas over most keywords, random values, and random texts of an automaton.

``evaluation.suites.json_documents`` draws small schemas as people write them; these are meant to find mistakes:
keywords that contradict each other, branches that overlap, types that do not fit.
"""

import itertools
from collections.abc import Iterator
from random import Random

from quicksilver.constraints.dfa import DEAD, Dfa
from quicksilver.constraints.graph import distances

_NAMES = ("a", "b", "c", "ab")
_PATTERNS = ("^a", "b$", "^[ab]+$", "a.b|c", "^(?!ab)", "^$")
_STRINGS = ("", "a", "b", "ab", "c", "aab", 'a"b', "é\n")
_NUMBERS = (0, 1, -1, 2, 3, 10, 1.5, -0.5, 0.25, 12, 2.0)


def random_schema(rng: Random, depth: int = 3) -> dict | bool:
    """A schema of at most ``depth`` levels; it may be that nothing is valid under it."""
    if depth == 0 or rng.random() < 0.04:
        return rng.choice((True, True, False, {}, {"type": "null"}, {"const": 1}, {"type": "string"}))
    schema: dict = {}
    if rng.random() < 0.7:
        names = ("null", "boolean", "integer", "number", "string", "array", "object")
        schema["type"] = rng.choice(names) if rng.random() < 0.7 else rng.sample(names, 2)
    for add in rng.sample(_PARTS, rng.choice((1, 1, 2, 2, 3))):
        schema |= add(rng, depth - 1)
    return schema


def _numbers(rng: Random, depth: int) -> dict:
    low = rng.choice(_NUMBERS)
    options = {
        "minimum": low,
        "maximum": low + rng.choice((0, 1, 2.5, 10)),
        "exclusiveMinimum": low - 1,
        "exclusiveMaximum": low + 3,
        "multipleOf": rng.choice((1, 2, 3, 0.5, 0.25, 7)),
    }
    return {key: options[key] for key in rng.sample(list(options), rng.randint(1, 2))}


def _strings(rng: Random, depth: int) -> dict:
    low = rng.randint(0, 2)
    options = {"minLength": low, "maxLength": low + rng.randint(0, 2), "pattern": rng.choice(_PATTERNS)}
    return {key: options[key] for key in rng.sample(list(options), rng.randint(1, 2))}


def _values(rng: Random, depth: int) -> dict:
    if rng.random() < 0.5:
        return {"const": random_value(rng, 1)}
    return {"enum": [random_value(rng, 1) for _ in range(rng.randint(1, 4))]}


def _arrays(rng: Random, depth: int) -> dict:
    low = rng.randint(0, 2)
    options = {
        "items": random_schema(rng, depth),
        "prefixItems": [random_schema(rng, depth) for _ in range(rng.randint(1, 2))],
        "minItems": low,
        "maxItems": low + rng.randint(0, 2),
        "contains": random_schema(rng, depth),
        "unevaluatedItems": random_schema(rng, depth),
    }
    found = {key: options[key] for key in rng.sample(list(options), rng.randint(1, 3))}
    if "contains" in found and rng.random() < 0.4:
        found |= {"minContains": rng.randint(0, 2)} | ({"maxContains": 2} if rng.random() < 0.5 else {})
    return found


def _objects(rng: Random, depth: int) -> dict:
    names = rng.sample(_NAMES, rng.randint(1, 3))
    options = {
        "properties": {name: random_schema(rng, depth) for name in names},
        "required": rng.sample(_NAMES, rng.randint(1, 2)),
        "additionalProperties": rng.choice((False, False, random_schema(rng, depth))),
        "patternProperties": {rng.choice(_PATTERNS): random_schema(rng, depth)},
        "propertyNames": {"maxLength": 1} if rng.random() < 0.5 else {"pattern": rng.choice(_PATTERNS)},
        "minProperties": rng.randint(0, 2),
        "maxProperties": rng.randint(0, 2),
        "dependentRequired": {names[0]: [rng.choice(_NAMES)]},
        "dependentSchemas": {names[0]: random_schema(rng, depth)},
        "unevaluatedProperties": rng.choice((False, random_schema(rng, depth))),
    }
    return {"properties": options["properties"]} | {
        key: options[key] for key in rng.sample(list(options), rng.randint(1, 3))
    }


def _combined(rng: Random, depth: int) -> dict:
    keyword = rng.choice(("allOf", "anyOf", "oneOf", "not", "if"))
    if keyword == "not":
        return {"not": random_schema(rng, depth)}
    if keyword == "if":
        return {key: random_schema(rng, depth) for key in ("if", *rng.sample(("then", "else"), rng.randint(1, 2)))}
    return {keyword: [random_schema(rng, depth) for _ in range(rng.randint(1, 3))]}


_PARTS = (_numbers, _strings, _values, _arrays, _objects, _objects, _combined, _combined)


def random_value(rng: Random, depth: int = 2) -> object:
    """A value of JSON."""
    kind = rng.choice(("scalar", "scalar", "array", "object", "object")) if depth else "scalar"
    if kind == "array":
        return [random_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    if kind == "object":
        names = rng.sample(_NAMES, rng.randint(0, 3))
        return {name: random_value(rng, depth - 1) for name in names}
    return rng.choice(
        (None, True, False, rng.choice(_NUMBERS), rng.choice(_NUMBERS), rng.choice(_STRINGS), rng.choice(_STRINGS))
    )


def orders(value: object) -> Iterator[object]:
    """A value with its properties in every order, at every depth."""
    if isinstance(value, dict):
        for names in itertools.permutations(value):
            for inner in itertools.product(*(list(orders(value[name])) for name in names)):
                yield dict(zip(names, inner, strict=True))
    elif isinstance(value, list):
        for inner in itertools.product(*(list(orders(each)) for each in value)):
            yield list(inner)
    else:
        yield value


def random_text(dfa: Dfa, rng: Random, length: int = 30) -> bytes:
    """A text of an automaton's language, by a random walk that turns to the nearest end after some bytes."""
    edge_from, place = (dfa.table != DEAD).nonzero()
    left = distances(dfa.table[edge_from, place], edge_from, dfa.is_accepting)
    state, found = 0, bytearray()
    while not (dfa.is_accepting[state] and (len(found) >= length or rng.random() < 0.2)):
        symbols = [s for s in range(256) if dfa.table[state, dfa.symbol_class[s]] != DEAD]
        if not symbols:
            break
        targets = {s: int(dfa.table[state, dfa.symbol_class[s]]) for s in symbols}
        if len(found) >= length:
            nearest = min(int(left[to]) for to in targets.values())
            symbols = [s for s, to in targets.items() if left[to] == nearest]
        # One symbol per state behind, so that rare structure is as likely as the many letters of a string.
        by_target: dict[int, list[int]] = {}
        for symbol in symbols:
            by_target.setdefault(targets[symbol], []).append(symbol)
        symbol = rng.choice(rng.choice(list(by_target.values())))
        found.append(symbol)
        state = targets[symbol]
    return bytes(found)
