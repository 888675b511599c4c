"""Every vectorised rule against a plain loop over one row at a time, on thousands of random windows with ties."""

import math

import pytest
import torch

from quicksilver.decoding import (
    ConfidenceThreshold,
    DynamicFactor,
    EntropyBound,
    FixedCount,
    FixedSteps,
    Hierarchical,
    JointThreshold,
    MaskAndRepredict,
    Order,
    Policy,
    RandomRemasks,
    RemaskRate,
    ReMDM,
    Renoise,
    Revising,
    State,
    TokenEdits,
    Window,
    decide,
)
from quicksilver.diffusion.counter_rng import counter_uniform
from tests.fakes import random_window

NUM_ROWS = 50
NUM_WINDOWS = 12
"""600 rows per policy, of 1 to 12 positions."""


class Row:
    """One row of a window as Python lists."""

    def __init__(self, window: Window, row: int, draws: dict[int, list[list[float]]]) -> None:
        self.draws = {purpose: values[row] for purpose, values in draws.items()}
        self.token, self.candidate = window.token_ids[row].tolist(), window.candidate_ids[row].tolist()
        self.argmax, self.previous = window.argmax_ids[row].tolist(), window.previous_argmax_ids[row].tolist()
        self.state = window.state[row].tolist()
        self.confidence, self.margin = window.confidence[row].tolist(), window.margin[row].tolist()
        self.entropy, self.at_commit = window.entropy[row].tolist(), window.commit_confidence[row].tolist()
        self.edits, self.position = window.num_edits[row].tolist(), window.positions[row].tolist()
        self.seed, self.step = int(window.seed[row]), int(window.step[row])
        self.post_steps = int(window.num_post_steps[row])
        self.width = len(self.state)
        self.masks = [i for i in range(self.width) if self.state[i] == State.MASK]
        self.drafts = [i for i in range(self.width) if self.state[i] == State.DRAFT]


def f32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def ranked(row: Row, score: list[float], among: list[int]) -> list[int]:
    return sorted(among, key=lambda i: (-score[i], i))


def naive_threshold(row: Row, threshold: float) -> set[int]:
    chosen = {i for i in row.masks if row.confidence[i] >= f32(threshold)}
    if not chosen and row.masks:
        chosen = {ranked(row, row.confidence, row.masks)[0]}
    return chosen


def naive_factor(row: Row, factor: float) -> set[int]:
    order = ranked(row, row.confidence, row.masks)
    count = 0
    for n, i in enumerate(order, start=1):
        bound = float(1 - torch.tensor(factor, dtype=torch.float32) / (n + 1))
        if n > 1 and row.confidence[i] < bound:
            break
        count = n
    return set(order[:count])


def naive_entropy(row: Row, bound: float, among: list[int]) -> set[int]:
    chosen, total = set(), 0.0
    for i in ranked(row, [-h for h in row.entropy], among):
        if total > f32(bound):
            break
        chosen.add(i)
        total += row.entropy[i]
    return chosen


def naive_hierarchical(row: Row, low: float, high: float) -> set[int]:
    chosen = {i for i in row.masks if row.confidence[i] >= f32(high)}
    run: list[int] = []
    for i in range(row.width + 1):
        if i in row.masks:
            run.append(i)
        elif run:
            best = ranked(row, row.confidence, run)[0]
            if row.confidence[best] >= f32(low):
                chosen.add(best)
            run = []
    return chosen | set(ranked(row, row.confidence, row.masks)[:1])


def naive(policy: Policy, row: Row) -> tuple[set[int], set[int], set[int], bool]:
    """Commit, edit, remask, settled; written from the papers' rules, not from the vectorised code."""
    if isinstance(policy, JointThreshold):
        edit = {
            i
            for i in row.drafts
            if row.candidate[i] != row.token[i]
            and row.confidence[i] >= f32(policy.edit_threshold)
            and row.edits[i] < policy.max_edits
        }
        is_done = not row.masks and (not edit or row.post_steps + 1 >= policy.max_post_steps)
        return naive_threshold(row, policy.threshold), edit, set(), is_done
    if isinstance(policy, Revising):
        return naive_revising(policy, row)
    if isinstance(policy, Renoise):
        return naive_renoise(policy, row)
    if isinstance(policy, ReMDM):
        return naive_remdm(policy, row)
    commit = naive_commit(policy, row)
    return commit, set(), set(), commit == set(row.masks)


