"""Bits per byte of a split: the bound and the left-to-right chain rule of diffusion checkpoints, exact for the twin.

All readings see the same windows: a file is cut, from its start, into windows of ``length - 1`` tokens, each behind the
``<file>`` token, which is given and not scored; nor is an end of file. The block grid starts at the ``<file>`` token.
Nats are divided by the UTF-8 bytes of exactly the scored tokens.

``diffusion.likelihood`` holds the plain functions that these must equal; here only rows that are read get logits, which
for the chain rule is one in ``block_length``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from quicksilver.diffusion.block import block_grid, prediction_rows, training_pair
from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.estimator import (
    Weighting,
    at_positions,
    draw_counts,
    mask_exact_count,
    spread_uniforms,
    target_counts,
    token_weights,
)
from quicksilver.diffusion.likelihood import bits_per_byte
from quicksilver.diffusion.prediction import clean_log_probs
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.bootstrap import Interval, bootstrap_ratio
from quicksilver.evaluation.documents import Documents
from quicksilver.models.attention import plan_attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology

_LOGIT_ROWS = 2048
"""Rows of logits alive at once: 2048 x 8192 float32 is 64 MB."""
_NATS_PER_BIT = float(np.log(2.0))

Advance = Callable[[int], None]
"""Told how many windows a forward has covered."""


class Reading(StrEnum):
    """How the likelihood is read off."""

    BOUND = "bound"
    """Any order, averaged: the negative ELBO, estimated with exact masked counts and ELBO weights."""
    CHAIN = "chain"
    """The order left to right within blocks, one token per step: exact for that order."""
    EXACT = "exact"
    """Next-token prediction under causal attention: autoregressive checkpoints, and those with a causal context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Consecutive tokens of a file."""

    token_ids: np.ndarray
    """int64 [n], all of them scored."""
    num_bytes: int
    document: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodConfig:
    """What is computed and at what cost."""

    block_length: int = 16
    """Ignored for autoregressive checkpoints."""
    num_samples: int = 4
    """Draws of the bound, one forward each; at least 2, or its standard error is unknown."""
    batch_size: int = 8
    """Windows per forward."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("block_length", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelihoodSummary:
    """Bits per byte with both of its uncertainties."""

    reading: Reading
    block_length: int
    bits_per_byte: Interval
    """Resampled over files, whose windows are not independent."""
    sampling_error: float | None
    """Standard error from the random masks alone; 0 if exact, None if there was one draw."""
    bits_per_byte_by_package: dict[str, float]
    nats_per_token: float
    num_tokens: int
    num_bytes: int
    num_windows: int
    num_files: int


