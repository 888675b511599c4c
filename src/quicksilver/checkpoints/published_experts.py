"""Experts as most families publish them: one tensor per projection and expert, ``mlp.experts.7.gate_proj.weight``."""

import re

from quicksilver.checkpoints.family import Source, Stack, Whole
from quicksilver.checkpoints.keys import Keys
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig, Experts

_STACKED = re.compile(r"(.+\.mlp)\.(gate_proj|up_proj|down_proj)")


def stacked_experts(name: str, config: DenoiserConfig) -> Source | None:
    """Where a tensor of all experts of a layer is; None if the name is of another one."""
    found = _STACKED.fullmatch(name)
    if found is None or config.experts is None:
        return None
    layer, projection = found.groups()
    numbers = range(config.experts.num_experts)
    return Stack(tuple(Whole(f"{layer}.experts.{number}.{projection}.weight") for number in numbers))


def read_qwen3_experts(keys: Keys) -> Experts:
    """The experts of a ``Qwen3MoeConfig``.

    Raises:
        ConfigError: layers with and without experts alternate.
    """
    keys.fixed("decoder_sparse_step", 1)
    keys.inert("output_router_logits", "router_aux_loss_coef")
    dense = keys.integers("mlp_only_layers")
    return Experts(
        num_experts=keys.integer("num_experts"),
        num_chosen=keys.integer("num_experts_per_tok"),
        width=keys.integer("moe_intermediate_size"),
        num_dense_layers=num_leading("mlp_only_layers", dense),
        is_normalised=keys.flag("norm_topk_prob", default=False),
    )


def num_leading(key: str, layers: tuple[int, ...]) -> int:
    """How many layers without experts there are, which must be the first ones; raises ConfigError if they are not."""
    if sorted(layers) != list(range(len(layers))):
        raise ConfigError(f"{key} gives the layers {list(layers)} no experts; only the first layers can be without")
    return len(layers)
