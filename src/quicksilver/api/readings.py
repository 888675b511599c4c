"""What a loaded model says of texts, beside writing them: likelihoods, decisions and logits."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.api.context import crop_around_holes
from quicksilver.api.deciding import Decision, check_labels, label_scores, softened, with_blank
from quicksilver.api.network import FullRecompute
from quicksilver.api.planner import Planner
from quicksilver.api.scoring import Score, score_tokens
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError, InputError
from quicksilver.models.denoiser import Denoiser
from quicksilver.tokenization.tokenizer import Tokenizer


class Readings:
    """Part of ``Model``."""

    name: str
    spec: DiffusionSpec
    tokenizer: Tokenizer
    _denoiser: Denoiser
    _logits_fn: FullRecompute
    _planner: Planner

    @property
    def max_length(self) -> int:
        """Longest canvas, in tokens: prompt or visible text, sentinels and everything written."""
        return self._planner.max_length

    def score(self, text: str, *, num_subsets: int = 4, seed: int = 0) -> Score:
        """Negative log-likelihood of a text from the start of a file: exact if autoregressive, else an upper bound.

        Args:
            text: at least one token and no longer than the model's context.
            num_subsets: random masks per masked count; the bound's standard error falls with the root of it.
            seed: of the masks.

        Raises:
            InputError: the text is empty or too long.
            ConfigError: the checkpoint's objective has no such likelihood.
        """
        token_ids = self.tokenizer.encode(text)
        if not token_ids:
            raise InputError("an empty text has no likelihood to score")
        self._planner.require_room(len(token_ids) + 1, "the text with its start token")
        num_bytes = len(text.encode("utf-8"))
        return score_tokens(
            self._denoiser, self.spec, token_ids, num_bytes=num_bytes, num_subsets=num_subsets, seed=seed
        )

    @torch.inference_mode()
    def next_token_logprobs(self, token_ids: Sequence[int]) -> Float[Tensor, "L V"]:
        """Log-probabilities of every token of a text given those before it, by the next-token reading.

        Exact for an autoregressive checkpoint. A mask-trained one has this reading besides its own if its committed
        tokens are causal: it is the text's likelihood under the same weights, though not under the diffusion process.

        Args:
            token_ids: the text, without the start token, which is given before it.

        Raises:
            InputError: the text is empty or too long.
            ConfigError: the checkpoint has no such reading.
        """
        start = self.spec.special.file
        is_causal = self.spec.objective is Objective.AUTOREGRESSIVE or self.spec.has_causal_context
        if start is None or not is_causal or Layout.BLOCK_CAUSAL not in self.spec.layouts:
            raise ConfigError(
                "this checkpoint does not predict the next token, so it has no log-probabilities of a text"
            )
        if not token_ids:
            raise InputError("an empty text has no log-probabilities")
        self._planner.require_room(len(token_ids) + 1, "the text with its start token")
        canvas = torch.tensor([start, *token_ids])
        return self._logits_fn.raw(canvas, torch.arange(len(canvas)))[:-1].float().log_softmax(-1).cpu()

    def decide(self, before: str, after: str, labels: Sequence[str], *, may_crop: bool = True) -> Decision:
        """Which of some labels stands between two texts, with calibrated probabilities; one forward.

        Args:
            before: text in front of the label.
            after: text behind it.
            labels: 1 to 255 different texts.
            may_crop: whether of texts longer than the context only what is near the label may be seen; else they are
                an error.

        Raises:
            InputError: texts or labels cannot be read, or do not fit the context.
            ConfigError: the checkpoint fills no holes in place, and is not autoregressive either.
        """
        check_labels(self._denoiser, self.spec, labels)
        before, tokenized = with_blank(before, labels)
        left, right, *label_ids = (tuple(ids) for ids in self.tokenizer.encode_batch([before, after, *tokenized]))
        longest = 1 + max(map(len, label_ids))
        self._planner.require_room(
            longest + (0 if may_crop else len(left) + len(right)), "the longest label" if may_crop else "the question"
        )
        seen = crop_around_holes((left, right), self.max_length - longest, self.tokenizer.newline_id)
        scores = label_scores(self._denoiser, self.spec, seen[0], seen[1], label_ids)
        return Decision(
            labels=tuple(labels),
            scores=tuple(scores),
            probabilities=softened(scores, self.spec.decoding.decision_temperature),
            num_prompt=len(seen[0]) + len(seen[1]),
        )

    def logits(self, token_ids: Sequence[int], *, layout: Layout | None = None) -> Float[Tensor, "L V"]:
        """Raw float32 logits of one canvas, row for row as the network gives them: never shifted, nothing forbidden.

        Args:
            token_ids: the canvas, sentinels included; nothing is added.
            layout: one of ``spec.layouts``; None takes the first. In place every position sees every other one.
                Block-causal is causal attention for an autoregressive checkpoint, else a grid of ``spec.block_length``
                from the first token, whose last block is the draft if committed tokens are causal.

        Raises:
            InputError: the canvas is empty or too long, or an id is out of range.
            ConfigError: the checkpoint was not trained in the layout.
        """
        layout = self.spec.layouts[0] if layout is None else layout
        if layout not in self.spec.layouts:
            raise ConfigError(
                f"this checkpoint was not trained in layout {layout}; it knows {', '.join(self.spec.layouts)}"
            )
        if not token_ids:
            raise InputError("an empty canvas has no logits")
        self._planner.require_room(len(token_ids), "the canvas")
        vocab_size = self._denoiser.config.vocab_size
        if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            raise InputError(f"token ids must lie in [0, {vocab_size}), got {min(token_ids)} to {max(token_ids)}")
        blocks = self._blocks(len(token_ids)) if layout is Layout.BLOCK_CAUSAL else torch.zeros(len(token_ids)).long()
        # Cloned out of inference mode, so that the caller may write to it.
        return self._logits_fn.raw(torch.tensor(list(token_ids)), blocks).cpu().clone()

    def _blocks(self, length: int) -> Int[Tensor, " L"]:
        positions, block_length = torch.arange(length), self._planner.block_length(None)
        if self.spec.has_causal_context:
            return positions.clamp(max=(length - 1) // block_length * block_length)
        return positions // block_length
