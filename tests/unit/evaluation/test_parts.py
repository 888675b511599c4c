"""Small parts of evaluation: samples, syntax, likeness, data, tables."""

from pathlib import Path

import pytest

from quicksilver.errors import InputError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.documents import Documents
from quicksilver.evaluation.likeness import edit_similarity, repetition
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.syntax import compiles, parse
from quicksilver.evaluation.tables import markdown_table
from quicksilver.training.corpus.token_file import write_token_file


def test_subsample_without_a_count_keeps_the_order():
    assert subsample([3, 1, 2], None, seed=0) == [3, 1, 2]
    assert sorted(subsample([3, 1, 2], 3, seed=0)) == [1, 2, 3]


def test_a_token_file_is_a_collection_of_documents(tmp_path: Path):
    assert isinstance(write_token_file(tmp_path, "public_test", [("pack/0.py", 1, [65])]), Documents)


@pytest.mark.parametrize("source", ["x = (", "a\0b", "(" * 5000])
def test_parse_never_raises(source: str):
    assert parse(source) is None


def test_parse_and_compile_are_silent_about_odd_escapes():
    tree = parse(r"x = '\d'; x is 1")
    assert tree is not None
    assert compiles(tree)


@pytest.mark.parametrize(
    ("text", "reference", "similarity"),
    [("abcd", "abcd", 1), (" abcd\n", "abcd", 1), ("abxd", "abcd", 0.75), ("", "abcd", 0), ("abc", "abcd", 0.75)],
)
def test_edit_similarity(text: str, reference: str, similarity: float):
    assert edit_similarity(text, reference) == similarity


def test_repetition():
    assert repetition("a b c d e f") == {"repeated_4grams": 0}
    found = repetition("x = 1\nx = 1\nx = 1\n")
    assert found["repeated_lines"] == pytest.approx(2 / 3)
    assert found["repeated_4grams"] == pytest.approx(3 / 6)
    assert repetition("a") == repetition("") == {}


def test_data_is_found_in_the_repository_or_named(tmp_path: Path):
    assert find_data("tinyshakespeare/SOURCE.txt").is_file()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.csv").touch()
    assert find_data("a/b.csv", tmp_path) == tmp_path / "a" / "b.csv"
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="--data"):
            find_data("a/c.csv", folder)


def test_every_set_has_its_licence_and_source():
    root = find_data("tinyshakespeare/SOURCE.txt").parents[1]
    for folder in root.iterdir():
        assert (folder / "SOURCE.txt").is_file()
        assert (folder / "LICENSE").is_file() or "public domain" in (folder / "SOURCE.txt").read_text()


def test_columns_are_aligned():
    assert markdown_table(("a", "bcd"), [(12, "x")]).splitlines() == ["| a   | bcd |", "| --- | --- |", "| 12  | x   |"]
