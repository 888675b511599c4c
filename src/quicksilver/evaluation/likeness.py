"""How alike two texts are, and how much a text repeats itself."""

import re

from rapidfuzz.distance import Levenshtein

_WORD = re.compile(r"\w+|[^\w\s]")
_REPEATED = 4
"""Words of what counts as a repetition; seq-rep-4 of Welleck et al. 2020, arXiv:1908.04319."""


def edit_similarity(text: str, reference: str) -> float:
    """1 less the Levenshtein distance over the longer text's characters, white space at the ends left out."""
    return Levenshtein.normalized_similarity(text.strip(), reference.strip())


def repetition(text: str) -> dict[str, float]:
    """Share of 4-grams of words and signs, and of lines that are not blank, that occurred before in the text.

    A text too short to repeat one has no such share.
    """
    words = _WORD.findall(text)
    grams = [tuple(words[at : at + _REPEATED]) for at in range(len(words) - _REPEATED + 1)]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shares = {"repeated_4grams": grams, "repeated_lines": lines}
    return {name: 1 - len(set(parts)) / len(parts) for name, parts in shares.items() if len(parts) > 1}
