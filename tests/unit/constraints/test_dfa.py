import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints.dfa import DEAD, Dfa, product, smallest
from quicksilver.constraints.expression import (
    ANY_TEXT,
    Characters,
    Difference,
    Intersection,
    Literal,
    Repeat,
    Rule,
    alternatives,
    sequence,
)
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.limits import Limits, Meter
from quicksilver.constraints.regex import regex_expression
from quicksilver.constraints.utf8 import byte_ranges
from quicksilver.errors import ConfigError, ConstraintTooLargeError, UnsupportedConstraintError
from tests.constraint_languages import PATIENT, dfa_of

TEXTS = st.text(st.sampled_from("abc"), max_size=7)


@st.composite
def tables(draw):
    """A table of random transitions of two symbols, and which states accept."""
    count = draw(st.integers(1, 9))
    row = st.lists(st.integers(DEAD, count - 1), min_size=2, max_size=2)
    table = np.array(draw(st.lists(row, min_size=count, max_size=count)), dtype=np.int32)
    return table, np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))


def reachable(table, accepting):
    order = [0]
    for state in order:
        order.extend({to for to in table[state].tolist() if to != DEAD} - set(order))
    number = {state: index for index, state in enumerate(order)} | {DEAD: DEAD}
    return np.vectorize(number.get, otypes=[np.int32])(table[order]), accepting[order]


def num_languages(table, accepting):
    """Different languages among states that can finish, by all texts shorter than the number of states."""
    count = len(table)
    padded = np.vstack([table, [[DEAD] * table.shape[1]]])
    accepts = np.append(accepting, False)
    reached = np.arange(count)[:, None]
    signatures = [accepts[reached]]
    for _ in range(count):
        reached = padded[reached].reshape(count, -1)
        signatures.append(accepts[reached])
    rows = np.concatenate(signatures, axis=1)
    return len({row.tobytes() for row in rows if row.any()})


@given(tables())
def test_the_smallest_form_has_one_state_per_language(made):
    table, accepting = reachable(*made)
    found = smallest(table, np.array([0, 1]), accepting, is_clipped=False)
    assert len(found.table) == max(1, num_languages(table, accepting))
    original = Dfa(table, np.array([0, 1]), accepting)
    for length in range(5):
        for number in range(2**length):
            text = bytes((number >> place) & 1 for place in range(length))
            assert found.accepts(text) == original.accepts(text)


@pytest.mark.parametrize(
    ("left", "right"), [("(ab|c)*", "a.*c"), ("[ab]{2,4}", "(a|b|c){3}"), ("a*", "b*"), ("abc", "x")]
)
def test_products_are_operations_on_languages(left, right):
    parts = [regex_expression(left), regex_expression(right)]
    both, without = dfa_of(Intersection(tuple(parts))), dfa_of(Difference(*parts))
    either = product(*map(dfa_of, parts), np.logical_or, Meter(PATIENT))

    @given(TEXTS)
    def check(text):
        in_left, in_right = re.fullmatch(left, text) is not None, re.fullmatch(right, text) is not None
        found = [each.accepts(text.encode()) for each in (both, without, either)]
        assert found == [in_left and in_right, in_left and not in_right, in_left or in_right]

    check()


def test_equal_languages_have_equal_automata():
    one, other = dfa_of(regex_expression("(a|b)*abb")), dfa_of(regex_expression("((a*b*)*)a(b)b"))
    assert np.array_equal(one.table, other.table)
    assert np.array_equal(one.symbol_class, other.symbol_class)
    assert np.array_equal(one.is_accepting, other.is_accepting)


def test_a_call_at_the_end_is_a_loop():
    rule = Rule("list")
    rule.body = sequence("a", alternatives(";", sequence(",", rule)))
    found = dfa_of(rule, depth=0)
    assert not found.is_clipped
    assert found.accepts(b"a" + 50 * b",a" + b";")


def test_a_call_inside_is_cut_at_the_depth():
    rule = Rule("nest")
    rule.body = alternatives("x", sequence("(", rule, ")"))
    found = dfa_of(rule, depth=2)
    assert found.is_clipped
    assert [found.accepts(b"(" * depth + b"x" + b")" * depth) for depth in range(4)] == [True, True, True, False]


def test_rules_that_call_each_other_are_cut_by_their_nesting():
    value, rest = Rule("value"), Rule("rest", is_level=False)
    rest.body = sequence(value, alternatives("]", sequence(",", rest)))
    value.body = alternatives("1", sequence("[", rest))
    found = dfa_of(value, depth=2)
    assert found.accepts(b"[[1,1],1,[1]]")
    assert not found.accepts(b"[[[1]]]")


def test_what_is_clipped_cannot_be_taken_away():
    rule = Rule("nest")
    rule.body = alternatives("x", sequence("(", rule, ")"))
    with pytest.raises(UnsupportedConstraintError, match="cut at a depth"):
        dfa_of(Difference(ANY_TEXT, rule))


def test_a_rule_without_a_body_is_named():
    with pytest.raises(ConfigError, match="'ghost'"):
        dfa_of(Rule("ghost"))


def test_too_many_states_are_refused_with_the_limit():
    pattern = Repeat(alternatives(Literal("a"), Literal("b")), 0, 5000)
    compiler = Compiler(Meter(Limits(max_states=1000)), 3)
    with pytest.raises(ConstraintTooLargeError, match="max_states=1000"):
        compiler.dfa(pattern)


@given(st.integers(0, 0xD7FF), st.integers(0, 0xD7FF) | st.integers(0xE000, 0x10FFFF))
def test_ranges_of_utf8(first, second):
    low, high = sorted((first, second))
    if low < 0xD800 <= high:
        high = 0xD7FF
    parts = list(byte_ranges(low, high))

    def covers(code):
        data = chr(code).encode()
        return sum(
            len(part) == len(data) and all(a <= byte <= b for byte, (a, b) in zip(data, part, strict=True))
            for part in parts
        )

    edges = [low, high, (low + high) // 2, low - 1, high + 1]
    for code in edges:
        if 0 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
            assert covers(code) == (low <= code <= high)


def test_a_character_out_of_no_ranges_is_no_text():
    assert dfa_of(Characters(())).is_empty


def test_half_of_a_surrogate_pair_is_no_text():
    with pytest.raises(ConfigError, match="surrogate"):
        dfa_of(Literal("a\ud800"))
