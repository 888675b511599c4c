"""Exact decoding of a stretch of columns under an automaton: the best text, all posteriors, samples.

A denoiser gives every open column a distribution of its own. Conditioned on the automaton and on the tokens that stand
there already, the columns are a chain whose hidden variable is the automaton's state; so dynamic programmes over states
give the most probable text (max-product), the posterior of every token (sum-product, forward and backward) and exact
samples (backward messages, then a walk forward). Committing any subset of the best text, or of one sample, leaves the
rest of it possible: policies choose the subset freely. Source: DINGO, Suresh et al. 2025, arXiv:2505.23061, has the
max-product programme; differs: it scores only the columns that are unmasked now, and over tokens instead of classes.

Legend: L columns, N open columns among them, S states, P pairs, K sets, C classes; see ``lattice``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from quicksilver.constraints.automaton import NO_CLASS
from quicksilver.constraints.lattice import NO_TOKEN, Trellis
from quicksilver.constraints.scores import ClassScores, index_of

NO_ROW = -1
RESCALE_EVERY = 8
"""Columns after which plain probabilities are scaled to a greatest of 1."""
FAINTEST = 1e-250
"""Where the best text's own share of the messages is smaller, float64 has no room left for what matters."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """Columns between a state and states that must be reached."""

    trellis: Trellis
    start: int
    goals: Bool[np.ndarray, " S"]
    kinds: Int[np.ndarray, " L"]
    """Class of the token that stands in a column; ``NO_CLASS`` where none does."""
    rows: Int[np.ndarray, " L"]
    """Row of the scores for an open column. ``NO_ROW`` where a token stands, and where any may: nothing is known of
    such a column yet."""

    @property
    def is_open(self) -> Bool[np.ndarray, " L"]:
        return self.rows != NO_ROW

    def weights(self, per_set: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "L K"]:
        """Logarithmic weights of all columns: of open ones those given, of a fixed one whether its class fits."""
        found = np.zeros((len(self.rows), per_set.shape[1]))
        found[self.is_open] = per_set[self.rows[self.is_open]]
        for column in (self.kinds != NO_CLASS).nonzero()[0]:
            found[column] = np.where(self.trellis.has_class[:, self.kinds[column]], 0.0, -np.inf)
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Text:
    """A way through the columns."""

    token_ids: Int[np.ndarray, " L"]
    """Of open columns; ``NO_TOKEN`` in the others."""
    places: Int[np.ndarray, " L"]
    """Where they are among the trellis' tokens, in open columns."""
    kinds: Int[np.ndarray, " L"]
    """Their classes."""
    states: Int[np.ndarray, " L1"]
    """In front of every column, and behind the last."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posterior:
    """What the automaton makes of the columns' distributions."""

    log_share: Float[np.ndarray, "L C"]
    """Added to a token's logit (at the temperature) it gives the logarithm of its probability. Of open columns."""
    log_backward: Float[np.ndarray, "L1 S"]
    """Weight of all ways from a state in front of a column to a goal, up to a constant per column."""
    weights: Float[np.ndarray, "L K"]


@dataclass(frozen=True, slots=True)
class _Semiring:
    times: np.ufunc
    plus: np.ufunc
    one: float
    zero: float
    is_scaled: bool = False


