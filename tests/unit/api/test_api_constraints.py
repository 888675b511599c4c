"""Constraints through the library: beside stop texts and biases, in every layout and kind of checkpoint."""

import re

import pytest

import quicksilver
from quicksilver.api import DecodingOptions, GenerateRequest, InfillRequest
from quicksilver.api.requests import HoleOptions, parse_layout
from quicksilver.constraints.regex import Regex
from quicksilver.constraints.strings import Strings
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from tests.tiny_checkpoints import save_tiny_checkpoint

LETTERS = Regex("[ab]{2,6}")


@pytest.fixture(scope="module", params=[Objective.MASK, Objective.AUTOREGRESSIVE])
def any_model(request, tmp_path_factory):
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "m", request.param), device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "m"), device="cpu")


@pytest.mark.parametrize("seed", range(4))
def test_stop_texts_stay_out_of_a_generation_that_has_a_constraint(any_model, seed):
    options = DecodingOptions(constraint=LETTERS, stop=("bb",), temperature=1.0, seed=seed)
    found = any_model.run(GenerateRequest(prompt="x = ", max_tokens=12, options=options))
    assert re.fullmatch("[ab]{2,6}", found.text)
    assert "bb" not in found.text


@pytest.mark.parametrize("layout", ["in_place", "psm"])
def test_stop_texts_stay_out_of_holes_that_have_constraints(model, layout):
    holes = (HoleOptions(constraint=LETTERS), HoleOptions(constraint=Strings(required=("ab",), base=LETTERS)))
    options = DecodingOptions(stop=("bb",), temperature=1.0, seed=1)
    request = InfillRequest(texts=("x = ", "\ny = ", "\n"), holes=holes, layout=parse_layout(layout), options=options)
    found = model.run(request)
    for hole in found.holes:
        assert re.fullmatch("[ab]{2,6}", hole.text)
        assert "bb" not in hole.text
    assert "ab" in found.holes[1].text


def test_stop_texts_beside_what_is_compiled_already_are_refused(model):
    options = DecodingOptions(constraint=model.compile(LETTERS), stop=("bb",))
    with pytest.raises(ConfigError, match=r"stop contradicts a compiled constraint"):
        GenerateRequest(prompt="x = ", options=options)


def test_a_bias_chooses_among_what_a_constraint_allows(model):
    (token,) = model.tokenizer.encode("b")
    options = DecodingOptions(constraint=LETTERS, logit_bias=((token, 50.0),), seed=1)
    found = model.run(GenerateRequest(prompt="x = ", max_tokens=12, options=options))
    assert set(found.text) == {"b"}
