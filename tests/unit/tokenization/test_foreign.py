"""Tokenizers of other families: read from their published files, equal to the library's own, special tokens apart."""

import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from quicksilver.errors import CheckpointError, InputError
from quicksilver.tokenization.foreign import foreign_chat_template, load_foreign, load_tokenizer
from tests.tiny_checkpoints import SOURCE, tiny_tokenizer

SPECIAL = ["<|endoftext|>", "<|mask|>"]


def byte_level():
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([SOURCE], trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return backend


def spaced():
    """In SentencePiece's manner, as Llama 2 and Gemma have it."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581", "d", "e", "f", "de", "\u2581de"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [("d", "e"), ("\u2581", "de")]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


@pytest.fixture(params=[byte_level, spaced], ids=["byte-level", "spaced"])
def folder(request, tmp_path):
    backend = request.param()
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens(["<think>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("text", ["def mean(xs):\n    return 1", "é 𝛼", " deep", ""])
def test_text_comes_back_whole(folder, text):
    tokenizer = load_foreign(folder)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(index) for index in ids) == text.encode()


def test_names_of_special_tokens_in_a_text_are_text(folder):
    tokenizer = load_foreign(folder)
    text = "a<|mask|>b"
    mask = tokenizer.id_of("<|mask|>")
    assert mask not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([mask]) == ""
    assert tokenizer.decode([mask], keep_special=True) == tokenizer.name_of(mask) == "<|mask|>"


def test_a_model_may_write_what_it_was_trained_to(folder):
    tokenizer = load_foreign(folder)
    assert not tokenizer.unwritten_ids
    think = tokenizer.encode("<think>")
    assert len(think) == 1
    assert tokenizer.decode(think) == "<think>"
    with pytest.raises(InputError, match="not of a special token"):
        tokenizer.name_of(think[0])


def test_gaps_between_ids_are_never_written(tmp_path):
    state = json.loads(byte_level().to_str())
    vocabulary = state["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary[last] += 2
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = load_foreign(tmp_path)
    assert tokenizer.vocab_size == vocabulary[last] + 1
    assert tokenizer.unwritten_ids == {vocabulary[last] - 2, vocabulary[last] - 1}


@cache
def qwen2_folder():
    """Qwen2's vocabulary and merges, as its own tokenizer saves them, and a special token."""
    state = json.loads(byte_level().to_str())["model"]
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps(state["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in state["merges"]))
    added = {str(len(state["vocab"])): {"content": "<|endoftext|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    theirs = transformers.Qwen2TokenizerFast.from_pretrained(folder).backend_tokenizer
    theirs.encode_special_tokens = True
    return theirs, load_foreign(folder)


@given(st.text(max_size=40))
def test_vocabulary_and_merges_alone_give_qwen2s_tokenizer(text):
    theirs, ours = qwen2_folder()
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_an_id_that_the_vocabulary_contradicts_is_an_error(folder):
    config = {"added_tokens_decoder": {"7": {"content": "<|other|>", "special": True}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="gives '<|other|>' the id 7"):
        load_foreign(folder)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_foreign(tmp_path)
    with pytest.raises(CheckpointError, match="lacks tokenizer.json"):
        load_tokenizer(tmp_path)


def test_our_own_is_told_by_its_special_tokens(folder, tmp_path):
    assert not load_tokenizer(folder).is_own
    own = tmp_path / "own"
    own.mkdir()
    tiny_tokenizer().save(own / "tokenizer.json")
    assert load_tokenizer(own).is_own


@pytest.mark.parametrize("form", ["text", "list"])
def test_the_chat_template_of_a_tokenizer_config(tmp_path, form):
    assert foreign_chat_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "{{ x }}"}]
    template = "{{ x }}" if form == "text" else named
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert foreign_chat_template(tmp_path) == "{{ x }}"
