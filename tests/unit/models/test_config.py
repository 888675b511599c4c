"""Architecture configurations: their limits."""

import pytest

from quicksilver.errors import ConfigError
from tests.tiny import tiny_config


@pytest.mark.parametrize("name", ["vocab_size", "num_layers", "model_width", "num_heads", "ffn_width", "max_length"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        tiny_config(**{name: 0})


def test_heads_must_divide():
    with pytest.raises(ConfigError, match="num_heads 4 is not a multiple of num_kv_heads 3"):
        tiny_config(num_kv_heads=3)


@pytest.mark.parametrize("change", [{"head_width": 7}, {"rotary_fraction": 0.4}, {"rotary_fraction": 0.0}])
def test_what_turns_of_a_head_must_be_even(change):
    with pytest.raises(ConfigError, match="head_width must be even"):
        tiny_config(**change)
