import keyword
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints.choice import Choice
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.constraints.regex import Regex
from quicksilver.constraints.template import AnyOf, AnyText, Identifier, Integer, Number, SpecialToken, Template
from quicksilver.errors import ConfigError
from tests.constraint_languages import automaton_of, bundled_tokenizer, language_of


def test_a_template_is_its_parts_one_after_the_other():
    language = language_of(
        Template(
            ("def ", Identifier(), "(x: ", Choice(("int", "str")), ") -> ", Regex("[A-Z]x?"), ": return ", Number())
        )
    )
    assert language.accepts(b"def f(x: int) -> A: return -1.5")
    assert not language.accepts(b"def if(x: int) -> A: return -1.5")
    assert not language.accepts(b"def f(x: int) -> A: return 01")


@given(st.text(st.sampled_from("adefinorsty_9A."), max_size=5))
def test_identifiers_are_pythons_without_keywords(text):
    language = language_of(Identifier(max_length=4))
    wanted = text.isidentifier() and not keyword.iskeyword(text) and len(text) <= 4
    assert language.accepts(text.encode()) == wanted


@given(st.integers(-120, 120), st.integers(-30, 30), st.integers(0, 60))
def test_integers_lie_between_their_bounds(value, least, span):
    language = language_of(Integer(least, least + span))
    assert language.accepts(str(value).encode()) == (least <= value <= least + span)


@pytest.mark.parametrize("text", ["", "00", "-0", "+1", "1.0", "1e3"])
def test_an_integer_has_one_text(text):
    assert not language_of(Integer()).accepts(text.encode())


@given(st.text(st.sampled_from('ab"\né'), max_size=6))
def test_any_text_has_a_length_and_stops_before_some_characters(text):
    language = language_of(AnyText(4, min_length=1, without='"'))
    assert language.accepts(text.encode()) == (re.fullmatch(r'[^"]{1,4}', text) is not None)


def test_a_union_has_the_texts_of_all():
    language = language_of(AnyOf(("none", JsonSchema({"type": "integer", "minimum": 1, "maximum": 3}))))
    assert [text for text in ("none", "1", "3", "4", "") if language.accepts(text.encode())] == ["none", "1", "3"]


def test_a_special_token_is_one_token_and_no_text():
    tokenizer = bundled_tokenizer()
    name = "<mask>"
    automaton = automaton_of(Template(("a", SpecialToken(name), "b")))
    eos = tokenizer.id_of("<eos>")
    assert automaton.walk([*tokenizer.encode("a"), tokenizer.id_of(name), *tokenizer.encode("b"), eos]) == automaton.end
    assert automaton.walk(tokenizer.encode(f"a{name}b")) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Integer(3, 2),
        lambda: Identifier(max_length=0),
        lambda: AnyText(1, min_length=2),
        lambda: AnyOf(()),
    ],
)
def test_what_cannot_be_is_an_error(make):
    with pytest.raises(ConfigError):
        make()
