"""Checkpoint folders: what goes in comes out, and every way to be wrong has its own message."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from quicksilver.checkpoints.folder import copy_folder, model_hash, read_config, save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, NoiseRates, Objective, SpecialIds
from quicksilver.errors import CheckpointError, ConfigError, UsageError
from tests.tiny import random_denoiser, tiny_config
from tests.tiny_checkpoints import save_tiny_checkpoint

SPEC = DiffusionSpec(
    objective=Objective.MASK,
    special=SpecialIds(pad=0, eos=1, mask=2, expand=3, delete=4),
    trained_block_lengths=(4, 8, 16),
    noise=NoiseRates(edit_rate=0.1, has_length_noise=True),
    decoding=DecodingDefaults(threshold=0.8),
)


@pytest.fixture
def folder(tmp_path):
    save_folder(tmp_path / "model", random_denoiser(dtype=torch.float32), SPEC, dtype=torch.float32)
    return tmp_path / "model"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(has_tied_embeddings=False),
        tiny_config(has_qkv_bias=True, has_qk_norm=False),
    ],
    ids=["qwen3", "untied", "qwen2"],
)
def test_round_trip(config, tmp_path):
    denoiser = random_denoiser(config, dtype=torch.float32)
    save_folder(tmp_path / "a" / "b", denoiser, SPEC, dtype=torch.float32)
    found, spec = load_folder(tmp_path / "a" / "b")
    assert spec == SPEC
    assert found.config == config
    for (name, value), expected in zip(found.state_dict().items(), denoiser.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_a_loaded_denoiser_is_for_use_not_for_training(folder):
    denoiser, _ = load_folder(folder)
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert not any(p.is_meta for p in denoiser.parameters())


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_stored_and_loaded_dtype_are_chosen_apart(stored, wanted, tmp_path):
    denoiser = random_denoiser(dtype=torch.float32)
    save_folder(tmp_path, denoiser, SPEC, dtype=stored)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {stored}
    found, _ = load_folder(tmp_path, dtype=wanted)
    for value, original in zip(found.parameters(), denoiser.parameters(), strict=True):
        assert torch.equal(value, original.to(stored).to(wanted))


def test_a_dtype_without_a_name_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="bfloat16, float32, float16, not torch.float64"):
        save_folder(tmp_path / "new", random_denoiser(), SPEC, dtype=torch.float64)
    assert not (tmp_path / "new").exists()


def test_saving_leaves_other_files_alone_and_replaces_its_own(folder):
    (folder / "tokenizer.json").write_text("{}")
    other = random_denoiser(seed=1, dtype=torch.float32)
    save_folder(folder, other, SPEC, dtype=torch.float32)
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert torch.equal(load_folder(folder)[0].model.norm.weight, other.model.norm.weight)


def test_config_json_states_ids_for_other_programs(folder):
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"], config["torch_dtype"]) == (1, 0, "float32")
    assert generation == {"eos_token_id": 1, "pad_token_id": 0}


def test_a_repeated_tied_table_is_accepted(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert load_folder(folder)[0].lm_head is None


def test_checkpoint_errors_are_usage_errors():
    assert issubclass(CheckpointError, UsageError)


def test_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no model folder .*absent"):
        load_folder(tmp_path / "absent")


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_folder(folder)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_unreadable_config(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        load_folder(folder)


@pytest.mark.parametrize("content", ["{}", '{"quicksilver": 3}', '{"model_type": "bert"}'])
def test_config_of_no_family(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="no family known here"):
        load_folder(folder)


def test_config_of_an_unknown_architecture(folder):
    edit_config(folder, model_type="mamba")
    with pytest.raises(CheckpointError, match=r"config\.json: model_type must be"):
        read_config(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "guess"}, "guess"),
        ({"unheard_of": 1}, "no field unheard_of"),
        ({"special": {"pad": 0, "eos": 0, "mask": 2}}, "must all differ"),
        ({"noise": {"edit_rat": 0.1}}, "no field edit_rat"),
    ],
)
def test_config_with_an_invalid_spec(folder, change, message):
    edit_config(folder, quicksilver=SPEC.to_dict() | change)
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_special_ids_beyond_the_vocabulary(folder):
    edit_config(folder, quicksilver=SPEC.to_dict() | {"special": {"pad": 0, "eos": 1, "mask": 61}})
    with pytest.raises(CheckpointError, match="special token ids reach 61, but the vocabulary has 61"):
        read_config(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        load_folder(folder)


@pytest.mark.parametrize("size", [0, 5, 4000])
def test_truncated_weights(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_folder(folder)


def test_a_missing_and_an_unexpected_tensor_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.wait"] = weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks model\.norm\.weight; has no place for model\.norm\.wait"):
        load_folder(folder)


def test_a_wrong_shape_is_named(folder):
    edit_config(folder, vocab_size=60)
    with pytest.raises(
        CheckpointError, match=r"embed_tokens\.weight has shape \[61, 24\], its config\.json says \[60, 24\]"
    ):
        load_folder(folder)


def test_the_hash_is_of_the_model_not_of_its_place(tmp_path):
    one = save_tiny_checkpoint(tmp_path / "one")
    assert model_hash(one) == model_hash(save_tiny_checkpoint(tmp_path / "two"))
    assert model_hash(one) != model_hash(save_tiny_checkpoint(tmp_path / "three", seed=1))
    before = model_hash(one)
    (one / "tokenizer.json").write_text("{}")
    assert model_hash(one) != before
    (one / "tokenizer.json").unlink()
    assert model_hash(one) not in (before, model_hash(tmp_path / "three"))


def test_a_copy_may_state_another_spec(folder, tmp_path):
    changed = replace(SPEC, block_length=8, decoding=DecodingDefaults(policy="entropy_bound"))
    (folder / "README.md").write_text("words")
    copy_folder(folder, tmp_path / "deep" / "copy", changed)
    architecture, spec = read_config(tmp_path / "deep" / "copy")
    assert spec == changed
    assert architecture == read_config(folder)[0]
    assert read_config(folder)[1] == SPEC
    for name in ("model.safetensors", "README.md", "generation_config.json"):
        assert (tmp_path / "deep" / "copy" / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(CheckpointError, match="not an empty folder"):
        copy_folder(folder, tmp_path / "deep" / "copy", changed)
    with pytest.raises(CheckpointError, match="no model folder"):
        copy_folder(tmp_path / "none", tmp_path / "other", changed)
    assert not (tmp_path / "other").exists()
