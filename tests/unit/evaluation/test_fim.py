import ast
import statistics
from pathlib import Path

import numpy as np
import pytest

from quicksilver.errors import ConfigError
from quicksilver.evaluation.documents import SourceFile
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.suites import fim
from quicksilver.evaluation.suites.filling import Length
from quicksilver.evaluation.suites.fim import LineKind, sample_blocks, sample_lines, sample_spans
from quicksilver.evaluation.syntax import parse
from tests.fake_documents import char_corpus
from tests.fake_subjects import FakeSubject

PLAIN = "import os\n\nx = 1  # one\n"
MIXED = '''"""Docs.

More docs.
"""

# a comment

def f():
    """One line."""
    text = """first
    # inside
    last"""
    return text
'''
BROKEN = "def f(:\n    pass\n"
BLOCKS = '''class A:
    """Docs."""

    é = "ü" + g("ö", 1)

    @property
    def f(self):
        """Docs."""
        if self.é:
            return 1
        elif self.x:
            return 2; y = 3
        # why
        return 3

    def g(self): return 1
'''


def sources(*texts: str) -> list[SourceFile]:
    return [SourceFile(name=f"pack/{number}.py", text=text) for number, text in enumerate(texts)]


def test_all_lines_come_once_and_give_the_file_back():
    items = sample_lines(sources(PLAIN, MIXED), count=12, seed=0)
    assert {item.prefix + item.middle + item.suffix for item in items} == {PLAIN, MIXED}
    found = sorted(item.middle for item in items if item.item_id.startswith("pack/1"))
    assert found == sorted(line + "\n" for line in MIXED.splitlines() if line.strip())
    with pytest.raises(ConfigError, match=r"1\.\.12"):
        sample_lines(sources(PLAIN, MIXED), count=13, seed=0)


def test_kinds_of_lines():
    items = sample_lines(sources(MIXED), count=10, seed=0)
    kinds = {int(item.item_id.split(":")[1]): item.kind for item in items}
    code = {number for number, kind in kinds.items() if kind is LineKind.CODE}
    assert code == {8, 10, 13}
    assert {number for number, kind in kinds.items() if kind is LineKind.COMMENT} == {6}
    assert {number for number, kind in kinds.items() if kind is LineKind.STRING} == {1, 3, 4, 9, 11, 12}


def test_last_line_without_a_line_end():
    items = sample_lines(sources("x = 1\ny = 2"), count=2, seed=0)
    assert {item.middle for item in items} == {"x = 1\n", "y = 2"}


@pytest.mark.parametrize("sample", [sample_lines, sample_spans, sample_blocks])
def test_samples_are_of_files_that_parse_repeat_and_begin_alike(sample):
    branches = ["if x:\n" + "    y = 1\n" * number for number in range(3, 9)]
    texts = sources(MIXED * 2, BROKEN * 9, BLOCKS, *branches)
    count = 8 if sample is sample_blocks else 12
    items = sample(texts, count=count, seed=3)
    assert {item.prefix + item.middle + item.suffix for item in items} <= {MIXED * 2, BLOCKS, *branches}
    assert len({item.item_id for item in items}) == count
    assert items == sample(texts, count=count, seed=3)
    assert items[: count // 2] == sample(texts, count=count // 2, seed=3)
    assert items != sample(texts, count=count, seed=4)


def test_lines_are_drawn_uniformly():
    # 400 seeds, first line of 4: 100 expected, standard deviation 8.7; five of them.
    texts = sources("a = 1\nb = 2\n", "c = 3\nd = 4\n")
    first = [sample_lines(texts, count=1, seed=seed)[0].middle for seed in range(400)]
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 4
    assert (np.abs(counts - 100) < 44).all()


def test_spans_are_syntax_and_random_by_turns():
    items = sample_spans(sources(BLOCKS), count=20, seed=0)
    assert [item.kind for item in items] == ["syntax", "random"] * 10
    found = {item.middle for item in items if item.kind == "syntax"}
    assert found == {
        'é = "ü" + g("ö", 1)', '"ü" + g("ö", 1)', 'g("ö", 1)', "self.é", "self.x", "return 1", "return 2", "y = 3",
        "return 3",
    }  # fmt: skip
    for item in items:
        assert 4 <= len(item.middle) <= 256
        assert item.middle.strip()


def test_blocks_are_bodies_of_whole_lines_without_docstrings():
    found = {item.middle for item in sample_blocks(sources(BLOCKS), count=1, seed=0)}
    lines = BLOCKS.splitlines(keepends=True)
    # The class has too many lines; elif is no body; of branches and g too few lines are left.
    assert found == {"".join(lines[8:14])}
    long = "if x:\n" + "".join(f"    y{number} = 1\n" for number in range(10)) + "else:\n    a\n    b\n    c  # end\n"
    found = {item.middle for item in sample_blocks(sources(long), count=2, seed=0)}
    assert found == {long[6 : long.index("else")], "    a\n    b\n    c  # end\n"}
    with pytest.raises(ConfigError, match=r"1\.\.0"):
        sample_blocks(sources("if x:\n    a\n    b\n    c; d\n\nwhile x: a; b\n".replace("c; d", "c;")), 1, 0)


@pytest.mark.parametrize("name", ["lines_suite", "spans_suite", "blocks_suite"])
def test_references_are_right_and_empty_answers_wrong(name: str):
    suite = getattr(fim, name)(char_corpus(MIXED, BLOCKS), count=1, seed=0, length=Length.UNKNOWN)
    answers = {(item.prefix, item.suffix): item.middle for item in suite.items()}
    right = figures(run(suite, FakeSubject(answers.__getitem__), suite.items()))
    assert [right[each].value for each in ("exact_match", "edit_similarity", "parse_rate", "compile_rate")] == [1] * 4
    wrong = figures(run(suite, FakeSubject(lambda texts: ""), suite.items()))
    assert (wrong["exact_match"].value, wrong["edit_similarity"].value) == (0, 0)
    assert suite.about()["tokens_sha256"] == "0" * 64


def test_files_whose_lines_are_not_the_parsers_are_left_out():
    for sample in (sample_spans, sample_blocks):
        with pytest.raises(ConfigError):
            sample(sources("if x:\r\n    a\r\n    b\r\n    c\r\n", "if x:\n    a\n\f\n    b\n    c\n"), 1, 0)


def test_spans_of_real_code_are_whole_pieces_of_syntax():
    texts = sources(*(Path(module.__file__).read_text(encoding="utf-8") for module in (ast, statistics)))
    for item in sample_spans(texts, 200, 0):
        assert item.prefix + item.middle + item.suffix in {each.text for each in texts}
        if item.kind == "syntax":
            # A yield, a slice and a starred expression are nothing alone; lines of one are not indented alike.
            assert any(map(parse, (f"({item.middle})", item.middle, f"x[{item.middle}]", f"f({item.middle})")))
