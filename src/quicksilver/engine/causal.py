"""A prompt continued token by token; ``decoding.autoregressive`` is the same without a cache.

There is no window: the last context row predicts the next token.
"""

import torch

from quicksilver.decoding.adjustments import Adjustments, token_adjustments
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.events import Done, Event, FinishReason, Resize
from quicksilver.decoding.ledger import Marks, Places, commit_events
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS, end_ids, kept_tokens, special_ids
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.engine.request import Continuation, Request
from quicksilver.engine.sequence import Look, NextToken, Outcome, Sequence, TokenRule, frame
from quicksilver.errors import ConfigError, EngineError


class CausalSequence(Sequence):
    """Context only."""

    def __init__(self, job_id: int, request: Request, task: Continuation, spec: DiffusionSpec) -> None:
        """Raises ConfigError where the request contradicts the checkpoint."""
        super().__init__(job_id, request, spec)
        if spec.objective is not Objective.AUTOREGRESSIVE:
            raise ConfigError(f"a checkpoint of objective {spec.objective} does not decode token by token")
        for name in ("policy", "block_length"):
            if getattr(self.params, name) is not None:
                raise ConfigError(f"an autoregressive checkpoint has no {name}")
        if not task.prompt_ids:
            raise ConfigError("an autoregressive checkpoint needs a prompt of at least one token")
        self.context_ids = list(task.prompt_ids)
        self.num_prompt = len(task.prompt_ids)
        self._max_tokens = self.params.max_tokens or DEFAULT_MAX_TOKENS
        self._end_ids = end_ids(spec, self.params)
        self._temperature = spec.decoding.temperature if self.params.temperature is None else self.params.temperature
        forbidden = (special_ids(spec) - {spec.special.eos}) | set(self.params.forbidden_ids)
        self._rules = (TokenRule(frozenset(forbidden)),)
        self._confidence: list[float] = []

    @property
    def num_window(self) -> int:
        return 0

    @property
    def num_masks(self) -> int:
        return 1

    @property
    def most_positions(self) -> int:
        return self.num_prompt + self._max_tokens

    def opening(self) -> list[Event]:
        return [Resize(hole=0, start=len(self._confidence), added=1)]

    def look(self) -> Look:
        return Look(
            open_columns=(0,),
            rules=self._rules,
            temperature=self._temperature,
            seed=self.params.seed,
            step=0,
            positions=(len(self.context_ids),),
            is_forced=True,
            adjustments=self._adjustments(),
        )

    def _adjustments(self) -> Adjustments | None:
        if not self.params.adjusts_logits:
            return None
        seen = torch.tensor(self.context_ids, dtype=torch.int64)
        return token_adjustments(self.params, seen_ids=seen, written_ids=seen[self.num_prompt :], num_rows=1)

    def advance(self, outcome: Outcome, is_forced: bool) -> list[Event]:
        if not isinstance(outcome, NextToken):
            raise EngineError(f"a request without window cannot take {type(outcome).__name__}")
        token_id, confidence = outcome.token_id, outcome.confidence
        self.ledger.nfe += 1
        place = Places([0], [len(self._confidence)], first=len(self.context_ids))
        one = Marks(token_ids=[token_id], confidence=[confidence], commit=[True], edit=[False], remask=[False])
        events = self.ledger.record(place, one, self.spec.special.mask) + commit_events(place, [True])
        self.context_ids.append(token_id)
        self._confidence.append(confidence)
        if self.request.has_frames:
            events.append(
                frame(self.ledger.nfe, [Canvas.of_prompt(self.context_ids[: self.num_prompt]), self._canvas()])
            )
        reason, length = self._ending(token_id)
        if reason is None:
            return events + self.opening()
        dropped = len(self._confidence) - length
        if dropped:
            events.append(Resize(hole=0, start=length, added=-dropped))
        self.done = self._result(reason, length)
        return [*events, self.done]

    def _ending(self, token_id: int) -> tuple[FinishReason | None, int]:
        """Why the response ends with this token, and how many tokens it has; None: it goes on."""
        length = len(self._confidence)
        if token_id in self._end_ids:
            return (FinishReason.EOS if token_id == self.spec.special.eos else FinishReason.STOP), length - 1
        if self.params.stop is not None:
            kept = kept_tokens(self.params.stop, self.context_ids[self.num_prompt :])
            if kept is not None:
                return FinishReason.STOP, kept
        if length >= self._max_tokens:
            return FinishReason.LENGTH, length
        if self.params.max_nfe is not None and self.ledger.nfe >= self.params.max_nfe:
            return FinishReason.MAX_NFE, length
        return (FinishReason.DEADLINE, length) if self.is_late else (None, length)

    def _canvas(self) -> Canvas:
        """The response so far."""
        written = self.context_ids[self.num_prompt :]
        canvas = Canvas.of_masks(len(written), mask_id=self.spec.special.mask, hole=0)
        return canvas.commit(
            canvas.is_masked,
            torch.tensor(written, dtype=torch.int64),
            torch.tensor(self._confidence),
            step=0,
            state=State.FINAL,
        )

    def _result(self, reason: FinishReason, length: int) -> Done:
        written = tuple(self.context_ids[self.num_prompt : self.num_prompt + length])
        # The n-th token is written at the n-th forward.
        steps = tuple(range(1, length + 1))
        return self.ledger.result([written], [tuple(self._confidence[:length])], [steps], reason)
