"""Where an adaptation starts: the weights of an autoregressive checkpoint, with a row for the mask."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from quicksilver.checkpoints.loading import load_folder, open_folder
from quicksilver.checkpoints.token_names import TokenNames
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError, TrainingError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.tokenization.foreign import load_foreign


def adapted_architecture(source: Path, block_lengths: Iterable[int]) -> tuple[DenoiserConfig, DiffusionSpec]:
    """Architecture and spec of the block-diffusion checkpoint that an autoregressive one becomes.

    Args:
        source: folder of the autoregressive checkpoint.
        block_lengths: those trained; the last is the default.

    Raises:
        CheckpointError: ``source`` is no checkpoint folder.
        ConfigError: it is not autoregressive.
    """
    opened = open_folder(source)
    config, spec = opened.config, opened.spec
    if spec.objective is not Objective.AUTOREGRESSIVE:
        raise ConfigError(f"{source} has objective {spec.objective}; an adaptation starts from an autoregressive model")
    lengths = tuple(block_lengths)
    special = spec.special if opened.family is None else replace(spec.special, mask=_mask_id(source, config.vocab_size))
    spec = DiffusionSpec(
        objective=Objective.MASK,
        special=special,
        layouts=(Layout.BLOCK_CAUSAL,),
        block_length=lengths[-1],
        trained_block_lengths=tuple(sorted(set(lengths))),
        has_causal_context=True,
        prediction_shift=1,
    )
    return replace(config, vocab_size=max(config.vocab_size, special.mask + 1)), spec


def _mask_id(source: Path, num_rows: int) -> int:
    """The token that the tokenizer calls its mask, else the first row that no token has, else a new row."""
    named = TokenNames.of_folder(source).role("mask")
    if named is not None:
        return named
    return min(load_foreign(source).vocab_size, num_rows)


@torch.no_grad()
def adopt_weights(denoiser: Denoiser, source: Path, mask_id: int, like: int | None = None) -> None:
    """Copy the source's weights; the mask's rows, and rows that the source lacks, start as told.

    Args:
        denoiser: of the source's architecture, but for more rows.
        source: checkpoint folder.
        mask_id: the mask.
        like: token whose rows the new ones start as; None: the mean of all rows.

    Raises:
        CheckpointError: ``source`` is no checkpoint folder.
        TrainingError: its architecture is another one.
    """
    given, _ = load_folder(source)
    if replace(given.config, vocab_size=denoiser.config.vocab_size) != denoiser.config:
        raise TrainingError(f"{source} holds {given.config}, but the recipe trains {denoiser.config}")
    weights = given.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = with_mask_row(weights[name], denoiser.config.vocab_size, mask_id, like)
    denoiser.load_state_dict(weights)


def with_mask_row(table: Tensor, num_rows: int, mask_id: int, like: int | None = None) -> Tensor:
    """The table with ``num_rows`` rows; ``mask_id`` and those beyond the old ones are row ``like`` or the mean."""
    start = table.float().mean(0).to(table.dtype) if like is None else table[like]
    grown = torch.cat([table, start.expand(num_rows - table.shape[0], -1)])
    grown[mask_id] = start
    return grown
