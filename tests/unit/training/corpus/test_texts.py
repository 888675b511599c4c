"""Token files of a folder of texts, by tokenizers of other people."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from quicksilver.errors import CheckpointError, CorpusError, InputError
from quicksilver.training.corpus.texts import tokenize_texts
from quicksilver.training.corpus.token_file import TokenFile


def write_model(folder, num_words: int = 50):
    """Words w0, w1, …; ``<end>`` is special."""
    folder.mkdir(exist_ok=True)
    words = {f"w{index}": index for index in range(num_words)} | {
        "<": num_words,
        "end": num_words + 1,
        ">": num_words + 2,
    }
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    backend.add_special_tokens(["<end>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    for index in range(9):
        (folder / "sub" / f"{index}.py").write_text(f"w{index} w40 <end>")
    (folder / "note.md").write_text("w7")
    return folder


def documents(tokens: TokenFile) -> dict[str, list[int]]:
    return {tokens.doc_name(index): tokens.document(index).tolist() for index in range(tokens.num_docs)}


def test_every_file_is_a_document_of_one_split(tmp_path, texts):
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    tokenize_texts(texts, model, out, suffix=".py", validation=0.3)
    found = [documents(TokenFile.open(out, split)) for split in ("train", "validation")]
    assert [len(split) for split in found] == [6, 3]
    # The special token's name is text.
    assert found[0] | found[1] == {f"sub/{index}.py": [index, 40, 50, 51, 52] for index in range(9)}
    assert TokenFile.open(out, "train").bytes_per_token == 12 / 5
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert (out / "tokenizer_config.json").is_file()
    (texts / "sub" / "10.py").write_text("w1")
    tokenize_texts(texts, model, out, suffix=".py", validation=0.3)
    again = documents(TokenFile.open(out, "validation"))
    assert len(set(again) & set(found[1])) >= 2
    assert len(tokenize_texts(texts, model, out)["validation"].doc_bytes) == 1


def test_large_vocabularies_take_wide_tokens(tmp_path, texts):
    (texts / "sub" / "0.py").write_text("w69999 w1")
    tokenize_texts(texts, write_model(tmp_path / "model", 70_000), tmp_path / "out", suffix=".py")
    found = {}
    for split in ("train", "validation"):
        tokens = TokenFile.open(tmp_path / "out", split)
        assert tokens.tokens.dtype == np.dtype("<u4")
        found |= documents(tokens)
    assert found["sub/0.py"] == [69_999, 1]
    assert found["sub/1.py"][:2] == [1, 40]


def test_what_cannot_be_tokenized(tmp_path, texts):
    model = write_model(tmp_path / "model")
    with pytest.raises(CorpusError, match="1 files that end in '.md'"):
        tokenize_texts(texts, model, tmp_path / "out", suffix=".md")
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        tokenize_texts(texts, texts, tmp_path / "out")
    (texts / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="bad.txt is no UTF-8 text"):
        tokenize_texts(texts, model, tmp_path / "out")
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tokenize_texts(texts, model, tmp_path / "out")
