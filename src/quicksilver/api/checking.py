"""The checker in the loop: fill, look whether the file is right, and have what is wrong written anew.

Only written tokens change. A problem's tokens become holes of their own between those that stay; if that does not
help, and wherever a check cannot say more, all of a hole does. Retries have other seeds and higher temperatures, or
they would repeat what failed. Several drafts share a batch, and the first of them that passes is the answer; where none
does, it is what was written at first. All forwards of all drafts are counted.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from quicksilver.api.context import splice
from quicksilver.api.requests import DecodingOptions, HoleOptions, InfillRequest
from quicksilver.api.results import CheckReport, Completion, HoleText
from quicksilver.decoding import FinishReason
from quicksilver.errors import ConfigError, EngineError
from quicksilver.tokenization.tokenizer import Tokenizer

Span = tuple[int, int]
"""Half-open, in characters."""

DRAFT_TEMPERATURES = (0.4, 0.6, 0.8, 1.0)
"""Of the drafts of a round, from the second try of a span on; a request's own temperature is the least."""
MARGIN = 1
"""Tokens on either side of a problem that are written anew too: a parser shows where it noticed, not what is wrong."""
_SEED_STEP = 7_919
"""Between the seeds of drafts; any odd number would do."""
_CUT = (FinishReason.LENGTH, FinishReason.MAX_NFE, FinishReason.DEADLINE)


@runtime_checkable
class Problem(Protocol):
    """What a check objects to; ``coding.checks`` has some."""

    @property
    def message(self) -> str: ...

    @property
    def span(self) -> Span | None:
        """Where in the text; None: unknown."""
        ...


@runtime_checkable
class Check(Protocol):
    """A judge of filled files."""

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> tuple[str, ...]:
        """What is checked, in words."""
        ...

    def __call__(self, text: str, written: Sequence[Span]) -> Sequence[Problem]:
        """What is wrong with a text of which ``written`` is the model's; nothing if it passes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Repairs:
    """How much is spent on a file that fails. A request's ``max_nfe`` is of everything together."""

    rounds: int = 3
    """Most rounds of drafts; 0 only checks."""
    drafts: int = 4
    """Drafts of a round, which share their forwards' batches."""
    behind_stop: str = ""
    """What stands in the file behind a hole that a stop has ended, which is no part of the answer: a line end, where
    lines are asked for. Of one hole only."""

    def __post_init__(self) -> None:
        if not 0 <= self.rounds <= 16:
            raise ConfigError(f"rounds of repair must lie in [0, 16], got {self.rounds}")
        if not 1 <= self.drafts <= 16:
            raise ConfigError(f"drafts of a round must lie in [1, 16], got {self.drafts}")


DEFAULT_REPAIRS = Repairs()

Run = Callable[[Sequence[InfillRequest]], Awaitable[Sequence[Completion]]]
Look = Callable[[str, Sequence[Span]], Awaitable[Sequence[Problem]]]


async def fill_checked(
    request: InfillRequest, check: Check, repairs: Repairs, tokenizer: Tokenizer, run: Run, look: Look
) -> Completion:
    """A completion that passes, if one was found; ``Completion.check`` says so.

    Args:
        request: what to fill.
        check: for its names; ``look`` applies it.
        repairs: what may be spent.
        tokenizer: of the model.
        run: fills several requests together.
        look: the check.

    Raises:
        ConfigError: ``behind_stop`` is given with several holes; or whatever ``run`` raises of a request.
    """
    if repairs.behind_stop and request.num_holes > 1:
        raise ConfigError("behind_stop is of one hole: of several it is not known which one a stop has ended")
    budget = _Budget(request)
    [first] = await run([request])
    budget.take([first])
    chosen = filled = Filled(request=request, completion=first, behind_stop=repairs.behind_stop)
    told = problems = await look(filled.text, filled.spans)
    num_rounds = num_drafts = 0
    while problems and num_rounds < repairs.rounds and budget.allows_more:
        plans = _plans(filled, told, tokenizer, repairs.drafts, is_first=num_rounds == 0)
        drafts = [
            filled.draft(plan, options)
            for plan, options in zip(plans, budget.options(plans, first.seed, num_drafts), strict=False)
        ]
        completions = await run([each.request for each in drafts])
        nfe_before = budget.nfe
        budget.take(completions)
        num_rounds, num_drafts = num_rounds + 1, num_drafts + len(drafts)
        for draft, completion in zip(drafts, completions, strict=True):
            candidate = draft.merged(completion, nfe_before)
            if not await look(candidate.text, candidate.spans):
                chosen, problems = candidate, ()
                break
    report = CheckReport(
        name=check.name,
        parts=check.parts,
        is_passed=not problems,
        num_rounds=num_rounds,
        num_drafts=num_drafts,
        problems=tuple(each.message for each in problems),
    )
    return budget.counted(chosen.completion, report)


