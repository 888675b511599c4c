"""Schedules against numerical derivatives and their end points."""

import pytest
import torch

from quicksilver.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule

SCHEDULES = [LinearSchedule(), CosineSchedule()]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_end_points(schedule: NoiseSchedule):
    ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_derivatives(schedule: NoiseSchedule):
    t, step = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-6
    slope = (schedule.alpha(t + step) - schedule.alpha(t - step)) / (2 * step)
    torch.testing.assert_close(schedule.alpha_prime(t), slope, rtol=1e-7, atol=1e-9)
    assert (schedule.alpha_prime(t) < 0).all()
    # The weight is d/dt of log(1 - alpha); the rate is d/dt of -log(alpha).
    log_masked = ((1 - schedule.alpha(t + step)).log() - (1 - schedule.alpha(t - step)).log()) / (2 * step)
    torch.testing.assert_close(schedule.weight(t), log_masked, rtol=1e-6, atol=1e-9)
    log_kept = (schedule.alpha(t + step).log() - schedule.alpha(t - step).log()) / (2 * step)
    torch.testing.assert_close(schedule.sigma_prime(t), -log_kept, rtol=1e-6, atol=1e-9)


def test_linear_weight_is_one_over_t():
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(LinearSchedule().weight(t), 1 / t)
