"""Merging: a lazy snippet of a random edit gives the edited file, and nothing is lost whatever the snippet is."""

import itertools
import re
import sysconfig
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quicksilver.coding.apply import Merge, merge, verify
from quicksilver.errors import MergeError
from quicksilver.evaluation.lazy_snippets import MARKERS, Edit, lazy_snippet
from tests.coding_edits import random_edit, random_module

seeds = st.integers(0, 2**32 - 1)


def edited(rng: Random, source: str) -> tuple[Edit, str]:
    """An edit of up to three places, and its snippet."""
    edit = random_edit(rng, source, rng.randint(1, 3))
    assume(edit is not None)
    snippet = lazy_snippet(rng, edit)
    assume(snippet is not None)
    return edit, snippet


def texts(merged: Merge) -> list[str]:
    picks = itertools.product(*(range(len(hole.candidates)) for hole in merged.holes))
    return [merged.resolve(pick) for pick in itertools.islice(picks, 256)]


@given(seeds)
@settings(max_examples=80)
def test_the_snippet_of_an_edit_gives_the_edited_file(seed):
    rng = Random(seed)
    source = random_module(rng)
    edit, snippet = edited(rng, source)
    merged = merge(source, snippet)
    assert "\n".join(edit.after) in texts(merged)
    if not merged.holes:
        assert merged.text == "\n".join(edit.after)


@given(seeds)
@settings(max_examples=50)
def test_without_structure_lines_do(seed):
    """The same files in a language that nothing here parses."""
    rng = Random(seed)
    source = random_module(rng)
    edit, snippet = edited(rng, source)
    source, snippet, wanted = (
        text.replace("def ", "func ").replace("#", "//") for text in (source, snippet, "\n".join(edit.after))
    )
    assert wanted in texts(merge(source, snippet))


@given(seeds, st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=50)
def test_lines_outside_the_edit_keep_every_byte(seed, newline, ends_with_newline):
    """Blanks at line ends, tabs, odd line breaks and a missing last one, none of which the snippet shows."""
    rng = Random(seed)
    source = random_module(rng)
    edit, snippet = edited(rng, source)

    def dressed(text: str) -> str:
        text = re.sub(r"matters$", "matters\t\x0c\u2028 ", text, flags=re.MULTILINE)
        return (text if ends_with_newline else text.rstrip("\n")).replace("\n", newline)

    assert dressed("\n".join(edit.after)) in texts(merge(dressed(source), snippet))


@given(seeds)
@settings(max_examples=50)
def test_a_merged_file_that_lost_a_line_is_refused(seed):
    rng = Random(seed)
    source = random_module(rng)
    edit, snippet = edited(rng, source)
    shown = {line.strip() for line in snippet.split("\n")}
    hidden = [
        n for n, line in enumerate(edit.after) if "brand" not in line and line.strip() and line.strip() not in shown
    ]
    assume(hidden)
    lost = rng.choice(hidden)
    with pytest.raises(MergeError):
        verify(source, snippet, "\n".join(edit.after[:lost] + edit.after[lost + 1 :]))


@given(seeds)
@settings(max_examples=80)
def test_garbage_is_refused_or_loses_nothing(seed):
    """Lines of the file, of another and markers, in any order: what comes out is verified, candidate by candidate."""
    rng = Random(seed)
    source = random_module(rng)
    lines = [*source.split("\n"), *random_module(rng).split("\n"), *MARKERS * 5]
    snippet = "\n".join(rng.sample(lines, rng.randint(1, 12)))
    try:
        merged = merge(source, snippet)
    except MergeError:
        return
    for hole, number in zip(merged.holes, itertools.count(), strict=False):
        for pick in range(len(hole.candidates)):
            picks = [0] * len(merged.holes)
            picks[number] = pick
            verify(source, snippet, merged.resolve(picks))
    verify(source, snippet, merged.text)


@given(st.text(alphabet="abc#./ \n\t(){}:=\r", max_size=60), st.text(alphabet="abc#./ \n\t(){}:=\r", max_size=60))
@settings(max_examples=300)
def test_any_text_is_merged_or_refused(original, snippet):
    try:
        merged = merge(original, snippet)
    except MergeError:
        return
    for text in texts(merged):
        assert text.endswith("\n") == (original.endswith("\n") or not original.strip())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dataclasses", "heapq", "textwrap", "uuid"])
def test_edits_of_real_files(name):
    path = Path(sysconfig.get_path("stdlib")) / f"{name}.py"
    if not path.exists():
        pytest.skip(f"this Python has no source of {name}")
    source = path.read_text(encoding="utf-8")
    rng, num_merged = Random(0), 0
    for _ in range(5):
        edit = random_edit(rng, source, 3)
        snippet = lazy_snippet(rng, edit) if edit else None
        if edit is None or snippet is None:
            continue
        num_merged += 1
        assert "\n".join(edit.after) in texts(merge(source, snippet))
    assert num_merged