def fill_checked_now(
    request: InfillRequest,
    check: Check,
    repairs: Repairs,
    tokenizer: Tokenizer,
    run: Callable[[Sequence[InfillRequest]], Sequence[Completion]],
) -> Completion:
    """The same for who waits for every step."""

    async def run_now(requests: Sequence[InfillRequest]) -> Sequence[Completion]:
        return run(requests)

    async def look_now(text: str, written: Sequence[Span]) -> Sequence[Problem]:
        return check(text, written)

    work = fill_checked(request, check, repairs, tokenizer, run_now, look_now)
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise EngineError("a check that should not wait does")


class _Budget:
    """What was spent, and how the next drafts share what is left."""

    def __init__(self, request: InfillRequest) -> None:
        self._request, self._spent = request, list[Completion]()
        self._started = time.monotonic()

    @property
    def nfe(self) -> int:
        return sum(each.nfe for each in self._spent)

    @property
    def _nfe_left(self) -> int | None:
        limit = self._request.options.max_nfe
        return None if limit is None else limit - self.nfe

    @property
    def _ms_left(self) -> float | None:
        limit = self._request.options.deadline_ms
        return None if limit is None else limit - 1000 * (time.monotonic() - self._started)

    @property
    def allows_more(self) -> bool:
        return all(left is None or left > 0 for left in (self._nfe_left, self._ms_left))

    def take(self, completions: Sequence[Completion]) -> None:
        self._spent += completions

    def options(self, plans: "Sequence[_Plan]", seed: int, num_before: int) -> list[DecodingOptions]:
        """Of the drafts that can be paid for, in the plans' order."""
        given, left = self._request.options, self._nfe_left
        count = len(plans) if left is None else min(len(plans), left)
        return [
            replace(
                given,
                seed=(seed + _SEED_STEP * (num_before + number + 1)) % 2**63,
                temperature=plan.temperature
                if plan.temperature is None
                else max(plan.temperature, given.temperature or 0),
                max_nfe=None if left is None else left // count,
                deadline_ms=self._ms_left,
            )
            for number, plan in enumerate(plans[:count])
        ]

    def counted(self, chosen: Completion, report: CheckReport) -> Completion:
        """What was chosen, with what everything took."""
        return replace(
            chosen,
            nfe=self.nfe,
            num_edits=sum(each.num_edits for each in self._spent),
            seconds=sum(each.seconds for each in self._spent),
            seed=self._spent[0].seed,
            num_stale_forwards=sum(each.num_stale_forwards for each in self._spent),
            num_stale_rows=sum(each.num_stale_rows for each in self._spent),
            check=report,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """A filled template as a check sees it."""

    request: InfillRequest
    completion: Completion
    behind_stop: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Around the holes, with what stands behind a stop."""
        is_stopped = self.completion.finish_reason is FinishReason.STOP
        *before, last = self.request.texts
        return (*before, self.behind_stop + last if is_stopped else last)

    @property
    def text(self) -> str:
        return splice(self.texts, [hole.text for hole in self.completion.holes])

    @property
    def spans(self) -> list[Span]:
        """Where the holes are."""
        found, at = [], 0
        for text, hole in zip(self.texts, self.completion.holes, strict=False):
            start = at + len(text)
            at = start + len(hole.text)
            found.append((start, at))
        return found

    def whole(self, hole: int) -> "_Redo":
        """All of a hole."""
        written = self.completion.holes[hole]
        return _Redo(hole=hole, start=0, stop=len(written.text), first=0, last=len(written.tokens))

    def draft(self, plan: "_Plan", options: DecodingOptions) -> "_Draft":
        """The request that writes some spans anew."""
        texts, at = [""], dict.fromkeys(range(self.request.num_holes), 0)
        redos = sorted(plan.redos, key=lambda each: (each.hole, each.start))
        for hole, (before, written) in enumerate(zip(self.texts, self.completion.holes, strict=False)):
            texts[-1] += before
            for redo in (each for each in redos if each.hole == hole):
                texts[-1] += written.text[at[hole] : redo.start]
                texts.append("")
                at[hole] = redo.stop
            texts[-1] += written.text[at[hole] :]
        # What stood behind a stop is to be decided anew with the end before it.
        texts[-1] += self.request.texts[-1] if self.ends_anew(redos) else self.texts[-1]
        request = InfillRequest(
            texts=tuple(texts),
            holes=tuple(map(self._limits, redos)),
            layout=self.request.layout,
            options=options,
        )
        return _Draft(filled=self, redos=tuple(redos), request=request)

    def ends_anew(self, redos: "Sequence[_Redo]") -> bool:
        """Whether the end of the last hole is written anew."""
        last = len(self.completion.holes) - 1
        return any(each.hole == last and each.last == len(self.completion.holes[last].tokens) for each in redos)

    def _limits(self, redo: "_Redo") -> HoleOptions:
        """What was asked of the hole, less the tokens that stay."""
        asked, num_written = self.request.hole_options[redo.hole], len(self.completion.holes[redo.hole].tokens)
        num_kept = num_written - (redo.last - redo.first)
        if asked.length is not None or asked.draft is not None:
            return HoleOptions(length=max((asked.length or num_written) - num_kept, 1))
        return HoleOptions(max_length=None if asked.max_length is None else max(asked.max_length - num_kept, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Redo:
    """Part of a hole that is written anew."""

    hole: int
    start: int
    """In characters of the hole's text, as ``stop``; ``first`` and ``last`` are the same in tokens."""
    stop: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """One draft: what it writes anew, and how warm."""

    redos: tuple[_Redo, ...]
    temperature: float | None
    """None: the request's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """A plan as a request."""

    filled: Filled
    redos: tuple[_Redo, ...]
    request: InfillRequest

    def merged(self, completion: Completion, nfe_before: int) -> Filled:
        """What was written anew, in its place among what stays."""
        before = self.filled.completion
        anew = tuple(_later(hole, nfe_before) for hole in completion.holes)
        holes = list(before.holes)
        for redo, written in reversed(list(zip(self.redos, anew, strict=True))):
            hole = holes[redo.hole]
            holes[redo.hole] = HoleText(
                text=hole.text[: redo.start] + written.text + hole.text[redo.stop :],
                tokens=hole.tokens[: redo.first] + written.tokens + hole.tokens[redo.last :],
            )
        trace = (replace(e, hole=self.redos[e.hole].hole, step=e.step + nfe_before) for e in completion.trace)
        is_new = completion.finish_reason in _CUT or self.filled.ends_anew(self.redos)
        merged = replace(
            before,
            text=splice(self.filled.request.texts, [hole.text for hole in holes]),
            holes=tuple(holes),
            finish_reason=completion.finish_reason if is_new else before.finish_reason,
            trace=(*before.trace, *trace),
        )
        return replace(self.filled, completion=merged)


def _later(hole: HoleText, nfe_before: int) -> HoleText:
    return replace(hole, tokens=tuple(replace(token, step=token.step + nfe_before) for token in hole.tokens))


def _plans(
    filled: Filled, problems: Sequence[Problem], tokenizer: Tokenizer, count: int, *, is_first: bool
) -> list[_Plan]:
    """The drafts of a round: at first the spans at fault, as they come and warmer, then whole holes."""
    near = _redos(filled, problems, tokenizer)
    whole = tuple(filled.whole(hole) for hole in sorted({each.hole for each in near}))
    plans = [_Plan(near, None), _Plan(near, DRAFT_TEMPERATURES[0])] if is_first and near != whole else []
    warm = (DRAFT_TEMPERATURES[number % len(DRAFT_TEMPERATURES)] for number in range(count))
    return [*plans, *(_Plan(whole, temperature) for temperature in warm)][:count]


def _redos(filled: Filled, problems: Sequence[Problem], tokenizer: Tokenizer) -> tuple[_Redo, ...]:
    """The spans at fault: written tokens that problems touch, else the whole hole before."""
    found: dict[int, list[Span]] = {}
    for problem in problems:
        touched = [] if problem.span is None else _touched(filled.spans, problem.span)
        for hole, span in touched:
            found.setdefault(hole, []).append(span)
        if not touched:
            for hole in _suspects(filled.spans, problem.span):
                found.setdefault(hole, []).append((0, len(filled.completion.holes[hole].text)))
    redos = []
    for hole, spans in sorted(found.items()):
        written = filled.completion.holes[hole]
        cuts = _cuts(written, tokenizer)
        redos += _joined([_around(hole, span, cuts) for span in spans])
    return tuple(redos)


def _touched(holes: Sequence[Span], span: Span) -> list[tuple[int, Span]]:
    """The holes that a span of the text touches, and where in them."""
    found = []
    for hole, (start, stop) in enumerate(holes):
        if span[0] < stop and start < max(span[1], span[0] + 1):
            found.append((hole, (max(span[0], start) - start, min(span[1], stop) - start)))
    return found


def _suspects(holes: Sequence[Span], span: Span | None) -> list[int]:
    """The holes that may be at fault for what lies outside them."""
    if span is None:
        return list(range(len(holes)))
    before = [hole for hole, (_, stop) in enumerate(holes) if stop <= span[0]]
    return before[-1:] or [0]


def _cuts(written: HoleText, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Numbers of tokens, and of their characters, after which the text can be cut: not within a character."""
    ids, cuts = [token.token_id for token in written.tokens], [(0, 0)]
    for count in range(1, len(ids)):
        text = tokenizer.decode(ids[:count])
        if len(text) < len(written.text) and written.text.startswith(text):
            cuts.append((count, len(text)))
    return [*cuts, (len(ids), len(written.text))]


def _around(hole: int, span: Span, cuts: Sequence[tuple[int, int]]) -> _Redo:
    """The tokens of a span and ``MARGIN`` on either side."""
    first = max(index for index, (_, at) in enumerate(cuts) if at <= span[0])
    last = min(index for index, (_, at) in enumerate(cuts) if at >= span[1])
    low, high = cuts[max(first - MARGIN, 0)], cuts[min(max(last, first + 1) + MARGIN, len(cuts) - 1)]
    return _Redo(hole=hole, start=low[1], stop=high[1], first=low[0], last=high[0])


def _joined(redos: Sequence[_Redo]) -> list[_Redo]:
    """Without overlaps."""
    joined: list[_Redo] = []
    for redo in sorted(redos, key=lambda each: each.first):
        if joined and redo.first <= joined[-1].last:
            last = max(joined[-1], redo, key=lambda each: each.last)
            joined[-1] = replace(joined[-1], stop=last.stop, last=last.last)
        else:
            joined.append(redo)
    return joined
