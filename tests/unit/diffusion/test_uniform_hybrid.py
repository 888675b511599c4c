"""Uniform and hybrid noise: closed forms against their definitions, posteriors against enumeration."""

import math
import os

import pytest
import torch

from quicksilver.diffusion.absorbing import MaskNoise
from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.hybrid import HybridNoise
from quicksilver.diffusion.interpolating import InterpolatingNoise
from quicksilver.diffusion.prediction import DirectPrediction, LeaveOneOutPrediction
from quicksilver.diffusion.schedules import CosineSchedule, LinearSchedule
from quicksilver.diffusion.uniform import UniformNoise
from quicksilver.errors import ConfigError

V, MASK = 5, 2
REAL = [0, 1, 3, 4]
F64 = torch.float64
NOISES = [
    UniformNoise(LinearSchedule(), V),
    UniformNoise(CosineSchedule(), V),
    HybridNoise(V, MASK, uniform_fraction=0.2),
    HybridNoise(V, MASK, uniform_fraction=0.5, gamma=1.7),
]


def marginal_matrix(noise: InterpolatingNoise, t: float) -> torch.Tensor:
    """Q[x, z] = q_t(z | x), built by hand from the rates."""
    keep, mask, flip = (float(rate) for rate in noise.rates(torch.tensor(t, dtype=F64)))
    uniform = torch.full((V,), 1 / V, dtype=F64)
    if noise.mask_id is not None:
        uniform = torch.full((V,), 1 / (V - 1), dtype=F64)
        uniform[noise.mask_id] = 0
    q = keep * torch.eye(V, dtype=F64) + flip * uniform
    if noise.mask_id is not None:
        q[:, noise.mask_id] += mask
    return q


def prior(noise: InterpolatingNoise) -> torch.Tensor:
    p = torch.tensor([0.4, 0.25, 0.1, 0.2, 0.05], dtype=F64)
    if noise.mask_id is not None:
        p[noise.mask_id] = 0
    return p / p.sum()


@pytest.mark.parametrize("noise", NOISES)
def test_rates_add_up_and_the_ends_are_clean_and_noisy(noise: InterpolatingNoise):
    rates = noise.rates(torch.tensor([0.0, 0.3, 1.0], dtype=F64))
    torch.testing.assert_close(sum(rates), torch.ones(3, dtype=F64))
    torch.testing.assert_close(rates.keep[[0, 2]], torch.tensor([1.0, 0.0], dtype=F64))


def test_gidd_flip_share_at_half_time():
    rates = HybridNoise(V, MASK, uniform_fraction=0.2).rates(torch.tensor([0.4, 0.5, 0.6], dtype=F64))
    assert float(rates.flip[1]) == pytest.approx(0.2)
    assert rates.flip.argmax() == 1


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_samples_follow_the_marginal(noise: InterpolatingNoise, t: float):
    # 40000 draws: sigma of a share is at most 0.0025; 5 sigma.
    uniforms = counter_uniform(9, torch.arange(200)[:, None], torch.arange(200))
    z = noise.q_sample(torch.full((200, 200), 3), torch.full((200, 200), t, dtype=F64), uniforms)
    shares = z.flatten().bincount(minlength=V) / z.numel()
    torch.testing.assert_close(shares.double(), marginal_matrix(noise, t)[3], atol=0.0125, rtol=0)


def test_hybrid_without_flips_never_flips():
    noise = HybridNoise(V, MASK, uniform_fraction=0.0)
    uniforms = counter_uniform(9, torch.arange(50)[:, None], torch.arange(50))
    z = noise.q_sample(torch.full((50, 50), 3), torch.full((50, 50), 0.5, dtype=F64), uniforms)
    assert set(z.flatten().tolist()) == {3, MASK}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.3), (0.2, 0.7), (0.9, 0.999), (0.5, 1.0)])
def test_posterior_is_exact_for_a_leave_one_out_prediction(noise: InterpolatingNoise, s: float, t: float):
    # One independent token: its leave-one-out prediction is the prior. Enumerate p(x) q_s(z_s | x) q(z_t | z_s).
    p = prior(noise)
    q_s, q_t = marginal_matrix(noise, s), marginal_matrix(noise, t)
    keep_s, keep_t = (float(noise.rates(torch.tensor(v, dtype=F64)).keep) for v in (s, t))
    noise_s, noise_t = q_s[1] - keep_s * torch.eye(V, dtype=F64)[1], q_t[1] - keep_t * torch.eye(V, dtype=F64)[1]
    step = keep_t / keep_s * torch.eye(V, dtype=F64) + noise_t - keep_t / keep_s * noise_s
    torch.testing.assert_close(q_s @ step, q_t)
    joint = (p @ q_s)[:, None] * step  # [z_s, z_t]
    reachable = [z for z in range(V) if joint[:, z].sum() > 0]
    prediction = LeaveOneOutPrediction(p.log().expand(1, len(reachable), V))
    times = (torch.full((1, len(reachable)), v, dtype=F64) for v in (s, t))
    posterior = noise.reverse_posterior(prediction, torch.tensor([reachable]), *times)
    torch.testing.assert_close(posterior[0], (joint / joint.sum(0)).T[reachable], atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(1, len(reachable), dtype=F64))


