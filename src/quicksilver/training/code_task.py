"""The task of the bundled model: Python source in left-to-right, fill-in-the-middle, edit and in-place views.

``Objective.MASK`` trains block diffusion on block-causal rows and masked diffusion on in-place rows;
``Objective.AUTOREGRESSIVE`` trains the twin on the same windows and views, in-place rows becoming fill-in-the-middle
rows, because a causal model has no other way to fill.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.diffusion.estimator import spread_uniforms
from quicksilver.diffusion.likelihood import bits_per_byte
from quicksilver.diffusion.spec import DiffusionSpec, Objective, SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.training.batch import LossSums, MicroBatch, cross_entropy_sums
from quicksilver.training.corpus.token_file import TokenFile
from quicksilver.training.data.in_place import InPlaceConfig, InPlaceNoise, in_place_batch
from quicksilver.training.data.noising import Editor, NoiseConfig, NoiseDraw, autoregressive_batch, noise_training_pair
from quicksilver.training.data.rows import pack_rows
from quicksilver.training.data.syntax import SyntaxSpans
from quicksilver.training.data.views import Document, ViewMix, Views
from quicksilver.training.data.windows import MIN_PIECE_TOKENS, Piece, Windows
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.own_tokens import OwnTokens

_NUM_SENTINELS = len(SPECIAL_TOKENS)


def special_ids() -> SpecialIds:
    """The ids of this project's reserved tokens that the sampler knows."""
    at = SPECIAL_TOKENS.index
    return SpecialIds(
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeTaskConfig:
    """Data, views and noise of a code model."""

    tokens: Path
    """Folder written by ``quicksilver corpus build``."""
    row_length: int = 512
    num_block_rows: int = 4
    """Block-causal rows per step, all ranks together. Each costs two forwards' worth of positions."""
    num_in_place_rows: int = 8
    rows_per_forward: int = 8
    """Rows per micro-batch and rank; bounds memory."""
    block_lengths: tuple[tuple[int, float], ...] = ((4, 0.1), (8, 0.1), (16, 0.7), (32, 0.1))
    """Block lengths with their shares, one drawn per row."""
    views: ViewMix = field(default_factory=ViewMix)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    in_place: InPlaceConfig = field(default_factory=InPlaceConfig)
    num_validation_rows: int = 32

    def __post_init__(self) -> None:
        if min(self.num_block_rows, self.num_in_place_rows) < 0 or self.num_block_rows + self.num_in_place_rows < 1:
            raise ConfigError("a step needs at least one row")
        if abs(sum(share for _, share in self.block_lengths) - 1.0) > 1e-9:
            raise ConfigError(f"the shares of block_lengths must add up to 1, got {self.block_lengths}")

    def build(self, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int) -> "CodeTask":
        """Open the token files."""
        return CodeTask(self, spec, schedule, seed)


class CodeTask:
    """Builds the micro-batches of every step from (seed, step, global row) alone."""

    def __init__(self, config: CodeTaskConfig, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int) -> None:
        self._config, self._spec, self._schedule, self._seed = config, spec, schedule, seed
        self._is_ar = spec.objective is Objective.AUTOREGRESSIVE
        if not self._is_ar and spec.objective is not Objective.MASK:
            raise ConfigError(f"the code task trains the objectives mask and ar, not {spec.objective}")
        if not self._is_ar and spec.prediction_shift:
            raise ConfigError("the code task's in-place rows need prediction_shift 0")
        if config.noise.next_token_weight and not (self._is_ar or spec.has_causal_context):
            raise ConfigError(
                "a next-token loss needs a spec with has_causal_context, or the clean half sees its labels"
            )
        self._tokenizer_path = config.tokens / TOKENIZER_FILE
        self._tokenizer = Tokenizer.load(self._tokenizer_path)
        train, held_out = (TokenFile.open(config.tokens, split) for split in ("train", "validation"))
        self._windows, self._held_out = self._windows_of(train), self._windows_of(held_out)
        self._bytes_per_token, self._held_out_bytes_per_token = train.bytes_per_token, held_out.bytes_per_token
        token_counts = torch.from_numpy(np.bincount(train.tokens, minlength=self._tokenizer.vocab_size)).double()
        token_counts[:_NUM_SENTINELS] = 0
        self._editor = Editor(config.noise, token_counts, _NUM_SENTINELS)
        length_ids = tuple(token for token in (spec.special.expand, spec.special.delete) if token is not None)
        self._own_tokens = OwnTokens(
            keep_weight=config.noise.keep_weight, num_special=_NUM_SENTINELS, length_ids=length_ids
        )
        self._views = Views(
            config.views,
            spec.special,
            frozenset(range(_NUM_SENTINELS)) - {spec.special.eos},
            self._tokenizer.newline_id,
            self._tokenizer.encode,
            self._tokenizer.decode,
            (self._tokenizer.id_of("<edit_before>"), self._tokenizer.id_of("<edit_after>")),
            SyntaxSpans(self._tokenizer),
        )

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of source per token of the training split."""
        return self._bytes_per_token

    def _windows_of(self, tokens: TokenFile) -> Windows:
        # The sentinels, the eos fill and the delete positions need some room beside the window's tokens.
        window_length = self._config.row_length - 32
        return Windows(tokens, window_length=window_length, seed=self._seed, newline_id=self._tokenizer.newline_id)

    def micro_batches(self, step: int, rank: int, num_ranks: int) -> list[MicroBatch]:
        """This rank's share of the step's rows; the union over ranks does not depend on their number."""
        config = self._config
        num_rows = config.num_block_rows + config.num_in_place_rows
        batches = []
        for first, count, is_in_place in (
            (0, config.num_block_rows, False),
            (config.num_block_rows, config.num_in_place_rows, True),
        ):
            mine = range(rank, count, num_ranks)
            if not mine:
                continue
            uniforms = spread_uniforms(count, config.row_length, seed=self._seed, step=2 * step + is_in_place)
            for at in range(0, len(mine), config.rows_per_forward):
                rows = torch.tensor(mine[at : at + config.rows_per_forward])
                draw = NoiseDraw(self._seed, step, step * num_rows + first + rows, uniforms[rows])
                batches.append(self._micro_batch(self._windows, draw, is_in_place))
        return batches

    def _micro_batch(self, windows: Windows, draw: NoiseDraw, is_in_place: bool) -> MicroBatch:
        rows = [_Row(row, windows, self._views, self._seed) for row in draw.row_ids.tolist()]
        pad, length = self._spec.special.filler, self._config.row_length
        editor = self._editor if draw.step >= self._config.noise.edit_start * self._schedule.num_steps else None
        if self._is_ar:
            documents = [[d for piece in row.pieces for d in self._causal(piece, row.rng, is_in_place)] for row in rows]
            return autoregressive_batch(pack_rows(documents, length, pad))
        if is_in_place:
            noise = InPlaceNoise(self._views, self._spec.special, self._config.in_place, self._config.noise)
            canvases = [
                [noise(piece, u, row.rng) for piece, u in zip(row.pieces, us.tolist(), strict=False)]
                for row, us in zip(rows, draw.slot_uniforms, strict=True)
            ]
            return in_place_batch(canvases, length, pad, draw, editor)
        documents = [self._block_causal(row.pieces, row.rng) for row in rows]
        return noise_training_pair(pack_rows(documents, length, pad), draw, self._config.noise, self._spec, editor)

    def _block_causal(self, pieces: Sequence[Piece], rng: np.random.Generator) -> list[Document]:
        lengths, shares = zip(*self._config.block_lengths, strict=True)
        block_length = int(rng.choice(lengths, p=shares))
        return [document for piece in pieces for document in self._views.block_causal(piece, block_length, rng)]

    def _causal(self, piece: Piece, rng: np.random.Generator, is_in_place: bool) -> list[Document]:
        # Block length 1: one eos closes the response and nothing fills a block.
        if is_in_place and len(piece.token_ids) >= MIN_PIECE_TOKENS:
            return [self._views.fill_in_middle(self._views.cut(piece.token_ids, rng), 1)]
        return self._views.block_causal(piece, 1, rng)

    def loss(self, denoiser: Denoiser, batch: MicroBatch) -> LossSums:
        """Weighted cross-entropy of the batch's predictions, its drafted masks filled by the model first."""
        return cross_entropy_sums(denoiser, self._own_tokens(denoiser, batch))

    def validate(self, denoiser: Denoiser) -> dict[str, float]:
        """Bits per byte of held-out code, left to right: the bound for diffusion, exact for the twin."""
        config = self._config
        nats, targets = 0.0, 0
        device = next(denoiser.parameters()).device
        uniforms = spread_uniforms(config.num_validation_rows, config.row_length, seed=self._seed, step=0)
        for at in range(0, config.num_validation_rows, config.rows_per_forward):
            rows = torch.arange(at, min(at + config.rows_per_forward, config.num_validation_rows))
            draw = NoiseDraw(self._seed, 0, rows, uniforms[rows])
            batch = self._validation_batch(draw).to(device)
            nats += float(cross_entropy_sums(denoiser, batch).bound)
            targets += batch.num_bound_targets
        return {"validation_bits_per_byte": bits_per_byte(nats, targets * self._held_out_bytes_per_token)}

    def _validation_batch(self, draw: NoiseDraw) -> MicroBatch:
        spec = self._spec
        rows = [_Row(row, self._held_out, self._views, self._seed) for row in draw.row_ids.tolist()]
        block_length = 1 if self._is_ar else spec.block_length
        documents = [[self._views.left_to_right(piece, block_length, row.rng) for piece in row.pieces] for row in rows]
        packed = pack_rows(documents, self._config.row_length, spec.special.filler)
        if self._is_ar:
            return autoregressive_batch(packed)
        return noise_training_pair(packed, draw, NoiseConfig(), spec)

    def export_extras(self, folder: Path) -> None:
        """Copy the tokenizer into the checkpoint folder."""
        shutil.copyfile(self._tokenizer_path, folder / TOKENIZER_FILE)


class _Row:
    """The pieces of one training row and the generator for its views, both functions of (seed, row id)."""

    def __init__(self, row_id: int, windows: Windows, views: Views, seed: int) -> None:
        self.rng = np.random.Generator(np.random.Philox(key=[seed, row_id]))
        self.pieces = [part for piece in windows.pieces(row_id) for part in views.split(piece, self.rng)]
