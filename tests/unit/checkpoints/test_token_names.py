"""Special tokens of a foreign folder, from whichever file names them."""

import json

import pytest

from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.errors import CheckpointError


def write(folder, **files):
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


def test_a_folder_without_tokenizer_files_names_nothing(tmp_path):
    names = TokenNames.of_folder(tmp_path)
    assert names.id_of("<|mask|>") is None
    assert names.role("eos") is None
    assert names.begin is None


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer": {"added_tokens": [{"id": 7, "content": "<e>"}]}},
        {"tokenizer_config": {"added_tokens_decoder": {"7": {"content": "<e>"}}}},
        {"added_tokens": {"<e>": 7}},
    ],
    ids=["tokenizer", "tokenizer_config", "added_tokens"],
)
@pytest.mark.parametrize("form", ["<e>", {"content": "<e>", "lstrip": False}], ids=["text", "object"])
def test_ids_and_roles_from_every_file(tmp_path, files, form):
    write(tmp_path, **files, special_tokens_map={"eos_token": form})
    names = TokenNames.of_folder(tmp_path)
    assert names.id_of("<e>") == names.role("eos") == 7
    assert names.role("mask") is None


def test_a_role_may_be_an_ordinary_token(tmp_path):
    write(tmp_path, tokenizer={"model": {"vocab": {"</s>": 2}}}, tokenizer_config={"eos_token": "</s>"})
    assert TokenNames.of_folder(tmp_path).role("eos") == 2


TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}


@pytest.mark.parametrize(
    ("tokenizer", "config", "begin"),
    [
        ({}, {}, None),
        ({}, {"add_bos_token": True}, 1),
        ({"post_processor": TEMPLATE}, {}, 1),
        ({"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}}, {}, 1),
        ({"post_processor": TEMPLATE}, {"add_bos_token": False}, None),
        ({"post_processor": {"type": "ByteLevel"}}, {}, None),
    ],
)
def test_whether_texts_begin_with_a_token(tmp_path, tokenizer, config, begin):
    added = {"added_tokens": [{"id": 1, "content": "<s>"}]}
    write(tmp_path, tokenizer=added | tokenizer, tokenizer_config={"bos_token": "<s>"} | config)
    assert TokenNames.of_folder(tmp_path).begin == begin


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not readable JSON"):
        TokenNames.of_folder(tmp_path)
