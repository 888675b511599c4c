"""Architecture configurations: limits, and the border to Hugging Face's names."""

import json

import pytest

from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig
from tests.tiny import TINY, tiny_config


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        tiny_config(has_tied_embeddings=False, rope_theta=1e6, norm_eps=1e-5, max_length=4096),
        tiny_config(has_qkv_bias=True, has_qk_norm=False),
    ],
    ids=["qwen3", "untied", "qwen2"],
)
def test_hugging_face_keys_round_trip_through_json(config):
    assert DenoiserConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize("name", ["vocab_size", "num_layers", "model_width", "num_heads", "ffn_width", "max_length"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        tiny_config(**{name: 0})


def test_heads_must_divide():
    with pytest.raises(ConfigError, match="num_heads 4 is not a multiple of num_kv_heads 3"):
        tiny_config(num_kv_heads=3)


def test_head_width_must_be_even():
    with pytest.raises(ConfigError, match="head_width must be even"):
        tiny_config(head_width=7)


@pytest.mark.parametrize("both", [True, False])
def test_combinations_without_a_hugging_face_name_are_not_exported(both):
    with pytest.raises(ConfigError, match="Hugging Face name"):
        tiny_config(has_qk_norm=both, has_qkv_bias=both).to_hf()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type must be qwen3 or qwen2, got 'llama'"),
        ({"num_experts": 8}, "does not know: num_experts"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_parameters"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"attention_bias": True}, "attention_bias = True, unsupported for qwen3"),
        ({"model_type": "qwen2"}, "attention_bias = False, unsupported for qwen2"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(change, message):
    with pytest.raises(ConfigError, match=message):
        DenoiserConfig.from_hf(TINY.to_hf() | change)


def test_a_missing_key_is_named():
    values = TINY.to_hf()
    del values["hidden_size"], values["head_dim"]
    with pytest.raises(ConfigError, match="lacks head_dim, hidden_size"):
        DenoiserConfig.from_hf(values)


def test_transformers_5_nests_the_rotary_base():
    values = TINY.to_hf()
    del values["rope_theta"]
    nested = values | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert DenoiserConfig.from_hf(nested).rope_theta == 5e5


def test_qwen2_derives_its_head_width():
    values = tiny_config(has_qkv_bias=True, has_qk_norm=False, head_width=6).to_hf()
    del values["head_dim"], values["attention_bias"]
    assert DenoiserConfig.from_hf(values).head_width == 24 // 4
