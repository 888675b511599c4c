"""Engines of structured output side by side: what a JSON Schema becomes, and which texts that accepts.

Every schema is compiled in a process of its own kind, which is ended where it takes too long or died.
"""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import TimeoutError as Late
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from random import Random
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator

from quicksilver.constraints.json_schema.form import write_json
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.limits import Limits, Meter
from quicksilver.errors import ConstraintTooLargeError, UnsupportedConstraintError

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
_DEPTH = 3
_MOST_TEXTS = 800
Accepts = Callable[[bytes], bool]


class RefusedError(Exception):
    """The engine says that it does not keep this schema."""


@dataclass(frozen=True)
class Group:
    """A schema of JSON-Schema-Test-Suite with its tests."""

    draft: str
    file: str
    description: str
    schema: Any
    tests: tuple[tuple[Any, bool], ...]


def read_suite(folder: Path, sample: int | None, seed: int) -> list[Group]:
    """The schemas of both drafts, or as many of them, drawn at random."""
    found: list[Group] = []
    for draft in ("draft7", "draft2020-12"):
        for line in (folder / f"{draft}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            schema = row["schema"]
            if draft == "draft7" and isinstance(schema, dict):
                schema = {"$schema": DRAFT_7, **schema}
            tests = tuple((test["data"], test["valid"]) for test in row["tests"])
            found.append(Group(draft, row["file"], row["description"], schema, tests))
    return found if sample is None or sample >= len(found) else Random(seed).sample(found, sample)


# Rivals come with the extra of that name only; where they are missing, so are their types.


def ours(schema: Any) -> Accepts:  # noqa: ANN401  # JSON
    compiler = Compiler(Meter(Limits()), _DEPTH)
    # The suite has formats as annotations, which is what the specification says of them by default.
    try:
        return compiler.dfa(JsonSchema(schema, formats="annotate").expression(compiler)).accepts
    except (UnsupportedConstraintError, ConstraintTooLargeError) as error:
        raise RefusedError(str(error)) from error


def llguidance(schema: Any) -> Accepts:  # noqa: ANN401
    import llguidance as library  # pyright: ignore[reportMissingImports]

    tokenizer = library.LLTokenizer("byte")
    matcher = library.LLMatcher(tokenizer, library.LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    if matcher.is_error():
        raise RefusedError(matcher.get_error())

    def accepts(text: bytes) -> bool:
        one = matcher.deep_copy()
        return one.try_consume_tokens(list(text)) == len(text) and one.is_accepting()

    return accepts


def outlines_core(schema: Any) -> Accepts:  # noqa: ANN401
    from outlines_core.json_schema import build_regex_from_schema  # pyright: ignore[reportMissingImports]

    try:
        pattern = re.compile(build_regex_from_schema(json.dumps(schema)))
    except Exception as error:
        raise RefusedError(str(error)) from error
    return lambda text: pattern.fullmatch(text.decode()) is not None


def xgrammar(schema: Any) -> Accepts:  # noqa: ANN401
    import xgrammar as library  # pyright: ignore[reportMissingImports]
    from xgrammar.testing import _is_grammar_accept_string  # pyright: ignore[reportMissingImports]

    try:
        grammar = library.Grammar.from_json_schema(json.dumps(schema), strict_mode=False)
    except Exception as error:
        raise RefusedError(str(error)) from error
    return lambda text: _is_grammar_accept_string(grammar, text.decode())


ENGINES: dict[str, Callable[[Any], Accepts]] = {
    "quicksilver": ours,
    "llguidance": llguidance,
    "outlines-core": outlines_core,
    "xgrammar": xgrammar,
}


def _orders(value: Any) -> Iterator[Any]:  # noqa: ANN401
    """A value with its properties in every order: an engine may fix one."""
    if isinstance(value, dict):
        for names in itertools.permutations(value):
            for inner in itertools.product(*(list(_orders(value[name])) for name in names)):
                yield dict(zip(names, inner, strict=True))
    elif isinstance(value, list):
        for inner in itertools.product(*(list(_orders(each)) for each in value)):
            yield list(inner)
    else:
        yield value


def _texts(value: Any) -> Iterator[bytes]:  # noqa: ANN401
    """Ways to write a value; an engine accepts the value if it accepts one of them."""
    for each in itertools.islice(_orders(value), _MOST_TEXTS):
        ways = (write_json(each), json.dumps(each), json.dumps(each, separators=(",", ":")), write_json(each, "spaced"))
        yield from (text.encode() for text in dict.fromkeys(ways))


def judge(name: str, group: Group) -> dict[str, Any]:
    """How an engine does on a schema: outcome, and milliseconds to compile."""
    started = time.perf_counter()
    try:
        accepts = ENGINES[name](group.schema)
    except RefusedError as error:
        return {"outcome": "refused", "why": str(error)[:300]}
    milliseconds = (time.perf_counter() - started) * 1e3
    validator = (Draft7Validator if group.draft == "draft7" else Draft202012Validator)(group.schema)
    loose = strict = other = 0
    for value, is_valid in group.tests:
        is_accepted = any(map(accepts, _texts(value)))
        loose += is_accepted and not is_valid
        strict += is_valid and not is_accepted
        if name == "quicksilver":
            other += _valid(validator, value) not in (None, is_accepted)
    outcome = "too loose" if loose else "too strict" if strict else "exact"
    return {"outcome": outcome, "ms": milliseconds, "other_than_jsonschema": other}


def _valid(validator: Draft7Validator | Draft202012Validator, value: Any) -> bool | None:  # noqa: ANN401
    """None: jsonschema cannot say, because Python's ``re`` does not know ECMA-262's escapes."""
    try:
        return validator.is_valid(value)
    except re.error:
        return None


def _started() -> Pool:
    """One process, whose imports are behind it: they do not count as an engine's time."""
    pool = get_context("spawn").Pool(1)
    pool.apply(abs, (1,))
    return pool


def judge_all(name: str, groups: list[Group], seconds: float, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Every schema in turn; ``advance`` is called after each."""
    pool, found = _started(), []
    try:
        for group in groups:
            try:
                # A process that dies never answers.
                found.append(pool.apply_async(judge, (name, group)).get(seconds))
            except Late:
                found.append({"outcome": "hung or died"})
                pool.terminate()
                pool = _started()
            advance()
    finally:
        pool.terminate()
    return found
