"""Candidates under a constraint: the tokens of one text that fits, with their exact posteriors.

Where a request has a constraint, the columns that are decided are not looked at one by one. A programme over all of
them (``constraints.programme``) gives the likeliest text that the automaton allows, or a sample, around what stands
there already; its tokens are the candidates, and their posteriors under the constraint the confidence. Whatever subset
a policy commits, the rest of the text remains possible. So a constraint composes with every policy, and holds.

Drafts may change again, but changing only some of them would break what the others fit to. So a text that changes
drafts is written wholly or not at all: where the policy leaves one draft as it is that the text wants otherwise, that
draft is taken for fixed and the programme asked anew (``decide_jointly``).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.constraints.automaton import NO_CLASS
from quicksilver.constraints.lattice import NO_TOKEN
from quicksilver.constraints.programme import (
    NO_ROW,
    Posterior,
    Problem,
    Text,
    best_text,
    posterior_of,
    sample_text,
)
from quicksilver.constraints.scores import ClassScores
from quicksilver.decoding.alternatives import NO_TOKEN as UNNAMED
from quicksilver.decoding.alternatives import Alternatives, ranked
from quicksilver.decoding.draws import Purpose, draw_for_each
from quicksilver.decoding.params import SamplingParams
from quicksilver.decoding.policies import Policy
from quicksilver.decoding.regions import Region, rows_of
from quicksilver.decoding.selection import Candidates
from quicksilver.decoding.window import Decision, Window
from quicksilver.errors import EngineError

EDIT_MARGIN = 1.0
"""Nats by which a text must be likelier for every draft that it changes, so that near ties do not swing."""
_PURPOSES = (Purpose.PAIR, Purpose.CLASS, Purpose.TOKEN)
"""Of the three numbers that a sample needs per column."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Terms:
    """How a request's rows are decided; the fields mean what ``selection.select``'s arguments mean."""

    temperature: float
    measured_at: float
    seed: int
    step: int
    positions: Int[Tensor, " N"]
    top_k: int | None
    top_p: float | None
    has_entropy: bool
    edit_margin: float
    """See ``EDIT_MARGIN``; 0 where drafts do not change, or are a state of noise that nothing should hold."""

    @classmethod
    def of(
        cls,
        params: SamplingParams,
        *,
        temperature: float,
        step: int,
        positions: Int[Tensor, " N"],
        measured_at: float = 1.0,
        policy: Policy | None = None,
    ) -> "Terms":
        """Of a request's step; ``policy`` is None where there is none to decide."""
        is_edited = policy is not None and policy.revises and not policy.starts_from_noise
        return cls(
            temperature=temperature,
            measured_at=measured_at,
            seed=params.seed,
            step=step,
            positions=positions,
            top_k=params.top_k,
            top_p=params.top_p,
            has_entropy=policy is not None and policy.reads_entropy,
            edit_margin=EDIT_MARGIN if is_edited else 0.0,
        )


class ConstrainedRows:
    """The rows of one request's step, of which some or all lie in regions."""

    def __init__(
        self, regions: Sequence[Region], logits: Float[Tensor, "n V"], plain: Candidates, terms: Terms
    ) -> None:
        """Take the rows of a step.

        Args:
            regions: of the step, with no row in two of them.
            logits: of the rows that lie in regions (``regions.rows_of``), bias and penalties made.
            plain: of all rows, on the CPU; read where no region is.
            terms: of all rows.

        Raises:
            InputError: the logits hold NaN or plus infinity.
        """
        self.terms, self.plain, self.vocab_size = terms, plain, logits.shape[1]
        rows = rows_of(regions)
        self.rows = frozenset(rows)
        places = {row: place for place, row in enumerate(rows)}
        self.parts = [_Part(region, logits, places, terms.edit_margin) for region in regions if region.is_open]


class _DoesNotFitError(Exception):
    """What stands in a region leaves no text that fits."""


