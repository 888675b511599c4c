"""Muon with its orthogonalisation in a chosen dtype and over whole stacks of matrices.

``torch.optim.Muon`` multiplies in bf16, one matrix at a time. A CPU without bf16 units emulates that: it took three
quarters of a training step (docs/log.md). The rule is the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

NEWTON_SCHULZ_STEPS = 5
_COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic iteration (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""
_EPS = 1e-7


def orthogonalised(matrices: Float[Tensor, "N a b"], dtype: torch.dtype) -> Float[Tensor, "N a b"]:
    """About U V^T of every matrix U S V^T: singular values end between 0.7 and 1.2, which is near enough.

    Args:
        matrices: all of one shape.
        dtype: of the products; the result has it too.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).to(dtype)
    # The spectral norm is at most the Frobenius norm.
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose update of every matrix is orthogonalised."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        """All parameters must be matrices; ``dtype`` is that of the orthogonalisation."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every matrix that has a gradient; a ``closure`` is not supported."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_alike(parameters, group)

    def _step_alike(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """One step of matrices of one shape."""
        directions = []
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter, grad in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
            directions.append(grad.lerp(buffer, group["momentum"]))
        rows, columns = parameters[0].shape
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, orthogonalised(torch.stack(directions), self._dtype), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-rate)
