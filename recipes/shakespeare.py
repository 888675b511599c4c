"""Tiny Shakespeare by character, four objectives. ``python benchmarks/proof_shakespeare.py`` runs all of it.

quicksilver train shakespeare:shakespeare_tiny --out runs/shakespeare
"""

from pathlib import Path

from quicksilver.diffusion.spec import DiffusionSpec, Layout, NoiseRates, Objective
from quicksilver.models.config import DenoiserConfig
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.optimizers import OptimizerConfig
from quicksilver.training.recipe import Precision, Recipe
from quicksilver.training.tasks.characters import CharactersTaskConfig, read_text

TEXT = Path(__file__).parents[1] / "data" / "eval" / "tinyshakespeare" / "input.txt"
LENGTH = 128
UNIFORM_FRACTION = 0.1
"""Of hybrid noise; GIDD tries 0.1 and 0.2."""


def shakespeare_tiny(objective: Objective = Objective.MASK, num_steps: int = 400, text: Path = TEXT) -> Recipe:
    """0.45M parameters, for minutes on one laptop core; every objective takes the same steps over the same windows."""
    symbols = read_text(text)
    is_ar = objective is Objective.AUTOREGRESSIVE
    block_length = 1 if is_ar else LENGTH
    spec = DiffusionSpec(
        objective=objective,
        special=symbols.special(),
        layouts=(Layout.BLOCK_CAUSAL,) if is_ar else (Layout.IN_PLACE,),
        block_length=block_length,
        trained_block_lengths=(block_length,),
        prediction_shift=int(is_ar),
        noise=NoiseRates(uniform_fraction=UNIFORM_FRACTION if objective is Objective.HYBRID else 0.0),
    )
    return Recipe(
        name=f"shakespeare-{objective}",
        model=DenoiserConfig(
            vocab_size=symbols.vocab_size,
            num_layers=4,
            model_width=96,
            num_heads=3,
            num_kv_heads=3,
            head_width=32,
            ffn_width=256,
            max_length=LENGTH,
        ),
        spec=spec,
        task=CharactersTaskConfig(text=text, length=LENGTH, batch_size=16),
        schedule=WarmupStableDecay(num_steps=num_steps, num_warmup_steps=20, num_decay_steps=num_steps // 3),
        optimizer=OptimizerConfig(muon_lr=0.02, adam_lr=3e-3, muon_weight_decay=0.01),
        precision=Precision.FLOAT32,
        ema_decay=0.98,
        checkpoint_minutes=3.0,
        validation_steps=0,
    )
