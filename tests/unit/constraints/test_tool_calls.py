"""Calls of tools as a language, against a plain reading of its definition."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints.choice import Choice
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.tool_calls import Tool, ToolCalls, ToolForm
from quicksilver.errors import ConfigError
from tests.constraint_languages import language_of

FORM = ToolForm(opening="<c>", closing="</c>", between="\n", separators="spaced")
SCHEMAS = {
    "add": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"]},
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = tuple(Tool(name, JsonSchema(schema, separators="spaced", strict=True)) for name, schema in SCHEMAS.items())
CALLS = [
    '<c>{"name": "add", "arguments": {"n": 3}}</c>',
    '<c>{"name": "now", "arguments": {}}</c>',
    '<c>{"name": "now", "arguments": {"n": 3}}</c>',
    '<c>{"name": "sub", "arguments": {}}</c>',
    '<c>{"name":"now","arguments":{}}</c>',
    '{"name": "now", "arguments": {}}',
]


def is_call(text):
    inner = text.removeprefix("<c>").removesuffix("</c>")
    if f"<c>{inner}</c>" != text:
        return False
    call = json.loads(inner)
    schema = SCHEMAS.get(call["name"])
    is_spaced = json.dumps(call) == inner
    return schema is not None and is_spaced and set(call["arguments"]) <= set(schema["properties"]) and _valid(call)


def _valid(call):
    return jsonschema.Draft202012Validator(SCHEMAS[call["name"]]).is_valid(call["arguments"])


def test_a_call_is_one_of_a_tool_with_its_arguments():
    language = language_of(ToolCalls(tools=TOOLS, form=FORM))
    for text in CALLS:
        assert language.accepts(text.encode()) == is_call(text)
    assert not language.accepts(f"{CALLS[0]}\n{CALLS[1]}".encode())
    assert not language.accepts(b"")


@pytest.mark.parametrize("most", [1, 2, None])
@given(parts=st.lists(st.sampled_from(CALLS[:2]), min_size=1, max_size=4))
def test_several_calls_follow_each_other(most, parts):
    language = language_of(ToolCalls(tools=TOOLS, form=FORM, most=most))
    assert language.accepts("\n".join(parts).encode()) == (most is None or len(parts) <= most)


@given(text=st.text(alphabet="<c>/ x", max_size=8), calls=st.lists(st.sampled_from(CALLS[:3]), max_size=2))
def test_text_may_stand_in_front_and_an_opening_begins_a_call(text, calls):
    language = language_of(ToolCalls(tools=TOOLS, form=FORM, most=None, has_text=True))
    expected = "<c>" not in text and all(map(is_call, calls))
    assert language.accepts((text + "\n".join(calls)).encode()) == expected


def test_content_takes_the_place_of_calls():
    language = language_of(ToolCalls(tools=TOOLS, form=FORM, content=Choice(("yes", "no"))))
    assert language.accepts(b"yes")
    assert language.accepts(CALLS[1].encode())
    assert not language.accepts(f"yes{CALLS[1]}".encode())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tools": (), "form": FORM}, "at least one"),
        ({"tools": (TOOLS[0], TOOLS[0]), "form": FORM}, "names of their own"),
        ({"tools": TOOLS, "form": ToolForm(), "has_text": True}, "opening"),
        ({"tools": TOOLS, "form": FORM, "has_text": True, "content": Choice(("a",))}, "contradicts"),
    ],
)
def test_what_makes_no_sense_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        ToolCalls(**given)
