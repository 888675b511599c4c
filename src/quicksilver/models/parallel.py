"""One denoiser divided over several processes: tensor parallelism (Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053).

Every rank has some of the heads and some of the feed-forward's width: rows of the matrices that read a layer's input,
columns of those that write its output. What they write is a part of each sum, so a layer takes two sums over all ranks,
behind its attention and behind its feed-forward. The embedding table and the head are divided by tokens.

A rank's part is itself a denoiser of fewer heads, and runs as one: fused, paged, whatever its attention.

Legend: H query heads, G key/value heads, K head width, F feed-forward width, V vocabulary, D model width.
"""

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from quicksilver.errors import ConfigError
from quicksilver.models.attention import Attention, DenseAttention
from quicksilver.models.config import DenoiserConfig, Experts
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.layers import CanvasRows
from quicksilver.models.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Cut:
    """The positions ``start`` to ``stop`` of a tensor's axis, which has ``length`` of them."""

    axis: int
    start: int
    stop: int
    length: int


def vocabulary_bounds(vocab_size: int, num_ranks: int) -> list[int]:
    """Where each rank's tokens start, and behind them the vocabulary's size. Sizes differ by one at most."""
    return [rank * vocab_size // num_ranks for rank in range(num_ranks + 1)]


_PLANNED = frozenset(
    (
        *(
            "vocab_size",
            "num_layers",
            "model_width",
            "num_heads",
            "num_kv_heads",
            "head_width",
            "ffn_width",
            "max_length",
        ),
        *("rope_theta", "rotary_fraction", "rotary_scaling", "norm_eps"),
        *("has_tied_embeddings", "has_qkv_bias", "has_qk_norm", "experts"),
    )
)
"""Fields of an architecture that this module knows how to divide, or that every part has alike."""


def part_of(config: DenoiserConfig, num_ranks: int) -> DenoiserConfig:
    """The shape of one rank's part, in which ``vocab_size`` stays the whole vocabulary's.

    Key/value heads that are fewer than ranks are held by several of them.

    Raises:
        ConfigError: heads or feed-forward cannot be divided, or there is no plan for a part of the architecture.
    """
    for field in fields(config):
        if field.name not in _PLANNED and getattr(config, field.name) != field.default:
            raise ConfigError(f"there is no plan to divide a model with {field.name}; start one process alone")
    heads, kv_heads = config.num_heads, config.num_kv_heads
    widths = {"num_heads": heads, "ffn_width": config.ffn_width}
    if config.experts is not None:
        widths |= {"width": config.experts.width, "shared_width": config.experts.shared_width}
    for name, width in widths.items():
        if width % num_ranks:
            raise ConfigError(
                f"{num_ranks} processes cannot divide {name} {width} of this model; start a number that divides "
                f"{', '.join(f'{name} {width}' for name, width in widths.items())} and num_kv_heads {kv_heads}"
            )
    if kv_heads % num_ranks and num_ranks % kv_heads:
        raise ConfigError(
            f"{num_ranks} processes cannot divide num_kv_heads {kv_heads} of this model, nor is {num_ranks} a multiple "
            f"of it; start another number of them"
        )
    return replace(
        config,
        num_heads=heads // num_ranks,
        num_kv_heads=max(kv_heads // num_ranks, 1),
        ffn_width=config.ffn_width // num_ranks,
        experts=None if config.experts is None else _narrow(config.experts, num_ranks),
    )


def _narrow(experts: Experts, num_ranks: int) -> Experts:
    """Every expert, each with a part of its width: so all ranks have equal work, whatever is chosen."""
    return replace(experts, width=experts.width // num_ranks, shared_width=experts.shared_width // num_ranks)


def share_of(config: DenoiserConfig, num_ranks: int) -> DenoiserConfig:
    """An architecture as large as the largest part, for plans of memory."""
    if num_ranks == 1:
        return config
    return replace(part_of(config, num_ranks), vocab_size=-(-config.vocab_size // num_ranks))


def cut_of(name: str, config: DenoiserConfig, rank: int, num_ranks: int) -> Cut | None:
    """What a rank holds of the tensor with that name in our state dict; None: all of it.

    Raises:
        ConfigError: there is no plan for such a tensor.
    """
    _, _, owner = f".{name}".removesuffix(".weight").removesuffix(".bias").rpartition(".")
    match owner:
        case "embed_tokens" | "lm_head":
            bounds = vocabulary_bounds(config.vocab_size, num_ranks)
            return Cut(0, bounds[rank], bounds[rank + 1], bounds[-1])
        case "q_proj":
            return _even(0, config.num_heads, config.head_width, rank, num_ranks)
        case "k_proj" | "v_proj":
            return _even(0, config.num_kv_heads, config.head_width, rank, num_ranks)
        case "o_proj":
            return _even(1, config.num_heads, config.head_width, rank, num_ranks)
        case "gate_proj" | "up_proj" | "down_proj":
            axis, width = _inner_axis(name, config)
            return _even(axis, width, 1, rank, num_ranks)
    if owner.endswith("norm") or name.endswith(("mlp.gate.weight", "mlp.expert_bias")):
        return None
    raise ConfigError(f"there is no plan to divide {name} over processes; start one process alone")


def _inner_axis(name: str, config: DenoiserConfig) -> tuple[int, int]:
    """Which axis of a feed-forward's matrix, or of the matrices of stacked experts, is its own width, and how wide."""
    axis, experts = int("down_proj" in name), config.experts
    if experts is None:
        return axis, config.ffn_width
    if not name.endswith(".weight"):
        return axis + 1, experts.width
    return axis, experts.shared_width if ".shared_experts." in name else config.ffn_width


def _even(axis: int, count: int, width: int, rank: int, num_ranks: int) -> Cut:
    """The rank's share of ``count`` heads of ``width``; one that it shares with its neighbours if they are too few."""
    start, size = rank * count // num_ranks, max(count // num_ranks, 1)
    return Cut(axis, start * width, (start + size) * width, count * width)


class ParallelDenoiser(Denoiser):
    """One rank's part of a denoiser, with the names of the whole one's tensors.

    On rank 0 ``forward`` and ``logits`` are those of the whole denoiser: the others take part by order. ``run`` and
    ``run_logits`` are what every rank runs for an order.
    """

    def __init__(self, config: DenoiserConfig, ranks: Ranks) -> None:
        """Make the part, without values that mean anything.

        Args:
            config: of the whole.
            ranks: the processes.

        Raises:
            ConfigError: they cannot divide it.
        """
        part = part_of(config, ranks.size)
        bounds = vocabulary_bounds(config.vocab_size, ranks.size)
        self._widths = [stop - start for start, stop in pairwise(bounds)]
        super().__init__(replace(part, vocab_size=self._widths[ranks.rank]))
        self.config, self.whole, self.ranks = part, config, ranks
        width, start = config.model_width, bounds[ranks.rank]
        self.model.embed_tokens = _TablePart(self._widths[ranks.rank], width, start, ranks)
        for layer in self.layers():
            layer.self_attn.o_proj.register_forward_hook(self._sum_up)
            layer.mlp.register_forward_hook(self._sum_up)

    def cut(self, name: str) -> Cut | None:
        """What this rank holds of a tensor, see ``cut_of``."""
        return cut_of(name, self.whole, self.ranks.rank, self.ranks.size)

    @property
    def num_parameters(self) -> int:
        """Of the whole."""
        cuts = ((parameter.numel(), self.cut(name)) for name, parameter in self.named_parameters())
        return sum(count if cut is None else count // (cut.stop - cut.start) * cut.length for count, cut in cuts)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"],
        attention: Attention,
        canvas: CanvasRows | None = None,
    ) -> Float[Tensor, "B T D"]:
        """As ``Denoiser.forward``; raises ConfigError for what the other ranks cannot be told."""
        if canvas is not None:
            raise ConfigError("several processes cannot share a denoiser that tells rows of a canvas from others")
        if type(attention) is not DenseAttention:
            raise ConfigError(f"several processes cannot share a {type(attention).__name__}; DenseAttention they can")
        cpu = torch.device("cpu")
        with self.ranks.leading(Forward(token_ids.to(cpu), positions.to(cpu), attention.to(cpu))):
            return self.run(token_ids, positions, attention)

    def run(
        self, token_ids: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], attention: Attention
    ) -> Float[Tensor, "B T D"]:
        """Final hidden states on every rank; each brings an attention over its own heads."""
        return super().forward(token_ids, positions, attention)

    def logits(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """As ``Denoiser.logits``."""
        rows = hidden.reshape(-1, hidden.shape[-1]).contiguous()
        with self.ranks.leading(Logits(rows.shape[0], rows.dtype)):
            found = self.run_logits(rows)
        return found.view(*hidden.shape[:-1], found.shape[-1])

    def run_logits(self, rows: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Logits of rank 0's rows, which are written to the others' tensors; there without columns."""
        self.ranks.share(rows)
        found = self.ranks.join_columns(super().logits(rows), self._widths)
        return rows.new_zeros(rows.shape[0], 0, dtype=torch.float32) if found is None else found

    def cross_entropy(
        self, hidden: Float[Tensor, "N D"], labels: Int[Tensor, " N"], weights: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " N"]]:
        """Raises ConfigError: a part is for inference only."""
        raise ConfigError("a denoiser that several processes hold together has no loss; start one process alone")

    def _sum_up(self, module: nn.Module, given: tuple[Tensor, ...], part: Tensor) -> Tensor:
        return self.ranks.sum(part)


@dataclass(frozen=True, slots=True)
class Forward:
    """An order: ``ParallelDenoiser.run`` over these CPU tensors."""

    token_ids: Tensor
    positions: Tensor
    attention: DenseAttention


@dataclass(frozen=True, slots=True)
class Logits:
    """An order: ``ParallelDenoiser.run_logits`` over so many rows of this format."""

    num_rows: int
    dtype: torch.dtype


class _TablePart(nn.Embedding):
    """The embeddings of consecutive tokens; every rank gives zero for the tokens of the others."""

    def __init__(self, count: int, width: int, start: int, ranks: Ranks) -> None:
        super().__init__(count, width)
        self._start, self._ranks = start, ranks

    def forward(self, input: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows D"]:
        own = input - self._start
        is_own = (own >= 0) & (own < self.num_embeddings)
        found = F.embedding(own.masked_fill(~is_own, 0), self.weight)
        return self._ranks.sum(found.masked_fill_(~is_own[..., None], 0))
