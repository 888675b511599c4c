import ast
import gzip
from pathlib import Path

import numpy as np
import pytest

from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.documents import Documents
from quicksilver.evaluation.suites import LineKind, parse, read_humaneval_single_line, sample_lines, subsample
from quicksilver.training.corpus.token_file import write_token_file
from tests.fake_documents import CharDocuments, decode

HUMANEVAL = Path(__file__).parents[3] / "data/eval/humaneval_infilling/HumanEval-SingleLineInfilling.jsonl.gz"

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


def test_humaneval_is_whole_and_every_reference_parses():
    items = read_humaneval_single_line(HUMANEVAL)
    assert len(items) == 1033
    assert len({item.item_id for item in items}) == 1033
    for item in items:
        assert item.middle.strip()
        assert item.middle.index("\n") == len(item.middle) - 1
        ast.parse(item.prefix + item.middle + item.suffix)


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"not json\n"), gzip.compress(b'{"task_id": "x"}\n'), None],
    # Compressed bytes hold the time, and parallel test processes must agree on every name.
    ids=["no gzip", "no JSON", "no task", "no file"],
)
def test_a_damaged_suite_is_a_clear_error(tmp_path: Path, content: bytes | None):
    path = tmp_path / "tasks.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the tasks"):
        read_humaneval_single_line(path)


def test_all_lines_come_once_and_give_the_file_back():
    items = sample_lines(CharDocuments(PLAIN, MIXED), decode, count=12, seed=0)
    assert {item.prefix + item.middle + item.suffix for item in items} == {PLAIN, MIXED}
    found = sorted(item.middle for item in items if item.item_id.startswith("pack/1"))
    assert found == sorted(line + "\n" for line in MIXED.splitlines() if line.strip())
    with pytest.raises(ConfigError, match=r"1\.\.12"):
        sample_lines(CharDocuments(PLAIN, MIXED), decode, count=13, seed=0)


def test_kinds_of_lines():
    items = sample_lines(CharDocuments(MIXED), decode, count=10, seed=0)
    kinds = {int(item.item_id.split(":")[1]): item.kind for item in items}
    code = {number for number, kind in kinds.items() if kind is LineKind.CODE}
    assert code == {8, 10, 13}
    assert {number for number, kind in kinds.items() if kind is LineKind.COMMENT} == {6}
    assert {number for number, kind in kinds.items() if kind is LineKind.STRING} == {1, 3, 4, 9, 11, 12}


def test_last_line_without_a_line_end():
    items = sample_lines(CharDocuments("x = 1\ny = 2"), decode, count=2, seed=0)
    assert {item.middle for item in items} == {"x = 1\n", "y = 2"}


def test_files_that_do_not_parse_are_left_out():
    items = sample_lines(CharDocuments(BROKEN, PLAIN), decode, count=2, seed=0)
    assert {item.prefix + item.middle + item.suffix for item in items} == {PLAIN}


def test_samples_repeat_and_shorter_ones_are_beginnings():
    documents = CharDocuments(PLAIN, MIXED)
    items = sample_lines(documents, decode, count=12, seed=3)
    assert items == sample_lines(documents, decode, count=12, seed=3)
    assert items[:5] == sample_lines(documents, decode, count=5, seed=3)
    assert items != sample_lines(documents, decode, count=12, seed=4)


def test_lines_are_drawn_uniformly():
    # 400 seeds, first line of 4: 100 expected, standard deviation 8.7; five of them.
    documents = CharDocuments("a = 1\nb = 2\n", "c = 3\nd = 4\n")
    first = [sample_lines(documents, decode, count=1, seed=seed)[0].middle for seed in range(400)]
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 4
    assert (np.abs(counts - 100) < 44).all()


def test_subsample_without_a_count_keeps_the_order():
    assert subsample([3, 1, 2], None, seed=0) == [3, 1, 2]
    assert sorted(subsample([3, 1, 2], 3, seed=0)) == [1, 2, 3]


def test_a_token_file_is_a_collection_of_documents(tmp_path: Path):
    tokens = write_token_file(tmp_path, "public_test", [("pack/0.py", len(PLAIN), [ord(char) for char in PLAIN])])
    assert isinstance(tokens, Documents)
    assert len(sample_lines(tokens, decode, count=2, seed=0)) == 2


@pytest.mark.parametrize("source", ["x = (", "a\0b", "(" * 5000])
def test_parse_never_raises(source: str):
    assert parse(source) is None


def test_parse_is_silent_about_odd_escapes():
    assert parse(r"x = '\d'") is not None
