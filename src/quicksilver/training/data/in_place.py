"""In-place rows: holes between visible code, every position seeing every other one.

Half of the rows train filling (a few holes, their length hidden by expand and delete labels), half train the whole document as one
canvas, which gives several times more predictions per forward. A document's holes form one block of the estimator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quicksilver.diffusion.estimator import draw_counts, token_weights
from quicksilver.diffusion.spec import SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.topology import Topology
from quicksilver.training.batch import MicroBatch
from quicksilver.training.data.noising import NoiseConfig
from quicksilver.training.data.views import Views
from quicksilver.training.data.windows import Piece


_Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Canvas token ids, labels (-1: none) and weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InPlaceConfig:
    """How holes are cut."""

    whole_rate: float = 0.4
    """Share of documents that are one hole from end to end, of known length."""
    min_coverage: float = 0.05
    max_coverage: float = 0.5
    """Holes cover a uniformly drawn share of the tokens between these."""
    known_length_rate: float = 0.3
    """Share of documents whose holes have exactly as many positions as tokens."""
    max_extra: int = 16
    """Most delete positions appended to a hole."""

    def __post_init__(self) -> None:
        for name in ("whole_rate", "min_coverage", "max_coverage", "known_length_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.min_coverage > self.max_coverage:
            raise ConfigError(f"min_coverage {self.min_coverage} exceeds max_coverage {self.max_coverage}")


@dataclass(frozen=True, slots=True)
class NoisyDocument:
    """A canvas with its predictions. Arrays share length [n] of the canvas."""

    token_ids: np.ndarray
    labels: np.ndarray
    """-1 where nothing is trained."""
    weights: np.ndarray
    num_targets: int
    """Hole tokens of the clean document."""


class InPlaceNoise:
    """Cuts holes into pieces and noises them."""

    def __init__(self, views: Views, special: SpecialIds, config: InPlaceConfig, noise: NoiseConfig) -> None:
        if special.canvas is None:
            raise ConfigError("in-place training needs the spec's canvas sentinel")
        self._views, self._config, self._noise = views, config, noise
        self._canvas, self._mask = special.canvas, special.mask
        self._expand, self._delete = special.expand, special.delete

    def __call__(self, piece: Piece, uniform: float, rng: np.random.Generator) -> NoisyDocument:
        """One document; ``uniform`` is its stratified draw for the masked count."""
        token_ids = piece.token_ids
        is_whole = rng.random() < self._config.whole_rate
        coverage = rng.uniform(self._config.min_coverage, self._config.max_coverage)
        spans = [(0, len(token_ids))] if is_whole else self._views.holes(token_ids, coverage, rng)
        is_known_length = is_whole or rng.random() < self._config.known_length_rate
        is_hole = np.zeros(len(token_ids), dtype=bool)
        for low, high in spans:
            is_hole[low:high] = True
        size = int(is_hole.sum())
        count = int(draw_counts(torch.tensor([uniform]), torch.tensor([size])))
        weight = float(token_weights(torch.tensor([count]), torch.tensor([size]), self._noise.weighting, clip=self._noise.clip))
        is_masked = np.zeros(len(token_ids), dtype=bool)
        is_masked[rng.choice(np.flatnonzero(is_hole), size=count, replace=False)] = True
        parts = [_visible(np.array([self._canvas]))]
        end = 0
        for low, high in spans:
            parts.append(_visible(token_ids[end:low]))
            parts.append(self._hole(token_ids[low:high], is_masked[low:high], weight, is_known_length, rng))
            end = high
        parts.append(_visible(token_ids[end:]))
        canvas, labels, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return NoisyDocument(canvas, labels, weights, size)

    def _hole(self, content: np.ndarray, is_masked: np.ndarray, weight: float, is_known_length: bool, rng: np.random.Generator) -> _Part:
        """The hole's canvas: masked where chosen, some neighbours merged into expand labels, delete positions at the end."""
        canvas = np.where(is_masked, self._mask, content)
        labels = np.where(is_masked, content, -1)
        weights = np.where(is_masked, weight, 0.0)
        if is_known_length or self._expand is None or self._delete is None:
            return canvas, labels, weights
        if rng.random() < 0.5:
            merge_rate = rng.random() * 0.7
            is_absorbed = merged_pairs(is_masked, merge_rate, rng)
            is_expand = np.roll(is_absorbed, -1)
            labels = np.where(is_expand, self._expand, labels)[~is_absorbed]
            canvas, weights = canvas[~is_absorbed], weights[~is_absorbed]
        num_extra = int(rng.integers(self._config.max_extra + 1)) if rng.random() < 0.7 else 0
        if num_extra:
            # All delete labels of a hole share the weight of one token, or long tails would drown the text.
            canvas = np.concatenate([canvas, np.full(num_extra, self._mask)])
            labels = np.concatenate([labels, np.full(num_extra, self._delete)])
            weights = np.concatenate([weights, np.full(num_extra, weight / num_extra)])
        return canvas, labels, weights


def _visible(token_ids: np.ndarray) -> _Part:
    return token_ids, np.full(len(token_ids), -1), np.zeros(len(token_ids))


def merged_pairs(is_masked: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """True where a masked position is absorbed by the masked position before it; pairs never overlap."""
    is_absorbed = np.zeros(len(is_masked), dtype=bool)
    draws = rng.random(len(is_masked))
    at = 1
    while at < len(is_masked):
        if is_masked[at - 1] and is_masked[at] and draws[at] < rate:
            is_absorbed[at] = True
            at += 1  # the absorbed position cannot absorb another
        at += 1
    return is_absorbed


def in_place_batch(canvases: Sequence[Sequence[NoisyDocument]], length: int, pad: int) -> MicroBatch:
    """Lay noisy canvases out in rows of ``length`` under full attention within each document."""
    shape = (len(canvases), length)
    token_ids = np.full(shape, pad, dtype=np.int64)
    labels = np.full(shape, -1, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    documents, positions = (np.zeros(shape, dtype=np.int64) for _ in range(2))
    num_targets = 0
    for row, packed in enumerate(canvases):
        start = 0
        for number, canvas in enumerate(packed):
            size = min(len(canvas.token_ids), length - start)
            if size <= 0:
                break
            at = slice(start, start + size)
            token_ids[row, at], labels[row, at] = canvas.token_ids[:size], canvas.labels[:size]
            weights[row, at] = canvas.weights[:size]
            documents[row, at], positions[row, at] = number, np.arange(size)
            num_targets += canvas.num_targets
            start += size
        documents[row, start:], positions[row, start:] = len(packed), np.arange(length - start)
    is_trained = torch.from_numpy((labels >= 0) & (weights > 0))
    documents_rl = torch.from_numpy(documents)
    return MicroBatch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        topology=Topology.block_causal(torch.zeros_like(documents_rl), documents_rl),
        target_rows=is_trained.flatten().nonzero()[:, 0],
        labels=torch.from_numpy(labels)[is_trained],
        weights=torch.from_numpy(weights)[is_trained],
        bound_weights=torch.zeros(int(is_trained.sum())),
        num_targets=num_targets,
        num_bound_targets=0,
    )