@pytest.mark.parametrize("noise", NOISES)
def test_direct_and_leave_one_out_are_inverse_and_bayes(noise: InterpolatingNoise):
    p, t = prior(noise), torch.full((1, V), 0.6, dtype=F64)
    z = torch.arange(V)[None]
    leave_one_out = LeaveOneOutPrediction(p.log().expand(1, V, V))
    direct = noise.to_direct(leave_one_out, z, t)
    joint = p[:, None] * marginal_matrix(noise, 0.6)  # [x, z]
    torch.testing.assert_close(direct.log_probs[0].exp(), (joint / joint.sum(0)).T)
    back = noise.to_leave_one_out(direct, z, t)
    torch.testing.assert_close(back.log_probs.exp(), leave_one_out.log_probs.exp())


def bound_of_one_token(noise: InterpolatingNoise, predicted_of_z: torch.Tensor, points: int = 4000) -> float:
    """E_x E_t E_z of the integrand, by enumeration over x and z and the midpoint rule in t = 3 v^2 - 2 v^3."""
    v = (torch.arange(points, dtype=F64) + 0.5) / points
    t = 3 * v**2 - 2 * v**3  # tames the integrable singularities at both ends
    total, p = 0.0, prior(noise)
    for x in range(V):
        if p[x] == 0:
            continue
        for z in range(V):
            marginals = noise.noise_at(torch.full((1, points), z), t[None])[0] + (x == z) * noise.rates(t).keep
            prediction = LeaveOneOutPrediction(predicted_of_z[:, z].log().expand(1, points, V))
            ids = (torch.full((1, points), x), torch.full((1, points), z))
            nats = noise.nelbo(prediction, *ids, t[None])[0]
            total += float(p[x] * (marginals * nats * 6 * v * (1 - v)).mean())
    return total


@pytest.mark.parametrize("noise", NOISES)
def test_bound_is_the_entropy_for_leave_one_out_predictions(noise: InterpolatingNoise):
    p = prior(noise)
    entropy = -float(torch.xlogy(p, p).sum())
    exact = p[:, None].expand(V, V)  # whatever z shows, the other tokens (none) say p
    assert bound_of_one_token(noise, exact) == pytest.approx(entropy, abs=2e-4)


@pytest.mark.parametrize("noise", [NOISES[0], NOISES[2]])
def test_bound_is_loose_for_direct_predictions(noise: InterpolatingNoise):
    p = prior(noise)
    entropy = -float(torch.xlogy(p, p).sum())
    joint = p[:, None] * marginal_matrix(noise, 0.5)
    posterior_mean = (joint / joint.sum(0)).clamp(min=1e-300)
    assert bound_of_one_token(noise, posterior_mean) > entropy + 0.05


@pytest.mark.parametrize("noise", NOISES[:2])
def test_udlm_closed_form_is_the_plain_formula(noise: UniformNoise):
    prediction = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=F64)
    for x in range(V):
        for z in range(V):
            alpha = float(noise.schedule.alpha(torch.tensor(0.35, dtype=F64)))
            slope = float(noise.schedule.alpha_prime(torch.tensor(0.35, dtype=F64)))
            y = [V * alpha * (j == x) + 1 - alpha for j in range(V)]
            m = [V * alpha * float(prediction[j]) + 1 - alpha for j in range(V)]
            bracket = V / y[z] - V / m[z]
            bracket -= sum(y[j] / y[z] * math.log(m[z] * y[j] / (m[j] * y[z])) for j in range(V))
            nats = noise.nelbo(
                LeaveOneOutPrediction(prediction.log().view(1, 1, V)),
                torch.tensor([[x]]),
                torch.tensor([[z]]),
                torch.tensor([[0.35]], dtype=F64),
            )
            assert float(nats) == pytest.approx(slope / (V * alpha) * bracket, rel=1e-10)


