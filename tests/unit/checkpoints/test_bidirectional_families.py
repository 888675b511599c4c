"""What LLaDA's and Dream's configurations mean, and which of their keys are refused."""

import json
from pathlib import Path

import pytest

from quicksilver.checkpoints.family import Whole
from quicksilver.checkpoints.loading import open_folder
from quicksilver.diffusion.spec import Layout
from quicksilver.errors import CheckpointError
from tests.published import GOLDEN


def folder_of(tmp_path: Path, family: str, tokenizer: dict[str, object] | None = None, **changes: object) -> Path:
    """A folder of a configuration alone; None takes a key out."""
    values = json.loads((GOLDEN / family / "config.json").read_text()) | changes
    kept = {name: value for name, value in values.items() if name not in changes or value is not None}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    if tokenizer is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return tmp_path


@pytest.mark.parametrize(
    ("family", "shift", "policy", "mask"), [("llada", 0, "confidence_order", 220), ("dream", 1, "entropy_order", 213)]
)
def test_the_spec_says_how_it_is_decoded(tmp_path, family, shift, policy, mask) -> None:
    spec = open_folder(folder_of(tmp_path, family)).spec
    assert spec.layouts == (Layout.IN_PLACE,)
    assert (spec.prediction_shift, spec.decoding.policy, spec.special.mask) == (shift, policy, mask)
    assert spec.is_mask_predicted
    assert spec.decoding.ends == "free"


def test_the_two_tensors_of_one_name_are_told_apart(tmp_path) -> None:
    opened = open_folder(folder_of(tmp_path, "llada"))
    assert opened.source("lm_head.weight") == Whole("model.transformer.ff_out.weight")
    assert opened.source("model.layers.2.mlp.down_proj.weight") == Whole("model.transformer.blocks.2.ff_out.weight")


def test_the_width_that_counts_is_not_the_ratio(tmp_path) -> None:
    assert open_folder(folder_of(tmp_path, "llada")).config.ffn_width == 160
    assert open_folder(folder_of(tmp_path, "llada", mlp_hidden_size=None)).config.ffn_width == 256


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llada", "alibi", True),
        ("llada", "block_type", "sequential"),
        ("llada", "layer_norm_type", "default"),
        ("llada", "multi_query_attention", True),
        ("llada", "scale_logits", True),
        ("llada", "n_loops", 2),
        ("dream", "use_mrope", True),
        ("dream", "use_sliding_window", True),
        ("dream", "hidden_act", "gelu"),
        ("dream", "head_scale", 2.0),
    ],
)
def test_another_network_is_refused_by_its_key(tmp_path, family, key, value) -> None:
    with pytest.raises(CheckpointError, match=key):
        open_folder(folder_of(tmp_path, family, **{key: value}))


def test_a_mask_that_nobody_names_is_an_error(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="lacks mask_token_id"):
        open_folder(folder_of(tmp_path, "dream", mask_token_id=None))


def test_a_qwen2_with_the_published_modelling_file_takes_its_mask_from_the_tokenizer(tmp_path) -> None:
    tokenizer = {"mask_token": "<M>", "added_tokens_decoder": {"222": {"content": "<M>"}}}
    changes = {"model_type": "qwen2", "mask_token_id": None, "use_mrope": None}
    auto_map = {"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"}
    opened = open_folder(folder_of(tmp_path, "dream", tokenizer, auto_map=auto_map, **changes))
    assert opened.spec.special.mask == 222
    assert opened.spec.prediction_shift == 1
