"""Muon against torch's own, and its orthogonalisation against the singular vectors."""

import pytest
import torch
from torch import nn

from quicksilver.training.muon import Muon, orthogonalised

SHAPES = [(6, 6), (12, 5), (5, 12), (6, 6)]


def matrices(seed: int) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 4), (2, 4, 16)])
def test_singular_values_end_near_one_and_singular_vectors_stay(shape):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(stack, torch.float32)
    for before, after in zip(stack, found, strict=True):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        diagonal = u.mT @ after @ vh.mT
        # The iteration acts on singular values alone; it leaves them between 0.68 and 1.13 (the post's plot).
        assert torch.allclose(diagonal, diagonal.diagonal().diag(), atol=1e-4)
        assert diagonal.diagonal().min() > 0.6
        assert diagonal.diagonal().max() < 1.25


def test_steps_are_those_of_torch_but_for_bf16():
    ours, theirs = matrices(1), matrices(1)
    options = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    mine = Muon(ours, dtype=torch.bfloat16, **options)
    reference = torch.optim.Muon(theirs, adjust_lr_fn="original", **options)
    random = torch.Generator().manual_seed(2)
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=random)
            other.grad = one.grad.clone()
        mine.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        # bf16 keeps 8 bits; a step is about 0.02 per entry, so 4 steps differ by less than 0.004.
        assert torch.allclose(one, other, atol=4e-3)


def test_parameters_without_gradient_stay_and_state_survives_saving():
    parameters = matrices(3)
    optimizer = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32)
    parameters[0].grad = torch.ones(6, 6)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.step()
    assert not torch.equal(parameters[0], before[0])
    assert all(torch.equal(now, was) for now, was in zip(parameters[1:], before[1:], strict=True))
    again = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32)
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[parameters[0]]["momentum_buffer"], optimizer.state[parameters[0]]["momentum_buffer"])


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="closure"):
        Muon(matrices(0), lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32).step(lambda: 0.0)
