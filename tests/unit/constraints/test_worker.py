import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

import pytest

from quicksilver.constraints.choice import Choice
from quicksilver.constraints.compiling import compile_constraint, eos_of, fingerprint_of
from quicksilver.constraints.constraint import CompileOptions
from quicksilver.constraints.grammar import Grammar
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.limits import Limits
from quicksilver.constraints.regex import Regex
from quicksilver.constraints.vocabulary import vocabulary_of
from quicksilver.constraints.worker import compile_within
from quicksilver.errors import ConfigError, ConstraintTooLargeError
from tests.constraint_languages import bundled_tokenizer

SHORT = CompileOptions(limits=Limits(max_seconds=1.0))


def chained(depth):
    """A schema whose documents have two to the power of ``depth`` leaves."""
    defs = {f"d{i}": {"properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in "ab"}} for i in range(depth)}
    return {"$defs": {**defs, f"d{depth}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def nested(depth):
    schema = {"type": "null"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}, "additionalProperties": False}
    return schema


HOSTILE = [
    JsonSchema({"type": "array", "minItems": 10**12}),
    JsonSchema({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 10**9, "contains": {"const": 1}}),
    JsonSchema({"type": "string", "minLength": 10**9}),
    JsonSchema({"type": "string", "pattern": "(a{1,1000}){1,1000}"}),
    JsonSchema({"type": "string", "pattern": "(.*a.{30}){2}"}),
    JsonSchema({"oneOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(200)]}),
    JsonSchema({"anyOf": [{"properties": {f"p{n}": {"const": n}}, "required": [f"p{n}"]} for n in range(60)]}),
    JsonSchema({"allOf": [{"contains": {"const": n}} for n in range(40)], "type": "array"}),
    JsonSchema(chained(40)),
    JsonSchema(nested(180)),
    JsonSchema({"multipleOf": 9999, "type": "number", "minimum": 1e300}),
    Regex("(" * 90 + "a" + "*)" * 90),
    Regex("[ab]*a[ab]{40}"),
    Grammar("root ::= " + " ".join(["x"] * 2000) + '\nx ::= root? "a" x? "b"'),
    Grammar("start: " + "a" * 50_000, syntax="lark"),
]


def compile_briefly(constraint):
    tokenizer = bundled_tokenizer()
    return compile_within(constraint, vocabulary_of(tokenizer), SHORT, eos_of(tokenizer))


@pytest.mark.parametrize("constraint", HOSTILE, ids=lambda each: str(each)[:60])
def test_a_hostile_constraint_ends_in_an_error_or_an_automaton(constraint):
    """In its own time: what does not is left to the process to be killed, but none of these is."""
    begun = time.monotonic()
    with suppress(ConfigError):
        automaton = compile_briefly(constraint)
        assert len(automaton.edge_to) <= SHORT.limits.max_edges
    # Not a measurement: without limits, none of these would end within hours.
    assert time.monotonic() - begun < 60


def test_memory_is_limited_and_given_back(monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_AS)
    small = CompileOptions(limits=Limits(max_memory_mb=64, max_seconds=100.0, max_states=10**7))
    tokenizer = bundled_tokenizer()
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(ConstraintTooLargeError, match="max_memory_mb=64"),
    ):
        pool.submit(
            compile_within, Regex("[ab]*a[ab]{20}"), vocabulary_of(tokenizer), small, eos_of(tokenizer)
        ).result()
    compile_briefly(Choice(("a",)))
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_comes_out_is_what_compiling_here_makes():
    options = CompileOptions()
    tokenizer = bundled_tokenizer()
    vocabulary, eos = vocabulary_of(tokenizer), eos_of(tokenizer)
    apart = compile_within(Regex("a+"), vocabulary, options, eos)
    here = compile_constraint(Regex("a+"), tokenizer, options)
    assert apart.fingerprint == here.fingerprint == fingerprint_of(Regex("a+"), vocabulary, options, eos)
    assert (apart.edge_to == here.edge_to).all()


def test_the_same_constraint_is_compiled_once():
    tokenizer = bundled_tokenizer()
    assert compile_constraint(Regex("b+"), tokenizer) is compile_constraint(Regex("b+"), tokenizer)
    assert compile_constraint(Regex("b+"), tokenizer) is not compile_constraint(Regex("b*"), tokenizer)
    deeper = CompileOptions(recursion_depth=5)
    assert compile_constraint(Regex("b+"), tokenizer, deeper) is not compile_constraint(Regex("b+"), tokenizer)
