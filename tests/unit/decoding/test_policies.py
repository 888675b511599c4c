"""Policies by name, their limits, and the cases where other engines went wrong."""

from dataclasses import dataclass

import pytest
import torch

from quicksilver.decoding import (
    POLICY_NAMES,
    ConfidenceThreshold,
    FixedCount,
    FixedSteps,
    JointThreshold,
    Order,
    Policy,
    ReMDM,
    Renoise,
    decide,
    make_policy,
)
from quicksilver.decoding.rules import confidence_threshold, dynamic_factor, entropy_bound, hierarchical
from quicksilver.diffusion.spec import DecodingDefaults
from quicksilver.errors import ConfigError
from tests.fakes import random_window


def test_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no policy 'treshold'; known: confidence_threshold, dynamic_factor"):
        make_policy("treshold")


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_name_makes_a_policy(name: str) -> None:
    assert isinstance(make_policy(name), Policy)


def test_options_reach_the_policy() -> None:
    assert make_policy("confidence_threshold", threshold=0.5) == ConfidenceThreshold(threshold=0.5)
    assert make_policy("fixed_steps", steps=3) == FixedSteps(steps=3)
    assert make_policy("random_order", tokens_per_step=2) == FixedCount(order=Order.RANDOM, tokens_per_step=2)


def test_defaults_fill_what_is_not_given() -> None:
    defaults = DecodingDefaults(threshold=0.6, edit_threshold=0.8)
    assert make_policy("confidence_threshold", defaults=defaults) == ConfidenceThreshold(threshold=0.6)
    joint = make_policy("joint_threshold", threshold=0.5, defaults=defaults)
    assert joint == JointThreshold(threshold=0.5, edit_threshold=0.8)
    assert make_policy("entropy_bound", defaults=defaults) == make_policy("entropy_bound")


def test_an_option_the_policy_lacks_is_an_error() -> None:
    with pytest.raises(ConfigError, match="policy entropy_bound has no threshold; it takes bound"):
        make_policy("entropy_bound", threshold=0.5)


def test_values_out_of_range_are_errors() -> None:
    with pytest.raises(ConfigError, match="threshold must be at least"):
        ConfidenceThreshold(threshold=-0.1)
    with pytest.raises(ConfigError, match="threshold must be at least"):
        ConfidenceThreshold(threshold=float("nan"))
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        FixedSteps(steps=0)
    with pytest.raises(ConfigError, match="eta must lie"):
        ReMDM(eta=1.5)
    with pytest.raises(ConfigError, match="loop must be"):
        ReMDM(loop=(0.8, 0.2))


def test_threshold_ties_commit_exactly_one_at_the_lowest_position() -> None:
    confidence = torch.tensor([[0.9, 0.5, 0.5, 0.5]])
    is_masked = torch.tensor([[False, True, True, True]])
    chosen = confidence_threshold(confidence, is_masked, torch.tensor([0.8]))
    assert chosen.tolist() == [[False, True, False, False]]


def test_threshold_includes_equality() -> None:
    chosen = confidence_threshold(torch.tensor([[0.5, 0.25]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.5]))
    assert chosen.tolist() == [[True, False]]


def test_dynamic_factor_drops_the_last_position_when_only_it_fails() -> None:
    # Bounds for factor 1: 0.5, 0.667, 0.75. Fast-dLLM's code commits the third too.
    chosen = dynamic_factor(torch.tensor([[0.9, 0.8, 0.1]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([1.0]))
    assert chosen.tolist() == [[True, True, False]]


def test_entropy_bound_counts_only_what_comes_before() -> None:
    entropy = torch.tensor([[0.3, 0.1, 0.05, 2.0]])
    chosen = entropy_bound(entropy, torch.ones(1, 4, dtype=torch.bool), torch.tensor([0.2]))
    assert chosen.tolist() == [[True, True, True, False]]


def test_hierarchical_takes_one_per_run() -> None:
    confidence = torch.tensor([[0.5, 0.6, 0.0, 0.45, 0.2, 0.0, 0.3]])
    is_masked = torch.tensor([[True, True, False, True, True, False, True]])
    chosen = hierarchical(confidence, is_masked, torch.tensor([0.4]), torch.tensor([0.9]))
    assert chosen.tolist() == [[False, True, False, True, False, False, False]]


def test_row_and_policy_numbers_must_agree() -> None:
    with pytest.raises(ConfigError, match="3 rows need as many policies, got 1"):
        decide(random_window(0, num_rows=3, width=4), [ConfidenceThreshold()])


def test_decisions_are_disjoint_and_touch_only_what_they_may() -> None:
    window = random_window(5, num_rows=200, width=10)
    for name in POLICY_NAMES:
        decision = decide(window, [make_policy(name)] * 200)
        assert not (decision.commit & ~window.is_masked).any()
        assert not ((decision.edit | decision.remask) & ~window.is_draft).any()
        assert not (decision.edit & decision.remask).any()
        # Noise that is not accepted makes room for other noise, in steps that are counted.
        if not make_policy(name).starts_from_noise:
            assert (decision.commit.any(dim=-1) | ~window.is_masked.any(dim=-1)).all()


def test_remdm_remasks_at_its_rate() -> None:
    # 400 rows of 50 drafts, eta 0.2 below sigma_max: 20,000 draws, standard error 0.0028; 0.0141 is five.
    window = random_window(9, num_rows=400, width=50)
    window = type(window)(
        **{name: getattr(window, name) for name in window.__slots__}
        | {"state": torch.full((400, 50), 2, dtype=torch.int8), "step": torch.full((400,), 1)}
    )
    decision = decide(window, [ReMDM(steps=4, eta=0.2)] * 400)
    assert abs(decision.remask.double().mean().item() - 0.2) < 0.0141


def test_renoise_cools_by_even_steps() -> None:
    policy = Renoise(steps=5, cooling=0.4)
    assert [policy.temperature_scale(step) for step in range(5)] == pytest.approx([1.0, 0.88, 0.76, 0.64, 0.52])


def test_renoise_takes_the_argmax_at_its_last_step() -> None:
    window = random_window(5, num_rows=200, width=10)
    decision = decide(window, [Renoise(steps=4)] * 200)
    is_last = window.step >= 3
    assert decision.takes_argmax is not None
    assert is_last.any()
    assert decision.takes_argmax[is_last].all()
    assert torch.equal(decision.commit[is_last], window.is_masked[is_last])
    assert torch.equal(decision.edit[is_last], (window.is_draft & (window.argmax_ids != window.token_ids))[is_last])
    assert not decision.remask[is_last].any()


def test_a_foreign_class_can_be_a_policy() -> None:
    @dataclass(frozen=True)
    class Mine(ConfidenceThreshold):
        pass

    assert isinstance(Mine(), Policy)
