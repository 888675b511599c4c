"""Executes what the scheduler planned: rows of many requests in, candidates and decisions out. It plans nothing.

Legend: T packed rows, N rows that are decided, B windows, W columns.
"""

from collections import defaultdict
from collections.abc import Sequence as Seq
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.adjustments import Adjustments
from quicksilver.decoding.alternatives import Alternatives
from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.constrained import ConstrainedRows
from quicksilver.decoding.ledger import Marks
from quicksilver.decoding.regions import rows_of
from quicksilver.decoding.selection import Candidates
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.engine.attention import PagedAttention, PageMemory, RequestRows
from quicksilver.engine.causal import TokenSequence
from quicksilver.engine.constraining import Constrained, constrain
from quicksilver.engine.filling import FillingSequence
from quicksilver.engine.guiding import TwinRows, guided_rows, twin_rows
from quicksilver.engine.head import HeadParams, choose
from quicksilver.engine.network import Lead, Network, network_of
from quicksilver.engine.pages import PageTable
from quicksilver.engine.scheduler import Share
from quicksilver.engine.sequence import (
    Failure,
    Look,
    NextToken,
    NextTokens,
    Outcome,
    Sequence,
    TokenRule,
    WindowSequence,
    WindowStep,
)
from quicksilver.engine.windows import RowStep, StepOutcome, WindowState, take_step
from quicksilver.errors import ConfigError, InputError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.fused import FusedDenoiser
from quicksilver.models.layers import CanvasRows
from quicksilver.models.parallel import ParallelDenoiser

STRICT_ROWS = 4
"""Rows are filled up to a multiple. Products of fewer take other kernels, whose sums go in another order (measured with
MKL on AVX2); and what does not fill a vector register at the end is computed by other code (sigmoid and silu, AVX512:
1 ulp apart), so rows of any width that 8 divides must come in fours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One request's part of a forward."""

    sequence: Sequence
    share: Share
    table: PageTable | None
    """None: nothing of the request is cached."""
    look: Look | None = None
    """None: only context rows."""

    @property
    def num_rows(self) -> int:
        return self.share.num_context + (self.sequence.num_window if self.share.has_window else 0)


_Decidable = tuple[Turn, Candidates, ConstrainedRows | None]
"""A request whose policy decides now."""


def _require_noise(spec: DiffusionSpec) -> None:
    """Self-conditioning sees whole blocks behind final tokens."""
    is_blockwise = spec.layouts == (Layout.BLOCK_CAUSAL,) and spec.has_causal_context and not spec.prediction_shift
    if spec.objective is not Objective.UNIFORM or not is_blockwise:
        raise ConfigError(
            "a denoiser with has_canvas_pass needs a spec of objective uniform, layout block_causal alone, causal "
            "context and prediction_shift 0"
        )


