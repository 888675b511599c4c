"""The bundled model and its autoregressive twin. The diffusion run starts from the twin's weights (docs/log.md).

quicksilver corpus build --profile full --out data/corpus
quicksilver train coder:coder_4m --tokens data/corpus --objective ar
quicksilver train coder:coder_4m --tokens data/corpus --init-from runs/quicksilver-coder-ar/final --seed 2
quicksilver train coder:coder_4m_finish --tokens data/corpus --init-from runs/quicksilver-coder/final

The model card in ``weights/`` says what the bundled weights were trained with, an earlier stage included.
"""

from dataclasses import replace
from pathlib import Path

from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, NoiseRates, Objective
from quicksilver.models.config import DenoiserConfig
from quicksilver.training.code_task import CodeTaskConfig, special_ids
from quicksilver.training.data.in_place import InPlaceConfig
from quicksilver.training.data.noising import NoiseConfig
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.optimizers import OptimizerConfig
from quicksilver.training.recipe import Recipe

VOCAB_SIZE = 8192
ROW_LENGTH = 512
"""Tokens per training row, so the longest canvas the models have seen."""


def _spec(objective: Objective, task: CodeTaskConfig) -> DiffusionSpec:
    if objective is Objective.AUTOREGRESSIVE:
        return DiffusionSpec(
            objective=objective,
            special=special_ids(),
            layouts=(Layout.BLOCK_CAUSAL,),
            block_length=1,
            trained_block_lengths=(1,),
            prediction_shift=1,
        )
    has_edits = task.noise.edit_start < 1.0
    return DiffusionSpec(
        objective=objective,
        special=special_ids(),
        block_length=16,
        has_causal_context=True,
        trained_block_lengths=tuple(length for length, _ in task.block_lengths),
        noise=NoiseRates(edit_rate=task.noise.edit_rate if has_edits else 0.0, has_length_noise=True),
        # benchmarks/lengths.py and caches.py, on the validation split.
        decoding=DecodingDefaults(hole_length=task.in_place.start_length, length_margin=0.5, cache="vicinity"),
    )


def coder_4m(tokens: Path, objective: Objective = Objective.MASK) -> Recipe:
    """4.2M parameters: about an hour for either run on two CPU cores. The bundled model.

    The diffusion run is short because it starts from the twin: a hundred steps replace nine hundred from random
    weights. A step of the twin takes nine tenths of a diffusion step's matrix operations.
    """
    model = DenoiserConfig(
        vocab_size=VOCAB_SIZE,
        num_layers=6,
        model_width=192,
        num_heads=3,
        num_kv_heads=3,
        head_width=64,
        ffn_width=512,
        max_length=ROW_LENGTH,
    )
    schedule = WarmupStableDecay(num_steps=1_340, num_warmup_steps=50, num_decay_steps=500)
    if objective is Objective.AUTOREGRESSIVE:
        schedule = WarmupStableDecay(num_steps=2_667, num_warmup_steps=100, num_decay_steps=533)
    return _recipe("quicksilver-coder", model, _task(tokens, 4, 8, rows_per_forward=8), schedule, objective)


def coder_4m_finish(tokens: Path) -> Recipe:
    """The bundled model's last stage, from ``coder_4m``'s weights: a quarter of an hour on two CPU cores.

    What the diffusion run forgets of the twin's next-token prediction, more block-causal rows and a full next-token
    loss bring back. Half the learning rates, since the start has been annealed already.
    """
    return replace(
        coder_4m(tokens),
        name="quicksilver-coder-finish",
        task=_task(tokens, 6, 6, rows_per_forward=8, next_token_weight=1.0),
        schedule=WarmupStableDecay(num_steps=420, num_warmup_steps=20, num_decay_steps=390),
        optimizer=OptimizerConfig(muon_lr=0.01, adam_lr=1.5e-3),
        ema_decay=0.99,
        seed=3,
    )


def coder_4m_longer(tokens: Path) -> Recipe:
    """The bundled model's next milestone, from its own weights and like its last stage, but for longer.

    The rate stays constant; a branch with a decay makes the weights that ship (``--branch-from``, ``--decay-steps``).
    """
    return replace(
        coder_4m_finish(tokens),
        name="quicksilver-coder-longer",
        schedule=WarmupStableDecay(num_steps=1_500, num_warmup_steps=30, num_decay_steps=300),
        ema_decay=0.995,
        seed=4,
    )


def coder_8m(tokens: Path, objective: Objective = Objective.MASK) -> Recipe:
    """8.5M parameters, 98k tokens per step: about a quarter of an hour on a data-centre GPU, weeks on two CPU cores."""
    model = DenoiserConfig(
        vocab_size=VOCAB_SIZE,
        num_layers=8,
        model_width=256,
        num_heads=4,
        num_kv_heads=4,
        head_width=64,
        ffn_width=704,
        max_length=ROW_LENGTH,
    )
    schedule = WarmupStableDecay(num_steps=20_000, num_warmup_steps=400, num_decay_steps=5_000)
    return _recipe("quicksilver-coder-8m", model, _task(tokens, 64, 128, rows_per_forward=128), schedule, objective)


def _task(
    tokens: Path, num_block_rows: int, num_in_place_rows: int, rows_per_forward: int, next_token_weight: float = 0.5
) -> CodeTaskConfig:
    return CodeTaskConfig(
        tokens=tokens,
        row_length=ROW_LENGTH,
        num_block_rows=num_block_rows,
        num_in_place_rows=num_in_place_rows,
        rows_per_forward=rows_per_forward,
        noise=NoiseConfig(next_token_weight=next_token_weight, own_rate=0.25),
        # Only canvases that decoding meets: before its first look and after it.
        in_place=InPlaceConfig(whole_rate=0.3, min_coverage=0.1, max_coverage=0.6, start_rate=0.4, settled_rate=0.6),
    )


def _recipe(
    name: str, model: DenoiserConfig, task: CodeTaskConfig, schedule: WarmupStableDecay, objective: Objective
) -> Recipe:
    return Recipe(
        name=f"{name}-ar" if objective is Objective.AUTOREGRESSIVE else name,
        model=model,
        spec=_spec(objective, task),
        task=task,
        schedule=schedule,
        is_compiled=True,
        checkpoint_minutes=5.0,
    )
