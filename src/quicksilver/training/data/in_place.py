"""In-place rows: holes between visible code, every position seeing every other one.

Most documents train filling (a few holes, their length hidden by expand and delete labels), the others are one hole
from end to end, which gives several times more predictions per forward. Each hole is a block of the estimator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.diffusion.estimator import draw_counts, token_weights
from quicksilver.diffusion.spec import SpecialIds
from quicksilver.diffusion.variable_length import LengthNoise, length_noise, resized_noise
from quicksilver.errors import ConfigError
from quicksilver.models.topology import Topology
from quicksilver.training.batch import MicroBatch
from quicksilver.training.data.noising import Editor, NoiseConfig, NoiseDraw
from quicksilver.training.data.views import Views
from quicksilver.training.data.windows import Piece

_HOLE_STEP = 2**0.5 - 1
"""Irrational steps keep the draws of a document's holes evenly spread, each of them uniform. Not the golden ratio, by
which ``spread_uniforms`` goes from document to document: holes of neighbours would share their draws."""


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
    merge_rate: float = 0.5
    """Share of holes of unknown length in which neighbouring masks are merged into expand labels."""
    max_merge_rate: float = 0.7
    """In those, each pair merges with a probability drawn uniformly up to this."""
    extra_rate: float = 0.7
    """Share of holes of unknown length with delete positions at their end."""
    max_extra: int = 16
    """Most delete positions of a hole."""
    start_length: int = 16
    """Masks that decoding starts a hole with; the spec's ``hole_length``."""
    start_rate: float = 0.4
    """Share of holes of unknown length that look as decoding meets them first: ``start_length`` masks, whatever their
    length. Only there must it be told from the text around the hole alone."""
    settled_rate: float = 0.5
    """Share of holes of unknown length that look as they do after decoding's first look: about as many positions as
    tokens, too many as often as too few. The rates of merges and extra positions are of the holes left over, which
    must be few: they are mostly too long, and more of them than of settled holes are all masks."""
    settled_spread: float = 0.35
    """Standard deviation of the logarithm of a settled hole's positions over its tokens."""

    def __post_init__(self) -> None:
        for name in (
            "whole_rate",
            "min_coverage",
            "max_coverage",
            "known_length_rate",
            "merge_rate",
            "max_merge_rate",
            "extra_rate",
            "start_rate",
            "settled_rate",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.min_coverage > self.max_coverage:
            raise ConfigError(f"min_coverage {self.min_coverage} exceeds max_coverage {self.max_coverage}")
        if self.start_rate + self.settled_rate > 1.0:
            raise ConfigError(f"start_rate {self.start_rate} and settled_rate {self.settled_rate} exceed 1 together")
        if self.settled_spread < 0:
            raise ConfigError(f"settled_spread must not be negative, got {self.settled_spread}")
        if min(self.max_extra, self.start_length) < 1:
            raise ConfigError("max_extra and start_length must be at least 1")


@dataclass(frozen=True, slots=True)
class Canvas:
    """A noisy document with its predictions. Tensors share length [n] of the canvas."""

    token_ids: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    """The right token at every position; ``expand`` or ``delete`` where a mask stands for several or none."""
    weights: Float[Tensor, " n"]
    """Loss weight; zero where nothing is trained."""
    is_editable: Bool[Tensor, " n"]
    """Visible tokens of holes."""
    num_targets: int = 0
    """Hole tokens of the clean document."""


class InPlaceNoise:
    """Cuts holes into pieces and masks them."""

    def __init__(self, views: Views, special: SpecialIds, config: InPlaceConfig, noise: NoiseConfig) -> None:
        if special.canvas is None or special.expand is None or special.delete is None:
            raise ConfigError("in-place training needs the spec's canvas, expand and delete tokens")
        self._views, self._config, self._noise = views, config, noise
        self._canvas = torch.tensor([special.canvas])
        self._ids = {"mask_id": special.mask, "expand_id": special.expand, "delete_id": special.delete}

    def __call__(self, piece: Piece, uniform: float, rng: np.random.Generator) -> Canvas:
        """One document; ``uniform`` is its stratified draw for the masked counts."""
        token_ids = torch.from_numpy(piece.token_ids)
        is_whole = rng.random() < self._config.whole_rate
        coverage = rng.uniform(self._config.min_coverage, self._config.max_coverage)
        spans = [(0, len(token_ids))] if is_whole else self._views.holes(piece.token_ids, coverage, rng)
        is_known_length = is_whole or rng.random() < self._config.known_length_rate
        parts = [_visible(self._canvas)]
        end = 0
        for number, (low, high) in enumerate(spans):
            parts.append(_visible(token_ids[end:low]))
            parts.append(self._hole(token_ids[low:high], (uniform + number * _HOLE_STEP) % 1.0, is_known_length, rng))
            end = high
        parts.append(_visible(token_ids[end:]))
        joined = (
            torch.cat([getattr(part, name) for part in parts])
            for name in ("token_ids", "labels", "weights", "is_editable")
        )
        return Canvas(*joined, num_targets=sum(high - low for low, high in spans))

    def _hole(
        self, content: Int[Tensor, " n"], uniform: float, is_known_length: bool, rng: np.random.Generator
    ) -> Canvas:
        """Noise and weights of one hole, a block of the estimator."""
        hole = self._noisy(content, uniform, is_known_length, rng)
        # By what the model sees, masks and canvas, never by a label: that would bias the probability of delete.
        num_masks, num_positions = hole.is_masked.sum()[None], torch.tensor([len(hole.labels)])
        weight = token_weights(num_masks, num_positions, self._noise.weighting, clip=self._noise.clip)
        return Canvas(hole.canvas_ids, hole.labels, hole.is_masked * weight.float(), ~hole.is_masked)

    def _noisy(
        self, content: Int[Tensor, " n"], uniform: float, is_known_length: bool, rng: np.random.Generator
    ) -> LengthNoise:
        """As decoding meets the hole at first or after a look, or an exact count of masks under length noise."""
        config, num_tokens = self._config, len(content)
        if is_known_length:
            is_masked = _exact_count(num_tokens, uniform, rng)
            return length_noise(content, is_masked, 0, torch.zeros(num_tokens), 0.0, **self._ids)
        kind = rng.random()
        if kind < config.start_rate:
            return resized_noise(content, torch.ones(config.start_length, dtype=torch.bool), **self._ids)
        if kind < config.start_rate + config.settled_rate:
            factor = math.exp(config.settled_spread * rng.standard_normal())
            return resized_noise(content, _exact_count(max(1, round(num_tokens * factor)), uniform, rng), **self._ids)
        is_masked = _exact_count(num_tokens, uniform, rng)
        draws = torch.from_numpy(rng.random(num_tokens))
        merge_rate = rng.uniform(0.0, config.max_merge_rate) if rng.random() < config.merge_rate else 0.0
        num_extra = int(rng.integers(1, config.max_extra + 1)) if rng.random() < config.extra_rate else 0
        return length_noise(content, is_masked, num_extra, draws, merge_rate, **self._ids)


def _exact_count(num_positions: int, uniform: float, rng: np.random.Generator) -> Bool[Tensor, " n"]:
    """A random set of masks, its size by the estimator's draw."""
    count = draw_counts(torch.tensor([uniform], dtype=torch.float64), torch.tensor([num_positions]))
    is_masked = torch.zeros(num_positions, dtype=torch.bool)
    is_masked[torch.from_numpy(rng.permutation(num_positions)[: int(count)])] = True
    return is_masked


def _visible(token_ids: Int[Tensor, " n"]) -> Canvas:
    never = torch.zeros(len(token_ids), dtype=torch.bool)
    return Canvas(token_ids, token_ids, never.float(), never)


def in_place_batch(
    canvases: Sequence[Sequence[Canvas]], length: int, pad: int, draw: NoiseDraw, editor: Editor | None = None
) -> MicroBatch:
    """Lay canvases out in rows of ``length`` under full attention within each document.

    An ``editor`` corrupts visible hole tokens.
    """
    shape = (len(canvases), length)
    token_ids, labels = (torch.full(shape, pad) for _ in range(2))
    weights = torch.zeros(shape)
    is_editable = torch.zeros(shape, dtype=torch.bool)
    documents, positions = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
    num_targets = 0
    for row, packed in enumerate(canvases):
        start = 0
        for number, canvas in enumerate(packed):
            size = min(len(canvas.token_ids), length - start)
            if size <= 0:
                break
            at = slice(start, start + size)
            token_ids[row, at], labels[row, at] = canvas.token_ids[:size], canvas.labels[:size]
            weights[row, at], is_editable[row, at] = canvas.weights[:size], canvas.is_editable[:size]
            documents[row, at], positions[row, at] = number, torch.arange(size)
            num_targets += canvas.num_targets
            start += size
        documents[row, start:], positions[row, start:] = len(packed), torch.arange(length - start)
    is_drafted = None
    if editor is not None:
        is_drafted = editor.drafts(weights > 0, documents, draw)
        edited = editor(token_ids, is_editable, documents, documents, draw)
        token_ids = edited.token_ids
        weights = weights + edited.is_corrupted + editor.config.keep_weight * edited.is_kept_sample
    is_trained = weights > 0
    return MicroBatch(
        token_ids=token_ids,
        positions=positions,
        topology=Topology.block_causal(torch.zeros_like(documents), documents),
        target_rows=is_trained.flatten().nonzero()[:, 0],
        labels=labels[is_trained],
        weights=weights[is_trained],
        bound_weights=torch.zeros(int(is_trained.sum())),
        num_targets=num_targets,
        num_bound_targets=0,
        is_drafted=None if is_drafted is None else is_drafted[is_trained],
    )
