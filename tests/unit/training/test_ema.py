"""The weight average against a plain loop."""

import pytest
import torch
from torch import nn

from quicksilver.errors import ConfigError
from quicksilver.training.ema import WeightAverage


def set_weight(model: nn.Linear, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


def test_average_of_a_plain_loop():
    model = nn.Linear(2, 2, bias=False)
    set_weight(model, 1.0)
    average = WeightAverage(model, 0.3)
    expected = 1.0
    for count, value in enumerate([5.0, -2.0, 0.5, 7.0]):
        set_weight(model, value)
        average.update(model)
        decay = min(0.3, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
        assert average.weights["weight"].flatten().tolist() == pytest.approx([expected] * 4)


def test_decay_zero_is_the_last_weight():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.0)
    set_weight(model, 3.5)
    average.update(model)
    assert torch.equal(average.weights["weight"], model.weight)


def test_the_average_is_float32_and_apart_from_the_model():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    average = WeightAverage(model, 0.5)
    before = average.weights["weight"].clone()
    set_weight(model, 9.0)
    assert average.weights["weight"].dtype == torch.float32
    assert torch.equal(average.weights["weight"], before)


def test_state_goes_on_where_it_was():
    model = nn.Linear(2, 2)
    first, second = WeightAverage(model, 0.9), WeightAverage(nn.Linear(2, 2), 0.9)
    set_weight(model, 2.0)
    first.update(model)
    second.load_state_dict(first.state_dict())
    set_weight(model, 4.0)
    first.update(model)
    second.update(model)
    assert second.num_updates == 2
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_a_foreign_state_and_a_bad_decay_are_errors():
    with pytest.raises(ConfigError, match="does not belong"):
        WeightAverage(nn.Linear(2, 2), 0.5).load_state_dict(WeightAverage(nn.RMSNorm(3), 0.5).state_dict())
    for decay in (1.0, -0.1):
        with pytest.raises(ConfigError, match="decay"):
            WeightAverage(nn.Linear(2, 2), decay)
