"""Requests that contradict themselves or their checkpoint are refused by name."""

from dataclasses import replace

import pytest

from quicksilver.api import DecodingOptions, GenerateRequest, InfillLayout, InfillRequest, split_template
from quicksilver.api.requests import parse_layout
from quicksilver.decoding import POLICY_NAMES, Cache, ConfidenceThreshold, FixedSteps
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, InputError
from tests.tiny_checkpoints import tiny_spec

SPEC = tiny_spec()
AR_SPEC = tiny_spec(Objective.AUTOREGRESSIVE)


def infill(**changes) -> InfillRequest:
    return InfillRequest(texts=("a", "b"), **changes)


def test_policy_defaults_come_from_the_checkpoint():
    assert DecodingOptions().resolve_policy(SPEC) == ConfidenceThreshold(threshold=0.5)
    assert DecodingOptions(threshold=0.7).resolve_policy(SPEC) == ConfidenceThreshold(threshold=0.7)


def test_steps_alone_mean_fixed_steps():
    assert DecodingOptions(steps=3).resolve_policy(SPEC) == FixedSteps(steps=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DecodingOptions(steps=3, threshold=0.5), ("steps", "threshold")),
        (DecodingOptions(policy="fastest"), ("fastest", *POLICY_NAMES)),
        (DecodingOptions(policy="fixed_steps", threshold=0.5), ("fixed_steps", "threshold")),
        (DecodingOptions(policy="confidence_threshold", steps=2), ("confidence_threshold", "steps")),
        (DecodingOptions(block_length=5), ("block_length 5", "4, 8")),
    ],
)
def test_options_that_contradict_each_other_are_named(options, words):
    with pytest.raises(ConfigError) as error:
        options.resolve_policy(SPEC)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("option", [{"policy": "remdm"}, {"threshold": 0.5}, {"steps": 2}, {"block_length": 1}])
def test_an_autoregressive_checkpoint_has_no_diffusion_options(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        DecodingOptions(**option).resolve_policy(AR_SPEC)
    assert DecodingOptions(temperature=0.5, seed=3).resolve_policy(AR_SPEC) is None


def test_layout_defaults_to_what_was_trained():
    assert infill().resolve_layout(SPEC) is InfillLayout.IN_PLACE
    assert infill().resolve_layout(AR_SPEC) is InfillLayout.PSM
    assert infill(layout=InfillLayout.PSM).resolve_layout(SPEC) is InfillLayout.PSM


@pytest.mark.parametrize(
    ("request_", "spec", "words"),
    [
        (infill(layout=InfillLayout.IN_PLACE), AR_SPEC, ("psm",)),
        (infill(options=DecodingOptions(block_length=4)), SPEC, ("block_length", "in_place")),
        (infill(layout=InfillLayout.PSM, hole_length=3), SPEC, ("hole_length", "psm", "max_hole_length")),
        (infill(hole_length=3), AR_SPEC, ("hole_length", "psm")),
        (infill(options=DecodingOptions(cache="dual"), layout=InfillLayout.PSM), SPEC, ("cache dual", "in_place")),
        (infill(options=DecodingOptions(cache="prefix")), AR_SPEC, ("cache prefix", "psm")),
    ],
)
def test_layouts_that_cannot_be_are_refused(request_, spec, words):
    with pytest.raises(ConfigError) as error:
        request_.resolve_layout(spec)
    assert all(word in str(error.value) for word in words)


def test_a_cache_has_a_name():
    calibrated = replace(SPEC, decoding=replace(SPEC.decoding, cache="dual"))
    for is_in_place in (True, False):
        assert DecodingOptions().resolve_cache(SPEC, is_in_place=is_in_place) is Cache.EXACT
        assert DecodingOptions(cache="vicinity").resolve_cache(SPEC, is_in_place=is_in_place) is Cache.VICINITY
    assert DecodingOptions().resolve_cache(calibrated, is_in_place=True) is Cache.DUAL
    assert DecodingOptions().resolve_cache(calibrated, is_in_place=False) is Cache.EXACT
    with pytest.raises(ConfigError, match="no cache 'fast'; known: exact, prefix, dual, vicinity"):
        DecodingOptions(cache="fast").resolve_cache(SPEC, is_in_place=True)


def test_bad_values_are_refused_at_once():
    with pytest.raises(ConfigError, match="hole_length and max_hole_length"):
        infill(hole_length=3, max_hole_length=5)
    with pytest.raises(ConfigError, match="hole_length must be at least 1, got 0"):
        infill(hole_length=0)
    with pytest.raises(ConfigError, match="max_tokens must be at least 1, got 0"):
        GenerateRequest(prompt="a", max_tokens=0)
    with pytest.raises(InputError, match="no hole"):
        InfillRequest(texts=("a",))


def test_templates_are_split_at_every_mark():
    assert split_template("a<FILL>b<FILL>") == ("a", "b", "")
    assert split_template("a___<FILL>", mark="___") == ("a", "<FILL>")
    with pytest.raises(InputError, match="<FILL> does not occur"):
        split_template("a")
    with pytest.raises(InputError, match="must not be empty"):
        split_template("a", mark="")


def test_layout_names():
    assert parse_layout(None) is None
    assert parse_layout("psm") is InfillLayout.PSM
    with pytest.raises(ConfigError, match="'middle'; known: in_place, psm"):
        parse_layout("middle")