def naive_revising(policy: Revising, row: Row) -> tuple[set[int], set[int], set[int], bool]:
    commit, rule = naive_commit(policy.unmasking, row), policy.revision
    if isinstance(rule, RandomRemasks):
        count = len(row.masks) + len(row.drafts)
        now, after = len(row.drafts) / max(count, 1), (len(row.drafts) + len(commit)) / max(count, 1)
        base = remask_limit(now, after, rule.eta, rule.rate)
        total = sum(math.exp(-row.at_commit[i]) for i in row.drafts)
        remask = set()
        for i in row.drafts:
            sigma = base * math.exp(-row.at_commit[i]) / total if rule.by_confidence else base
            if row.draws[4][i] < sigma and row.edits[i] < rule.max_changes and commit != set(row.masks):
                remask.add(i)
        return commit, set(), remask, commit == set(row.masks)
    suspects = {
        i
        for i in row.drafts
        if row.candidate[i] != row.token[i]
        and row.confidence[i] >= f32(rule.threshold)
        and row.edits[i] < rule.max_changes
    }
    is_last = row.post_steps + 1 >= rule.max_post_steps
    if isinstance(rule, TokenEdits):
        return commit, suspects, set(), not row.masks and (not suspects or is_last)
    if is_last and not row.masks:
        suspects = set()
    return commit, set(), suspects, not row.masks and not suspects


def remask_limit(now: float, after: float, eta: float, rate: RemaskRate) -> float:
    limit = 1.0 if now == 0 else min(1.0, max(0.0, (1 - after) / now))
    return f32(eta) * limit if rate is RemaskRate.RESCALE else min(f32(eta), limit)


def naive_commit(policy: Policy, row: Row) -> set[int]:
    if isinstance(policy, ConfidenceThreshold):
        return naive_threshold(row, policy.threshold)
    if isinstance(policy, DynamicFactor):
        return naive_factor(row, policy.factor)
    if isinstance(policy, EntropyBound):
        return naive_entropy(row, policy.bound, row.masks)
    if isinstance(policy, Hierarchical):
        return naive_hierarchical(row, policy.low, policy.threshold)
    if isinstance(policy, FixedSteps):
        left = max(policy.steps - row.step, 1)
        return set(ranked(row, row.confidence, row.masks)[: max(math.ceil(len(row.masks) / left), 1)])
    assert isinstance(policy, FixedCount)
    if policy.order is Order.RANDOM:
        score = row.draws[2]
    else:
        score = row.confidence if policy.order is Order.CONFIDENCE else row.margin
    return set(ranked(row, score, row.masks)[: policy.tokens_per_step])


def naive_renoise(policy: Renoise, row: Row) -> tuple[set[int], set[int], set[int], bool]:
    among = row.masks + row.drafts
    stable = all(row.argmax[i] == row.previous[i] for i in among)
    mean = sum(row.entropy[i] for i in among) / max(len(among), 1)
    done = (stable and mean < f32(policy.settle_entropy)) or row.step + 1 >= policy.steps
    accept = naive_entropy(row, policy.bound, among)
    written = row.argmax if done else row.candidate
    if done:
        accept = set(among)
    edit = {i for i in row.drafts if i in accept and written[i] != row.token[i]}
    return accept & set(row.masks), edit, set(row.drafts) - accept, done


def alpha(policy: ReMDM, progress: float) -> float:
    if policy.loop is None:
        return progress
    start, stop = policy.loop
    if progress < start:
        return policy.loop_alpha * progress / start
    if progress < stop:
        return policy.loop_alpha
    return policy.loop_alpha + (1 - policy.loop_alpha) * (progress - stop) / (1 - stop)


