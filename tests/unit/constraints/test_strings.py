import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.regex import Regex
from quicksilver.constraints.strings import Strings
from quicksilver.errors import ConfigError, UnsatisfiableConstraintError
from tests.constraint_languages import automaton_of, language_of

TEXTS = st.text(st.sampled_from("abé"), max_size=7)
STRINGS = st.lists(st.text(st.sampled_from("abé"), min_size=1, max_size=2), max_size=2).map(tuple)


@given(STRINGS, STRINGS, st.lists(TEXTS, min_size=5, max_size=5))
def test_required_strings_are_there_and_banned_ones_are_not(required, banned, texts):
    if any(one in other for one in banned for other in required):
        return
    language = language_of(Strings(required, banned))
    for text in texts:
        wanted = all(one in text for one in required) and not any(one in text for one in banned)
        assert language.accepts(text.encode()) == wanted


def test_the_rest_of_the_text_is_another_constraints():
    schema = JsonSchema({"type": "array", "items": {"enum": ["x", "y", "z"]}})
    language = language_of(Strings(required=('"x"',), banned=("z", '"y","y"'), base=schema))
    assert language.accepts(b'["x","y"]')
    assert language.accepts(b'["y","x","y"]')
    assert not language.accepts(b'["y"]')
    assert not language.accepts(b'["x","z"]')
    assert not language.accepts(b'["x","y","y"]')
    assert not language_of(Strings(base=Regex("a+"))).accepts(b"b")


def test_what_no_text_can_be_is_said():
    with pytest.raises(ConfigError, match="at least one character"):
        Strings(banned=("",))
    with pytest.raises(ConfigError, match="'print\\(x\\)' holds the banned one 'print'"):
        Strings(required=("print(x)",), banned=("print",))


def test_the_strings_are_named_where_no_text_is_left():
    name = Strings(required=("x",), banned=("e", "q"), base=Regex("name|x"))
    assert automaton_of(name).num_states
    with pytest.raises(UnsatisfiableConstraintError, match="the constraint and holds 'x' without 'e', 'q'$"):
        automaton_of(Strings(required=("x",), banned=("e", "q"), base=Regex("name|y")))
