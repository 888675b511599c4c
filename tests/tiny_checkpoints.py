"""Whole checkpoint folders with random weights, for tests of everything that loads one."""

from functools import cache
from pathlib import Path

import torch

from quicksilver.checkpoints.folder import TOKENIZER_FILE, save_folder
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec, Layout, NoiseRates, Objective, SpecialIds
from quicksilver.models.config import DenoiserConfig
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.tokenization.train import train_tokenizer
from tests.tiny import random_denoiser

SOURCE = '''def mean(xs):
    """The mean of some numbers."""
    total = 0
    for x in xs:
        total += x
    return total / len(xs)


def median(xs):
    """The median of some numbers."""
    xs = sorted(xs)
    return xs[len(xs) // 2]
'''
MAX_LENGTH = 128


@cache
def tiny_tokenizer() -> Tokenizer:
    """Trained on a few lines; knows every byte."""
    return train_tokenizer([SOURCE], vocab_size=400)


def tiny_spec(objective: Objective = Objective.MASK) -> DiffusionSpec:
    """Blocks of 4 or 8; holes start with 4 masks and end at 12 tokens."""
    at = SPECIAL_TOKENS.index
    special = SpecialIds(
        pad=at("<pad>"),
        eos=at("<eos>"),
        mask=at("<mask>"),
        expand=at("<expand>"),
        delete=at("<delete>"),
        fim_prefix=at("<fim_pre>"),
        fim_suffix=at("<fim_suf>"),
        fim_middle=at("<fim_mid>"),
        canvas=at("<canvas>"),
        file=at("<file>"),
    )
    defaults = DecodingDefaults(threshold=0.5, hole_length=4, max_hole_length=12)
    if objective is Objective.AUTOREGRESSIVE:
        return DiffusionSpec(
            objective=objective,
            special=special,
            layouts=(Layout.BLOCK_CAUSAL,),
            block_length=1,
            trained_block_lengths=(1,),
            prediction_shift=1,
            decoding=defaults,
        )
    return DiffusionSpec(
        objective=objective,
        special=special,
        block_length=4,
        trained_block_lengths=(4, 8),
        noise=NoiseRates(edit_rate=0.1, has_length_noise=True),
        decoding=defaults,
    )


def save_tiny_checkpoint(
    folder: Path, objective: Objective = Objective.MASK, seed: int = 0, max_length: int = MAX_LENGTH
) -> Path:
    """Write a checkpoint in float32 and return its folder."""
    config = DenoiserConfig(
        vocab_size=tiny_tokenizer().vocab_size,
        num_layers=2,
        model_width=32,
        num_heads=4,
        num_kv_heads=2,
        head_width=8,
        ffn_width=48,
        max_length=max_length,
    )
    denoiser = random_denoiser(config, seed=seed, dtype=torch.float32)
    save_folder(folder, denoiser, tiny_spec(objective), dtype=torch.float32)
    tiny_tokenizer().save(folder / TOKENIZER_FILE)
    return folder
