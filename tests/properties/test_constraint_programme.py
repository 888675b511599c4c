"""The programmes over columns against the enumeration of all texts."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.constraints.lattice import NO_TOKEN, Lattice
from quicksilver.constraints.programme import (
    NO_ROW,
    Problem,
    _in_logs,
    best_text,
    posterior_of,
    sample_text,
)
from quicksilver.constraints.scores import ClassScores
from quicksilver.errors import ConfigError
from tests.automata import automaton_of_texts, random_automaton

VOCAB_SIZE, EOS = 6, 0
NOTHING = frozenset()


class Case:
    """A random problem, and all its texts with their scores."""

    def __init__(self, seed: int, is_whole: bool = False) -> None:
        rng = random.Random(seed)
        self.rng = rng
        self.length = rng.randint(1, 4)
        self.automaton = random_automaton(
            rng, VOCAB_SIZE, rng.randint(1, 5), eos_id=EOS, density=rng.choice((0.4, 0.8))
        )
        never = frozenset({rng.randint(1, 5)}) if rng.random() < 0.3 else NOTHING
        has_end = rng.random() < 0.6
        try:
            self.lattice = Lattice(self.automaton, eos_id=EOS, never=never, ends=NOTHING, has_end=has_end)
        except ConfigError:  # nothing is left, or the empty text
            self.is_usable, self.texts = False, {}
            return
        logits = torch.tensor([[rng.gauss(0, 3) for _ in range(VOCAB_SIZE)] for _ in range(self.length)])
        # Whole numbers make ties.
        self.logits = logits.round() if is_whole else logits
        self.fixed = [rng.randrange(VOCAB_SIZE) if rng.random() < 0.25 else NO_TOKEN for _ in range(self.length)]
        self.goals = self.lattice.is_goal if not has_end else self.lattice.distance <= rng.choice((0, 1, 3))
        self.never = never
        self.trellis = self.lattice.trellis(self.lattice.start, self.length)
        open_columns = [column for column, token in enumerate(self.fixed) if token == NO_TOKEN]
        self.rows = np.full(self.length, NO_ROW)
        self.rows[open_columns] = np.arange(len(open_columns))
        self.open_columns = open_columns
        self.problem = Problem(
            trellis=self.trellis,
            start=self.trellis.state(self.lattice.start),
            goals=self.goals[self.trellis.states],
            kinds=np.array([self.trellis.class_of_token(token) if token != NO_TOKEN else -1 for token in self.fixed]),
            rows=self.rows,
        )
        self.texts = self.enumerate()
        fits = all(token == NO_TOKEN or self.trellis.class_of_token(token) >= 0 for token in self.fixed)
        self.is_usable = bool(open_columns) and fits

    def enumerate(self) -> dict[tuple[int, ...], float]:
        """Every text that fits, by the automaton's own ``step``."""
        found = {}
        for text in itertools.product(range(VOCAB_SIZE), repeat=self.length):
            if any(
                token not in (there, NO_TOKEN) and there != NO_TOKEN
                for token, there in zip(text, self.fixed, strict=True)
            ):
                continue
            if self.never & set(text):
                continue
            state = self.automaton.walk(text)
            if state is None or not self.goals[state]:
                continue
            if state != self.automaton.end and self.lattice.distance[state] == np.iinfo(np.int32).max:
                continue
            found[text] = sum(float(self.logits[column, text[column]]) for column in self.open_columns)
        return found

    def scores(self, temperature: float = 1.0) -> ClassScores:
        return ClassScores.of(self.trellis, self.logits[self.open_columns]).tempered(temperature)


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=400)
def test_the_best_text_is_the_best_and_the_lowest_of_equal_ones(seed, is_whole):
    case = Case(seed, is_whole)
    if not case.is_usable:
        return
    best = best_text(case.problem, case.scores())
    if not case.texts:
        assert best is None
        return
    most = max(case.texts.values())
    expected = min(text for text, score in case.texts.items() if score >= most - (0 if is_whole else 1e-9))
    assert [best.token_ids[column] for column in case.open_columns] == [expected[at] for at in case.open_columns]
    assert [case.trellis.class_of_token(expected[at]) for at in case.open_columns] == [
        best.kinds[at] for at in case.open_columns
    ]


