"""Configurations in Hugging Face's names: there and back, and what cannot be honoured."""

import json

import pytest

from quicksilver.checkpoints.folder import read_config, write_config
from quicksilver.checkpoints.keys import Keys
from quicksilver.checkpoints.layouts import layout_of, read_layout, write_layout
from quicksilver.errors import ConfigError
from quicksilver.models.config import RotaryScaling
from tests.tiny import TINY, tiny_config
from tests.tiny_checkpoints import tiny_spec

SCALING = RotaryScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=16)


def read(values):
    """A configuration read back; every key must be known."""
    keys = Keys(json.loads(json.dumps(values)))
    config = read_layout(keys, keys.text("model_type"))
    keys.finish()
    return config


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        tiny_config(has_tied_embeddings=False, rope_theta=1e6, norm_eps=1e-5, max_length=4096),
        tiny_config(has_qkv_bias=True, has_qk_norm=False),
        tiny_config(has_qk_norm=False),
        tiny_config(has_qk_norm=False, rotary_scaling=SCALING),
    ],
    ids=["qwen3", "untied", "qwen2", "llama", "llama3"],
)
def test_hugging_face_keys_round_trip_through_json(config):
    assert read(write_layout(config)) == config


def test_an_architecture_without_a_hugging_face_name_is_written_in_our_own_keys(tmp_path):
    config = tiny_config(has_qk_norm=True, has_qkv_bias=True, rotary_scaling=SCALING)
    assert layout_of(config) is None
    with pytest.raises(ConfigError, match="Hugging Face name"):
        write_layout(config)
    write_config(tmp_path, config, tiny_spec(), "float32")
    assert read_config(tmp_path) == (config, tiny_spec())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 8}, "not known here: num_experts"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_parameters"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"attention_bias": True}, "attention_bias = True; only False"),
        ({"model_type": "qwen2"}, "attention_bias = False; only True"),
        ({"model_type": "llama", "sliding_window": 4096}, "not known here: sliding_window"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(change, message):
    with pytest.raises(ConfigError, match=message):
        read(write_layout(TINY) | change)


def test_a_missing_key_is_named():
    values = write_layout(TINY)
    del values["hidden_size"], values["head_dim"]
    with pytest.raises(ConfigError, match="lacks hidden_size"):
        read(values)


def test_transformers_5_nests_the_rotary_base():
    values = write_layout(TINY)
    del values["rope_theta"]
    nested = values | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert read(nested).rope_theta == 5e5


def test_qwen2_derives_its_head_width():
    values = write_layout(tiny_config(has_qkv_bias=True, has_qk_norm=False, head_width=6))
    del values["head_dim"], values["attention_bias"]
    assert read(values).head_width == 24 // 4
