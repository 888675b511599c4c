"""Self-speculation: the denoiser drafts a window, the same weights' next-token reading checks it.

Two forwards a round. The first shows a window of masks behind the response: its own next-token prediction gives one
token for certain, the masks guess those behind it. The second shows the guesses as if they were written, one behind the
other; the longest run that the next-token predictions agree with is kept, and the prediction behind it as well. So a
round writes at least two tokens, and they are those of the next-token reading alone, greedy or sampled: both sides draw
by the same counters.

Source: the linear self-speculation of Nemotron-Labs-Diffusion (2026), after Leviathan et al. 2023, arXiv:2211.17192.
Differs: the first token needs no check, and sampled tokens agree by common random numbers instead of by rejection.
"""

import torch
from torch import Tensor

from quicksilver.decoding.adjustments import Adjustments
from quicksilver.decoding.events import Event
from quicksilver.decoding.policies import SelfSpeculative
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.engine.causal import TokenSequence
from quicksilver.engine.request import Continuation, Request
from quicksilver.engine.sequence import Look, NextToken, NextTokens, Outcome
from quicksilver.errors import ConfigError, EngineError


class SpeculativeSequence(TokenSequence):
    """The window holds masks while it drafts, and the draft while it is checked."""

    def __init__(self, job_id: int, request: Request, task: Continuation, spec: DiffusionSpec) -> None:
        """Raises ConfigError where the request contradicts the checkpoint."""
        super().__init__(job_id, request, task, spec)
        if not isinstance(self.params.policy, SelfSpeculative):
            raise ConfigError("speculation needs the policy self_speculative")
        if self.params.guidance is not None:
            raise ConfigError("policy self_speculative guesses tokens without guidance; leave one of them out")
        if self.params.constraint is not None:
            raise ConfigError(
                "policy self_speculative guesses tokens without a constraint; choose another policy, or leave "
                "constraint out"
            )
        can_draft = spec.objective is Objective.MASK and Layout.BLOCK_CAUSAL in spec.layouts
        if not (can_draft and spec.has_causal_context):
            raise ConfigError(
                "policy self_speculative needs a mask-trained, block-causal checkpoint whose committed tokens predict "
                "the next one (has_causal_context)"
            )
        self._draft_length = self.params.block_length or spec.block_length
        self._draft: tuple[NextToken, ...] = ()
        """The first needs no check."""

    @property
    def is_checking(self) -> bool:
        return bool(self._draft)

    @property
    def _draft_ids(self) -> tuple[int, ...]:
        return tuple(token.token_id for token in self._draft)

    @property
    def has_causal_window(self) -> bool:
        return self.is_checking

    @property
    def num_window(self) -> int:
        return len(self._draft) or min(self._draft_length, self._max_tokens - self.num_written)

    def window_ids(self) -> Tensor:
        if self.is_checking:
            return torch.tensor(self._draft_ids)
        return torch.full((self.num_window,), self.spec.special.mask)

    def opening(self) -> list[Event]:
        return []

    def look(self) -> Look:
        start, count = len(self.context_ids), self.num_window
        if self.is_checking:  # the row of each drafted token predicts the next
            positions, offsets = range(start + 1, start + 1 + count), range(count)
            parts = [self._adjustments(self._draft_ids[: column + 1]) for column in range(count)]
        else:  # the last context row, and the masks behind its token
            positions = range(start, start + count)
            offsets = [-1, *(column - self.spec.prediction_shift for column in range(1, count))]
            parts = [self._adjustments()] * count
        return Look(
            open_columns=tuple(range(count)),
            offsets=tuple(offsets),
            rules=self._rules,
            temperature=self._temperature,
            seed=self.params.seed,
            step=0,
            positions=tuple(positions),
            is_forced=True,
            adjustments=Adjustments.join(parts, [1] * count),
        )

    def advance(self, outcome: Outcome, is_forced: bool) -> list[Event]:
        if not isinstance(outcome, NextTokens):
            raise EngineError(f"speculation cannot take {type(outcome).__name__}")
        self.ledger.nfe += 1
        if not self.is_checking and len(outcome.tokens) > 1 and self._spent() is None:
            self._draft = outcome.tokens
            return []
        events: list[Event] = []
        for token in self._agreed(outcome):
            events += [self._grow(), *self._write(token)]
            if self.done is not None:
                return events
        reason = self._spent()
        return events if reason is None else events + self._finish(reason, self.num_written)

    def _agreed(self, outcome: NextTokens) -> list[NextToken]:
        """The tokens to write; the draft is used up."""
        if not self.is_checking:  # nothing is left to guess, or no forward to check it with
            return [outcome.tokens[0]]
        agreed = [self._draft[0]]
        for column, token in enumerate(outcome.tokens, 1):
            agreed.append(token)
            if column == len(self._draft) or self._draft[column].token_id != token.token_id:
                break
        self._draft = ()
        return agreed
