import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints import unicode
from quicksilver.constraints.expression import ANY_CHARACTER, common_ranges, complement_of, ranges_of
from quicksilver.constraints.regex import Regex
from quicksilver.errors import ConfigError, UnsupportedConstraintError
from tests.constraint_languages import language_of

PATTERNS = [
    "", "abc", "a|b*", "(ab|c){2,3}", "[^a-c]x?", r"\d{2}-\d{1,}", "^a$|b", r"(?i)stra[sß]e", "a.c", "a{2}{", "x{,2}",
    "[]a]b", r"[a\-c]", "(a|b|)c(?:|d)", r"(?a)\w+\s\w*", "(?s)a.b", "(^a|b)c$", "é+ü?", "(?P<n>a+?)b??", "(?#c)a",
    r"\x61\u0062[\x62-c]", "(a*)*b", "((a|b)*c){0,2}", "a(?=b)bc", "(?!ab)[a-c]{2}", "(?<=a)b|ab", "^(?!.*bb)[abc]+$",
    r"\bab\b c", r"(?=.*\d)(?=.*[a-c])[a-c1-3]{2,4}", "(?:(?!ab)[ab]{2}|c)a", "(?<!b)c?$", r"[^\W\d]", "a$|^$",
    "[ab]{3}",
]  # fmt: skip
TEXTS = st.text(st.sampled_from("abcx-{]1 23é\nüßsSAC٣dK"), max_size=6)


@pytest.mark.parametrize("search", [False, True], ids=["whole", "search"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_language_is_that_of_re(pattern, search):
    language = language_of(Regex(pattern, search=search))
    # There $ stands before a last newline too.
    compiled = re.compile(pattern.replace("$", r"\Z"))

    @given(TEXTS)
    def check(text):
        wanted = (compiled.search if search else compiled.fullmatch)(text) is not None
        assert language.accepts(text.encode()) == wanted

    check()


@pytest.mark.parametrize(
    ("pattern", "accepted", "rejected"),
    [
        (r"^\d$", "1", "٣"),
        (r"^\s$", "\ufeff", "\x1c"),
        (r"^.$", "\x85", "\u2028"),
        (r"^\p{Lu}\P{L}$", "Ä1", "ä1"),
        (r"^\p{Letter}\/$", "ж/", "1/"),
        (r"^\u{1F600}$", "\U0001f600", "x"),
        (r"^\ud83d\ude00$", "\U0001f600", "x"),
        (r"^\cA$", "\x01", "A"),
        (r"^[]?$", "", "a"),
        (r"^[^]$", "\n", ""),
        (r"^a{,2}$", "a{,2}", "aa"),
    ],
)
def test_the_dialect_of_json_schema(pattern, accepted, rejected):
    language = language_of(Regex(pattern, search=True, dialect="ecma"))
    assert language.accepts(accepted.encode())
    assert not language.accepts(rejected.encode())


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        (r"(a)\1", "backreference"),
        (r"(?P<n>a)(?P=n)", "backreference"),
        ("a++", "possessive"),
        ("(?>a)", "atomic"),
        ("(a)(?(1)b|c)", "conditional"),
        ("(?m)^a", "flag"),
        ("((?!ab)a)*", "repeated"),
        ("(?=a)(?<=b)c", "lookbehind"),
        (r"\b.", "word"),
        (r"a\qb", "escape"),
        (r"\p{L}", "escape"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(pattern, named):
    with pytest.raises(UnsupportedConstraintError, match=named):
        language_of(Regex(pattern))


def test_scripts_are_refused_by_name():
    with pytest.raises(UnsupportedConstraintError, match="Script=Greek"):
        language_of(Regex(r"\p{Script=Greek}", dialect="ecma"))


@pytest.mark.parametrize("pattern", ["(", "a)", "[a", "*a", "a**", "a{3,2}", "[b-a]", "\\", r"\x1", "^*"])
def test_what_is_no_expression_is_an_error(pattern):
    with pytest.raises(ConfigError, match="position"):
        language_of(Regex(pattern))


def test_a_billion_empty_texts_are_one():
    assert language_of(Regex("(){1000000000}a")).accepts(b"a")


@pytest.mark.parametrize(
    ("ranges", "shorthand"), [(unicode.digits, r"\d"), (unicode.word, r"\w"), (unicode.space, r"\s")]
)
def test_the_classes_are_those_of_re(ranges, shorthand):
    is_member = re.compile(shorthand).fullmatch
    wanted = ranges_of((code, code) for code in range(0x110000) if is_member(chr(code)))
    assert ranges() == wanted


def test_cases_are_those_of_re():
    folded = unicode.ignoring_case(((ord("k"), ord("k")), (ord("s"), ord("s"))), ascii_only=False)
    found = {chr(code) for low, high in folded for code in range(low, high + 1)}
    assert found == {chr(code) for code in range(0x3000) if re.fullmatch("(?i)[ks]", chr(code))}


def test_complement_and_intersection_of_ranges():
    word = unicode.word()
    assert not common_ranges(word, complement_of(word))
    assert ranges_of([*word, *complement_of(word)]) == ANY_CHARACTER.ranges
