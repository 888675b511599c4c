"""Token files are read as written; files that contradict each other are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.errors import CorpusError
from quicksilver.training.corpus.token_file import TokenFile, write_token_file

DOCUMENTS = [("alpha/a.py", 10, [1, 2, 3]), ("alpha/empty.py", 0, []), ("beta/b.py", 7, [65535, 0])]


@given(st.lists(st.lists(st.integers(0, 65535), max_size=9), max_size=9))
def test_documents_come_back(tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]]) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    write_token_file(folder, "train", ((f"p/{index}.py", index, ids) for index, ids in enumerate(documents)))
    read = TokenFile.open(folder, "train")
    assert read.num_docs == len(documents)
    assert read.num_tokens == sum(map(len, documents))
    assert [read.document(index).tolist() for index in range(read.num_docs)] == documents
    assert [read.doc_name(index) for index in range(read.num_docs)] == [f"p/{i}.py" for i in range(len(documents))]
    assert read.doc_bytes.tolist() == list(range(len(documents)))


def test_the_format_on_disk(tmp_path: Path) -> None:
    read = write_token_file(tmp_path, "train", DOCUMENTS)
    assert (tmp_path / "train.bin").read_bytes() == b"\x01\x00\x02\x00\x03\x00\xff\xff\x00\x00"
    assert np.load(tmp_path / "train.docs.npy").tolist() == [0, 3, 3, 5] == read.doc_offsets.tolist()
    assert np.load(tmp_path / "train.bytes.npy").tolist() == [10, 0, 7]
    assert (tmp_path / "train.names.txt").read_text() == "alpha/a.py\nalpha/empty.py\nbeta/b.py\n"
    assert isinstance(read.tokens, np.memmap)
    assert not read.tokens.flags.writeable


@pytest.mark.parametrize("index", [-1, 3])
def test_no_such_document(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError):
        write_token_file(tmp_path, "train", DOCUMENTS).document(index)


def test_a_token_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write_token_file(tmp_path, "train", [("a", 1, [65536])])


@pytest.mark.parametrize("name", ["train.bin", "train.docs.npy", "train.bytes.npy", "train.names.txt"])
def test_a_missing_or_shortened_file_is_an_error(tmp_path: Path, name: str) -> None:
    write_token_file(tmp_path, "train", DOCUMENTS)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match="train tokens"):
        TokenFile.open(tmp_path, "train")
    (tmp_path / name).unlink()
    with pytest.raises(CorpusError, match=name):
        TokenFile.open(tmp_path, "train")


@pytest.mark.parametrize("offsets", [[1, 3, 3, 5], [0, 4, 3, 5], [0, 3, 3, 6], [0, 3, 5]])
def test_wrong_offsets_are_an_error(tmp_path: Path, offsets: list[int]) -> None:
    write_token_file(tmp_path, "train", DOCUMENTS)
    np.save(tmp_path / "train.docs.npy", np.array(offsets))
    with pytest.raises(CorpusError, match="inconsistent"):
        TokenFile.open(tmp_path, "train")
