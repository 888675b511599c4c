"""A feed-forward of many experts, of which every position passes through a few (Shazeer et al. 2017, arXiv:1701.06538).

The published variants differ in how a position chooses: Qwen3 takes the greatest of a softmax; DeepSeek-V3's routing
(arXiv:2412.19437), which LLaDA2 has too, takes logistic scores, adds a bias that enters the choice and not the weights,
and chooses groups of experts first.

Legend: B batch, T tokens, N rows, D model width, E experts, F width of one expert, k experts of a position.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quicksilver.models.config import Activation, Experts

ROW_MULTIPLE = 4
"""An expert's rows are filled up to a multiple. Fewer rows, and those that do not fill vector registers, take other
code, and how many chose an expert depends on who else is in the batch (see ``engine.runner``)."""


ACTIVATIONS: Final[dict[Activation, Callable[[Tensor], Tensor]]] = {
    Activation.SILU: F.silu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
}


class ExpertFeedForward(nn.Module):
    """Gated experts, stacked in three tensors; beside them one that is shared by all positions, if there is any."""

    def __init__(
        self,
        model_width: int,
        experts: Experts,
        shared: nn.Module | None,
        activation: Activation = Activation.SILU,
        norm_eps: float = 1e-6,
    ) -> None:
        """Weights are not initialised.

        Args:
            model_width: D.
            experts: how many, how wide, how chosen.
            shared: what every position passes through as well.
            activation: of the gates.
            norm_eps: of the router's norm, if it has one.
        """
        super().__init__()
        self._experts, self._activation = experts, ACTIVATIONS[activation]
        num_experts, width = experts.num_experts, experts.width
        self.gate = nn.Linear(model_width, num_experts, bias=False)
        self.gate_norm = nn.RMSNorm(model_width, eps=norm_eps) if experts.has_normed_router else None
        self.expert_scale = nn.Parameter(torch.ones(num_experts)) if experts.has_normed_router else None
        self.expert_bias = nn.Parameter(torch.zeros(num_experts)) if experts.has_bias else None
        self.gate_proj = nn.Parameter(torch.empty(num_experts, width, model_width))
        self.up_proj = nn.Parameter(torch.empty(num_experts, width, model_width))
        self.down_proj = nn.Parameter(torch.empty(num_experts, model_width, width))
        self.shared_experts = shared

    def forward(
        self, x: Float[Tensor, "B T D"], routed_by: Float[Tensor, "B T D"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """What the chosen experts make of ``x``; they are chosen by other rows, if such are given."""
        rows = x.flatten(0, 1)
        chosen, weights = self.route(rows if routed_by is None else routed_by.flatten(0, 1))
        place, size = _places(chosen, self._experts.num_experts)
        padded = rows.new_zeros(int(size.sum()), rows.shape[1])
        padded = padded.index_copy(0, place.flatten(), rows.repeat_interleave(chosen.shape[1], dim=0))
        matrices = self.gate_proj, self.up_proj, self.down_proj
        found = gated_by_expert(padded, size, *matrices, self._activation)[place]
        out = (found.to(weights.dtype) * weights[..., None]).sum(dim=1).to(x.dtype).view_as(x)
        return out if self.shared_experts is None else out + self.shared_experts(x)

    def route(self, rows: Float[Tensor, "N D"]) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
        """The experts that each row passes through, and what their results are multiplied by; in float32 at least."""
        experts, dtype = self._experts, torch.promote_types(rows.dtype, torch.float32)
        if self.gate_norm is not None:
            rows = self.gate_norm(rows) * rows.shape[-1] ** -0.5
        with torch.autocast(rows.device.type, enabled=False):
            logits = F.linear(rows.to(dtype), self.gate.weight.to(dtype))
        scores = torch.sigmoid(logits) if experts.has_sigmoid_scores else torch.softmax(logits, dim=-1)
        liking = scores if self.expert_bias is None else scores + self.expert_bias.to(dtype)
        chosen = _outside_groups(liking, experts).topk(experts.num_chosen, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if experts.is_normalised:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + torch.finfo(dtype).tiny)
        if self.expert_scale is not None:
            weights = weights * self.expert_scale.to(dtype)[chosen]
        return chosen, weights * experts.scale


def _places(chosen: Int[Tensor, "N k"], num_experts: int) -> tuple[Int[Tensor, "N k"], Int[Tensor, " E"]]:
    """Where each row lies for each of its experts once all lie expert by expert, and how many rows an expert has then.

    Every expert has a multiple of ``ROW_MULTIPLE``.
    """
    flat = chosen.flatten()
    count = flat.bincount(minlength=num_experts)
    size = (count + ROW_MULTIPLE - 1) // ROW_MULTIPLE * ROW_MULTIPLE
    order = flat.argsort(stable=True)
    shift = (size.cumsum(0) - size) - (count.cumsum(0) - count)
    place = torch.arange(len(flat), device=flat.device) + shift[flat[order]]
    return torch.empty_like(flat).scatter(0, order, place).view_as(chosen), size


def _outside_groups(liking: Float[Tensor, "N E"], experts: Experts) -> Float[Tensor, "N E"]:
    """Minus infinity outside the groups that a row chose: those whose two best experts have the greatest sum."""
    if experts.num_groups == 1:
        return liking
    groups = liking.unflatten(-1, (experts.num_groups, -1))
    best = groups.topk(2, dim=-1).values.sum(dim=-1).topk(experts.num_chosen_groups, dim=-1).indices
    is_chosen = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter(-1, best, value=True)
    return groups.masked_fill(~is_chosen[..., None], -torch.inf).flatten(-2)


def gated_by_expert(
    rows: Float[Tensor, "M D"],
    size: Int[Tensor, " E"],
    gate: Float[Tensor, "E F D"],
    up: Float[Tensor, "E F D"],
    down: Float[Tensor, "E D F"],
    activation: Callable[[Tensor], Tensor] = F.silu,
) -> Float[Tensor, "M D"]:
    """Each expert on its ``size`` rows, which lie in the order of experts: in three products for all of them."""
    inner = activation(_product(rows, size, gate)) * _product(rows, size, up)
    return _product(inner, size, down)


def _product(rows: Float[Tensor, "M a"], size: Int[Tensor, " E"], matrices: Float[Tensor, "E b a"]) -> Tensor:
    if _can_group(rows, matrices):
        return F.grouped_mm(rows, matrices.mT, offs=size.cumsum(0).to(torch.int32))
    parts = zip(rows.split(size.tolist()), matrices, strict=True)
    return torch.cat([F.linear(part, matrix) for part, matrix in parts if len(part)])


def _can_group(rows: Tensor, matrices: Tensor) -> bool:
    """Whether torch has one kernel for all experts: its dtypes are few, and rows must start at 16 bytes."""
    dtypes = (torch.bfloat16,) if rows.is_cuda else (torch.float32, torch.bfloat16)
    return rows.dtype == matrices.dtype and rows.dtype in dtypes and rows.shape[1] * rows.itemsize % 16 == 0
