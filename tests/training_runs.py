"""A tiny corpus and tiny recipes for tests of training. Run as a script it trains one, for tests that kill it.

python -m tests.training_runs OUT CORPUS STEPS [objective]
"""

import json
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from quicksilver.diffusion.spec import DiffusionSpec, Layout, NoiseRates, Objective
from quicksilver.models.config import DenoiserConfig
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.tokenization.train import train_tokenizer
from quicksilver.training import trainer as trainer_module
from quicksilver.training.adaptation import adapted_architecture
from quicksilver.training.code_task import CodeTaskConfig, special_ids
from quicksilver.training.corpus.token_file import write_token_file
from quicksilver.training.data.noising import NoiseConfig
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.recipe import Precision, Recipe
from quicksilver.training.tasks.adaptation import AdaptationTaskConfig, BlockStage
from quicksilver.training.trainer import Trainer


def source(index: int) -> str:
    """Python of about 120 tokens, different for every index, with text outside ASCII."""
    random = np.random.default_rng(index)
    names = ["count", "größe", "总数", "key", "😀", "item", "text", "low"]
    lines = []
    for _ in range(6):
        name, other = random.choice(names[:4]), random.choice(names)
        lines += [
            f"def {name}_{random.integers(10)}(x, y):",
            f'    """{other}"""',
            f"    return x * {random.integers(100)} + y",
            "",
        ]
    return "\n".join(lines)


@lru_cache(maxsize=1)
def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer([source(index) for index in range(40)], vocab_size=384)


def no_nodes(token_ids: np.ndarray) -> np.ndarray:
    """The syntax of tokens that are no Python."""
    return np.zeros((0, 2), dtype=np.int64)


def write_corpus(folder: Path, num_documents: int = 40) -> Path:
    """Token files of all splits and a tokenizer."""
    tokenizer = tiny_tokenizer()
    tokenizer.save(folder / "tokenizer.json")
    for split, first in (("train", 0), ("validation", 1000)):
        texts = [source(first + index) for index in range(num_documents)]
        write_token_file(
            folder, split, [(f"p/{i}.py", len(t.encode()), tokenizer.encode(t)) for i, t in enumerate(texts)]
        )
    return folder


def tiny_spec(objective: Objective) -> DiffusionSpec:
    if objective is Objective.AUTOREGRESSIVE:
        layouts = (Layout.BLOCK_CAUSAL,)
        return DiffusionSpec(
            objective=objective, special=special_ids(), layouts=layouts, block_length=1, prediction_shift=1
        )
    noise = NoiseRates(edit_rate=0.12, has_length_noise=True)
    return DiffusionSpec(objective=objective, special=special_ids(), block_length=8, noise=noise)


def tiny_recipe(corpus: Path, objective: Objective = Objective.MASK, num_steps: int = 20, seed: int = 5) -> Recipe:
    """2 layers of width 32, 3 + 3 rows of 96 tokens; edit noise, the model's own too, in the last 60 % of the steps."""
    return Recipe(
        name="tiny",
        model=DenoiserConfig(
            vocab_size=tiny_tokenizer().vocab_size,
            num_layers=2,
            model_width=32,
            num_heads=2,
            num_kv_heads=1,
            head_width=16,
            ffn_width=64,
        ),
        spec=tiny_spec(objective),
        task=CodeTaskConfig(
            tokens=corpus,
            row_length=96,
            num_block_rows=3,
            num_in_place_rows=3,
            rows_per_forward=2,
            block_lengths=((4, 0.5), (8, 0.5)),
            noise=NoiseConfig(edit_start=0.4, edit_rate=0.3, own_rate=0.3),
            num_validation_rows=3,
        ),
        schedule=WarmupStableDecay(
            num_steps=num_steps, num_warmup_steps=min(2, num_steps // 2), num_decay_steps=num_steps // 2
        ),
        precision=Precision.FLOAT32,
        checkpoint_steps=5,
        validation_steps=0,
        seed=seed,
    )


_STAGES = (
    BlockStage(block_length=1, start=0.0),
    BlockStage(block_length=4, start=0.2),
    BlockStage(block_length=8, start=0.5),
)


def adaptation_recipe(twin: Path, corpus: Path, num_steps: int = 10, next_token_weight: float = 0.3, **task) -> Recipe:
    """Blocks of 1, 4 and 8 over 3 rows of 96 tokens, from an autoregressive checkpoint; ``task`` changes its task."""
    config = AdaptationTaskConfig(
        tokens=corpus,
        row_length=96,
        num_rows=3,
        rows_per_forward=2,
        stages=_STAGES,
        noise=NoiseConfig(edit_start=1.0, next_token_weight=next_token_weight),
        num_validation_rows=3,
    )
    config = replace(config, **task)
    model, spec = adapted_architecture(twin, [stage.block_length for stage in config.stages])
    return Recipe(
        name="tiny-adapted",
        model=model,
        spec=spec,
        task=config,
        source=twin,
        schedule=WarmupStableDecay(num_steps=num_steps, num_warmup_steps=1, num_decay_steps=num_steps // 2),
        precision=Precision.FLOAT32,
        checkpoint_steps=5,
        validation_steps=0,
    )


def losses(path: Path) -> list[float]:
    """Of every step of a run's log."""
    return [json.loads(line)["loss"] for line in (path / "log.jsonl").read_text().splitlines()]


def main(out: str, corpus: str, num_steps: str, objective: str = "mask") -> None:
    torch.set_num_threads(1)
    trainer_module.matmul_peak = lambda precision, device: 1e12  # measuring it takes seconds
    trainer = Trainer(tiny_recipe(Path(corpus), Objective(objective), int(num_steps)), Path(out))
    trainer.resume()
    print(trainer.run())  # noqa: T201  # the parent reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
