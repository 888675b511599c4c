"""DiffusionSpec: what a checkpoint says of its training survives JSON, and nothing in it is ignored."""

import dataclasses
import json

import pytest

from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, NoiseRates, Objective, SpecialIds
from quicksilver.errors import ConfigError

SPECIAL = SpecialIds(pad=0, eos=1, mask=2)
FULL = DiffusionSpec(
    objective=Objective.HYBRID,
    special=SpecialIds(
        pad=0, eos=1, mask=2, expand=3, delete=4, fim_prefix=5, fim_suffix=6, fim_middle=7, canvas=8, file=9
    ),
    layouts=(Layout.BLOCK_CAUSAL,),
    block_length=8,
    trained_block_lengths=(4, 8, 32),
    has_causal_context=True,
    prediction_shift=1,
    is_mask_predicted=True,
    noise=NoiseRates(uniform_fraction=0.2, edit_rate=0.1, has_length_noise=True),
    decoding=DecodingDefaults(policy="entropy_bound", threshold=0.5, temperature=0.7, hole_length=4),
)


ABSOLUTE = dataclasses.replace(FULL, has_causal_context=False, has_absolute_grid=True)


@pytest.mark.parametrize("spec", [FULL, ABSOLUTE, DiffusionSpec(objective=Objective.MASK, special=SPECIAL)])
def test_round_trip_through_json(spec):
    found = DiffusionSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert found == spec
    assert hash(found.layouts) == hash(spec.layouts)  # tuples again, not lists
    assert isinstance(found.objective, Objective)
    assert all(isinstance(layout, Layout) for layout in found.layouts)


def test_every_field_of_the_full_example_differs_from_its_default():
    """So that the round trip above would notice a field that is dropped."""
    for part in (FULL, FULL.special, FULL.noise):
        for field in dataclasses.fields(part):
            given = ABSOLUTE if field.name == "has_absolute_grid" else part
            assert getattr(given, field.name) != field.default, field.name


def test_defaults_may_be_left_out():
    special = {"pad": 0, "eos": 1, "mask": 2}
    spec = DiffusionSpec.from_dict({"objective": "mask", "special": special})
    assert spec == DiffusionSpec(objective=Objective.MASK, special=SPECIAL)


@pytest.mark.parametrize("where", [None, "special", "noise", "decoding"])
def test_an_unknown_key_is_an_error_that_names_it_and_what_is_known(where):
    values = FULL.to_dict()
    (values if where is None else values[where])["block_lenght"] = 3
    with pytest.raises(ConfigError, match=r"has no field block_lenght; known: .*"):
        DiffusionSpec.from_dict(values)


@pytest.mark.parametrize("key", ["objective", "special"])
def test_a_missing_key_is_an_error(key):
    values = FULL.to_dict()
    del values[key]
    with pytest.raises(ConfigError, match=key):
        DiffusionSpec.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "guess"}, "guess"),
        ({"layouts": ["diagonal"]}, "diagonal"),
        ({"layouts": []}, "at least one layout"),
        ({"prediction_shift": 2}, "prediction_shift must be 0 or 1, got 2"),
        ({"block_length": 0}, "block_length must be at least 1, got 0"),
        ({"has_absolute_grid": True}, "a causal context has none"),
        ({"decoding": {"has_first_alone": True}, "prediction_shift": 0}, "has_first_alone needs prediction_shift 1"),
        ({"decoding": {"sub_block_length": 0}}, "sub_block_length must be at least 1, got 0"),
        ({"layouts": 3}, "not a diffusion spec"),
        ({"special": 3}, "special must be an object, got 3"),
        ({"special": {"pad": 0}}, "not a diffusion spec: .*eos"),
        ({"trained_block_lengths": 16}, "not a diffusion spec"),
    ],
)
def test_a_wrong_value_is_a_config_error(change, message):
    with pytest.raises(ConfigError, match=message):
        DiffusionSpec.from_dict(FULL.to_dict() | change)


def test_special_ids_must_differ():
    with pytest.raises(ConfigError, match="must all differ"):
        SpecialIds(pad=0, eos=1, mask=1)


def test_special_ids_must_not_be_negative():
    with pytest.raises(ConfigError, match="must not be negative"):
        SpecialIds(pad=-1, eos=1, mask=2)


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.block_length = 4
