"""DiffusionGemma's configuration: as Google wrote it and as transformers writes it, and what cannot be honoured."""

import copy
import json

import pytest
import torch

from quicksilver.checkpoints.folder import read_config, write_config
from quicksilver.checkpoints.layouts import layout_of
from quicksilver.checkpoints.loading import load_folder, open_folder
from quicksilver.errors import CheckpointError
from quicksilver.models.config import SlidingLayers
from quicksilver.models.fused import can_fuse

TEXT = {
    "model_type": "diffusion_gemma_text",
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "max_position_embeddings": 256,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_experts": 6,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_k_eq_v": True,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "final_logit_softcapping": 30.0,
    "use_bidirectional_attention": "vision",
    "eos_token_id": [1, 106],
    "pad_token_id": 0,
}
VALUES = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "model_type": "diffusion_gemma",
    "canvas_length": 16,
    "tie_word_embeddings": True,
    "image_token_id": 258880,
    "vision_config": {"model_type": "gemma4_vision"},
    "text_config": TEXT,
}


def opened(folder, values):
    (folder / "config.json").write_text(json.dumps(values))
    return open_folder(folder)


def with_text(changes, without=()):
    values = copy.deepcopy(VALUES)
    values["text_config"] = {key: value for key, value in TEXT.items() if key not in without} | changes
    return values


def test_what_is_said_of_single_layers_may_be_said_in_either_way(tmp_path):
    config = opened(tmp_path, VALUES).config
    by_layer = {"per_layer_config": {"2": {"head_dim": 32, "num_key_value_heads": 1}}}
    gone = ("global_head_dim", "num_global_key_value_heads", "final_logit_softcapping", "attention_k_eq_v")
    assert opened(tmp_path, with_text(by_layer, gone)).config == config
    assert (config.head_width, config.num_kv_heads, config.rope_theta, config.logit_cap) == (32, 1, 1e6, 30.0)
    assert config.sliding == SlidingLayers(layers=(0, 1), window=16, num_kv_heads=2, head_width=16, rope_theta=1e4)
    assert config.embedding_scale == 48**0.5


def test_rotary_has_its_defaults(tmp_path):
    assert opened(tmp_path, with_text({}, ["rope_parameters"])).config == opened(tmp_path, VALUES).config


def test_the_first_of_several_ends_is_eos(tmp_path):
    assert opened(tmp_path, VALUES).spec.special.eos == 1


def test_the_last_row_of_the_table_stands_for_the_mask_unless_a_tokenizer_names_one(tmp_path):
    assert opened(tmp_path, VALUES).spec.special.mask == 159
    names = {"mask_token": "<mask>", "added_tokens_decoder": {"4": {"content": "<mask>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    assert opened(tmp_path, VALUES).spec.special.mask == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"attention_k_eq_v": False}, "attention_k_eq_v = False"),
        ({"hidden_activation": "silu"}, "hidden_activation = 'silu'"),
        ({"hidden_size_per_layer_input": 8}, "not known here: hidden_size_per_layer_input"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "layer_types"),
        ({"per_layer_config": {"0": {"head_dim": 8}}}, "not known here: 0"),
        ({"per_layer_config": {"2": {"head_dim": 8, "rope_theta": 3.0}}}, "not known here: rope_theta"),
        (
            {"layer_types": ["sliding_attention", "full_attention", "full_attention"],
             "per_layer_config": {"2": {"head_dim": 8}}},
            "differ in head_dim",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}}, "rope_type = 'default'"),
        ({"rope_parameters": {"sliding_attention": {"partial_rotary_factor": 0.5}}}, "partial_rotary_factor"),
        ({"num_experts": None}, "lacks num_experts"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_named(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, with_text(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False"),
        ({"text_config": None}, "lacks text_config"),
        ({"audio_config": {}}, "not known here: audio_config"),
    ],
)
def test_what_cannot_be_honoured_outside_the_text_part_is_named(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, VALUES | changes)


def test_the_architecture_has_a_name_in_our_own_folders_only(tmp_path):
    found = opened(tmp_path, VALUES)
    assert layout_of(found.config) is None
    write_config(tmp_path, found.config, found.spec, "float32")
    assert read_config(tmp_path) == (found.config, found.spec)


def test_an_image_tower_may_lie_in_the_files_and_another_part_may_not(tmp_path):
    from tests.gemma import save_theirs

    save_theirs(tmp_path)
    denoiser, _ = load_folder(tmp_path)
    assert not can_fuse(denoiser)
    path = tmp_path / "model.safetensors"
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    save_file(weights | {"model.audio_tower.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no place for model\.audio_tower\.weight"):
        load_folder(tmp_path)
    del weights["model.encoder.language_model.layers.1.layer_scalar"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks model\.encoder\.language_model\.layers\.1\.layer_scalar"):
        load_folder(tmp_path)