_BEST = _Semiring(np.add, np.maximum, 0.0, -np.inf)
_LOGS = _Semiring(np.add, np.logaddexp, 0.0, -np.inf)
_PLAIN = _Semiring(np.multiply, np.add, 1.0, 0.0, is_scaled=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Sweep:
    """Messages from one end of the columns to the other."""

    source: Int[np.ndarray, " P"]
    heads: Int[np.ndarray, " G"]
    target: Int[np.ndarray, " G"]
    weights: Float[np.ndarray, "L P"]
    first: Float[np.ndarray, " S"]

    @classmethod
    def forward(cls, problem: Problem, weights: Float[np.ndarray, "L K"], ring: _Semiring) -> "_Sweep":
        trellis, group = problem.trellis, problem.trellis.by_to
        first = np.where(np.arange(trellis.num_states) == problem.start, ring.one, ring.zero)
        sets = trellis.pair_set[group.order]
        return cls(trellis.pair_from[group.order], group.heads, group.group, weights[:, sets], first)

    @classmethod
    def backward(cls, problem: Problem, weights: Float[np.ndarray, "L K"], ring: _Semiring) -> "_Sweep":
        """Its messages come from the last column to the first."""
        trellis, group = problem.trellis, problem.trellis.by_from
        first = np.where(problem.goals, ring.one, ring.zero)
        return cls(trellis.pair_to, group.heads, group.group, weights[::-1][:, trellis.pair_set], first)


def _run(sweeps: Sequence[_Sweep], ring: _Semiring) -> list[Float[np.ndarray, "L1 S"]]:
    """All sweeps side by side, states and pairs of each behind those of the one before: one loop over columns.

    What belongs to one sweep never meets what belongs to another, so its numbers are those it would have alone.
    """
    states = np.cumsum([0, *(len(each.first) for each in sweeps)])
    pairs = np.cumsum([0, *(len(each.source) for each in sweeps)])
    length = max(len(each.weights) for each in sweeps)
    source, heads, target = (
        np.concatenate([getattr(each, name) + at for each, at in zip(sweeps, offsets, strict=False)])
        for name, offsets in (("source", states), ("heads", pairs), ("target", states))
    )
    if len(sweeps) == 1:
        weights = sweeps[0].weights
    else:
        weights = np.zeros((length, pairs[-1]))
        for each, at in zip(sweeps, pairs, strict=False):
            weights[: len(each.weights), at : at + len(each.source)] = each.weights
    found = np.full((length + 1, states[-1]), ring.zero)
    found[0] = np.concatenate([each.first for each in sweeps])
    for column in range(length):
        ways = found[column].take(source)
        ring.times(ways, weights[column], out=ways)
        found[column + 1][target] = ring.plus.reduceat(ways, heads)
        if ring.is_scaled and (column + 1) % RESCALE_EVERY == 0:
            most = np.maximum.reduceat(found[column + 1], states[:-1])
            found[column + 1] /= np.repeat(np.where(most > 0, most, 1.0), np.diff(states))
    return [found[: len(each.weights) + 1, at : at + len(each.first)] for each, at in zip(sweeps, states, strict=False)]


def best_texts(problems: Sequence[Problem], scores: Sequence[ClassScores]) -> list[Text | None]:
    """The text of greatest summed logits of every problem; None where no text fits.

    Among equal ones that with the lowest token id in the first column in which they differ.
    """
    weights = [
        problem.weights(np.maximum.reduceat(each.greatest[:, problem.trellis.member_class], _heads(problem), axis=1))
        for problem, each in zip(problems, scores, strict=True)
    ]
    sweeps = [_Sweep.backward(problem, each, _BEST) for problem, each in zip(problems, weights, strict=True)]
    found = zip(problems, scores, weights, _run(sweeps, _BEST), strict=True)
    return [_traced(problem, each, weight, backward[::-1]) for problem, each, weight, backward in found]


def _heads(problem: Problem) -> Int[np.ndarray, " K"]:
    return problem.trellis.first_member[:-1]


def _traced(problem: Problem, scores: ClassScores, weights: np.ndarray, backward: np.ndarray) -> Text | None:
    """Follow the best messages from the start."""
    trellis, state = problem.trellis, problem.start
    if backward[0, state] == -np.inf:
        return None
    states, pairs = [state], []
    first_pair, pair_set, pair_to = trellis.first_pair.tolist(), trellis.pair_set, trellis.pair_to
    for column, row in enumerate(problem.rows.tolist()):
        first, stop = first_pair[state], first_pair[state + 1]
        pair = first
        if stop - first > 1:
            total = weights[column].take(pair_set[first:stop]) + backward[column + 1].take(pair_to[first:stop])
            at = int(total.argmax())
            pair += at
            is_tied = total == total[at]
            if row != NO_ROW and np.count_nonzero(is_tied) > 1:
                equals = (first + is_tied.nonzero()[0]).tolist()
                pair = min(
                    equals, key=lambda each: trellis.token_ids[_best_of_set(scores, row, int(pair_set[each]))[0]]
                )
        state = int(pair_to[pair])
        states.append(state)
        pairs.append(pair)
    places, kinds = np.full(len(pairs), NO_TOKEN), problem.kinds.copy()
    for column in problem.is_open.nonzero()[0].tolist():
        places[column], kinds[column] = _best_of_set(scores, problem.rows[column], int(pair_set[pairs[column]]))
    return _text(trellis, states, places, kinds)


def _best_of_set(scores: ClassScores, row: int, number: int) -> tuple[int, int]:
    """Place and class of the greatest token of a set, the lowest id among equals."""
    trellis = scores.trellis
    classes = trellis.member_class[trellis.first_member[number] : trellis.first_member[number + 1]]
    if len(classes) > 1:
        values = scores.greatest[row].take(classes)
        classes = classes[values == values.max()]
    kind = int(classes[0])
    if len(classes) == 1:
        return scores.best(row, kind), kind
    choices = [(scores.best(row, each), each) for each in classes.tolist()]
    return min(choices, key=lambda choice: trellis.token_ids[choice[0]])


def _text(trellis: Trellis, states: Sequence[int], places: np.ndarray, kinds: np.ndarray) -> Text:
    return Text(
        token_ids=np.where(places == NO_TOKEN, NO_TOKEN, trellis.token_ids[places]),
        places=places,
        kinds=kinds,
        states=np.array(states, dtype=np.int64),
    )


def posteriors(
    problems: Sequence[Problem], totals: Sequence[Float[np.ndarray, "N C"]], best: Sequence[Text]
) -> list[Posterior]:
    """The exact posteriors of every problem, of which ``best`` is the best text.

    Args:
        problems: each with a text that fits.
        totals: ``ClassScores.totals`` of each, at any temperature.
        best: of each, by the logits of the same rows; says whether plain probabilities have room enough.
    """
    weights = [
        problem.weights(_set_totals(problem.trellis, total)) for problem, total in zip(problems, totals, strict=True)
    ]
    tops = [each.max(axis=1, keepdims=True) for each in weights]
    plain = [np.exp(each - top) for each, top in zip(weights, tops, strict=True)]
    sweeps = [
        direction(problem, each, _PLAIN)
        for problem, each in zip(problems, plain, strict=True)
        for direction in (_Sweep.forward, _Sweep.backward)
    ]
    messages = _run(sweeps, _PLAIN)
    found = []
    for number, problem in enumerate(problems):
        forward, backward = messages[2 * number], messages[2 * number + 1][::-1]
        if not _has_room(forward, backward, best[number]):
            found.append(_in_logs(problem, weights[number], totals[number]))
            continue
        with np.errstate(divide="ignore"):
            share = _plain_shares(problem.trellis, forward, backward, plain[number])
            log_share, log_backward = np.log(share) - tops[number], np.log(backward)
        found.append(Posterior(log_share=log_share, log_backward=log_backward, weights=weights[number]))
    return found


def _has_room(forward: np.ndarray, backward: np.ndarray, best: Text) -> bool:
    at = np.arange(len(best.states))
    return bool((forward[at, best.states] * backward[at, best.states] > FAINTEST).all())


def _set_totals(trellis: Trellis, totals: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N K"]:
    """Logarithm of the summed weights of every set."""
    heads, sizes = trellis.first_member[:-1], np.diff(trellis.first_member)
    members = totals[:, trellis.member_class]
    peak = np.maximum.reduceat(members, heads, axis=1)
    base = np.where(peak == -np.inf, 0.0, peak)
    with np.errstate(divide="ignore"):
        return base + np.log(np.add.reduceat(np.exp(members - np.repeat(base, sizes, axis=1)), heads, axis=1))


def _plain_shares(
    trellis: Trellis, forward: np.ndarray, backward: np.ndarray, plain: Float[np.ndarray, "L K"]
) -> Float[np.ndarray, "L C"]:
    """Per class, the weight of all ways that have a token of it in a column, over that of all ways."""
    group = trellis.by_set
    ways = forward[:-1][:, trellis.pair_from[group.order]]
    ways *= backward[1:][:, trellis.pair_to[group.order]]
    per_set = np.add.reduceat(ways, group.heads, axis=1)
    return (per_set @ trellis.has_class) / (per_set * plain).sum(axis=1, keepdims=True)


def _in_logs(problem: Problem, weights: Float[np.ndarray, "L K"], totals: Float[np.ndarray, "N C"]) -> Posterior:
    """The same by logarithms throughout: slower, and of any range."""
    trellis, group = problem.trellis, problem.trellis.by_set
    forward, backward = _run([_Sweep.forward(problem, weights, _LOGS), _Sweep.backward(problem, weights, _LOGS)], _LOGS)
    backward = backward[::-1]
    ways = forward[:-1][:, trellis.pair_from[group.order]] + backward[1:][:, trellis.pair_to[group.order]]
    per_set = np.logaddexp.reduceat(ways, group.heads, axis=1)
    total = np.logaddexp.reduce(per_set + weights, axis=1)
    log_share = np.full((len(weights), trellis.has_class.shape[1]), -np.inf)
    for number, sets in enumerate(trellis.has_class.T):
        log_share[:, number] = np.logaddexp.reduce(per_set[:, sets], axis=1) - total
    return Posterior(log_share=log_share, log_backward=backward, weights=weights)


def log_evidence(problem: Problem, totals: Float[np.ndarray, "N C"]) -> float:
    """Logarithm of the summed weights of all texts that fit."""
    weights = problem.weights(_set_totals(problem.trellis, totals))
    (backward,) = _run([_Sweep.backward(problem, weights, _LOGS)], _LOGS)
    return float(backward[-1, problem.start])


def sample_text(
    problem: Problem,
    scores: ClassScores,
    totals: Float[np.ndarray, "N C"],
    posterior: Posterior,
    uniforms: Float[np.ndarray, "L 3"],
) -> Text:
    """An exact sample of the posterior.

    Args:
        problem: with a text that fits.
        scores: at the temperature of the sample.
        totals: ``scores.totals()``.
        posterior: by them.
        uniforms: three float64 numbers in (0, 1) per column: for the pair of states, the class, the token.
    """
    trellis, state = problem.trellis, problem.start
    states, places, kinds = [state], np.full(len(problem.rows), NO_TOKEN), problem.kinds.copy()
    for column, row in enumerate(problem.rows.tolist()):
        first, stop = trellis.first_pair[state], trellis.first_pair[state + 1]
        pair, of_pair, of_class, of_token = int(first), *uniforms[column].tolist()
        if stop - first > 1:
            sets, behind = trellis.pair_set[first:stop], trellis.pair_to[first:stop]
            pair += _drawn(posterior.weights[column, sets] + posterior.log_backward[column + 1, behind], of_pair)
        if row != NO_ROW:
            number = trellis.pair_set[pair]
            classes = trellis.member_class[trellis.first_member[number] : trellis.first_member[number + 1]]
            kind = int(classes[_drawn(totals[row, classes], of_class)]) if len(classes) > 1 else int(classes[0])
            places[column], kinds[column] = scores.drawn(row, kind, of_token), kind
        state = int(trellis.pair_to[pair])
        states.append(state)
    return _text(trellis, states, places, kinds)


def _drawn(logs: Float[np.ndarray, " n"], uniform: float) -> int:
    return index_of(np.exp(logs - logs.max()), uniform)
