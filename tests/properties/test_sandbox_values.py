"""Values survive the way into a sandbox and back."""

import json
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from quicksilver.sandbox.guest import Opaque, decode, encode

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE | st.complex_numbers(allow_nan=False) | st.sets(HASHABLE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3) | st.tuples(inner),
    max_leaves=8,
)


def types(value):
    """The types of a value and of all in it, in an order of their own."""
    if isinstance(value, dict):
        return [dict, *sorted(map(str, (types(each) for pair in value.items() for each in pair)))]
    if isinstance(value, list | tuple | set | frozenset):
        return [type(value), *sorted(map(str, map(types, value)))]
    return [type(value)]


@given(VALUES)
def test_values_come_back(value):
    again = decode(json.loads(json.dumps(encode(value))))
    assert again == value
    assert types(again) == types(value)


def test_numbers_that_equal_not_even_themselves():
    assert math.isnan(decode(json.loads(json.dumps(encode(math.nan)))))
    # 5,000 digits are more than Python writes in decimal.
    assert decode(json.loads(json.dumps(encode(10**5000)))) == 10**5000


def test_everything_else_is_opaque():
    (inner,) = decode(json.loads(json.dumps(encode([object]))))
    assert isinstance(inner, Opaque)
    assert repr(inner) == "<type: <class 'object'>>"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("itdfsbcoz"), inner, max_size=2),
    max_leaves=8,
)


@given(JSON)
def test_what_a_program_makes_up_is_a_value_or_an_error(written):
    try:
        value = decode(written)
    except (ValueError, TypeError, RecursionError):
        return
    assert decode(json.loads(json.dumps(encode(value)))) == value or isinstance(value, Opaque) or "o" in str(written)


@pytest.mark.parametrize("written", [{}, {"z": 1}, {"i": "0x1", "t": []}, {"s": [[1]]}, {"d": [[1]]}, {"c": [1, 2, 3]}])
def test_no_value(written):
    with pytest.raises((ValueError, TypeError)):
        decode(written)
