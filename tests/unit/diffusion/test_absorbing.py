"""Mask noise: sampling, the continuous-time bound, the reverse posterior."""

import pytest
import torch

from quicksilver.diffusion.absorbing import MaskNoise
from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule

V, MASK = 5, 2


def batch(rows: int = 3, length: int = 4):
    x_0 = torch.tensor([0, 1, 3, 4])[torch.arange(rows * length).view(rows, length) * 7 % 4]
    logits = torch.randn(rows, length, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x_0, logits


def test_masked_share_is_one_minus_alpha():
    # 20000 draws: sigma of the share is at most 0.0036; 5 sigma.
    x_0 = torch.zeros(200, 100, dtype=torch.int64)
    uniforms = counter_uniform(3, torch.arange(200)[:, None], torch.arange(100))
    z, is_masked = MaskNoise(CosineSchedule(), MASK).q_sample(x_0, torch.full((200, 100), 0.3).double(), uniforms)
    expected = float(torch.cos(torch.tensor(0.7 * torch.pi / 2)))
    assert float(is_masked.float().mean()) == pytest.approx(expected, abs=0.018)
    assert torch.equal(z == MASK, is_masked)
    assert torch.equal(z[~is_masked], x_0[~is_masked])


def test_a_literal_mask_token_is_not_masked():
    noise = MaskNoise(LinearSchedule(), MASK)
    z, is_masked = noise.q_sample(torch.tensor([[MASK, 0]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[0.1, 0.9]]))
    assert z.tolist() == [[MASK, MASK]]
    assert is_masked.tolist() == [[False, True]]


def test_nelbo_is_weighted_cross_entropy_without_the_mask():
    x_0, logits = batch()
    is_masked = torch.tensor([[True, False, True, False]] * 3)
    t = torch.full(x_0.shape, 0.25, dtype=torch.float64)
    nats = MaskNoise(LinearSchedule(), MASK).nelbo(logits, x_0, is_masked, t)
    real = [0, 1, 3, 4]
    for row in range(3):
        for i in range(4):
            probs = logits[row, i, real].softmax(-1)
            expected = -4 * float(probs[real.index(int(x_0[row, i]))].log()) if is_masked[row, i] else 0.0
            assert float(nats[row, i]) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_the_bound_does_not_depend_on_the_schedule(schedule: NoiseSchedule):
    # One token: P(masked at t) times weight(t) integrates to one, so the bound is the cross-entropy.
    x_0, logits = batch(1, 1)
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    nats = MaskNoise(schedule, MASK).nelbo(
        logits.expand(4000, 1, V), x_0.expand(4000, 1), torch.ones(4000, 1, dtype=torch.bool), t[:, None]
    )
    mean = float((nats[:, 0] * (1 - schedule.alpha(t))).mean())
    real_logits = logits[0, 0, [0, 1, 3, 4]]
    assert mean == pytest.approx(-float(real_logits.log_softmax(-1)[[0, 1, 3, 4].index(int(x_0))]), rel=1e-5)


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_posterior_is_bayes_rule(schedule: NoiseSchedule):
    x_0, logits = batch()
    is_masked = torch.tensor([[True, False, True, False]] * 3)
    z = torch.where(is_masked, MASK, x_0)
    s, t = torch.full(x_0.shape, 0.2, dtype=torch.float64), torch.full(x_0.shape, 0.7, dtype=torch.float64)
    posterior = MaskNoise(schedule, MASK).reverse_posterior(logits, z, is_masked, s, t)
    torch.testing.assert_close(posterior.sum(-1), torch.ones_like(s))
    alpha_s, alpha_t = float(schedule.alpha(s)[0, 0]), float(schedule.alpha(t)[0, 0])
    clean = logits[0, 0].clone()
    clean[MASK] = -torch.inf
    # Joint of z_s and "masked at t": kept until s, lost between s and t; or lost by s.
    joint = clean.softmax(-1) * alpha_s * (1 - alpha_t / alpha_s)
    joint[MASK] = 1 - alpha_s
    torch.testing.assert_close(posterior[0, 0], joint / joint.sum())
    assert posterior[0, 1].tolist() == torch.nn.functional.one_hot(x_0[0, 1], V).tolist()
