"""The tokenizer loses nothing, keeps its rules on any text, and never reads a special token out of a text."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.errors import CheckpointError, ConfigError, InputError
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.tokenization.train import train_tokenizer

SOURCE = '''def mean_of_values(values, num_values=10):
    """Arithmetic mean of the values."""
    if not values:
        raise ValueError(f"need at least 1 of {num_values} values")  # <mask> is text
    return sum(values) / len(values)


class RunningMean:
    def update(self, value):
        self.total += value
        self.num_values += 1
        return mean_of_values([self.total, value], num_values=self.num_values)
'''
TOKENIZER = train_tokenizer([SOURCE] * 4, 700)

LIBRARY = tokenizers.Tokenizer.from_str(TOKENIZER._backend.to_str())

FRAGMENTS = [*" \n\t\r01234_(", "    ", " " * 28, "ab", "é", "𝛼", "):", "\u0301", "\u2028", "\x00", *SPECIAL_TOKENS[:4]]
ANY_TEXT = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("".join))


def pieces(text: str) -> list[bytes]:
    return [TOKENIZER.token_bytes(index) for index in TOKENIZER.encode(text)]


@given(ANY_TEXT)
def test_no_text_is_changed(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert b"".join(pieces(text)) == text.encode("utf-8")


@given(ANY_TEXT)
def test_a_text_never_gives_a_special_id(text: str) -> None:
    assert min(TOKENIZER.encode(text), default=len(SPECIAL_TOKENS)) >= len(SPECIAL_TOKENS)


@given(ANY_TEXT)
def test_lines_are_encoded_independently(text: str) -> None:
    lines = [TOKENIZER.encode(line) for line in text.split("\n")]
    joined = lines[0]
    for line in lines[1:]:
        joined = [*joined, TOKENIZER.newline_id, *line]
    assert TOKENIZER.encode(text) == joined


@given(ANY_TEXT)
def test_digits_are_single_and_space_runs_stand_alone(text: str) -> None:
    for piece in pieces(text):
        if any(byte in b"0123456789" for byte in piece):
            assert len(piece.removeprefix(b" ")) == 1
        if b"  " in piece:
            assert piece.strip(b" ") == b""


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_decode_agrees_with_the_tokenizers_library(ids: list[int]) -> None:
    assert TOKENIZER.decode(ids) == LIBRARY.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("num_indents", range(1, 9))
def test_an_indentation_is_one_token_and_the_word_behind_it_has_no_space(num_indents: int) -> None:
    indentation = " " * (4 * num_indents)
    assert pieces(indentation + "return")[0] == indentation.encode()
    assert pieces("\n" + indentation + "return")[:2] == [b"\n", indentation.encode()]


def test_a_longer_indentation_is_the_longest_run_and_the_rest() -> None:
    assert [len(piece) for piece in pieces(" " * 45 + "(")[:2]] == [32, 12]


def test_a_frequent_identifier_is_one_token_with_and_without_its_space() -> None:
    assert pieces("num_values") == [b"num_values"]
    assert pieces("x, num_values") == [b"x", b",", b" num_values"]


def test_special_tokens_in_a_text_are_text() -> None:
    for name in SPECIAL_TOKENS:
        ids = TOKENIZER.encode(f"a {name}b")
        assert not set(ids) & set(range(len(SPECIAL_TOKENS)))
        assert TOKENIZER.decode(ids) == f"a {name}b"


def test_special_ids_have_no_bytes_and_are_written_only_when_asked_for() -> None:
    ids = [TOKENIZER.id_of("<file>"), *TOKENIZER.encode("x = 1"), TOKENIZER.id_of("<eos>")]
    assert TOKENIZER.decode(ids) == "x = 1"
    assert TOKENIZER.decode(ids, keep_special=True) == "<file>x = 1<eos>"
    assert TOKENIZER.token_bytes(TOKENIZER.id_of("<mask>")) == b""
    assert [TOKENIZER.id_of(name) for name in SPECIAL_TOKENS] == list(range(48))


def test_batch_equals_single() -> None:
    texts = [SOURCE, "", "\n\n", "x"]
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]


@pytest.mark.parametrize("token_id", [-1, TOKENIZER.vocab_size])
def test_an_id_out_of_range_is_an_error(token_id: int) -> None:
    with pytest.raises(InputError, match=str(token_id)):
        TOKENIZER.decode([token_id])


def test_a_lone_surrogate_is_an_error() -> None:
    with pytest.raises(InputError, match="UTF-8"):
        TOKENIZER.encode("x\ud800")


def test_an_unknown_special_token_is_an_error() -> None:
    with pytest.raises(InputError, match="<nothing>"):
        TOKENIZER.id_of("<nothing>")


def test_saving_and_loading_keeps_ids_rules_and_fingerprint(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == TOKENIZER.fingerprint
    assert loaded.vocab_size == TOKENIZER.vocab_size
    assert loaded.encode(SOURCE) == TOKENIZER.encode(SOURCE)
    assert min(loaded.encode("<mask><eos>")) >= len(SPECIAL_TOKENS)


def test_a_missing_or_foreign_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.json"):
        Tokenizer.load(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        Tokenizer.load(tmp_path / "broken.json")
    tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "foreign.json"))
    with pytest.raises(CheckpointError, match="<pad>"):
        Tokenizer.load(tmp_path / "foreign.json")


def test_training_is_repeatable_and_fills_the_vocabulary() -> None:
    again = train_tokenizer([SOURCE] * 4, 400)
    assert again.fingerprint == train_tokenizer([SOURCE] * 4, 400).fingerprint
    assert again.vocab_size == 400
    assert again.fingerprint != TOKENIZER.fingerprint


def test_training_without_text_still_encodes_everything() -> None:
    bare = train_tokenizer([], 8192)
    assert bare.vocab_size == 48 + 256 + 10
    assert bare.decode(bare.encode("é\n        x = 10")) == "é\n        x = 10"


def test_a_vocabulary_too_small_for_the_bytes_is_an_error() -> None:
    with pytest.raises(ConfigError, match="314"):
        train_tokenizer([SOURCE], 313)
