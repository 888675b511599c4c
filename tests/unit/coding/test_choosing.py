"""Candidates picked by score, and not where they do not fit each other."""

import pytest

from quicksilver.coding.apply import Hole, Merge, choose_candidates, merge
from quicksilver.errors import MergeError

ORIGINAL = "def f(x):\n    if x > 2:\n        return None\n    if x > 1:\n        return None\n    return x\n"
SNIPPET = "def f(x):\n    # ...\n        log(x)\n        return None\n    # ...\n"


@pytest.mark.parametrize("scores", [(0.0, -1.0), (-1.0, 0.0)])
def test_the_greatest_score_wins(scores):
    merged = merge(ORIGINAL, SNIPPET)
    best = scores.index(max(scores))
    assert choose_candidates(ORIGINAL, SNIPPET, merged, [scores]) == (merged.resolve([best]), [best])


def test_without_scores_a_hole_stays_as_it_is():
    merged = merge(ORIGINAL, SNIPPET)
    assert choose_candidates(ORIGINAL, SNIPPET, merged, [None]) == (merged.text, [0])


def test_candidates_that_do_not_fit_each_other_are_left():
    """Either hole may take the new line, but not both."""
    original, snippet = "a = 1\nb = 2\nc = 3\n", "a = 1\nnew = 0\n# ...\n"
    line = "new = 0\n"
    text = f"a = 1\n{line}b = 2\nc = 3\n"
    merged = Merge(text, (Hole(6, 6 + len(line), (line, line)), Hole(len(text), len(text), ("", line))))
    assert choose_candidates(original, snippet, merged, [(0.0, 1.0), (0.0, 1.0)]) == (text, [0, 0])


def test_every_hole_needs_its_scores():
    with pytest.raises(MergeError, match="1 holes, there are 0"):
        choose_candidates(ORIGINAL, SNIPPET, Merge(ORIGINAL), [None])