@given(st.integers(0, 2**32), st.sampled_from((1.0, 0.5, 2.0)))
@settings(max_examples=400)
def test_posteriors_are_exact(seed, temperature):
    case = Case(seed)
    if not (case.is_usable and case.texts):
        return
    scores = case.scores(temperature)
    best = best_text(case.problem, scores)
    found = posterior_of(case.problem, scores.totals(), best)
    slow = _in_logs(case.problem, found.weights)
    weights = {text: math.exp(score / temperature) for text, score in case.texts.items()}
    evidence = sum(weights.values())
    for column in case.open_columns:
        for token in range(VOCAB_SIZE):
            expected = sum(weight for text, weight in weights.items() if text[column] == token) / evidence
            kind = case.trellis.class_of_token(token)
            for posterior in (found, slow):
                share = 0.0 if kind < 0 else posterior.log_share[column, kind]
                value = 0.0 if kind < 0 else math.exp(share + float(case.logits[column, token]) / temperature)
                assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_samples_have_the_frequencies_of_the_posterior(seed):
    """20,000 samples of at most a few hundred texts: 5 standard deviations of each frequency, fixed seeds."""
    case = Case(seed + 100)
    while not (case.is_usable and 1 < len(case.texts) < 200):
        seed += 1000
        case = Case(seed)
    temperature, count = 0.7, 4000
    scores = case.scores(temperature)
    totals, best = scores.totals(), best_text(case.problem, scores)
    posterior = posterior_of(case.problem, totals, best)
    uniforms = np.random.default_rng(seed).random((count, case.length, 3))
    drawn: dict[tuple[int, ...], int] = {}
    for each in uniforms:
        text = sample_text(case.problem, scores, totals, posterior, each)
        key = tuple(text.token_ids[column] for column in case.open_columns)
        drawn[key] = drawn.get(key, 0) + 1
    weights: dict[tuple[int, ...], float] = {}
    for text, score in case.texts.items():
        key = tuple(text[column] for column in case.open_columns)
        weights[key] = weights.get(key, 0.0) + math.exp(score / temperature)
    total = sum(weights.values())
    assert set(drawn) <= set(weights)
    for key, weight in weights.items():
        p = weight / total
        assert abs(drawn.get(key, 0) / count - p) < 5 * math.sqrt(p * (1 - p) / count) + 1 / count


def test_what_the_denoiser_thinks_impossible_is_written_all_the_same():
    """Forty columns whose only text has probability e^-100 each, beside one that fails at its end."""
    length, vocab_size = 40, 4
    automaton = automaton_of_texts([[1] * length, [2] * (length - 1) + [3]], vocab_size, EOS)
    lattice = Lattice(automaton, eos_id=EOS, never=NOTHING, ends=NOTHING, has_end=False)
    trellis = lattice.trellis(lattice.start, length)
    logits = torch.zeros(length - 1, vocab_size)
    logits[:, 1] = -100.0
    problem = Problem(
        trellis=trellis,
        start=trellis.state(lattice.start),
        goals=lattice.is_goal[trellis.states],
        kinds=np.array([-1] * (length - 1) + [trellis.class_of_token(1)]),
        rows=np.array([*range(length - 1), NO_ROW]),
    )
    scores = ClassScores.of(trellis, logits)
    best = best_text(problem, scores)
    posterior = posterior_of(problem, scores.totals(), best)
    assert best.token_ids[:-1].tolist() == [1] * (length - 1)
    probability = np.exp(posterior.log_share[np.arange(length - 1), best.kinds[:-1]] - 100.0)
    assert probability == pytest.approx(np.ones(length - 1))


def test_sums_of_classes_hold_over_any_range():
    rng = np.random.default_rng(3)
    automaton = random_automaton(random.Random(5), 40, 3, eos_id=EOS, density=0.9)
    lattice = Lattice(automaton, eos_id=EOS, never=NOTHING, ends=NOTHING, has_end=True)
    trellis = lattice.trellis(lattice.start, 3)
    for spread in (1.0, 50.0, 400.0):
        for temperature in (0.05, 1.0, 3.0):
            values = torch.tensor(rng.normal(0, spread, (5, 40)), dtype=torch.float32)
            found = ClassScores.of(trellis, values).tempered(temperature).totals()
            picked = values.double()[:, trellis.token_ids] / temperature
            bounds = itertools.pairwise(trellis.first_token)
            expected = torch.stack([picked[:, a:b].logsumexp(dim=1) for a, b in bounds], dim=1)
            assert found == pytest.approx(expected.numpy(), rel=1e-6, abs=1e-5)
