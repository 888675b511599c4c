"""How well each of several labels stands between two texts, read from one forward.

A denoiser that fills holes in place reads all labels of one length from the same masks: the score of a label is the
mean of its tokens' log-probabilities, each given the text and the other masks. The mean, and not the sum, because these
tokens know nothing of each other: over sums, long labels are far too sure of losing (docs/log.md). Labels of several
lengths are rows of one batch. An autoregressive checkpoint reads the likelihood of every label with the text behind it:
a row per label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError, InputError
from quicksilver.models.attention import DenseAttention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.parallel import ParallelDenoiser
from quicksilver.models.topology import Topology

MOST_LABELS = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Which of several labels stands in a place."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    """In nats, up to a constant; not calibrated."""
    probabilities: tuple[float, ...]
    """The softmax of ``scores`` over the checkpoint's ``decision_temperature``."""
    num_prompt: int
    """Tokens of the text that was read."""
    nfe: int = 1

    @property
    def label(self) -> str:
        """The likeliest, of equals the first."""
        return self.labels[self.probabilities.index(max(self.probabilities))]

    @property
    def confidence(self) -> float:
        """How far the likeliest label stands out: 0 where all are as likely, 1 where it is sure."""
        count = len(self.labels)
        return 1.0 if count == 1 else (max(self.probabilities) - 1 / count) / (1 - 1 / count)


def softened(scores: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Probabilities of scores in nats."""
    return tuple(torch.tensor(list(scores), dtype=torch.float64).div(temperature).softmax(0).tolist())


@dataclass(frozen=True, slots=True)
class _Row:
    """One canvas, and what is read from it."""

    token_ids: list[int]
    first: int
    """Of the positions that are read."""
    read: list[list[int]]
    """The tokens whose log-probabilities count there, of every label of this row."""
    labels: list[int]
    """Which labels these are."""


def check_labels(denoiser: Denoiser, spec: DiffusionSpec, labels: Sequence[str]) -> None:
    """Raise ConfigError or InputError if a checkpoint cannot decide among labels."""
    if spec.objective not in (Objective.MASK, Objective.AUTOREGRESSIVE):
        raise ConfigError(f"decisions are read from masks; this checkpoint's objective is {spec.objective}")
    if denoiser.config.has_canvas_pass or isinstance(denoiser, ParallelDenoiser):
        raise ConfigError("decisions are read by a network that is whole in this process and conditions on no canvas")
    if spec.objective is Objective.MASK and Layout.IN_PLACE not in spec.layouts:
        raise ConfigError("this checkpoint was not trained to fill holes in place, so it reads no decisions")
    if not 1 <= len(labels) <= MOST_LABELS:
        raise InputError(f"a decision has 1 to {MOST_LABELS} labels, got {len(labels)}")
    if not all(labels) or len(set(labels)) < len(labels):
        raise InputError("labels must not be empty, and all different")


def with_blank(before: str, labels: Sequence[str]) -> tuple[str, list[str]]:
    """A blank between a text and its labels moved to the labels, which tokenizers make one token with it."""
    if len(before) > 1 and before[-1] == " " and not before[-2].isspace():
        return before[:-1], [f" {label}" for label in labels]
    return before, list(labels)


@torch.inference_mode()
def label_scores(
    denoiser: Denoiser,
    spec: DiffusionSpec,
    before: Sequence[int],
    after: Sequence[int],
    labels: Sequence[Sequence[int]],
) -> list[float]:
    """The scores of labels between two texts, all as token ids; one forward."""
    rows = _causal_rows(spec, before, after, labels) if _is_causal(spec) else _masked_rows(spec, before, after, labels)
    hidden = _hidden(denoiser, spec, [row.token_ids for row in rows])
    scores = [-math.inf] * len(labels)
    for row, of_row in zip(rows, hidden, strict=True):
        first = row.first - spec.prediction_shift
        log_probs = denoiser.logits(of_row[first : first + len(row.read[0])]).log_softmax(-1).cpu()
        for label, token_ids in zip(row.labels, row.read, strict=True):
            found = log_probs[range(len(token_ids)), token_ids]
            scores[label] = float(found.sum() if _is_causal(spec) else found.mean())
    return scores


def _is_causal(spec: DiffusionSpec) -> bool:
    return spec.objective is Objective.AUTOREGRESSIVE


def _masked_rows(
    spec: DiffusionSpec, before: Sequence[int], after: Sequence[int], labels: Sequence[Sequence[int]]
) -> list[_Row]:
    start = [] if spec.special.canvas is None else [spec.special.canvas]
    if spec.prediction_shift and not (start or before):
        raise InputError("this checkpoint predicts the next token, so it needs a text before the labels")
    rows = []
    for length in sorted({len(label) for label in labels}):
        members = [number for number, label in enumerate(labels) if len(label) == length]
        canvas = [*start, *before, *[spec.special.mask] * length, *after]
        read = [list(labels[number]) for number in members]
        rows.append(_Row(canvas, len(start) + len(before), read, members))
    return rows


def _causal_rows(
    spec: DiffusionSpec, before: Sequence[int], after: Sequence[int], labels: Sequence[Sequence[int]]
) -> list[_Row]:
    start = [] if spec.special.file is None else [spec.special.file]
    first = len(start) + len(before)
    if not first:
        raise InputError("this checkpoint predicts the next token, so it needs a text before the labels")
    return [
        _Row([*start, *before, *label, *after], first, [[*label, *after]], [number])
        for number, label in enumerate(labels)
    ]


def _hidden(denoiser: Denoiser, spec: DiffusionSpec, canvases: list[list[int]]) -> Float[Tensor, "B L D"]:
    """What the network makes of canvases, filled up at their ends to one length."""
    device = denoiser.model.embed_tokens.weight.device
    longest = max(map(len, canvases))
    tokens = torch.full((len(canvases), longest), spec.special.filler, device=device)
    documents = torch.ones_like(tokens)  # what fills up a row is a document of its own, which no other token sees
    for number, canvas in enumerate(canvases):
        tokens[number, : len(canvas)] = torch.tensor(canvas, device=device)
        documents[number, : len(canvas)] = 0
    positions = torch.arange(longest, device=device).expand_as(tokens)
    blocks = positions if _is_causal(spec) else torch.zeros_like(tokens)
    return denoiser(tokens, positions, DenseAttention(Topology.block_causal(blocks, documents)))
