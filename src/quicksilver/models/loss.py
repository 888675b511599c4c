"""Cross-entropy of a linear head that never holds all logits.

The gradient with respect to the logits is formed while they are at hand, part by part, and only its products with the
head and the hidden rows are kept (Liger Kernel, Hsu et al. 2024, arXiv:2410.10989, section 3.2; theirs is for GPUs).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROWS = 512
"""Rows per part: 8 MB of bf16 logits at 8192 tokens."""

LogitGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def logit_gradient(
    logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"], weights: Float[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
    """Negative log-likelihoods in nats, float32, and the gradient of their weighted sum, in the logits' dtype."""
    wide = logits.float()
    log_norm = torch.logsumexp(wide, dim=-1, keepdim=True)
    is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    gradient = ((wide - log_norm).exp() - is_label.float()) * weights[:, None]
    nats = (log_norm - wide.gather(-1, labels[:, None]))[:, 0]
    return nats, gradient.to(logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  # as torch types it
        hidden: Tensor,
        table: Tensor,
        labels: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        gradient_of: LogitGradient,
    ) -> tuple[Tensor, Tensor]:
        rows, head = hidden.to(dtype), table.to(dtype)
        nats = []
        hidden_gradient = torch.empty_like(rows)
        table_gradient = torch.zeros_like(table)
        needs_gradient = any(ctx.needs_input_grad)
        for start in range(0, len(labels), _ROWS):
            part = slice(start, start + _ROWS)
            part_nats, gradient = gradient_of(rows[part] @ head.T, labels[part], weights[part])
            nats.append(part_nats)
            if needs_gradient:
                torch.mm(gradient, head, out=hidden_gradient[part])
                table_gradient += gradient.T @ rows[part]
        ctx.save_for_backward(hidden_gradient, table_gradient)
        ctx.hidden_dtype = hidden.dtype
        all_nats = torch.cat(nats) if nats else weights.new_zeros(0)
        ctx.mark_non_differentiable(all_nats)
        return (all_nats * weights).sum(), all_nats

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        hidden_gradient, table_gradient = ctx.saved_tensors
        scale = gradients[0]
        hidden = (hidden_gradient * scale.to(hidden_gradient.dtype)).to(ctx.hidden_dtype)
        return hidden, table_gradient * scale, None, None, None, None


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    table: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    weights: Float[Tensor, " N"],
    gradient_of: LogitGradient = logit_gradient,
) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
    """The weighted sum of negative log-likelihoods, with gradient, and each of them in nats, without.

    Products run in the dtype of the present autocast, the softmax in float32. No second derivative.

    Args:
        hidden: final hidden rows.
        table: the head's matrix; its gradient is summed in its own dtype.
        labels: the right token of each row.
        weights: loss weights; no gradient flows to them.
        gradient_of: ``logit_gradient``, or the same compiled.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(hidden, table, labels, weights, dtype, gradient_of)  # pyright: ignore[reportReturnType]
