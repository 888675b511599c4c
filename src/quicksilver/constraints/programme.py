"""Exact decoding of a stretch of columns under an automaton: the best text, all posteriors, samples.

A denoiser gives every open column a distribution of its own. Conditioned on the automaton and on the tokens that stand
there already, the columns are a chain whose hidden variable is the automaton's state; so dynamic programmes over states
give the most probable text (max-product), the posterior of every token (sum-product, forward and backward) and exact
samples (backward messages, then a walk forward). Committing any subset of the best text, or of one sample, leaves the
rest of it possible: policies choose the subset freely. Source: DINGO, Suresh et al. 2025, arXiv:2505.23061, has the
max-product programme; differs: it scores only the columns that are unmasked now, and over tokens instead of classes.

Legend: L columns, N open columns among them, S states, P pairs, K sets, C classes; see ``lattice``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from quicksilver.constraints.lattice import NO_TOKEN, Trellis
from quicksilver.constraints.scores import ClassScores

NO_ROW = -1
FAINTEST = 1e-250
"""Where the best text's own share of the messages is smaller, float64 has no room left for what matters."""


@dataclass(frozen=True, kw_only=True, eq=False)
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

    @cached_property
    def between(self) -> Bool[np.ndarray, "L1 S"]:
        """The states in front of every column that lie on a way from the start to a goal."""
        from quicksilver.constraints import kernels

        trellis, pairs = self.trellis, self.trellis.outward
        return kernels.states_between(
            self.start, self.goals, self.kinds, trellis.has_class, pairs.first, pairs.other, pairs.sets
        )

    def weights(self, per_set: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "L K"]:
        """Logarithmic weights of all columns: of open ones those given, of a fixed one whether its class fits."""
        from quicksilver.constraints import kernels

        return kernels.weights_of_columns(per_set, self.rows, self.kinds, self.trellis.has_class)


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

    @classmethod
    def of(
        cls,
        trellis: Trellis,
        states: Int[np.ndarray, " L1"],
        places: Int[np.ndarray, " L"],
        kinds: Int[np.ndarray, " L"],
    ) -> "Text":
        """With the tokens of its places."""
        token_ids = np.where(places == NO_TOKEN, NO_TOKEN, trellis.token_ids[places])
        return cls(token_ids=token_ids, places=places, kinds=kinds, states=states)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posterior:
    """What the automaton makes of the columns' distributions."""

    log_share: Float[np.ndarray, "L C"]
    """Added to a token's logit (at the temperature) it gives the logarithm of its probability. Of open columns."""
    log_backward: Float[np.ndarray, "L1 S"]
    """Weight of all ways from a state in front of a column to a goal, up to a constant per column."""
    weights: Float[np.ndarray, "L K"]


def best_text(problem: Problem, scores: ClassScores) -> Text | None:
    """The text of greatest summed logits; None where no text fits.

    Among equal ones that with the lowest token id in the first column in which they differ.
    """
    from quicksilver.constraints import kernels

    trellis, pairs = problem.trellis, problem.trellis.outward
    if not problem.between[0, problem.start]:
        return None
    weights = problem.weights(kernels.greatest_of_sets(scores.greatest, trellis.first_member, trellis.member_class))
    backward = kernels.sweep_greatest(weights, problem.between, pairs.first, pairs.other, pairs.sets)
    found = kernels.trace_greatest(
        weights, backward, problem.start, problem.rows, problem.kinds, pairs.first, pairs.other, pairs.sets,
        scores.values, scores.greatest, trellis.token_ids, trellis.first_token, trellis.first_member,
        trellis.member_class,
    )  # fmt: skip
    return Text.of(trellis, *found)


def posterior_of(problem: Problem, totals: Float[np.ndarray, "N C"], best: Text) -> Posterior:
    """The exact posterior.

    Args:
        problem: with a text that fits.
        totals: ``ClassScores.totals``, at any temperature.
        best: the best text by the logits of the same rows; says whether plain probabilities have room enough.
    """
    from quicksilver.constraints import kernels

    trellis = problem.trellis
    weights = problem.weights(kernels.totals_of_sets(totals, trellis.first_member, trellis.member_class))
    top = weights.max(axis=1, keepdims=True)
    plain = np.exp(weights - top)
    forward, backward = _messages(kernels.sweep_plain, problem, plain)
    if not _has_room(forward, backward, best):
        return _in_logs(problem, weights)
    share = _shares(kernels.shares_of_classes, problem, forward, backward, plain)
    with np.errstate(divide="ignore"):
        return Posterior(log_share=np.log(share) - top, log_backward=np.log(backward), weights=weights)


def _has_room(forward: Float[np.ndarray, "L1 S"], backward: Float[np.ndarray, "L1 S"], best: Text) -> bool:
    at = np.arange(len(best.states))
    return bool((forward[at, best.states] * backward[at, best.states] > FAINTEST).all())


def _in_logs(problem: Problem, weights: Float[np.ndarray, "L K"]) -> Posterior:
    """The same by logarithms throughout: slower, and of any range."""
    from quicksilver.constraints import kernels

    forward, backward = _messages(kernels.sweep_logs, problem, weights)
    share = _shares(kernels.log_shares_of_classes, problem, forward, backward, weights)
    return Posterior(log_share=share, log_backward=backward, weights=weights)


def _messages(
    sweep: Callable[..., Float[np.ndarray, "L1 S"]], problem: Problem, weights: Float[np.ndarray, "L K"]
) -> tuple[Float[np.ndarray, "L1 S"], Float[np.ndarray, "L1 S"]]:
    """Of all ways from the start to every state in front of a column, and of all from there to a goal."""
    into, out = problem.trellis.inward, problem.trellis.outward
    return (
        sweep(weights, problem.between, into.first, into.other, into.sets, False),
        sweep(weights, problem.between, out.first, out.other, out.sets, True),
    )


def _shares(
    kernel: Callable[..., Float[np.ndarray, "L C"]],
    problem: Problem,
    forward: Float[np.ndarray, "L1 S"],
    backward: Float[np.ndarray, "L1 S"],
    weights: Float[np.ndarray, "L K"],
) -> Float[np.ndarray, "L C"]:
    trellis, out = problem.trellis, problem.trellis.outward
    return kernel(
        forward, backward, weights, out.first, out.other, out.sets, trellis.first_member, trellis.member_class,
        trellis.num_classes,
    )  # fmt: skip


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
    from quicksilver.constraints import kernels

    trellis, pairs = problem.trellis, problem.trellis.outward
    found = kernels.sample_columns(
        posterior.weights, posterior.log_backward, problem.start, problem.rows, problem.kinds, uniforms,
        pairs.first, pairs.other, pairs.sets, scores.values, scores.parts, totals, scores.temperature,
        trellis.first_token, trellis.first_member, trellis.member_class,
    )  # fmt: skip
    return Text.of(trellis, *found)