class Runner:
    """Owns the denoiser, the page memory and nothing else."""

    def __init__(self, denoiser: Denoiser, spec: DiffusionSpec, memory: PageMemory, *, is_strict: bool = False) -> None:
        if denoiser.config.has_canvas_pass:
            _require_noise(spec)
        self._row_multiple = STRICT_ROWS if is_strict else 1
        self._is_strict = is_strict
        self._denoiser, self._spec, self._memory = denoiser, spec, memory
        self.network: Network = network_of(denoiser)
        self._lead = Lead(denoiser, memory) if isinstance(denoiser, ParallelDenoiser) else None
        self.device = memory.keys[0].device
        self._vocab_size = denoiser.config.vocab_size
        self._rules: dict[TokenRule, tuple[Tensor, Tensor]] = {}
        self._last_hidden: dict[int, Tensor] = {}
        """The last context row's hidden state, by request: it may predict what a later forward decides."""

    def forget(self, job_id: int) -> None:
        """Drop what is kept of a request."""
        self._last_hidden.pop(job_id, None)

    @torch.inference_mode()
    def run(self, turns: Seq[Turn]) -> list[tuple[Turn, Outcome]]:
        """One forward: what it means for every turn that has a look. No sequence has changed yet.

        A turn without a look has an outcome only if its rows came to nothing: then its pages must not be shared.
        """
        deciding = [turn for turn in turns if turn.look is not None]
        looks = [turn.look for turn in deciding if turn.look is not None]
        second = twin_rows(looks, sum(turn.num_rows for turn in turns), self._spec.prediction_shift)
        hidden = self._forward(turns, second)
        spoiled = _spoiled_prefills(turns, hidden)
        self._keep_last_rows(turns, hidden)
        if not deciding:
            return spoiled
        counts = [len(look.open_columns) for look in looks]
        sequences = [turn.sequence for turn in deciding]
        guided = guided_rows(sequences, looks, hidden, second)
        params = replace(self._head_params(sequences, looks, counts), guided=guided)
        chosen = choose(self._denoiser, self._decided_rows(turns, hidden), params, self._row_multiple)
        candidates, watched = chosen.candidates, chosen.watched
        bounds = pairwise(accumulate(counts, initial=0))
        parts = [candidates] if len(counts) == 1 else [candidates.rows(slice(start, stop)) for start, stop in bounds]
        seen = [None] * len(counts) if watched is None else [part.cpu() for part in watched.split(counts)]
        constrained = constrain(sequences, looks, parts, chosen.logits)
        are_finite = bool(candidates.confidence.isfinite().all())
        outcomes = self._outcomes(deciding, parts, constrained, seen, are_finite=are_finite)
        if chosen.predicted is not None:
            outcomes = _with_predicted(outcomes, deciding, chosen.predicted.split(counts))
        return spoiled + outcomes

    def _forward(self, turns: Seq[Turn], second: TwinRows) -> Float[Tensor, "T D"]:
        ids, positions, rows, start = [], [], [], 0
        for turn in turns:
            sequence, share, count = turn.sequence, turn.share, turn.num_rows
            end = share.num_cached + share.num_context
            if share.num_context:
                ids.append(torch.tensor(sequence.context_ids[share.num_cached : end], dtype=torch.int64))
            if share.has_window:
                ids.append(sequence.window_ids())
            columns = sequence.window_columns if share.has_window else None
            places = torch.arange(share.num_cached, share.num_cached + count)
            if columns is not None:
                ids[-1] = ids[-1][columns]
                places[share.num_context :] = end + columns
            positions.append(places)
            num_slots = end + (sequence.num_slots if share.has_window else 0)
            rows.append(
                RequestRows(
                    rows=slice(start, start + count),
                    slots=None if turn.table is None else self._memory.slots(turn.table, num_slots),
                    num_cached=share.num_cached,
                    num_context=share.num_context,
                    has_causal_window=sequence.has_causal_window,
                    context_blocks=sequence.context_blocks(end) if share.num_context else None,
                    columns=columns,
                )
            )
            start += count
        for twin in second.twins:
            ids.append(twin.token_ids)
            positions.append(torch.arange(len(twin.token_ids)))
            end = start + len(twin.token_ids)
            rows.append(RequestRows(rows=slice(start, end), slots=None, window_blocks=twin.block_ids))
            start = end
        if missing := -start % self._row_multiple:
            idle = torch.zeros(missing, dtype=torch.int64)
            ids.append(idle)
            positions.append(idle)
        token_ids, at = (torch.cat(parts)[None].to(self.device) for parts in (ids, positions))
        attention = PagedAttention(self._memory, rows, is_strict=self._is_strict)
        if self._denoiser.config.has_canvas_pass:
            return self._denoiser(token_ids, at, attention, self._canvas_rows(turns, token_ids.shape[1]))[0]
        with (
            nullcontext() if self._lead is None else self._lead.leading(token_ids, at, rows, is_strict=self._is_strict)
        ):
            if isinstance(self.network, FusedDenoiser):
                return self.network(token_ids, at, attention, self._read_rows(turns, second, token_ids.shape[1]))[0]
            return self.network(token_ids, at, attention)[0]

    def _read_rows(self, turns: Seq[Turn], second: TwinRows, num_rows: int) -> Int[Tensor, " N"] | None:
        """The rows whose hidden state anything reads; None: all, or they must not depend on which these are."""
        if self._is_strict or self._lead is not None:
            return None
        read, start = set(self._predicting_rows(turns)[0]), 0
        for turn in turns:
            if turn.look is None:
                read.update(range(start, start + turn.num_rows))
            elif turn.share.num_context and self._spec.prediction_shift:
                read.add(start + turn.share.num_context - 1)
            start += turn.num_rows
        read.update(at for at in second.index if at is not None)
        return None if len(read) == num_rows else torch.tensor(sorted(read))

    def _canvas_rows(self, turns: Seq[Turn], num_rows: int) -> CanvasRows:
        """Which rows are of windows, and what the step before predicted there."""
        width, dtype = self._denoiser.config.model_width, self._memory.keys[0].dtype
        is_canvas, predicted, stop = torch.zeros(num_rows, dtype=torch.bool), [], 0
        for turn in turns:
            first, stop = stop + turn.share.num_context, stop + turn.num_rows
            is_canvas[first:stop] = True
            if turn.share.has_window and isinstance(turn.sequence, WindowSequence):
                known = turn.sequence.block.predicted
                predicted.append(torch.zeros(stop - first, width, dtype=dtype) if known is None else known)
        joined = torch.cat(predicted) if predicted else torch.zeros(0, width, dtype=dtype)
        return CanvasRows(is_canvas[None].to(self.device), joined.to(self.device))

    def _decided_rows(self, turns: Seq[Turn], hidden: Float[Tensor, "T D"]) -> Float[Tensor, "N D"]:
        """Hidden rows that predict the open columns of the deciding turns."""
        index, stored = self._predicting_rows(turns)
        is_all = index == list(range(hidden.shape[0]))
        found = hidden if is_all else hidden[torch.tensor(index, device=hidden.device)]
        if stored:
            found = found.clone()
            for at, job_id in stored.items():
                found[at] = self._before_window(job_id, hidden)
        return found

    def _predicting_rows(self, turns: Seq[Turn]) -> tuple[list[int], dict[int, int]]:
        """A packed row for every open column, and which of them stand for a request's row of an earlier forward."""
        shift = self._spec.prediction_shift
        index: list[int] = []
        stored: dict[int, int] = {}
        start = 0
        for turn in turns:
            window = start + turn.share.num_context
            if turn.look is not None:
                for offset in turn.look.offsets or [column - shift for column in turn.look.open_columns]:
                    if offset < 0 and not turn.share.num_context:
                        stored[len(index)] = turn.sequence.job_id
                    index.append(window + max(offset, -turn.share.num_context))
            start += turn.num_rows
        return index, stored

    def _keep_last_rows(self, turns: Seq[Turn], hidden: Float[Tensor, "T D"]) -> None:
        """Keep the last context row's hidden state where a later forward may have to read it."""
        start = 0
        for turn in turns:
            # A window that comes with its context is followed by looks without it only where predictions are shifted.
            if turn.share.num_context and (turn.look is None or self._spec.prediction_shift):
                self._last_hidden[turn.sequence.job_id] = hidden[start + turn.share.num_context - 1].clone()
            start += turn.num_rows

    def _before_window(self, job_id: int, hidden: Tensor) -> Tensor:
        """The hidden row before a window whose context rows ran earlier; zero, so logits zero, if there is none."""
        return self._last_hidden.get(job_id, torch.zeros_like(hidden[0]))

    def _head_params(self, sequences: Seq[Sequence], looks: Seq[Look], counts: Seq[int]) -> HeadParams:
        rules: dict[TokenRule, int] = {}
        per_row: list[int] = []
        for look, count in zip(looks, counts, strict=True):
            numbers = [rules.setdefault(rule, len(rules)) for rule in look.rules]
            per_row += numbers * count if len(numbers) == 1 else numbers
        masks = [self._rule(rule) for rule in rules]
        has_withheld = any(rule.withheld for rule in rules)

        def spread(values: Seq[float | int]) -> Tensor:
            flat = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
            return torch.tensor(flat, device=self.device)

        params = [sequence.params for sequence in sequences]
        has_top_k, has_top_p = any(p.top_k for p in params), any(p.top_p for p in params)
        return HeadParams(
            is_forbidden=torch.stack([forbidden for forbidden, _ in masks]),
            is_withheld=torch.stack([withheld for _, withheld in masks]) if has_withheld else None,
            rule=torch.tensor(per_row, device=self.device),
            temperature=spread([float(look.temperature) for look in looks]),
            measured_at=spread([look.measured_at for look in looks])
            if any(look.measured_at != 1 for look in looks)
            else None,
            seed=spread([look.seed for look in looks]),
            positions=torch.tensor([at for look in looks for at in look.positions], device=self.device),
            step=spread([look.step for look in looks]),
            top_k=spread([p.top_k or self._vocab_size for p in params]) if has_top_k else None,
            top_p=spread([float(p.top_p or 1.0) for p in params]) if has_top_p else None,
            adjustments=Adjustments.join([look.adjustments for look in looks], counts),
            has_entropy=any(sequence.reads_entropy for sequence in sequences),
            is_constrained=_constrained_rows(looks, counts),
            watched=self._watched(looks, counts),
            num_alternatives=spread([p.num_alternatives for p in params])
            if any(p.num_alternatives for p in params)
            else None,
        )

    def _watched(self, looks: Seq[Look], counts: Seq[int]) -> Int[Tensor, "N 3"] | None:
        if not any(look.watched for look in looks):
            return None
        ids = [look.watched or ((0, 0, 0),) * count for look, count in zip(looks, counts, strict=True)]
        return torch.tensor([each for part in ids for each in part], device=self.device)

    def _rule(self, rule: TokenRule) -> tuple[Bool[Tensor, " V"], Bool[Tensor, " V"]]:
        found = self._rules.get(rule)
        if found is None:
            masks = []
            for ids in (rule.forbidden, rule.withheld):
                mask = torch.zeros(self._vocab_size, dtype=torch.bool)
                mask[sorted(ids)] = True
                masks.append(mask.to(self.device))
            found = self._rules[rule] = (masks[0], masks[1])
        return found

    def _outcomes(
        self,
        turns: Seq[Turn],
        plain: Seq[Candidates],
        found: Constrained,
        watched: Seq[Tensor | None],
        *,
        are_finite: bool,
    ) -> list[tuple[Turn, Outcome]]:
        outcomes: list[tuple[Turn, Outcome]] = []
        groups: dict[int, list[_Decidable]] = defaultdict(list)
        for at, (turn, part, rows, seen) in enumerate(zip(turns, found.parts, found.rows, watched, strict=True)):
            sequence, change = turn.sequence, None
            if (
                isinstance(sequence, FillingSequence)
                and seen is not None
                and turn.look is not None
                and turn.look.watched
            ):
                change = sequence.settle(turn.look, seen, _alternatives(sequence, plain[at]))
            if at in found.failures:
                outcomes.append((turn, found.failures[at]))
            elif not (are_finite or bool(part.confidence.isfinite().all())):
                outcomes.append((turn, _not_finite()))
            elif isinstance(sequence, TokenSequence):
                outcomes.append((turn, _next_tokens(sequence, part)))
            elif change is not None:
                outcomes.append((turn, change))
            else:
                # Windows of one width are decided together: then a row's sums do not depend on its neighbours' widths.
                groups[len(sequence.window_ids())].append((turn, part, rows))
        for group in groups.values():
            outcomes += self._decide(group)
        return outcomes

    def _decide(self, group: Seq[_Decidable]) -> list[tuple[Turn, Outcome]]:
        """The policies' decisions; where one of several requests fails, the others are decided without it."""
        try:
            steps = self._take_step(*zip(*group, strict=True))
        except Exception as error:  # noqa: BLE001  # whatever a request's own policy raises ends that request alone
            if len(group) == 1:
                return [(group[0][0], Failure(error))]
            return [outcome for one in group for outcome in self._decide([one])]
        return [(turn, step) for (turn, _, _), step in zip(group, steps, strict=True)]

    def _take_step(
        self, turns: Seq[Turn], parts: Seq[Candidates], joint: Seq[ConstrainedRows | None]
    ) -> list[WindowStep]:
        sequences = [turn.sequence for turn in turns if isinstance(turn.sequence, WindowSequence)]
        looks = [turn.look for turn in turns if turn.look is not None]
        before = WindowState.stack(sequences)
        is_open = torch.zeros(before.state.shape, dtype=torch.bool)
        for row, look in enumerate(looks):
            is_open[row, list(look.open_columns)] = True
        rows = [
            RowStep(
                policy=sequence.run.policy,
                seed=look.seed,
                step=look.step,
                num_masks=sequence.block.num_masks,
                num_post_steps=sequence.block.num_post_steps,
                holds_ends=sequence.run.holds_ends,
                nfe=sequence.ledger.nfe + 1,
                is_forced=look.is_forced,
                end_ids=sequence.run.end_ids,
            )
            for sequence, look in zip(sequences, looks, strict=True)
        ]
        parts = [part.to(is_open.device) for part in parts]
        outcome = take_step(before, is_open, parts, rows, self._spec.special, joint)
        steps, parts = _window_steps(outcome, sequences), outcome.parts
        return [_with_alternatives(*each) for each in zip(steps, sequences, looks, parts, strict=True)]