@pytest.mark.parametrize("noise", [*NOISES[2:], HybridNoise(V, MASK, uniform_fraction=0.3, gamma=2.0)])
@pytest.mark.parametrize("t", [0.05, 0.4, 0.5, 0.93])
def test_gidd_weights_equal_their_derivative_definition(noise: HybridNoise, t: float):
    # w = ((beta pi)' - alpha' / alpha * beta pi)_z / q_t(z | x), derivatives by central differences.
    step, x = 1e-6, 3
    before, now, after = (marginal_matrix(noise, t + d) for d in (-step, 0.0, step))
    keep = [float(noise.rates(torch.tensor(t + d, dtype=F64)).keep) for d in (-step, 0.0, step)]
    one_hot = torch.eye(V, dtype=F64)[x]
    slope = ((after[x] - keep[2] * one_hot) - (before[x] - keep[0] * one_hot)) / (2 * step)
    log_slope = (keep[2] - keep[0]) / (2 * step) / keep[1]
    weights = (slope - log_slope * (now[x] - keep[1] * one_hot)) / now[x]
    ids = torch.arange(V)[None]
    closed = noise.bound_weights(torch.full_like(ids, x), ids, torch.full((1, V), t, dtype=F64))
    torch.testing.assert_close(closed[0], weights, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_gidd_weights_of_the_paper(t: float):
    # The three closed forms as printed, gamma = 1.
    noise = HybridNoise(V, MASK, uniform_fraction=0.2)
    scale = 2 * 0.2 / 0.8
    c = scale * math.sqrt(t * (1 - t))
    slope = scale * (1 - 2 * t) / (2 * math.sqrt(t * (1 - t)))
    expected = [
        1 / (t * (1 - t)),
        (c + (1 - t) * slope) / ((1 - t) * c),
        (c + (1 - t) * slope) / 4 / ((1 - t) * (1 - t + c / 4)),
    ]
    x_0, z = torch.tensor([[0, 0, 0]]), torch.tensor([[MASK, 1, 0]])
    times = torch.full((1, 3), t, dtype=F64)
    torch.testing.assert_close(noise.bound_weights(x_0, z, times)[0], torch.tensor(expected, dtype=F64))
    dynamic = noise.dynamic_weights(x_0, z, times)[0]
    torch.testing.assert_close(dynamic[:2], torch.tensor([2.0, 1.0], dtype=F64))
    torch.testing.assert_close(dynamic, torch.tensor(expected, dtype=F64) / expected[1])
    assert 0 < float(dynamic[2]) < 1


def test_gidd_without_flips_is_mask_diffusion():
    noise = HybridNoise(V, MASK, uniform_fraction=0.0)
    logits = torch.randn(2, 3, V, generator=torch.Generator().manual_seed(1), dtype=F64, requires_grad=True)
    x_0 = torch.tensor([[0, 1, 3], [4, 3, 0]])
    is_masked = torch.tensor([[True, False, True], [True, True, False]])
    z = torch.where(is_masked, MASK, x_0)
    t = torch.tensor([[0.2] * 3, [0.8] * 3], dtype=F64)
    hybrid = noise.nelbo(LeaveOneOutPrediction.from_logits(logits, MASK), x_0, z, t)
    torch.testing.assert_close(hybrid, MaskNoise(LinearSchedule(), MASK).nelbo(logits, x_0, is_masked, t))
    hybrid.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("noise", NOISES)
def test_integrand_is_non_negative_and_zero_at_the_truth(noise: InterpolatingNoise):
    ids = torch.cartesian_prod(torch.tensor(REAL), torch.arange(V)).T[:, None]
    t = torch.full(ids[0].shape, 0.6, dtype=F64)
    certain = torch.nn.functional.one_hot(ids[0], V).double().log()
    torch.testing.assert_close(noise.nelbo(LeaveOneOutPrediction(certain), ids[0], ids[1], t), torch.zeros_like(t))
    unsure = LeaveOneOutPrediction(prior(noise).log().expand(*ids[0].shape, V))
    assert (noise.nelbo(unsure, ids[0], ids[1], t) > 0).all()


@pytest.mark.skipif(os.environ.get("JAXTYPING_DISABLE") == "1", reason="types are not checked in this session")
def test_the_two_predictions_cannot_be_mixed():
    direct = DirectPrediction.from_logits(torch.zeros(1, 1, V))
    ids, t = torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), 0.5)
    with pytest.raises(Exception, match="DirectPrediction"):
        NOISES[0].nelbo(direct, ids, ids, t)  # pyright: ignore[reportArgumentType]


def test_bad_parameters_are_errors():
    with pytest.raises(ConfigError, match="uniform_fraction"):
        HybridNoise(V, MASK, uniform_fraction=1.0)
    with pytest.raises(ConfigError, match="gamma"):
        HybridNoise(V, MASK, uniform_fraction=0.1, gamma=3.0)
    with pytest.raises(ConfigError, match="vocabulary"):
        HybridNoise(V, V, uniform_fraction=0.1)