def naive_remdm(policy: ReMDM, row: Row) -> tuple[set[int], set[int], set[int], bool]:
    now, after = row.step / policy.steps, (row.step + 1) / policy.steps
    is_last = row.step + 1 >= policy.steps
    alpha_t, alpha_s = alpha(policy, now), alpha(policy, after)
    limit = 1.0 if alpha_t == 0 else min(1.0, max(0.0, (1 - alpha_s) / alpha_t))
    base = policy.eta * limit if policy.rate is RemaskRate.RESCALE else min(policy.eta, limit)
    if is_last or (policy.loop is not None and not policy.loop[0] <= now < policy.loop[1]):
        base = 0.0
    total = sum(math.exp(-row.at_commit[i]) for i in row.drafts)
    commit, remask = set(), set()
    unmask_chance, remask_chance = row.draws[3], row.draws[4]
    for i in row.masks:
        sigma = 0.0 if policy.by_confidence else base
        unmask = 1.0 if is_last else (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        if unmask_chance[i] < unmask:
            commit.add(i)
    for i in row.drafts:
        sigma = base * math.exp(-row.at_commit[i]) / total if policy.by_confidence else base
        if remask_chance[i] < sigma:
            remask.add(i)
    if not commit and row.masks:
        commit = {ranked(row, row.confidence, row.masks)[0]}
    return commit, set(), remask, is_last


POLICIES: list[Policy] = [
    ConfidenceThreshold(threshold=0.0),
    ConfidenceThreshold(threshold=0.75),
    ConfidenceThreshold(threshold=1.1),
    DynamicFactor(factor=0.0),
    DynamicFactor(factor=0.7),
    DynamicFactor(factor=1.6),
    EntropyBound(bound=0.0),
    EntropyBound(bound=0.1),
    EntropyBound(bound=0.7),
    Hierarchical(low=0.4, threshold=0.9),
    Hierarchical(low=0.8, threshold=0.95),
    FixedSteps(steps=1),
    FixedSteps(steps=5),
    FixedCount(order=Order.CONFIDENCE, tokens_per_step=2),
    FixedCount(order=Order.MARGIN, tokens_per_step=1),
    FixedCount(order=Order.RANDOM, tokens_per_step=3),
    JointThreshold(threshold=0.7, edit_threshold=0.5),
    JointThreshold(threshold=0.9, edit_threshold=0.0, max_edits=1, max_post_steps=2),
    Renoise(bound=0.3, settle_entropy=0.11, steps=7),
    Renoise(bound=0.1, steps=48),
    Revising(unmasking=ConfidenceThreshold(threshold=0.6), revision=TokenEdits(threshold=0.3, max_changes=3)),
    Revising(unmasking=FixedSteps(steps=5), revision=MaskAndRepredict(threshold=0.4, max_post_steps=2)),
    Revising(unmasking=EntropyBound(bound=0.1), revision=MaskAndRepredict(threshold=0.0, max_changes=1)),
    Revising(unmasking=FixedCount(tokens_per_step=2), revision=RandomRemasks(eta=0.4)),
    Revising(unmasking=FixedSteps(steps=4), revision=RandomRemasks(eta=0.8, rate=RemaskRate.RESCALE, max_changes=3)),
    Revising(unmasking=FixedSteps(steps=4), revision=RandomRemasks(eta=1.0, by_confidence=True)),
    ReMDM(steps=16, eta=0.3),
    ReMDM(steps=7, eta=0.9, rate=RemaskRate.RESCALE),
    ReMDM(steps=9, eta=0.9, by_confidence=True),
    ReMDM(steps=12, eta=0.4, loop=(0.3, 0.6), loop_alpha=0.8),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_vectorised_policy_equals_a_plain_loop(policy: Policy) -> None:
    for index in range(NUM_WINDOWS):
        window = random_window(seed=index, num_rows=NUM_ROWS, width=1 + index % 12)
        decision = decide(window, [policy] * NUM_ROWS)
        key = (window.seed[:, None], window.positions, window.step[:, None])
        draws = {purpose: counter_uniform(purpose, *key).tolist() for purpose in (2, 3, 4)}
        for number in range(NUM_ROWS):
            row = Row(window, number, draws)
            commit, edit, remask, is_settled = naive(policy, row)
            assert set(decision.commit[number].nonzero()[:, 0].tolist()) == commit
            assert set(decision.edit[number].nonzero()[:, 0].tolist()) == edit
            assert set(decision.remask[number].nonzero()[:, 0].tolist()) == remask
            assert bool(decision.is_settled[number]) == is_settled
            assert commit or not row.masks or policy.starts_from_noise


def test_rows_with_different_policies_decide_as_if_alone() -> None:
    for index in range(6):
        window = random_window(seed=1000 + index, num_rows=30, width=9)
        policies = [POLICIES[(7 * index + 5 * number) % len(POLICIES)] for number in range(30)]
        together = decide(window, policies)
        for number, policy in enumerate(policies):
            alone = decide(window.rows(torch.tensor([number])), [policy])
            for name in ("commit", "edit", "remask", "is_settled"):
                assert torch.equal(getattr(together, name)[number], getattr(alone, name)[0])
