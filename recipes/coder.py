"""The bundled model and its autoregressive twin.

quicksilver corpus build --profile full --out data/corpus
quicksilver train coder:coder_4m --tokens data/corpus
quicksilver train coder:coder_4m --tokens data/corpus --objective ar
"""

from pathlib import Path

from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, NoiseRates, Objective
from quicksilver.models.config import DenoiserConfig
from quicksilver.training.code_task import CodeTaskConfig, special_ids
from quicksilver.training.data.in_place import InPlaceConfig
from quicksilver.training.data.noising import NoiseConfig
from quicksilver.training.lr_schedule import WarmupStableDecay
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
        decoding=DecodingDefaults(hole_length=task.in_place.start_length),
    )


def coder_4m(tokens: Path, objective: Objective = Objective.MASK) -> Recipe:
    """4.2M parameters: an hour and a half on one CPU core with bf16 units. The bundled model.

    The twin's step takes nine tenths of the diffusion step's matrix operations: no clean copy, but a prediction at
    every token. So it takes ten ninths of the steps.
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
    schedule = WarmupStableDecay(num_steps=2_400, num_warmup_steps=100, num_decay_steps=480)
    if objective is Objective.AUTOREGRESSIVE:
        schedule = WarmupStableDecay(num_steps=2_667, num_warmup_steps=100, num_decay_steps=533)
    return _recipe("quicksilver-coder", model, _task(tokens, 4, 8, rows_per_forward=8), schedule, objective)


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


def _task(tokens: Path, num_block_rows: int, num_in_place_rows: int, rows_per_forward: int) -> CodeTaskConfig:
    return CodeTaskConfig(
        tokens=tokens,
        row_length=ROW_LENGTH,
        num_block_rows=num_block_rows,
        num_in_place_rows=num_in_place_rows,
        rows_per_forward=rows_per_forward,
        noise=NoiseConfig(next_token_weight=0.5),
        in_place=InPlaceConfig(
            whole_rate=0.3,
            min_coverage=0.1,
            max_coverage=0.6,
        ),
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
