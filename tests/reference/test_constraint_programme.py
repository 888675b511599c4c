"""The compiled programmes against matrices over all states, on automata too large to enumerate texts of."""

import random

import numpy as np
import pytest
import torch

from quicksilver.constraints.lattice import NO_TOKEN, Lattice
from quicksilver.constraints.programme import NO_ROW, Problem, _in_logs, best_text, posterior_of, sample_text
from quicksilver.constraints.scores import ClassScores
from tests.automata import random_automaton

EOS, VOCAB_SIZE, LENGTH = 0, 60, 24


class Dense:
    """Every column as a matrix from states to states, by the lattice's own steps, token by token."""

    def __init__(self, seed: int, spread: float) -> None:
        rng = random.Random(seed)
        automaton = random_automaton(rng, VOCAB_SIZE, 12, eos_id=EOS, density=0.6, num_kinds=9)
        self.lattice = Lattice(automaton, eos_id=EOS, never=frozenset({7}), ends=frozenset(), has_end=True)
        assert len(self.lattice.lengths(LENGTH)) > 5
        trellis = self.lattice.trellis(self.lattice.start, LENGTH)
        self.fixed = {3: self.token_at(rng, 3)}
        rows = np.full(LENGTH, NO_ROW)
        self.open = [column for column in range(LENGTH) if column not in (*self.fixed, 5)]
        rows[self.open] = np.arange(len(self.open))
        self.logits = torch.randn(len(self.open), VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * spread
        self.goals = self.lattice.distance <= 1
        kinds = np.full(LENGTH, -1)
        for column, token in self.fixed.items():
            kinds[column] = trellis.class_of_token(token)
        self.problem = Problem(
            trellis=trellis,
            start=trellis.state(self.lattice.start),
            goals=self.goals[trellis.states],
            kinds=kinds,
            rows=rows,
        )

    def token_at(self, rng: random.Random, column: int) -> int:
        """One that may stand in a column."""
        texts = ([*[NO_TOKEN] * column, token, *[NO_TOKEN] * (LENGTH - column - 1)] for token in range(1, VOCAB_SIZE))
        return rng.choice([text[column] for text in texts if self.lattice.has_text(text)])

    def edges(self, column: int, temperature: float) -> list[tuple[int, int, int, float]]:
        """State, token, next state and logarithmic weight. Any token may stand in column 5, each pair counted once."""
        found: dict[tuple[int, int, int], float] = {}
        for state in range(self.lattice.automaton.num_states):
            for token in range(VOCAB_SIZE):
                to = self.lattice.step(state, token)
                if to is None or self.lattice.distance[state] > 10**6 or self.lattice.distance[to] > 10**6:
                    continue
                if column in self.fixed:
                    if token == self.fixed[column]:
                        found[state, token, to] = 0.0
                elif column in self.open:
                    found[state, token, to] = float(self.logits[self.open.index(column), token]) / temperature
                else:
                    found[state, -1, to] = 0.0
        return [(*key, weight) for key, weight in found.items()]

    def messages(self, plus, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        states = self.lattice.automaton.num_states
        forward, backward = np.full((LENGTH + 1, states), -np.inf), np.full((LENGTH + 1, states), -np.inf)
        forward[0, self.lattice.start] = 0.0
        backward[LENGTH, self.goals] = 0.0
        for column in range(LENGTH):
            for state, _, to, weight in self.edges(column, temperature):
                forward[column + 1, to] = plus(forward[column + 1, to], forward[column, state] + weight)
        for column in reversed(range(LENGTH)):
            for state, _, to, weight in self.edges(column, temperature):
                backward[column, state] = plus(backward[column, state], weight + backward[column + 1, to])
        return forward, backward


@pytest.mark.parametrize(("seed", "spread"), [(0, 1.0), (1, 5.0), (2, 60.0)])
def test_the_best_text_has_the_greatest_sum(seed, spread):
    dense = Dense(seed, spread)
    _, backward = dense.messages(max)
    best = best_text(dense.problem, ClassScores.of(dense.problem.trellis, dense.logits))
    found = sum(float(dense.logits[row, best.token_ids[column]]) for row, column in enumerate(dense.open))
    assert found == pytest.approx(backward[0, dense.lattice.start], rel=1e-6)
    text = [dense.fixed.get(column, int(best.token_ids[column])) for column in range(LENGTH)]
    assert dense.lattice.walk(text[:5], dense.lattice.start) is not None


@pytest.mark.parametrize(("seed", "spread", "temperature"), [(3, 1.0, 1.0), (4, 5.0, 0.7), (5, 60.0, 1.5)])
def test_posteriors_are_those_of_the_matrices(seed, spread, temperature):
    dense = Dense(seed, spread)
    forward, backward = dense.messages(np.logaddexp, temperature)
    evidence = backward[0, dense.lattice.start]
    scores = ClassScores.of(dense.problem.trellis, dense.logits).tempered(temperature)
    fast = posterior_of(dense.problem, scores.totals(), best_text(dense.problem, scores))
    slow = _in_logs(dense.problem, fast.weights)
    for row, column in enumerate(dense.open):
        expected = np.zeros(VOCAB_SIZE)
        for state, token, to, weight in dense.edges(column, temperature):
            expected[token] += np.exp(forward[column, state] + weight + backward[column + 1, to] - evidence)
        assert expected.sum() == pytest.approx(1)
        for found in (fast, slow):
            kinds = [dense.problem.trellis.class_of_token(token) for token in range(VOCAB_SIZE)]
            share = np.array([found.log_share[column, kind] if kind >= 0 else -np.inf for kind in kinds])
            assert np.exp(share + dense.logits[row].double().numpy() / temperature) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_samples_fit_and_have_the_posterior_of_every_column(temperature):
    """2,000 samples: 5 standard deviations of each token's frequency."""
    dense, count = Dense(6, 3.0), 2000
    scores = ClassScores.of(dense.problem.trellis, dense.logits).tempered(temperature)
    totals = scores.totals()
    posterior = posterior_of(dense.problem, totals, best_text(dense.problem, scores))
    drawn = np.zeros((LENGTH, VOCAB_SIZE))
    for uniforms in np.random.default_rng(6).random((count, LENGTH, 3)):
        text = sample_text(dense.problem, scores, totals, posterior, uniforms)
        assert dense.problem.goals[text.states[-1]]
        for column in dense.open:
            drawn[column, text.token_ids[column]] += 1
    for row, column in enumerate(dense.open):
        for token in range(VOCAB_SIZE):
            kind = dense.problem.trellis.class_of_token(token)
            share = posterior.log_share[column, kind] if kind >= 0 else -np.inf
            p = np.exp(share + float(dense.logits[row, token]) / temperature)
            assert abs(drawn[column, token] / count - p) < 5 * np.sqrt(p * (1 - min(p, 1)) / count) + 1 / count
