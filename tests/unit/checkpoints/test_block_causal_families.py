"""What the configurations of SDAR, LLaDA-MoE, LLaDA2 and Fast-dLLM v2 mean, and which of their keys are refused."""

import json
from pathlib import Path

import pytest

from quicksilver.checkpoints.family import Part, Stack, Whole
from quicksilver.checkpoints.loading import open_folder
from quicksilver.diffusion.spec import Layout
from quicksilver.errors import CheckpointError
from tests.published import GOLDEN

MASK_NAMES = {"llada2": "<|mask|>", "llada21": "<|mask|>", "fast_dllm": "|<MASK>|"}


def folder_of(tmp_path: Path, family: str, *, has_tokenizer: bool = True, **changes: object) -> Path:
    """A folder of configurations alone; None takes a key out."""
    values = json.loads((GOLDEN / family / "config.json").read_text()) | changes
    kept = {name: value for name, value in values.items() if name not in changes or value is not None}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    if has_tokenizer and family in MASK_NAMES:
        ids = {"<|endoftext|>": 3, MASK_NAMES[family]: 5}
        (tmp_path / "added_tokens.json").write_text(json.dumps(ids))
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return tmp_path


@pytest.mark.parametrize(
    ("family", "block_length", "shift", "policy"),
    [
        ("sdar", 4, 0, "confidence_threshold"),
        ("sdar_moe", 4, 0, "confidence_threshold"),
        ("llada2", 32, 0, "confidence_threshold"),
        ("llada21", 32, 0, "joint_threshold"),
        ("fast_dllm", 32, 1, "confidence_threshold"),
    ],
)
def test_the_spec_says_how_it_is_decoded(tmp_path, family, block_length, shift, policy) -> None:
    spec = open_folder(folder_of(tmp_path, family)).spec
    assert spec.layouts == (Layout.BLOCK_CAUSAL,)
    assert spec.has_absolute_grid
    assert not spec.has_causal_context
    assert (spec.block_length, spec.prediction_shift, spec.decoding.policy) == (block_length, shift, policy)
    assert (spec.special.eos, spec.special.mask, spec.decoding.ends) == (3, 5, "free")
    assert spec.decoding.has_first_alone == (family == "fast_dllm")


def test_llada_moe_is_told_from_llada_by_its_experts(tmp_path) -> None:
    opened = open_folder(folder_of(tmp_path, "llada_moe"))
    assert opened.spec.layouts == (Layout.IN_PLACE,)
    assert opened.config.experts is not None
    assert opened.config.experts.num_dense_layers == 1
    assert not opened.config.experts.is_normalised


def test_llada2_fuses_queries_keys_and_values(tmp_path) -> None:
    source, fused = open_folder(folder_of(tmp_path, "llada2")).source, "model.layers.2.attention.query_key_value.weight"
    assert source("model.layers.2.self_attn.q_proj.weight") == Part(fused, 0, 64)
    assert source("model.layers.2.self_attn.k_proj.weight") == Part(fused, 64, 96)
    assert source("model.layers.2.self_attn.v_proj.weight") == Part(fused, 96, 128)
    assert source("model.layers.2.mlp.expert_bias") == Whole("model.layers.2.mlp.gate.expert_bias")
    assert source("model.layers.0.mlp.up_proj.weight") == Whole("model.layers.0.mlp.up_proj.weight")


def test_experts_are_stacked_from_a_tensor_each(tmp_path) -> None:
    found = open_folder(folder_of(tmp_path, "sdar_moe")).source("model.layers.1.mlp.down_proj")
    assert isinstance(found, Stack)
    assert found.parts[7] == Whole("model.layers.1.mlp.experts.7.down_proj.weight")
    assert len(found.parts) == 8


def test_a_mask_that_no_file_names_is_an_error_unless_the_vocabulary_is_the_published_one(tmp_path) -> None:
    for family in ("fast_dllm", "llada2"):
        with pytest.raises(CheckpointError, match="names the mask"):
            open_folder(folder_of(tmp_path, family, has_tokenizer=False))
    published = open_folder(folder_of(tmp_path, "llada2", has_tokenizer=False, vocab_size=157184)).spec
    assert (published.special.mask, published.special.eos) == (156895, 156892)
    with pytest.raises(CheckpointError, match="lacks mask_token_id"):
        open_folder(folder_of(tmp_path, "sdar", mask_token_id=None))


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("sdar", "use_sliding_window", True),
        ("sdar", "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("sdar", "num_experts", 4),
        ("sdar_moe", "decoder_sparse_step", 2),
        ("sdar_moe", "mlp_only_layers", [1]),
        ("llada_moe", "clip_qkv", 8.0),
        ("llada_moe", "moe_layer_freq", [1, 0, 1]),
        ("llada_moe", "moe_router_enable_expert_bias", True),
        ("llada_moe", "moe_router_score_function", "sigmoid"),
        ("llada2", "score_function", "softmax"),
        ("llada2", "use_qkv_bias", True),
        ("llada2", "rotary_dim", 16),
        ("llada2", "expert_capacity", 48),
        ("llada2", "n_group", 5),
        ("fast_dllm", "hidden_act", "gelu"),
    ],
)
def test_another_network_is_refused_by_its_key(tmp_path, family, key, value) -> None:
    name = "groups" if key == "n_group" else key
    with pytest.raises(CheckpointError, match=name):
        open_folder(folder_of(tmp_path, family, **{key: value}))
