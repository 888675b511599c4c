"""The task of adaptation: plain text left to right, block by block, from a model that predicts the next token.

Predictions stay shifted by one and the context stays causal, so the model is never asked for what it does not know
yet: in blocks of one token it is the autoregressive model that it was. Blocks grow over the run. The clean half of the
same forward carries the next-token loss, so what the model knew is trained on beside what it learns.

Sources: shift and growing blocks as in DiffuLLaMA (arXiv:2410.17891), Dream (arXiv:2508.15487) and Fast-dLLM v2
(arXiv:2509.26328). Differs: exact mask counts per block, and a causal context instead of a block-causal one.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.diffusion.estimator import spread_uniforms
from quicksilver.diffusion.likelihood import bits_per_byte
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser
from quicksilver.tokenization.foreign import is_own_tokenizer, load_tokenizer
from quicksilver.training.alignment import AlignmentConfig, Teacher
from quicksilver.training.batch import LossSums, MicroBatch, cross_entropy_sums
from quicksilver.training.corpus.texts import TOKENIZER_FILES
from quicksilver.training.corpus.token_file import TokenFile
from quicksilver.training.data.noising import NoiseConfig, NoiseDraw, noise_training_pair
from quicksilver.training.data.rows import pack_rows
from quicksilver.training.data.views import Document, prompt_response
from quicksilver.training.data.windows import Piece, Windows
from quicksilver.training.lr_schedule import WarmupStableDecay


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockStage:
    """Blocks of one length from some moment of the run on."""

    block_length: int
    start: float
    """Fraction of the run, in [0, 1)."""


WARM_UP = (
    BlockStage(block_length=1, start=0.0),
    BlockStage(block_length=4, start=0.05),
    BlockStage(block_length=16, start=0.2),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptationTaskConfig:
    """Data, blocks and losses of an adaptation."""

    tokens: Path
    """Folder written by ``quicksilver corpus build`` or ``quicksilver corpus tokenize``."""
    row_length: int = 512
    num_rows: int = 8
    """Rows per step, all ranks together. Each costs two forwards' worth of positions."""
    rows_per_forward: int = 8
    """Rows per micro-batch and rank; bounds memory."""
    stages: tuple[BlockStage, ...] = WARM_UP
    """In order; the last one's block length is what validation reads."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(edit_start=1.0, next_token_weight=0.3))
    alignment: AlignmentConfig | None = None
    num_validation_rows: int = 32

    def __post_init__(self) -> None:
        starts = [stage.start for stage in self.stages]
        if not starts or starts[0] != 0.0 or starts != sorted(set(starts)) or starts[-1] >= 1.0:
            raise ConfigError(f"stages must start at 0 and follow each other within [0, 1), got {starts}")
        if min(stage.block_length for stage in self.stages) < 1 or self.num_rows < 1 or self.rows_per_forward < 1:
            raise ConfigError("block lengths, num_rows and rows_per_forward must be at least 1")
        if self.noise.edit_start < 1.0:
            raise ConfigError("adaptation has no edit noise; set edit_start to 1")

    def build(self, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int) -> "AdaptationTask":
        """Open the token files."""
        return AdaptationTask(self, spec, schedule, seed)


class AdaptationTask:
    """Builds the micro-batches of every step from (seed, step, global row) alone."""

    def __init__(
        self, config: AdaptationTaskConfig, spec: DiffusionSpec, schedule: WarmupStableDecay, seed: int
    ) -> None:
        if spec.objective is not Objective.MASK or not spec.has_causal_context:
            raise ConfigError("adaptation makes a mask-trained checkpoint with a causal context")
        self._config, self._spec, self._schedule, self._seed = config, spec, schedule, seed
        self._newline_id = _newline_id(config.tokens)
        train, held_out = (TokenFile.open(config.tokens, split) for split in ("train", "validation"))
        self._windows, self._held_out = self._windows_of(train), self._windows_of(held_out)
        self._bytes_per_token, self._held_out_bytes_per_token = train.bytes_per_token, held_out.bytes_per_token
        self._teacher = None if config.alignment is None else Teacher(config.alignment)

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of text per token of the training split."""
        return self._bytes_per_token

    def _windows_of(self, tokens: TokenFile) -> Windows:
        # Room for the start token and the eos fill of a document or two.
        room = 2 * max(stage.block_length for stage in self._config.stages)
        return Windows(
            tokens, window_length=self._config.row_length - room, seed=self._seed, newline_id=self._newline_id
        )

    def block_length(self, step: int) -> int:
        """Of the step's rows."""
        begun = [s for s in self._config.stages if step >= s.start * self._schedule.num_steps]
        return begun[-1].block_length

    def micro_batches(self, step: int, rank: int, num_ranks: int) -> list[MicroBatch]:
        """This rank's share of the step's rows; the union over ranks does not depend on their number."""
        config = self._config
        mine = range(rank, config.num_rows, num_ranks)
        uniforms = spread_uniforms(config.num_rows, config.row_length, seed=self._seed, step=step)
        batches = []
        for at in range(0, len(mine), config.rows_per_forward):
            rows = torch.tensor(mine[at : at + config.rows_per_forward])
            draw = NoiseDraw(self._seed, step, step * config.num_rows + rows, uniforms[rows])
            batches.append(self._micro_batch(self._windows, draw, self.block_length(step), config.noise))
        return batches

    def _micro_batch(self, windows: Windows, draw: NoiseDraw, block_length: int, noise: NoiseConfig) -> MicroBatch:
        documents = []
        for row_id in draw.row_ids.tolist():
            rng = np.random.Generator(np.random.Philox(key=[self._seed, row_id]))
            documents.append([self._document(piece, block_length, rng) for piece in windows.pieces(row_id)])
        rows = pack_rows(documents, self._config.row_length, self._spec.special.filler)
        return noise_training_pair(rows, draw, noise, self._spec)

    def _document(self, piece: Piece, block_length: int, rng: np.random.Generator) -> Document:
        """The piece behind the start token if the tokenizer has one; half the time the block grid restarts within."""
        start = self._spec.special.file
        cut = int(rng.integers(len(piece.token_ids))) if rng.random() < 0.5 else 0
        head = [np.array([] if start is None else [start], dtype=np.int64), piece.token_ids[:cut]]
        if start is None and cut == 0:
            cut, head = 1, [piece.token_ids[:1]]
        eos = self._spec.special.eos if piece.is_end_of_file else None
        document = prompt_response(head, piece.token_ids[cut:], block_length, eos, frozenset())
        document.is_target[0] = False  # nothing predicts it
        return document

    def loss(self, denoiser: Denoiser, batch: MicroBatch) -> LossSums:
        """Weighted cross-entropy of masks and next tokens, and the distance to the teacher if there is one."""
        if self._teacher is None:
            return cross_entropy_sums(denoiser, batch)
        with self._teacher.watch(denoiser) as student:
            sums = cross_entropy_sums(denoiser, batch)
        return LossSums(sums.loss + self._teacher.loss(student, batch), sums.bound)

    def validate(self, denoiser: Denoiser) -> dict[str, float]:
        """Bound of held-out text in bits per byte, in blocks of the last stage's length."""
        config = self._config
        nats, targets = 0.0, 0
        device = next(denoiser.parameters()).device
        uniforms = spread_uniforms(config.num_validation_rows, config.row_length, seed=self._seed, step=0)
        for at in range(0, config.num_validation_rows, config.rows_per_forward):
            rows = torch.arange(at, min(at + config.rows_per_forward, config.num_validation_rows))
            draw = NoiseDraw(self._seed, 0, rows, uniforms[rows])
            block_length = config.stages[-1].block_length
            batch = self._micro_batch(self._held_out, draw, block_length, NoiseConfig()).to(device)
            nats += float(cross_entropy_sums(denoiser, batch).bound)
            targets += batch.num_bound_targets
        return {"validation_bits_per_byte": bits_per_byte(nats, targets * self._held_out_bytes_per_token)}

    def export_extras(self, folder: Path) -> None:
        """Copy the tokenizer into the checkpoint folder."""
        for name in TOKENIZER_FILES:
            if (self._config.tokens / name).is_file():
                shutil.copyfile(self._config.tokens / name, folder / name)


def _newline_id(tokens: Path) -> int | None:
    """Id of the line end where it is always a token of its own, as in this project's tokenizers."""
    tokenizer = load_tokenizer(tokens)
    return tokenizer.newline_id if is_own_tokenizer(tokens / TOKENIZER_FILE) else None
