"""Sudoku: the proof that decoding order matters. ``python benchmarks/proof_sudoku.py`` runs all of it.

quicksilver train sudoku:sudoku_small --out runs/sudoku
"""

from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.models.config import DenoiserConfig
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.optimizers import OptimizerConfig
from quicksilver.training.recipe import Precision, Recipe
from quicksilver.training.tasks.sudoku import ROPE_THETA, SPECIAL, VOCAB_SIZE, SudokuTaskConfig


def sudoku_small(objective: Objective = Objective.MASK, num_steps: int = 400) -> Recipe:
    """0.44M parameters: what a laptop core trains in minutes.

    An autoregressive row is twice as long as a grid, so the twin gets half the rows per step: the same steps at the
    same compute.
    """
    is_ar = objective is Objective.AUTOREGRESSIVE
    task = SudokuTaskConfig(batch_size=24 if is_ar else 48)
    if is_ar:
        spec = DiffusionSpec(
            objective=objective,
            special=SPECIAL,
            layouts=(Layout.BLOCK_CAUSAL,),
            block_length=1,
            trained_block_lengths=(1,),
            prediction_shift=1,
        )
    else:
        spec = DiffusionSpec(
            objective=objective,
            special=SPECIAL,
            layouts=(Layout.IN_PLACE,),
            block_length=81,
            trained_block_lengths=(81,),
        )
    return Recipe(
        name=f"sudoku-{objective}",
        model=DenoiserConfig(
            vocab_size=VOCAB_SIZE,
            num_layers=4,
            model_width=96,
            num_heads=3,
            num_kv_heads=3,
            head_width=32,
            ffn_width=256,
            max_length=162,
            rope_theta=ROPE_THETA,
        ),
        spec=spec,
        task=task,
        schedule=WarmupStableDecay(num_steps=num_steps, num_warmup_steps=50, num_decay_steps=num_steps // 4),
        optimizer=OptimizerConfig(muon_lr=0.02, adam_lr=3e-3, muon_weight_decay=0.01),
        precision=Precision.FLOAT32,
        ema_decay=0.99,
        checkpoint_minutes=3.0,
        validation_steps=100,
    )
