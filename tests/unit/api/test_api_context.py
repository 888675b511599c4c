"""What is seen of a long text, against a plain search over radii."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from quicksilver.api.context import crop_around_holes, splice

NEWLINE = 0
TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=12).map(tuple), min_size=2, max_size=4)


def seen_within(texts, radius):
    """Positions (text, at) at most ``radius`` tokens from a hole, by the definition."""
    last = len(texts) - 1
    return {
        (number, at)
        for number, text in enumerate(texts)
        for at in range(len(text))
        if (number > 0 and at < radius) or (number < last and len(text) - at <= radius)
    }


@given(TEXTS, st.integers(0, 50))
def test_crop_keeps_the_nearest_tokens_that_fit(texts, budget):
    kept = crop_around_holes(texts, budget, NEWLINE)
    sizes = [len(seen_within(texts, radius)) for radius in range(14)]
    radius = max(radius for radius in range(14) if sizes[radius] <= budget)
    most = seen_within(texts, radius)
    assert sum(map(len, kept)) <= budget
    assert sum(map(len, kept)) <= len(most)
    for number, (text, part) in enumerate(zip(texts, kept, strict=True)):
        limit = sum(1 for index, _ in most if index == number)
        if limit == len(text):
            assert part == text
            continue
        # What is kept is a head and a tail of the text, each a whole number of lines unless it is part of one line.
        assert any(part == text[:head] + text[len(text) - (len(part) - head) :] for head in range(len(part) + 1))
        if number == 0 and part and len(part) < limit:
            assert text[len(text) - len(part) - 1] == NEWLINE
        if number == len(texts) - 1 and part and len(part) < limit:
            assert part[-1] == NEWLINE


def test_crop_drops_the_line_that_is_cut():
    before = (1, 1, NEWLINE, 2, 2, NEWLINE, 3)
    after = (4, NEWLINE, 5, 5, 5, NEWLINE)
    assert crop_around_holes([before, after], 6, NEWLINE) == [(3,), (4, NEWLINE)]
    assert crop_around_holes([before, after], 10, NEWLINE) == [(2, 2, NEWLINE, 3), (4, NEWLINE)]


def test_a_short_side_leaves_its_room_to_the_other():
    assert crop_around_holes([(1,) * 20, (2,)], 9, NEWLINE) == [(1,) * 8, (2,)]


def test_a_text_between_distant_holes_loses_its_middle():
    middle = (1, NEWLINE, 2, 2, 2, 2, 2, 2, NEWLINE, 3)
    assert crop_around_holes([(), middle, ()], 6, NEWLINE) == [(), (1, NEWLINE, 3), ()]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_splice_alternates(count):
    texts = [f"t{i}" for i in range(count + 1)]
    fillings = [f"f{i}" for i in range(count)]
    expected = "".join(itertools.chain.from_iterable(itertools.zip_longest(texts, fillings, fillvalue="")))
    assert splice(texts, fillings) == expected
