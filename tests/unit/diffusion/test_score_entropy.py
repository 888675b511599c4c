"""Score entropy is the same loss in other coordinates, and both forms equal the plain definition."""

import math

import pytest
import torch

from quicksilver.diffusion.prediction import LeaveOneOutPrediction, clean_log_probs
from quicksilver.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from quicksilver.diffusion.score_entropy import AbsorbingScoreEntropy, UniformScoreEntropy
from quicksilver.diffusion.uniform import UniformNoise

V, MASK = 5, 2
F64 = torch.float64
SCHEDULES = [LinearSchedule(), CosineSchedule()]


def batch():
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.tensor([0, 1, 3, 4])[torch.randint(4, (3, 6), generator=generator)]
    t = torch.rand(3, 6, generator=generator, dtype=F64) * 0.9 + 0.05
    return x_0, torch.randn(3, 6, V, generator=generator, dtype=F64), t, generator


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_absorbing_reduces_to_weighted_cross_entropy(schedule: NoiseSchedule):
    x_0, logits, t, _ = batch()
    sedd = AbsorbingScoreEntropy(schedule, MASK)
    is_masked = torch.ones_like(x_0, dtype=torch.bool)
    nats = sedd.nelbo(sedd.log_scores(logits, t), x_0, is_masked, t)
    cross_entropy = -clean_log_probs(logits, MASK).gather(-1, x_0[..., None])[..., 0]
    torch.testing.assert_close(nats, schedule.weight(t) * cross_entropy)
    if isinstance(schedule, LinearSchedule):
        torch.testing.assert_close(nats, cross_entropy / t)
    assert sedd.nelbo(sedd.log_scores(logits, t), x_0, ~is_masked, t).count_nonzero() == 0


def test_absorbing_matches_the_plain_definition_for_any_scores():
    x_0, log_scores, t, _ = batch()
    nats = AbsorbingScoreEntropy(LinearSchedule(), MASK).nelbo(
        log_scores, x_0, torch.ones_like(x_0, dtype=torch.bool), t
    )
    sigma, x, s = -math.log(1 - float(t[0, 0])), int(x_0[0, 0]), log_scores[0, 0].exp().tolist()
    # sum over y != mask of s_y - r_y log s_y + r_y (log r_y - 1), where only y = x has r_y = 1 / (e^sigma - 1) > 0.
    r = 1 / math.expm1(sigma)
    total = sum(s[y] for y in range(V) if y != MASK) - r * math.log(s[x]) + r * (math.log(r) - 1)
    assert float(nats[0, 0]) == pytest.approx(total / (1 - float(t[0, 0])))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_uniform_equals_the_bound_of_uniform_noise(schedule: NoiseSchedule):
    x_0, logits, t, generator = batch()
    z = torch.randint(V, x_0.shape, generator=generator)
    prediction = LeaveOneOutPrediction.from_logits(logits)
    sedd = UniformScoreEntropy(schedule, V)
    torch.testing.assert_close(
        sedd.nelbo(sedd.log_scores(prediction, z, t), x_0, z, t), UniformNoise(schedule, V).nelbo(prediction, x_0, z, t)
    )


def test_uniform_matches_the_plain_definition_for_any_scores():
    x_0, log_scores, t, generator = batch()
    z = torch.randint(V, x_0.shape, generator=generator)
    nats = UniformScoreEntropy(LinearSchedule(), V).nelbo(log_scores, x_0, z, t)
    for i in range(6):
        time, x, seen = float(t[0, i]), int(x_0[0, i]), int(z[0, i])
        q = [(1 - time) * (y == x) + time / V for y in range(V)]
        total = 0.0
        for y in set(range(V)) - {seen}:
            r, log_s = q[y] / q[seen], float(log_scores[0, i, y])
            total += math.exp(log_s) - r * log_s + r * (math.log(r) - 1)
        assert float(nats[0, i]) == pytest.approx(total / (1 - time) / V)
