"""The fused cross-entropy against torch's, with gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quicksilver.models import loss as loss_module
from quicksilver.models.loss import linear_cross_entropy, logit_gradient


def _case(num_rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    hidden = torch.randn(num_rows, 12, generator=generator, dtype=dtype, requires_grad=True)
    table = torch.randn(40, 12, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(40, (num_rows,), generator=generator)
    return hidden, table, labels, torch.rand(num_rows, generator=generator)


@pytest.mark.parametrize("num_rows", [1, 7, 8, 21])
def test_equals_the_plain_loss_and_its_gradients(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "_ROWS", 8)
    hidden, table, labels, weights = _case(num_rows)
    plain_nats = F.cross_entropy(hidden @ table.T, labels, reduction="none")
    plain = torch.autograd.grad(3.0 * (plain_nats * weights).sum(), (hidden, table))
    loss, nats = linear_cross_entropy(hidden, table, labels, weights)
    fused = torch.autograd.grad(3.0 * loss, (hidden, table))
    torch.testing.assert_close(nats, plain_nats.detach())
    torch.testing.assert_close(loss, (plain_nats * weights).sum())
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_under_autocast_products_are_bf16_and_gradients_keep_their_dtype() -> None:
    hidden, table, labels, weights = _case(20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nats = linear_cross_entropy(hidden, table, labels, weights)
    ours = torch.autograd.grad(loss, (hidden, table))
    logits = (hidden.bfloat16() @ table.bfloat16().T).float()
    torch.testing.assert_close(nats, F.cross_entropy(logits, labels, reduction="none").detach())
    plain = torch.autograd.grad((F.cross_entropy(hidden @ table.T, labels, reduction="none") * weights).sum(), (table,))
    assert [gradient.dtype for gradient in ours] == [torch.float32, torch.float32]
    torch.testing.assert_close(ours[1], plain[0], rtol=0.05, atol=0.05)


def test_no_rows_give_no_loss() -> None:
    hidden, table, labels, weights = _case(0)
    loss, nats = linear_cross_entropy(hidden, table, labels, weights)
    assert (float(loss.detach()), nats.shape) == (0.0, (0,))
    assert float(torch.autograd.grad(loss, table)[0].abs().sum()) == 0.0


def test_likelihoods_carry_no_gradient() -> None:
    _, nats = linear_cross_entropy(*_case(3))
    assert not nats.requires_grad


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[3e4, -3e4, 0.0]])
    nats, gradient = logit_gradient(logits, torch.tensor([1]), torch.ones(1))
    assert float(nats) == pytest.approx(6e4)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0]]))
