"""Models that know full attention alone, through the API."""

from dataclasses import replace

import pytest

from quicksilver.api.model import Model
from quicksilver.diffusion.spec import Layout
from quicksilver.errors import ContextLengthError
from tests.tiny import random_denoiser, tiny_config
from tests.tiny_checkpoints import tiny_spec, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> Model:
    spec = replace(tiny_spec(), layouts=(Layout.IN_PLACE,), block_length=2048, trained_block_lengths=(2048,))
    tokenizer = tiny_tokenizer()
    denoiser = random_denoiser(tiny_config(vocab_size=tokenizer.vocab_size, max_length=128))
    return Model(denoiser, spec, tokenizer, name="bidirectional")


def test_a_prompt_is_continued_in_blocks_of_any_length_with_any_cache(model) -> None:
    for cache in ("exact", "prefix", "dual", "vicinity"):
        result = model.generate("def f(", max_tokens=60, block_length=5, cache=cache, steps=2, seed=0)
        assert result.num_tokens <= 60
        assert (result.num_stale_forwards > 0) == (cache != "exact")


def test_a_response_takes_no_more_room_than_its_tokens(model) -> None:
    assert model.generate("def f(", max_tokens=100, steps=1, seed=0).nfe == 1
    with pytest.raises(ContextLengthError, match="max_tokens"):
        model.generate("def f(", max_tokens=128)