def cut_windows(documents: Documents, bytes_of_token: Int[np.ndarray, " V"], length: int) -> list[Window]:
    """All windows of all files, in order; the last of a file may be short.

    Args:
        documents: the split.
        bytes_of_token: UTF-8 bytes per token id.
        length: positions of a window, the ``<file>`` token included.

    Raises:
        ConfigError: no token fits.
        InputError: a token is outside the vocabulary.
    """
    if length < 2:
        raise ConfigError(f"a window needs at least 2 positions, got {length}")
    windows = []
    for index in range(documents.num_docs):
        token_ids = np.asarray(documents.document(index), dtype=np.int64)
        if len(token_ids) and int(token_ids.max()) >= len(bytes_of_token):
            raise InputError(
                f"{documents.doc_name(index)} holds token {token_ids.max()}, the vocabulary has {len(bytes_of_token)}"
            )
        for start in range(0, len(token_ids), length - 1):
            part = token_ids[start : start + length - 1]
            windows.append(Window(token_ids=part, num_bytes=int(bytes_of_token[part].sum()), document=index))
    return windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Windows that are some of many, over all of which the bound spreads its masked counts."""

    rows: tuple[int, ...]
    """Their places among all."""
    num_rows: int
    num_slots: int
    """Blocks of the longest of all."""

    @classmethod
    def of(cls, windows: Sequence[Window], rows: Sequence[int], config: LikelihoodConfig) -> Self:
        """Some rows of all windows."""
        num_slots = 1 + max(len(window.token_ids) for window in windows) // config.block_length
        return cls(rows=tuple(rows), num_rows=len(windows), num_slots=num_slots)


def window_nats(
    denoiser: Denoiser,
    spec: DiffusionSpec,
    windows: Sequence[Window],
    reading: Reading,
    config: LikelihoodConfig,
    advance: Advance | None = None,
    share: Share | None = None,
) -> Float64[np.ndarray, "S N"]:
    """Nats of every window, once per draw of the bound; the other readings have S = 1.

    Args:
        denoiser: the checkpoint's network.
        spec: how it was trained.
        windows: what is read.
        reading: how.
        config: at what cost.
        advance: told how many windows a forward has covered.
        share: of a larger set; the windows then have the nats that they have when all of it is read at once.

    Raises:
        ConfigError: the checkpoint has no such reading.
    """
    _check(spec, reading)
    advance = advance or (lambda count: None)
    parts: list[np.ndarray] = []
    with torch.inference_mode():
        if reading is Reading.BOUND:
            bound = _Bound(config, share or Share.of(windows, range(len(windows)), config))
            parts = [bound(denoiser, spec, batch, advance) for batch in _batches(denoiser, spec, windows, config)]
        elif reading is Reading.CHAIN:
            parts = [
                _chain(denoiser, spec, batch, config.block_length, advance)
                for batch in _batches(denoiser, spec, windows, config)
            ]
        else:
            parts = [_exact(denoiser, batch, advance) for batch in _batches(denoiser, spec, windows, config)]
    return np.concatenate(parts, axis=1)


def num_forwards(windows: Sequence[Window], reading: Reading, config: LikelihoodConfig) -> int:
    """How often ``window_nats`` passes a window through the network: the total of its ``advance`` calls."""
    return (
        len(windows)
        * {Reading.BOUND: config.num_samples, Reading.CHAIN: config.block_length, Reading.EXACT: 1}[reading]
    )


def summarise(
    nats: Float64[np.ndarray, "S N"],
    windows: Sequence[Window],
    documents: Documents,
    reading: Reading,
    config: LikelihoodConfig,
) -> LikelihoodSummary:
    """Bits per byte of the windows together, per package, and their uncertainties."""
    mean_nats = nats.mean(axis=0)
    num_bytes = np.array([window.num_bytes for window in windows], dtype=np.float64)
    total_bytes, num_tokens = int(num_bytes.sum()), sum(len(window.token_ids) for window in windows)
    files, file_of = np.unique([window.document for window in windows], return_inverse=True)
    file_bits = np.bincount(file_of, weights=mean_nats) / _NATS_PER_BIT
    file_bytes = np.bincount(file_of, weights=num_bytes)
    package_of = np.array([documents.doc_name(int(index)).split("/", 1)[0] for index in files])
    packages = {
        str(name): float(file_bits[package_of == name].sum() / file_bytes[package_of == name].sum())
        for name in np.unique(package_of)
    }
    draws = np.array([bits_per_byte(float(total), total_bytes) for total in nats.sum(axis=1)])
    error: float | None = None if len(draws) == 1 else float(draws.std(ddof=1) / np.sqrt(len(draws)))
    return LikelihoodSummary(
        reading=reading,
        block_length=1 if reading is Reading.EXACT else config.block_length,
        bits_per_byte=bootstrap_ratio(file_bits, file_bytes),
        sampling_error=error if reading is Reading.BOUND else 0.0,
        bits_per_byte_by_package=packages,
        nats_per_token=float(mean_nats.sum()) / num_tokens,
        num_tokens=num_tokens,
        num_bytes=total_bytes,
        num_windows=len(windows),
        num_files=len(files),
    )


def readings(spec: DiffusionSpec) -> tuple[Reading, ...]:
    """The readings a checkpoint has.

    Raises:
        ConfigError: none, because of its objective.
    """
    if spec.objective is Objective.AUTOREGRESSIVE:
        return (Reading.EXACT,)
    if spec.objective is not Objective.MASK:
        raise ConfigError(
            f"bits per byte knows mask and autoregressive checkpoints, this one's objective is {spec.objective}"
        )
    return (Reading.BOUND, Reading.CHAIN, Reading.EXACT) if spec.has_causal_context else (Reading.BOUND, Reading.CHAIN)


def _check(spec: DiffusionSpec, reading: Reading) -> None:
    known = readings(spec)
    if reading not in known:
        names = ", ".join(known)
        raise ConfigError(f"a checkpoint of objective {spec.objective} has the readings {names}, not {reading}")
    if Layout.BLOCK_CAUSAL not in spec.layouts:
        raise ConfigError("this checkpoint was not trained block by block, so it has no left-to-right likelihood")
    if spec.objective is Objective.AUTOREGRESSIVE and spec.prediction_shift != 1:
        raise ConfigError(f"prediction_shift {spec.prediction_shift} with objective ar is not supported here")


@dataclass(frozen=True, slots=True)
class _Batch:
    """Windows behind their ``<file>`` token, padded at the end. Legend: B windows, L positions."""

    first: int
    """Index of the first window among those that are read."""
    token_ids: Int[Tensor, "B L"]
    is_target: Bool[Tensor, "B L"]
    blocks: Int[Tensor, "B L"]

    @property
    def positions(self) -> Tensor:
        return torch.arange(self.token_ids.shape[1], device=self.token_ids.device).expand_as(self.token_ids)


def _batches(
    denoiser: Denoiser, spec: DiffusionSpec, windows: Sequence[Window], config: LikelihoodConfig
) -> Iterator[_Batch]:
    if spec.special.file is None:
        raise ConfigError("this checkpoint has no start-of-file token to score a text from")
    device = denoiser.model.embed_tokens.weight.device
    block_length = 1 if spec.objective is Objective.AUTOREGRESSIVE else config.block_length
    for first in range(0, len(windows), config.batch_size):
        part = windows[first : first + config.batch_size]
        length = 1 + max(len(window.token_ids) for window in part)
        token_ids = torch.full((len(part), length), spec.special.filler)
        is_target = torch.zeros(len(part), length, dtype=torch.bool)
        token_ids[:, 0] = spec.special.file
        for row, window in enumerate(part):
            token_ids[row, 1 : 1 + len(window.token_ids)] = torch.from_numpy(window.token_ids)
            is_target[row, 1 : 1 + len(window.token_ids)] = True
        blocks = block_grid(len(part), length, block_length)
        yield _Batch(first, token_ids.to(device), is_target.to(device), blocks.to(device))


class _PairForward:
    """Forwards over [noisy ⊕ clean] of one batch, which share their attention."""

    def __init__(self, denoiser: Denoiser, batch: _Batch, spec: DiffusionSpec) -> None:
        self._denoiser, self._batch, self._mask_id = denoiser, batch, spec.special.mask
        # Padding behind a window is its own document: short last blocks must not see it.
        documents = torch.where(batch.is_target | (batch.positions == 0), 0, 1)
        self._attention = plan_attention(
            Topology.training_pair(batch.blocks, documents, has_causal_context=spec.has_causal_context)
        )
        self._predicting = prediction_rows(batch.blocks, spec.prediction_shift)

    def nats(self, is_masked: Bool[Tensor, "B L"], is_read: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """float64 cross-entropy at ``is_read``, which lies within ``is_masked``; zero elsewhere."""
        clean = self._batch.token_ids
        noisy = torch.where(is_masked, self._mask_id, clean)
        pair = training_pair(noisy, clean, self._batch.positions, self._batch.blocks)
        hidden = self._denoiser(pair.token_ids, pair.positions, self._attention)
        rows = hidden.gather(1, self._predicting[..., None].expand(-1, -1, hidden.shape[2]))
        return _read(self._denoiser, rows, clean, is_read, self._mask_id)


def _read(denoiser: Denoiser, hidden: Tensor, labels: Tensor, is_read: Tensor, mask_id: int | None) -> Tensor:
    nats = torch.zeros(is_read.shape, dtype=torch.float64, device=hidden.device)
    rows, wanted = hidden[is_read], labels[is_read]
    found = [
        -clean_log_probs(denoiser.logits(some), mask_id).gather(-1, ids[:, None])[:, 0].double()
        for some, ids in zip(rows.split(_LOGIT_ROWS), wanted.split(_LOGIT_ROWS), strict=True)
    ]
    nats[is_read] = torch.cat(found)
    return nats


@lru_cache(maxsize=64)
def _spread(num_rows: int, num_slots: int, seed: int, draw: int) -> Tensor:
    """The same for every share of a set."""
    return spread_uniforms(num_rows, num_slots, seed=seed, step=draw)


class _Bound:
    """The exact-count estimator, its counts spread evenly over the blocks of every window and over all windows."""

    def __init__(self, config: LikelihoodConfig, share: Share) -> None:
        self._seed, self._rows = config.seed, torch.tensor(share.rows)
        self._uniforms = [
            _spread(share.num_rows, share.num_slots, config.seed, draw) for draw in range(config.num_samples)
        ]

    def __call__(self, denoiser: Denoiser, spec: DiffusionSpec, batch: _Batch, advance: Advance) -> np.ndarray:
        forward = _PairForward(denoiser, batch, spec)
        num_rows = batch.token_ids.shape[0]
        rows = self._rows[batch.first : batch.first + num_rows]
        device = batch.token_ids.device
        sums = []
        for draw, uniforms in enumerate(self._uniforms):
            u = uniforms[rows].to(device)
            sizes = target_counts(batch.blocks, batch.is_target, u.shape[1])
            counts = draw_counts(u, sizes)
            scores = counter_uniform(self._seed, draw, rows[:, None], batch.positions[:1].cpu()).to(device)
            is_masked = mask_exact_count(batch.blocks, batch.is_target, counts, scores)
            weights = at_positions(token_weights(counts, sizes, Weighting.ELBO), batch.blocks)
            sums.append((weights * forward.nats(is_masked, is_masked)).sum(dim=1).cpu().numpy())
            advance(num_rows)
        return np.stack(sums)


def _chain(denoiser: Denoiser, spec: DiffusionSpec, batch: _Batch, block_length: int, advance: Advance) -> np.ndarray:
    """Step j masks every target at offset j or later of its block and reads those at offset j."""
    forward = _PairForward(denoiser, batch, spec)
    offset = batch.positions % block_length
    sums = np.zeros((1, batch.token_ids.shape[0]))
    for step in range(block_length):
        is_read = batch.is_target & (offset == step)
        if bool(is_read.any()):  # a batch of short windows may end before its block does
            sums += forward.nats(batch.is_target & (offset >= step), is_read).sum(dim=1).cpu().numpy()
        advance(batch.token_ids.shape[0])
    return sums


def _exact(denoiser: Denoiser, batch: _Batch, advance: Advance) -> np.ndarray:
    attention = plan_attention(Topology.block_causal(batch.positions))
    hidden = denoiser(batch.token_ids, batch.positions, attention)
    # Row i is about token i + 1; padding comes last, where a causal model's targets cannot see it.
    nats = _read(denoiser, hidden[:, :-1], batch.token_ids[:, 1:], batch.is_target[:, 1:], None)
    advance(batch.token_ids.shape[0])
    return nats.sum(dim=1).cpu().numpy()[None]
