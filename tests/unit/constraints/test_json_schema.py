import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from quicksilver.constraints.json_schema.form import write_json
from quicksilver.constraints.json_schema.numbers import exact, number_text
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.errors import ConfigError, UnsatisfiableConstraintError, UnsupportedConstraintError
from tests.constraint_languages import automaton_of, language_of

DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}
TREE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["value"],
    "additionalProperties": False,
}


def accepts(schema, text, **options):
    return language_of(JsonSchema(schema, **options)).accepts(text.encode())


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "integer"}, ["0", "-12"], ["-0", "01", "1.0", "1e3", '"1"']),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 3}, ["-0.5", "2.999", "0"], ["-0.51", "3", "30"]),
        ({"multipleOf": 0.25, "type": "number"}, ["0.5", "-10.75", "3"], ["0.3", "0.125"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"é\\n"', '"😀ab"'], ['"a"', '"abcd"', "ab"]),
        ({"type": "string", "pattern": "^a|b$"}, ['"ax"', '"xb"'], ['"xa"']),
        ({"const": {"b": [1, None], "a": True}}, ['{"b":[1,null],"a":true}'], ['{"b":[1],"a":true}', "{}"]),
        ({"enum": [1, "a", None]}, ["1", '"a"', "null"], ["2", '"b"']),
        ({"items": {"type": "null"}, "type": "array", "maxItems": 2},
         ["[]", "[null,null]"], ["[1]", "[null,null,null]"]),
        ({"prefixItems": [{"const": 1}], "items": False, "type": "array"}, ["[]", "[1]"], ["[2]", "[1,1]"]),
        ({"type": "array", "contains": {"const": 1}, "items": {"enum": [1, 2]}}, ["[2,1]"], ["[]", "[2,2]"]),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}}, ["[2,1]", "[]"], ["[1,1]"]),
        ({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"const": 1}},
          "additionalProperties": False},
         ['{"b":1}', '{"a":[],"b":1}'], ['{"b":1,"a":2}', "{}", '{"a":1}']),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}}, "additionalProperties": False},
         ['{"x":1,"xy":1}', "{}"], ['{"x":2}', '{"y":1}']),
        ({"type": "object", "propertyNames": {"maxLength": 1}, "additionalProperties": {"type": "null"}},
         ['{"a":null,"b":null}'], ['{"ab":null}', '{"a":1}']),
        ({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "dependentRequired": {"a": ["b"]},
          "additionalProperties": False}, ['{"a":1,"b":2}', '{"b":2}'], ['{"a":1}']),
        ({"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 3}]},
         ["2", "6"], ["3", "5", "null"]),
        ({"not": {"type": ["object", "array", "string", "number"]}}, ["null", "true"], ["1", "{}"]),
        ({"if": {"const": 1}, "then": False, "else": {"type": "integer"}}, ["2"], ["1", "null"]),
        ({"allOf": [{"properties": {"a": {"const": 1}}}], "unevaluatedProperties": False, "type": "object"},
         ['{"a":1}', "{}"], ['{"b":1}']),
        ({"$defs": {"n": {"type": "null"}}, "$ref": "#/$defs/n"}, ["null"], ["1"]),
        ({**DRAFT_7, "items": [{"const": 1}], "additionalItems": False, "type": "array"}, ["[1]"], ["[1,1]"]),
        ({**DRAFT_7, "type": "object", "dependencies": {"a": ["b"]}, "properties": {"a": {"const": 1}, "b": {}},
          "additionalProperties": False}, ['{"a":1,"b":1}'], ['{"a":1}']),
    ],
)  # fmt: skip
def test_keywords(schema, valid, invalid):
    language = language_of(JsonSchema(schema))
    assert [text for text in valid if not language.accepts(text.encode())] == []
    assert [text for text in invalid if language.accepts(text.encode())] == []


