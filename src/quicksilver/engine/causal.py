"""Responses written token by token: an autoregressive checkpoint's, and speculation that gives the same tokens.

There ``decoding.autoregressive`` is the same without a cache. Without a window, the last context row predicts the next
token.
"""

import torch

from quicksilver.decoding.adjustments import Adjustments, token_adjustments
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.guidance import check_guidance
from quicksilver.decoding.ledger import Marks, Places, commit_events
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS, end_ids, kept_tokens, require_no_stale_rows, special_ids
from quicksilver.decoding.regions import constrained_response
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.engine.request import Continuation, Request
from quicksilver.engine.sequence import Look, NextToken, NextTokens, Outcome, Sequence, TokenRule
from quicksilver.errors import ConfigError, EngineError


class TokenSequence(Sequence):
    """A response that grows at its end, one final token after the other."""

    def __init__(self, job_id: int, request: Request, task: Continuation, spec: DiffusionSpec) -> None:
        """Raises ConfigError if the prompt is empty, a stop id is never written or there is a cache of stale rows."""
        require_no_stale_rows(request.params)
        check_guidance(request.params.guidance, spec, is_exact=True)
        super().__init__(job_id, request, spec)
        if not task.prompt_ids:
            raise ConfigError("decoding token by token needs a prompt of at least one token")
        self.context_ids = list(task.prompt_ids)
        self.num_prompt = len(task.prompt_ids)
        self._max_tokens = self.params.max_tokens or DEFAULT_MAX_TOKENS
        self._end_ids = end_ids(spec, self.params)
        self._temperature = spec.decoding.temperature if self.params.temperature is None else self.params.temperature
        forbidden = (special_ids(spec) - {spec.special.eos}) | set(self.params.forbidden_ids)
        self._rules = (TokenRule(frozenset(forbidden)),)
        self._response = constrained_response(
            self.params.constraint, spec, never=forbidden, ends=self._end_ids, max_tokens=self._max_tokens
        )
        self._written: list[NextToken] = []
        self._steps: list[int] = []
        """Forward that wrote each token."""

    @property
    def num_masks(self) -> int:
        return 1

    @property
    def most_positions(self) -> int:
        return self.num_prompt + self._max_tokens

    @property
    def num_written(self) -> int:
        return len(self._written)

    def _adjustments(self, extra: tuple[int, ...] = ()) -> Adjustments | None:
        """Of one row that follows the response and ``extra`` tokens behind it."""
        if not self.params.adjusts_logits:
            return None
        seen = torch.tensor([*self.context_ids, *extra], dtype=torch.int64)
        return token_adjustments(self.params, seen_ids=seen, written_ids=seen[self.num_prompt :], num_rows=1)

    def _grow(self) -> Resize:
        return Resize(hole=0, start=self.num_written, added=1)

    def _write(self, token: NextToken) -> list[Event]:
        """Write one token, for which ``_grow`` was told; ``done`` says whether it was the last."""
        place = Places([0], [self.num_written], first=len(self.context_ids))
        one = Marks(
            token_ids=[token.token_id], confidence=[token.confidence], commit=[True], edit=[False], remask=[False]
        )
        events = self.ledger.record(place, one, self.spec.special.mask) + commit_events(place, [True])
        self.context_ids.append(token.token_id)
        self._written.append(token)
        self._steps.append(self.ledger.nfe)
        if self.request.has_frames:
            prompt = Canvas.of_prompt(self.context_ids[: self.num_prompt])
            events.append(self.ledger.frame(Canvas.join([prompt, self._canvas()])))
        reason, length = self._ending(token.token_id)
        if self._response is not None and reason is None:
            self._response.take([token.token_id])
        return events if reason is None else events + self._finish(reason, length)

    def _ending(self, token_id: int) -> tuple[FinishReason | None, int]:
        """Why the response ends with this token, and how many tokens it has; None: it goes on."""
        length = self.num_written
        if token_id in self._end_ids:
            return (FinishReason.EOS if token_id == self.spec.special.eos else FinishReason.STOP), length - 1
        if self.params.stop is not None:
            kept = kept_tokens(self.params.stop, self.context_ids[self.num_prompt :])
            if kept is not None:
                return FinishReason.STOP, kept
        return (FinishReason.LENGTH if length >= self._max_tokens else None), length

    def _spent(self) -> FinishReason | None:
        """Why no further forward is allowed."""
        if self.params.max_nfe is not None and self.ledger.nfe >= self.params.max_nfe:
            return FinishReason.MAX_NFE
        return FinishReason.DEADLINE if self.is_late else None

    def _finish(self, reason: FinishReason, length: int) -> list[Event]:
        dropped = self.num_written - length
        events: list[Event] = [Resize(hole=0, start=length, added=-dropped)] if dropped else []
        written = self._written[:length]
        self.done = self.ledger.result(
            [tuple(token.token_id for token in written)],
            [tuple(token.confidence for token in written)],
            [tuple(self._steps[:length])],
            reason,
            [tuple(token.alternatives for token in written)] if self.params.num_alternatives else (),
        )
        return [*events, self.done]

    def _canvas(self) -> Canvas:
        """The response so far."""
        written = self._written
        canvas = Canvas.of_masks(len(written), mask_id=self.spec.special.mask, hole=0)
        return canvas.commit(
            canvas.is_masked,
            torch.tensor([token.token_id for token in written]),
            torch.tensor([token.confidence for token in written]),
            step=0,
            state=State.FINAL,
        )


class CausalSequence(TokenSequence):
    """Context only: one token per forward."""

    def __init__(self, job_id: int, request: Request, task: Continuation, spec: DiffusionSpec) -> None:
        """Raises ConfigError where the request contradicts the checkpoint."""
        super().__init__(job_id, request, task, spec)
        if spec.objective is not Objective.AUTOREGRESSIVE:
            raise ConfigError(f"a checkpoint of objective {spec.objective} does not decode token by token")
        for name in ("policy", "block_length"):
            if getattr(self.params, name) is not None:
                raise ConfigError(f"an autoregressive checkpoint has no {name}")

    @property
    def num_window(self) -> int:
        return 0

    def opening(self) -> list[Event]:
        return [self._grow()]

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
            regions=()
            if self._response is None
            else self._response.regions([self.spec.special.mask], [State.MASK], [0], is_last=False),
        )

    def advance(self, outcome: Outcome, is_forced: bool) -> list[Event]:
        if not isinstance(outcome, NextTokens):
            raise EngineError(f"a request without window cannot take {type(outcome).__name__}")
        self.ledger.nfe += 1
        events = self._write(outcome.tokens[0])
        if self.done is not None:
            return events
        reason = self._spent()
        return [*events, self._grow()] if reason is None else events + self._finish(reason, self.num_written)