def _constrained_rows(looks: Seq[Look], counts: Seq[int]) -> tuple[bool, ...] | None:
    if not any(look.regions for look in looks):
        return None
    inside = [frozenset(rows_of(look.regions)) for look in looks]
    return tuple(row in rows for rows, count in zip(inside, counts, strict=True) for row in range(count))


def _alternatives(sequence: Sequence, part: Candidates) -> Alternatives | None:
    """As many as the request asks for, on the CPU."""
    if part.alternatives is None or not sequence.params.num_alternatives:
        return None
    return part.alternatives.first(sequence.params.num_alternatives).to(torch.device("cpu"))


def _next_tokens(sequence: Sequence, part: Candidates) -> NextTokens:
    alternatives = _alternatives(sequence, part)
    named = ((),) * len(part.token_ids) if alternatives is None else alternatives.tokens()
    found = zip(part.token_ids.tolist(), part.confidence.tolist(), named, strict=True)
    return NextTokens(tuple(NextToken(*each) for each in found))


def _with_alternatives(step: WindowStep, sequence: WindowSequence, look: Look, part: Candidates) -> WindowStep:
    """The step, its canvas knowing what else was likely where it wrote."""
    found, known = _alternatives(sequence, part), sequence.canvas.alternatives
    if found is None:
        return step
    marks = step.marks
    written = torch.tensor(marks.commit) | torch.tensor(marks.edit)
    spread = found.spread(torch.tensor(look.open_columns), len(step.canvas))
    canvas = replace(step.canvas, alternatives=spread.over(known, written).without(torch.tensor(marks.remask)))
    return replace(step, canvas=canvas)