@pytest.mark.parametrize(
    ("name", "valid", "invalid"),
    [
        ("date", ["2024-02-29", "1900-12-31"], ["2023-02-29", "1900-02-29", "2024-13-01", "2024-1-1"]),
        ("time", ["23:59:59Z", "00:00:00.5+01:30"], ["24:00:00Z", "12:00:00"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2024-02-30T12:00:00Z", "2024-02-29"]),
        ("duration", ["P1Y2M3D", "PT5M", "P2W"], ["P", "P1D2H", "PT"]),
        ("uuid", ["2EB8AA08-aa98-11ea-b4aa-73b441d16380"], ["2eb8aa08-aa98-11ea-b4aa-73b441d1638"]),
        ("ipv4", ["127.0.0.1"], ["256.0.0.1", "01.0.0.1", "1.2.3"]),
        ("ipv6", ["::1", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"], ["1::2::3", "12345::", ":1"]),
        ("hostname", ["a.b-c.example"], ["-a.example", "a..b", "a_b"]),
        ("email", ["a.b+c@example.com"], ["@example.com", "a@", "a..b@c.d"]),
        ("uri", ["https://a.example/b?c#d", "urn:x:y"], ["//a", "a b", "http://a\\b"]),
        ("uri-reference", ["//a/b", "#x", ""], ["a b", "\\"]),
        ("json-pointer", ["", "/a~1b"], ["a", "/~2"]),
        ("relative-json-pointer", ["0", "1/a", "2#"], ["/a", "01/a"]),
        ("uri-template", ["http://a/{b,c*}"], ["{", "{}}"]),
    ],
)
def test_formats(name, valid, invalid):
    language = language_of(JsonSchema({"type": "string", "format": name}))
    assert [text for text in valid if not language.accepts(write_json(text).encode())] == []
    assert [text for text in invalid if language.accepts(write_json(text).encode())] == []


def test_what_a_negated_format_excludes_is_every_text_that_might_be_of_it():
    leap_second = write_json("1990-12-31T23:59:60Z")
    assert not accepts({"type": "string", "format": "date-time"}, leap_second)
    assert not accepts({"type": "string", "not": {"format": "date-time"}}, leap_second)


def test_formats_may_be_annotations():
    assert accepts({"type": "string", "format": "date"}, '"x"', formats="annotate")
    assert accepts({"type": "string", "format": "my own"}, '"x"', formats="annotate")


def test_properties_come_in_the_order_of_the_schema_then_others():
    schema = {"type": "object", "properties": {"b": {"const": 1}, "a": {"const": 2}}}
    assert accepts(schema, '{"b":1,"a":2,"c":[]}')
    assert not accepts(schema, '{"a":2,"b":1}')
    assert not accepts(schema, '{"c":[],"b":1}')


def test_spaces_stand_as_the_separators_say():
    schema = {"type": "object", "properties": {"a": {"type": "array"}}, "additionalProperties": False}
    assert accepts(schema, '{"a": [1, 2]}', separators="spaced")
    assert not accepts(schema, '{"a": [1, 2]}')


def test_strict_closes_objects_that_list_properties():
    schema = {"type": "object", "properties": {"a": {"type": "object"}}}
    assert accepts(schema, '{"b":1}')
    assert not accepts(schema, '{"b":1}', strict=True)
    assert accepts(schema, '{"a":{"b":1}}', strict=True)
    assert accepts({**schema, "additionalProperties": True}, '{"b":1}', strict=True)


def test_what_nests_is_cut_at_the_depth_and_says_so():
    shallow = language_of(JsonSchema(TREE), depth=0)
    assert shallow.is_clipped
    assert automaton_of(JsonSchema(TREE), depth=0).is_clipped
    one, two = '{"value":1,"children":[{"value":2}]}', '{"value":1,"children":[{"value":2,"children":[{"value":3}]}]}'
    assert shallow.accepts(one.encode())
    assert not shallow.accepts(two.encode())
    assert language_of(JsonSchema(TREE), depth=1).accepts(two.encode())


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "string", "format": "idn-email"}, "format 'idn-email'"),
        ({"type": "string", "pattern": r"(a)\1"}, "backreference"),
        ({"multipleOf": 0.123456789}, "multipleOf"),
        ({"$ref": "https://example.com/other.json"}, r"\$ref 'https://example.com/other.json'"),
        ({"$dynamicRef": "#x", "$defs": {"a": {"$dynamicAnchor": "x"}, "b": {"$id": "b", "$dynamicAnchor": "x"}}},
         r"\$dynamicRef"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "draft-04"),
        ({"type": "string", "maxLenght": 3}, "'maxLenght' is no keyword"),
        ({"dependencies": {"a": ["b"]}}, "dependencies is not of this draft"),
        ({**DRAFT_7, "prefixItems": [True]}, "prefixItems is not of this draft"),
        ({"$ref": "#"}, "refers to itself"),
        ({"allOf": [{"$ref": "#"}]}, "refers to itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(schema, named):
    with pytest.raises(UnsupportedConstraintError, match=named):
        language_of(JsonSchema(schema))


def test_unknown_keywords_can_be_ignored():
    assert accepts({"type": "null", "maxLenght": 3}, "null", unknown_keywords="ignore")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "strnig"}, r"\$.type"),
        ({"properties": {"a": {"minimum": "1"}}}, r"\$.properties.a.minimum"),
        ({"items": [True]}, r"\$.items"),
        ({"const": "\ud800"}, "surrogate"),
        ({"properties": {"\udfff": {}}}, "surrogate"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": {1, 2}}, "not JSON"),
        ("object", "an object, true or false"),
    ],
)
def test_what_is_no_schema_is_an_error(schema, named):
    with pytest.raises(ConfigError, match=named):
        language_of(JsonSchema(schema))


def test_what_nothing_satisfies_is_an_error():
    with pytest.raises(UnsatisfiableConstraintError):
        automaton_of(JsonSchema({"type": "string", "minLength": 3, "maxLength": 2}))


@settings(max_examples=40)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
))  # fmt: skip
def test_a_constant_has_one_text_which_is_read_as_itself(value):
    text = write_json(value)
    assert Draft202012Validator({"const": value}).is_valid(json.loads(text))
    assert accepts({"const": value}, text)


@given(st.decimals(-2000, 2000, places=2))
def test_numbers_are_written_without_what_could_be_left_out(value):
    plain = f"{value.normalize() + 0:f}"
    assert number_text(Fraction(value)) == plain


def test_a_number_of_a_schema_is_what_its_decimals_say():
    assert exact(0.1) == Fraction(1, 10)
