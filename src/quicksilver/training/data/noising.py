"""Noise on packed rows: clean documents in, what the network sees and must predict out.

All draws are counters of (seed, step, global row, position), so they depend neither on the rank nor on the other rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.diffusion.block import prediction_rows
from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.edit import (
    EditedTokens,
    choose_replacements,
    edit_noise,
    swap_replacements,
    unigram_replacements,
)
from quicksilver.diffusion.estimator import (
    Weighting,
    at_positions,
    draw_counts,
    mask_exact_count,
    target_counts,
    token_weights,
)
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ConfigError
from quicksilver.models.topology import Topology
from quicksilver.training.batch import MicroBatch
from quicksilver.training.data.rows import PackedRows

_SCORE, _EDIT_BLOCK, _EDIT_SCORE, _EDIT_CHOICE, _EDIT_UNIGRAM, _EDIT_SWAP, _OWN = range(101, 108)
"""Purposes of counter draws, so that no two share a counter."""
_EDIT_SHARES = (0.5, 0.5)
"""Wrong tokens come from the corpus's unigrams and from elsewhere in the same document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """How training noise is drawn and weighted."""

    weighting: Weighting = Weighting.CLIPPED
    clip: float = 4.0
    edit_rate: float = 0.12
    """Share of visible target tokens replaced in a block with edit noise."""
    edit_block_rate: float = 0.5
    """Share of blocks with edit noise, once it has begun."""
    edit_start: float = 0.7
    """Fraction of the run after which edit noise begins; 1 turns it off."""
    own_rate: float = 0.0
    """Share of masks, in a block with edit noise, over which the model's own token is written first. Above 0 a step
    with edit noise costs another forward."""
    next_token_weight: float = 0.0
    """Weight of the next-token loss on the clean half; needs a spec with causal context. It trains the trunk on every
    token of rows whose clean half is computed anyway."""
    keep_weight: float = 0.2
    """Loss weight of sampled visible tokens that were not replaced: without it the editor learns that every token
    is wrong."""

    def __post_init__(self) -> None:
        for name in ("edit_block_rate", "edit_start", "own_rate", "next_token_weight", "keep_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0.0 <= self.edit_rate <= 0.5:
            raise ConfigError(f"edit_rate must lie in [0, 0.5], got {self.edit_rate}")


@dataclass(frozen=True, slots=True)
class NoiseDraw:
    """Where the draws of a step's rows come from."""

    seed: int
    step: int
    row_ids: Int[Tensor, " R"]
    """Global row of each row of the micro-batch."""
    slot_uniforms: Float[Tensor, "R S"]
    """The rows' share of the stratified draws of the global batch."""

    def uniform(self, purpose: int, index: Int[Tensor, "#R L"]) -> Float[Tensor, "R L"]:
        """Independent draws per row and index."""
        return counter_uniform(self.seed, self.step, purpose, self.row_ids[:, None], index)


@dataclass(frozen=True, slots=True)
class Editor:
    """Edit noise over rows, with what wrong tokens are drawn from."""

    config: NoiseConfig
    token_counts: Float[Tensor, " V"]
    """Unigram counts of the training split; zero for special tokens."""
    num_special: int
    """Ids below this are special: never put on a canvas, never edited."""

    def __call__(
        self,
        token_ids: Int[Tensor, "R L"],
        is_editable: Bool[Tensor, "R L"],
        documents: Int[Tensor, "R L"],
        blocks: Int[Tensor, "R L"],
        draw: NoiseDraw,
    ) -> EditedTokens:
        """Corrupt a share of the editable tokens in about half of the blocks (numbered within their row)."""
        config, positions = self.config, torch.arange(token_ids.shape[1])[None]
        sources = torch.stack(
            [
                unigram_replacements(self.token_counts, draw.uniform(_EDIT_UNIGRAM, positions)),
                swap_replacements(token_ids, documents, draw.uniform(_EDIT_SWAP, positions)),
            ]
        )
        replacements = choose_replacements(sources, _EDIT_SHARES, draw.uniform(_EDIT_CHOICE, positions))
        return edit_noise(
            token_ids,
            is_editable & self._has_edits(blocks, draw) & (token_ids >= self.num_special),
            replacements,
            draw.uniform(_EDIT_SCORE, positions),
            rate=config.edit_rate,
            special_ids=torch.arange(self.num_special),
        )

    def drafts(
        self, is_masked: Bool[Tensor, "R L"], blocks: Int[Tensor, "R L"], draw: NoiseDraw
    ) -> Bool[Tensor, "R L"] | None:
        """Masks that give way to the model's own tokens, in the blocks that have edits; None if the rate is zero."""
        if not self.config.own_rate:
            return None
        scores = draw.uniform(_OWN, torch.arange(is_masked.shape[1])[None])
        return is_masked & self._has_edits(blocks, draw) & (scores < self.config.own_rate)

    def _has_edits(self, blocks: Int[Tensor, "R L"], draw: NoiseDraw) -> Bool[Tensor, "R L"]:
        return draw.uniform(_EDIT_BLOCK, blocks.clamp(min=0)) < self.config.edit_block_rate


def noise_training_pair(
    rows: PackedRows, draw: NoiseDraw, config: NoiseConfig, spec: DiffusionSpec, editor: Editor | None = None
) -> MicroBatch:
    """The [noisy ⊕ clean] rows of block diffusion: exact-count masks per block, diffusion loss on the noisy half only.

    With an ``editor`` visible tokens of the noisy half are corrupted too; corrupted and kept samples are then trained
    beside the masks. Under a causal context the clean half may carry a next-token loss.

    Raises:
        ConfigError: with prediction shift 1 the model's own tokens are asked for, or the first token of a document is
            a target.
    """
    if spec.prediction_shift:
        _check_shifted(rows, config)
    positions = torch.arange(rows.token_ids.shape[1])[None]
    sizes = target_counts(rows.slots, rows.is_target, draw.slot_uniforms.shape[1])
    counts = draw_counts(draw.slot_uniforms, sizes)
    is_masked = mask_exact_count(rows.slots, rows.is_target, counts, draw.uniform(_SCORE, positions))
    weights = at_positions(token_weights(counts, sizes, config.weighting, clip=config.clip), rows.slots) * is_masked
    bound_weights = at_positions(token_weights(counts, sizes, Weighting.ELBO), rows.slots) * is_masked
    visible, is_drafted = rows.token_ids, None
    if editor is not None:
        is_drafted = editor.drafts(is_masked, rows.slots, draw)
        edited = editor(rows.token_ids, rows.is_target & ~is_masked, rows.documents, rows.slots, draw)
        visible = edited.token_ids
        weights = weights + edited.is_corrupted + config.keep_weight * edited.is_kept_sample
    clean = next_token_targets(rows)
    weights = torch.cat([weights, config.next_token_weight * clean.weights], dim=1)
    labels = torch.cat([rows.token_ids, clean.labels], dim=1)
    bound_weights = torch.cat([bound_weights * rows.token_share, torch.zeros_like(clean.weights)], dim=1)
    is_trained = weights > 0
    if is_drafted is not None:
        is_drafted = torch.cat([is_drafted, torch.zeros_like(is_drafted)], dim=1)[is_trained]
    return MicroBatch(
        token_ids=torch.cat([torch.where(is_masked, spec.special.mask, visible), rows.token_ids], dim=1),
        positions=torch.cat([rows.positions, rows.positions], dim=1),
        topology=Topology.training_pair(rows.blocks, rows.documents, has_causal_context=spec.has_causal_context),
        target_rows=_predicting_rows(rows, spec.prediction_shift)[is_trained],
        labels=labels[is_trained],
        weights=weights[is_trained].float(),
        bound_weights=bound_weights[is_trained].float(),
        num_targets=rows.num_targets,
        # Under edit noise the past is right but the block's visible tokens are not: no bound of the clean text.
        num_bound_targets=rows.num_targets if editor is None else 0,
        is_drafted=is_drafted,
    )


def _predicting_rows(rows: PackedRows, prediction_shift: int) -> Int[Tensor, "R T"]:
    """Index into the flattened [R * T] rows for every token to denoise and, behind them, every next-token loss."""
    num_rows, length = rows.token_ids.shape
    clean = length + torch.arange(length).expand(num_rows, -1)
    in_row = torch.cat([prediction_rows(rows.slots, prediction_shift), clean], dim=1)
    return in_row + 2 * length * torch.arange(num_rows)[:, None]


def _check_shifted(rows: PackedRows, config: NoiseConfig) -> None:
    if config.own_rate:
        raise ConfigError("own_rate writes over masks from their own rows, so it needs prediction_shift 0")
    if bool((rows.is_target & (rows.positions == 0)).any()):
        raise ConfigError("with prediction_shift 1 nothing predicts a document's first token: it cannot be a target")


class NextTokens(NamedTuple):
    """What next-token prediction is trained on: row i on token i + 1 of the same document."""

    labels: Int[Tensor, "R L"]
    weights: Float[Tensor, "R L"]
    """1, or 0 where the next token is no target."""


def next_token_targets(rows: PackedRows) -> NextTokens:
    """Labels and weights of next-token prediction over clean rows."""
    follows = rows.is_target[:, 1:] & (rows.documents[:, 1:] == rows.documents[:, :-1])
    is_trained = torch.cat([follows, torch.zeros_like(follows[:, :1])], dim=1)
    return NextTokens(torch.roll(rows.token_ids, -1, dims=1), is_trained.float())


def autoregressive_batch(rows: PackedRows) -> MicroBatch:
    """Next-token prediction under causal attention."""
    targets = next_token_targets(rows)
    is_trained = targets.weights > 0
    weights = targets.weights[is_trained]
    num_targets = round(float(weights.sum()))
    return MicroBatch(
        token_ids=rows.token_ids,
        positions=rows.positions,
        topology=Topology.block_causal(rows.positions, rows.documents),
        target_rows=is_trained.flatten().nonzero()[:, 0],
        labels=targets.labels[is_trained],
        weights=weights,
        bound_weights=weights,
        num_targets=num_targets,
        num_bound_targets=num_targets,
    )