def _with_predicted(
    outcomes: Seq[tuple[Turn, Outcome]], turns: Seq[Turn], predicted: Seq[Tensor]
) -> list[tuple[Turn, Outcome]]:
    """The steps with what was predicted; every column of such a window is open."""
    known = {turn.sequence.job_id: rows.cpu() for turn, rows in zip(turns, predicted, strict=True)}
    return [
        (turn, replace(outcome, predicted=known[turn.sequence.job_id]) if isinstance(outcome, WindowStep) else outcome)
        for turn, outcome in outcomes
    ]


def _not_finite() -> Failure:
    return Failure(InputError("the denoiser gave NaN or infinite logits"))


def _spoiled_prefills(turns: Seq[Turn], hidden: Float[Tensor, "T D"]) -> list[tuple[Turn, Outcome]]:
    """Failures of the turns that only read context and got a row that is not finite; a look would show it later."""
    spoiled: list[tuple[Turn, Outcome]] = []
    start = 0
    for turn in turns:
        rows = hidden[start : start + turn.num_rows]
        if turn.look is None and not bool(rows.isfinite().all()):
            spoiled.append((turn, _not_finite()))
        start += turn.num_rows
    return spoiled


def _window_steps(outcome: StepOutcome, sequences: Seq[WindowSequence]) -> list[WindowStep]:
    """One step per window, in plain lists where Python reads it."""
    after = outcome.after
    marks = [
        Marks(token_ids=ids, confidence=confidence, commit=commit, edit=edit, remask=remask)
        for ids, confidence, commit, edit, remask in zip(
            after.token_ids.tolist(),
            after.confidence.tolist(),
            outcome.commit.tolist(),
            outcome.edit.tolist(),
            outcome.remask.tolist(),
            strict=True,
        )
    ]
    flags = zip(outcome.is_settled.tolist(), outcome.had_masks.tolist(), outcome.is_complete.tolist(), strict=True)
    return [
        WindowStep(
            canvas=Canvas(
                token_ids=after.token_ids[row],
                state=after.state[row],
                confidence=after.confidence[row],
                step_committed=after.step_committed[row],
                num_edits=after.num_edits[row],
                hole=sequences[row].canvas.hole,
            ),
            argmax_ids=after.previous_argmax[row],
            marks=marks[row],
            state=state,
            is_settled=is_settled,
            had_masks=had_masks,
            is_complete=is_complete,
        )
        for row, (state, (is_settled, had_masks, is_complete)) in enumerate(
            zip(after.state.tolist(), flags, strict=True)
        )
    ]
