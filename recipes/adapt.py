"""From an autoregressive model to one that denoises blocks, for a small share of its training.

quicksilver train adapt --from quicksilver-coder-ar --tokens data/corpus
quicksilver train adapt:adapt_lora --from path/to/model --tokens data/tokens
"""

from dataclasses import replace
from pathlib import Path

from quicksilver.training.adaptation import adapted_architecture
from quicksilver.training.lora import LoraConfig
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.optimizers import OptimizerConfig
from quicksilver.training.recipe import Recipe
from quicksilver.training.tasks.adaptation import AdaptationTaskConfig


def adapt(source: Path, tokens: Path) -> Recipe:
    """All weights, 200 steps of 4,096 tokens: a twentieth of what the bundled twin was trained on."""
    task = AdaptationTaskConfig(tokens=tokens)
    model, spec = adapted_architecture(source, [stage.block_length for stage in task.stages])
    return Recipe(
        name=f"{source.name}-adapted",
        model=model,
        spec=spec,
        task=task,
        source=source,
        # The mean of the rows starts far off (docs/log.md).
        mask_like=spec.special.eos,
        schedule=WarmupStableDecay(num_steps=200, num_warmup_steps=10, num_decay_steps=60),
        # Half the rates of a run from random weights.
        optimizer=OptimizerConfig(muon_lr=0.01, adam_lr=1.5e-3),
        ema_decay=0.99,
        checkpoint_minutes=5.0,
    )


def adapt_lora(source: Path, tokens: Path) -> Recipe:
    """Adapters of rank 64 and the mask's row, for models whose optimizer state would not fit."""
    return replace(
        adapt(source, tokens),
        name=f"{source.name}-lora",
        lora=LoraConfig(),
        optimizer=OptimizerConfig(has_muon=False, adam_lr=1e-3, adam_weight_decay=0.0),
    )