class _Part:
    """A region with the scores of its rows."""

    def __init__(
        self, region: Region, logits: Float[Tensor, "n V"], places: Mapping[int, int], edit_margin: float
    ) -> None:
        self.region = region
        self.trellis = region.lattice.trellis(region.start, len(region.rows))
        columns = [column for column, row in enumerate(region.rows) if row != NO_ROW]
        self.rows = np.array([region.rows[column] for column in columns])
        """Of the step, one per row of the scores."""
        own = [places[row] for row in self.rows.tolist()]
        is_all = own == list(range(logits.shape[0]))
        scores = ClassScores.of(self.trellis, logits if is_all else logits[torch.tensor(own, device=logits.device)])
        self.drafts = {
            row: region.token_ids[column]
            for row, column in zip(self.rows.tolist(), columns, strict=True)
            if region.is_draft[column]
        }
        if edit_margin and self.drafts:
            standing = [self._place(self.drafts.get(row, NO_TOKEN)) for row in self.rows.tolist()]
            scores = scores.with_bonus(np.array(standing), edit_margin)
        self.scores = scores

    def _place(self, token_id: int) -> int:
        kind = NO_CLASS if token_id == NO_TOKEN else self.trellis.class_of_token(token_id)
        return NO_TOKEN if kind == NO_CLASS else self.trellis.place_of_token(token_id, kind)

    def problem(self, kept: Collection[int], *, must_end: bool) -> Problem | None:
        """The programme between the first and the last open column; None if none is open.

        Args:
            kept: rows whose drafts stay.
            must_end: whether the text must end with the region.

        Raises:
            _DoesNotFitError: what stands there may not stand there.
        """
        region, lattice, trellis = self.region, self.region.lattice, self.trellis
        numbers = {row: at for at, row in enumerate(self.rows.tolist()) if row not in kept}
        rows = [numbers.get(row, NO_ROW) for row in region.rows]
        is_open = [row != NO_ROW for row in rows]
        if not any(is_open):
            states = lattice.only(region.start)
            for token_id in region.token_ids:
                states = lattice.after(states, token_id)
            if not (states & (lattice.distance <= region.budget)).any():
                raise _DoesNotFitError
            return None
        first, stop = is_open.index(True), len(rows) - is_open[::-1].index(True)
        state = lattice.walk(region.token_ids[:first], region.start)
        inner = list(zip(region.token_ids[first:stop], rows[first:stop], strict=True))
        kinds = [
            trellis.class_of_token(token) if row == NO_ROW and token != NO_TOKEN else NO_CLASS for token, row in inner
        ]
        is_strange = any(
            kind == NO_CLASS and row == NO_ROW and token != NO_TOKEN
            for kind, (token, row) in zip(kinds, inner, strict=True)
        )
        if state is None or is_strange:
            raise _DoesNotFitError
        goals = lattice.distance <= (0 if must_end else region.budget)
        for token_id in reversed(region.token_ids[stop:]):
            goals = lattice.before(goals, token_id)
        return Problem(
            trellis=trellis,
            start=trellis.state(state),
            goals=goals[trellis.states],
            kinds=np.array(kinds),
            rows=np.array(rows[first:stop]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """A part's programme and its best text."""

    part: _Part
    terms: Terms
    problem: Problem
    best: Text


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Found:
    """What a part's programme says."""

    chosen: Text
    """The sample, or the best text at temperature 0."""
    posterior: Posterior
    totals: Float[np.ndarray, "n C"]
    measured: Posterior
    """At the temperature of the distribution whose entropy is asked for."""


def joint_candidates(request: ConstrainedRows, kept: Collection[int] = ()) -> Candidates | None:
    """The candidates of a request's rows; None where drafts that are kept, and what is final, leave no text.

    Args:
        request: its rows.
        kept: rows whose drafts stay as they are.
    """
    tasks = _tasks(request, kept)
    return None if tasks is None else _gathered(request, kept, [(task, _solved(task)) for task in tasks])


def first_candidates(rows: ConstrainedRows) -> Candidates:
    """Those of a single request at the beginning of a step.

    Raises:
        EngineError: what stands on the canvas leaves no text; a sampler that starts from one cannot come there.
    """
    found = joint_candidates(rows)
    if found is None:
        raise EngineError("what stands on the canvas leaves no text that satisfies the constraint")
    return found


def _tasks(request: ConstrainedRows, kept: Collection[int]) -> list[_Task] | None:
    """Those parts in which something is open; None where one of them has no text."""
    tasks = _drafts(request, kept, must_end=True)
    # Not every text that is cut short by the last forward can end there.
    return _drafts(request, kept, must_end=False) if tasks is None else tasks


def _drafts(request: ConstrainedRows, kept: Collection[int], *, must_end: bool) -> list[_Task] | None:
    tasks = []
    for part in request.parts:
        try:
            problem = part.problem(kept, must_end=must_end and part.region.is_last)
        except _DoesNotFitError:
            return None
        if problem is None:
            continue
        best = best_text(problem, part.scores)
        if best is None:
            return None
        tasks.append(_Task(part, request.terms, problem, best))
    return tasks


def _solved(task: _Task) -> _Found:
    """With a sample, if the temperature asks for one, and the posterior that entropy is measured of."""
    terms, scores, problem = task.terms, task.part.scores, task.problem
    at_one = _tempered(task, scores)
    drawn = at_one if terms.temperature in (0, 1) else _tempered(task, scores.tempered(terms.temperature))
    measured = at_one if terms.measured_at == 1 else drawn
    if terms.measured_at not in (1, terms.temperature):
        measured = _tempered(task, scores.tempered(terms.measured_at))
    chosen = task.best
    if terms.temperature > 0:
        if terms.top_k is not None or terms.top_p is not None:
            drawn = _tempered(task, _truncated(task, drawn[0], drawn[2]))
        chosen = sample_text(problem, *drawn, _uniforms(task))
    _, totals, posterior = at_one
    return _Found(chosen=chosen, posterior=posterior, totals=totals, measured=measured[2])


def _tempered(task: _Task, scores: ClassScores) -> tuple[ClassScores, Float[np.ndarray, "n C"], Posterior]:
    """Scores with their totals and posterior, as ``sample_text`` takes them."""
    totals = scores.totals()
    return scores, totals, posterior_of(task.problem, totals, task.best)


def _uniforms(task: _Task) -> Float[np.ndarray, "L 3"]:
    """What a sample needs, by the counters of its positions."""
    terms, rows, is_open = task.terms, task.problem.rows, task.problem.is_open
    found = np.full((len(rows), 3), 0.5)
    positions = terms.positions[torch.from_numpy(task.part.rows[rows[is_open]])]
    found[is_open] = draw_for_each(_PURPOSES, terms.seed, positions, terms.step).numpy()
    return found


def _truncated(task: _Task, scores: ClassScores, posterior: Posterior) -> ClassScores:
    """Without the tokens outside top-k, then outside top-p, of every row's posterior; the best text always stays."""
    terms, problem = task.terms, task.problem
    columns = problem.is_open.nonzero()[0]
    rows = problem.rows[columns]
    shares = _probabilities(task, scores, posterior)
    order = np.lexsort((np.broadcast_to(task.part.trellis.token_ids, shares.shape), -shares), axis=1)
    ordered = np.take_along_axis(shares, order, axis=1)
    keep = np.ones(ordered.shape, dtype=bool)
    if terms.top_k is not None:
        keep[:, terms.top_k :] = False
    if terms.top_p is not None:
        left = np.where(keep, ordered, 0.0)
        left /= left.sum(axis=1, keepdims=True)
        keep &= left.cumsum(axis=1) - left < terms.top_p
    stays = np.zeros_like(keep)
    np.put_along_axis(stays, order, keep, axis=1)
    stays[np.arange(len(rows)), task.best.places[columns]] = True
    values = scores.values.copy()
    values[rows] = np.where(stays, values[rows], -np.inf)
    return scores.tempered(scores.temperature, values)


def _probabilities(task: _Task, scores: ClassScores, posterior: Posterior) -> Float[np.ndarray, "n V"]:
    """Posterior of every token of the trellis in every open column."""
    problem, trellis = task.problem, task.part.trellis
    share = np.repeat(posterior.log_share[problem.is_open], np.diff(trellis.first_token), axis=1)
    return np.exp(scores.values[problem.rows[problem.is_open]] / scores.temperature + share)


def _gathered(request: ConstrainedRows, kept: Collection[int], joint: Sequence[tuple[_Task, _Found]]) -> Candidates:
    """All rows of a request: where no region is as they were, and drafts that are kept as what stands there."""
    plain = request.plain
    ids, argmax_ids = plain.token_ids.clone(), plain.argmax_ids.clone()
    numbers = torch.stack([plain.confidence, plain.argmax_confidence, plain.margin, plain.entropy])
    alternatives = plain.alternatives
    for part in request.parts:
        for row, token_id in part.drafts.items():
            if row in kept:
                ids[row] = argmax_ids[row] = token_id
                numbers[:, row] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    for task, found in joint:
        columns = task.problem.is_open.nonzero()[0]
        rows = torch.from_numpy(task.part.rows[task.problem.rows[columns]])
        ids[rows] = torch.from_numpy(found.chosen.token_ids[columns])
        argmax_ids[rows] = torch.from_numpy(task.best.token_ids[columns])
        numbers[:, rows] = torch.from_numpy(_numbers(task, found, columns)).float()
        if alternatives is not None:
            named = _alternatives(task, found, alternatives.token_ids.shape[1], request.vocab_size)
            is_here = torch.zeros(len(ids), dtype=torch.bool).index_fill(0, rows, value=True)
            alternatives = named.spread(rows, len(ids)).over(alternatives, is_here)
    confidence, argmax_confidence, margin, entropy = numbers.unbind()
    return Candidates(
        token_ids=ids,
        argmax_ids=argmax_ids,
        confidence=confidence,
        argmax_confidence=argmax_confidence,
        margin=margin,
        entropy=entropy,
        alternatives=alternatives,
    )


def _numbers(task: _Task, found: _Found, columns: Int[np.ndarray, " n"]) -> Float[np.ndarray, "4 n"]:
    """Confidence of candidate and of argmax, margin and entropy of the open columns."""
    scores, rows = task.part.scores, task.problem.rows[columns]
    share = found.posterior.log_share[columns]
    argmax = _probability(task, share, task.best, columns)
    chosen = argmax if found.chosen is task.best else _probability(task, share, found.chosen, columns)
    entropy = np.full(len(columns), np.nan)
    if task.terms.has_entropy:
        likely = _probabilities(task, scores.tempered(task.terms.measured_at), found.measured)
        entropy = -np.where(likely > 0, likely * np.log(np.where(likely > 0, likely, 1.0)), 0.0).sum(axis=1)
    # Sums of float64 may pass 1 by its last bit.
    return np.minimum(np.stack([chosen, argmax, _margin(task, found, share, rows), entropy]), [[1], [1], [1], [np.inf]])


def _probability(
    task: _Task, share: Float[np.ndarray, "n C"], text: Text, columns: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Posterior, at temperature 1, of a text's tokens in open columns."""
    values = task.part.scores.values[task.problem.rows[columns], text.places[columns]]
    return np.exp(share[np.arange(len(columns)), text.kinds[columns]] + values)


def _margin(
    task: _Task, found: _Found, share: Float[np.ndarray, "n C"], rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Of every row, the greatest posterior of a token minus the second greatest."""
    scores, at = task.part.scores, np.arange(len(rows))
    by_class = np.exp(share + scores.greatest[rows])
    best = by_class.argmax(axis=1)
    first = by_class[at, best]
    by_class[at, best] = 0.0
    second = by_class.max(axis=1)
    rest = np.exp(share[at, best] + found.totals[rows, best]) - first
    # The rest of the best one's class holds the second where it is more than that.
    close = (rest > second).nonzero()[0]
    in_class = np.exp(share[close, best[close]] + scores.second_of_classes(rows[close], best[close]))
    second[close] = np.maximum(second[close], in_class)
    return first - second


def _alternatives(task: _Task, found: _Found, count: int, vocab_size: int) -> Alternatives:
    likely = _probabilities(task, task.part.scores, found.posterior)
    everywhere = torch.zeros(len(likely), vocab_size)
    everywhere[:, torch.from_numpy(task.part.trellis.token_ids)] = torch.from_numpy(likely).float()
    values, ids = ranked(everywhere, count)
    return Alternatives(token_ids=ids.masked_fill(values <= 0, UNNAMED), probability=values)


T = TypeVar("T")


def decide_jointly(
    parts: Sequence[Candidates],
    joint: Sequence[ConstrainedRows | None],
    open_columns: Sequence[Sequence[int]],
    decide: Callable[[Sequence[Candidates]], tuple[Window, Decision, T]],
) -> tuple[Window, Decision, T, Sequence[Candidates]]:
    """Decide a step of several windows so that no constraint breaks; returns what was seen, decided and written.

    Args:
        parts: the candidates of every window.
        joint: of every window that has a constraint, its rows.
        open_columns: of every window, the columns of its rows.
        decide: the policies' view and decision for given candidates, and whatever belongs to it.
    """
    found, kept = list(parts), [set[int]() for _ in parts]
    overruled: list[tuple[int, int]] = []
    while True:
        seen, decision, rest = decide(found)
        decision = _with_edits(decision, overruled)
        stuck = _contradicted(seen, decision) if any(each is not None for each in joint) else None
        if stuck is None or not bool(stuck.any()):
            return seen, decision, rest, found
        is_settled = True
        for window, (rows, columns) in enumerate(zip(joint, open_columns, strict=True)):
            again = (
                []
                if rows is None
                else [row for row, at in enumerate(columns) if stuck[window, at] and row in rows.rows]
            )
            if rows is None or not again:
                continue
            is_settled = False
            candidates = joint_candidates(rows, kept[window] | set(again))
            if candidates is None:  # a draft that was given and does not fit
                overruled += [(window, columns[row]) for row in again]
            else:
                kept[window] |= set(again)
                found[window] = candidates
        if is_settled:
            return seen, decision, rest, found


def _contradicted(seen: Window, decision: Decision) -> Bool[Tensor, "B W"]:
    """Drafts that a decision leaves as they are although the text that it writes parts of wants another token there."""
    written = decision.written(seen.candidate_ids, seen.argmax_ids)
    return seen.is_draft & (written != seen.token_ids) & ~decision.edit & ~decision.remask


def _with_edits(decision: Decision, where: Sequence[tuple[int, int]]) -> Decision:
    """The decision, with drafts replaced that cannot stay."""
    if not where:
        return decision
    edit = decision.edit.clone()
    edit[tuple(torch.tensor(where).T)] = True
    return replace(decision, edit=edit)
