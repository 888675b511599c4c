"""What must hold for every policy, temperature, seed and denoiser."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.decoding import (
    POLICY_NAMES,
    Commit,
    ConfidenceThreshold,
    Done,
    Draft,
    DynamicFactor,
    Edit,
    Event,
    FinishReason,
    FixedSteps,
    Frame,
    Hole,
    JointThreshold,
    MaskAndRepredict,
    Policy,
    RandomRemasks,
    Remask,
    ReMDM,
    Renoise,
    Resize,
    Result,
    Revising,
    SamplingParams,
    State,
    StopRule,
    Text,
    TokenEdits,
    final_result,
    generate,
    infill,
    make_policy,
    select,
)
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from tests.fakes import SPECIAL, CountingDenoiser, HashDenoiser, fake_spec

VOCAB = 20
FIRST_TEXT_ID = 10

POLICIES = [make_policy(name) for name in POLICY_NAMES if name not in ("renoise", "remdm", "joint_threshold")] + [
    ConfidenceThreshold(threshold=0.3),
    DynamicFactor(factor=2.5),
    JointThreshold(threshold=0.3, edit_threshold=0.2, max_edits=3),
    Revising(unmasking=ConfidenceThreshold(threshold=0.3), revision=MaskAndRepredict(threshold=0.2, max_changes=3)),
    Revising(unmasking=FixedSteps(steps=3), revision=TokenEdits(threshold=0.1, max_changes=2, max_post_steps=2)),
    Revising(unmasking=DynamicFactor(factor=2.5), revision=RandomRemasks(eta=0.6)),
    ReMDM(steps=6, eta=0.4),
    ReMDM(steps=8, eta=0.5, by_confidence=True, loop=(0.3, 0.7)),
    Renoise(bound=0.5, steps=6),
]


def first(pair: tuple[int, float]) -> int:
    return pair[0]


def before_13(token_ids: Sequence[int]) -> int | None:
    """A stop rule: the response ends before its first 13."""
    return list(token_ids).index(13) if 13 in token_ids else None


policies = st.sampled_from(POLICIES)
temperatures = st.sampled_from([0.0, 0.7, 1.5])
seeds = st.integers(0, 2**32)
text_ids = st.lists(st.sampled_from([SPECIAL.mask, 10, 11, 12]), max_size=6)
biases = st.lists(st.tuples(st.sampled_from([SPECIAL.eos, 10, 11, 12]), st.floats(-8, 8)), max_size=3, unique_by=first)
adjustments = st.fixed_dictionaries(
    {},
    optional={
        "logit_bias": biases.map(tuple),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "presence_penalty": st.sampled_from([-1.0, 1.0]),
        "frequency_penalty": st.sampled_from([-1.0, 1.0]),
    },
)
"""Options of ``SamplingParams``; an absent one keeps its default."""


HoleKind = int | None | list[tuple[int, bool]]
"""A length, or a draft with frozen marks. A strategy must not build the Hole itself: its type checks draw randomly."""

hole_kinds = st.one_of(
    st.sampled_from([None, 1, 3]),
    st.lists(st.tuples(st.integers(FIRST_TEXT_ID, VOCAB - 1), st.booleans()), min_size=1, max_size=5),
)


def hole_of(kind: HoleKind, *, needs_length: bool) -> Hole:
    if isinstance(kind, list):
        return Hole(draft=tuple(token for token, _ in kind), frozen=tuple(is_frozen for _, is_frozen in kind))
    return Hole(length=2 if needs_length and kind is None else kind)


def spec_for(policy: Policy) -> DiffusionSpec:
    return fake_spec(Objective.UNIFORM if policy.starts_from_noise else Objective.MASK)


def replay(events: Iterable[Event], num_holes: int) -> tuple[list[list[int | None]], list[list[bool]]]:
    """What a client holds that applies the events in order: tokens (None is a mask) and finality per hole."""
    tokens: list[list[int | None]] = [[] for _ in range(num_holes)]
    final: list[list[bool]] = [[] for _ in range(num_holes)]
    for event in events:
        if isinstance(event, Resize):
            drop = max(-event.added, 0)
            tokens[event.hole][event.start : event.start + drop] = [None] * max(event.added, 0)
            final[event.hole][event.start : event.start + drop] = [False] * max(event.added, 0)
        elif isinstance(event, Draft | Edit):
            for offset, token in enumerate(event.token_ids, start=event.start):
                assert (tokens[event.hole][offset] is None) == isinstance(event, Draft)
                assert not final[event.hole][offset]
                tokens[event.hole][offset] = token
        elif isinstance(event, Remask):
            for offset in range(event.start, event.stop):
                assert tokens[event.hole][offset] is not None
                assert not final[event.hole][offset]
                tokens[event.hole][offset] = None
        elif isinstance(event, Commit):
            for offset in range(event.start, event.stop):
                assert tokens[event.hole][offset] is not None
                final[event.hole][offset] = True
    return tokens, final


def check_accounts(result: Result, denoiser: CountingDenoiser, events: list[Event]) -> None:
    assert result.nfe == denoiser.num_calls
    assert [event.nfe for event in events if isinstance(event, Frame)] == list(range(1, result.nfe + 1))
    assert not result.nfe or abs(result.tpf * result.nfe - len(result.token_ids)) < 1e-9
    assert isinstance(events[-1], Done)
    assert {entry.step for entry in result.trace} <= set(range(1, result.nfe + 1))
    assert all(token >= FIRST_TEXT_ID for token in result.token_ids)
    assert result.num_edits == sum(len(event.token_ids) for event in events if isinstance(event, Edit))


@settings(max_examples=25)
@given(
    policies,
    temperatures,
    seeds,
    text_ids,
    st.integers(1, 9),
    st.sampled_from([-4.0, 0.0]),
    adjustments,
    st.sampled_from([(), (15,), (15, 16)]),
    st.sampled_from([None, before_13]),
)
def test_generation(
    policy: Policy,
    temperature: float,
    seed: int,
    prompt: list[int],
    max_tokens: int,
    eos_bonus: float,
    options: dict[str, Any],
    stop_ids: tuple[int, ...],
    stop: StopRule | None,
) -> None:
    params = SamplingParams(
        policy=policy,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        vocab_size=VOCAB,
        stop_ids=stop_ids,
        stop=stop,
        **options,
    )
    denoiser = CountingDenoiser(HashDenoiser(VOCAB, seed % 97, bonus={SPECIAL.eos: eos_bonus}))
    events = list(generate(denoiser, spec_for(policy), prompt, params))
    result = final_result(events)
    check_accounts(result, denoiser, events)

    tokens, final = replay(events, 1)
    assert tokens[0] == list(result.token_ids)
    assert all(final[0])
    last = {entry.position: entry.token_id for entry in result.trace}
    assert [last[len(prompt) + offset] for offset in range(len(result.token_ids))] == list(result.token_ids)

    frames = [event for event in events if isinstance(event, Frame)]
    for frame in frames:
        assert list(frame.token_ids[: len(prompt)]) == prompt
        assert set(frame.state[: len(prompt)]) <= {State.PROMPT}
        assert State.PROMPT not in frame.state[len(prompt) :]
    for before, after in pairwise(frames):
        for position, state in enumerate(before.state):
            if state is State.FINAL:
                assert after.state[position] is State.FINAL
                assert after.token_ids[position] == before.token_ids[position]

    assert not set(result.token_ids) & set(stop_ids)
    assert stop is None or 13 not in result.token_ids
    if result.finish_reason is FinishReason.STOP:
        assert any(entry.token_id in (*stop_ids, *([13] if stop else [])) for entry in result.trace)

    num_blocks = -(-max_tokens // 4)
    assert result.nfe <= num_blocks * policy.max_steps(4)
    repeat = final_result(generate(denoiser, spec_for(policy), prompt, params))
    assert repeat == result


def is_subsequence(short: list[int], long: list[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


@settings(max_examples=25)
@given(
    policies,
    temperatures,
    seeds,
    st.lists(st.tuples(text_ids, hole_kinds), min_size=1, max_size=3),
    st.floats(-2.0, 4.0),
    adjustments,
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    st.sampled_from([None, None, 1, 2, 3]),
    st.sampled_from([None, before_13]),
)
def test_infill(
    policy: Policy,
    temperature: float,
    seed: int,
    parts: list[tuple[list[int], HoleKind]],
    bonus: float,
    options: dict[str, Any],
    draft_threshold: float,
    max_nfe: int | None,
    stop: StopRule | None,
) -> None:
    given_holes = [hole_of(kind, needs_length=policy.starts_from_noise) for _, kind in parts]
    template: list[Text | Hole] = []
    for (text, _), hole in zip(parts, given_holes, strict=True):
        template += [Text(token_ids=tuple(text)), hole]
    params = SamplingParams(
        policy=policy,
        temperature=temperature,
        seed=seed,
        vocab_size=VOCAB,
        draft_threshold=draft_threshold,
        max_nfe=max_nfe,
        stop=stop,
        **options,
    )
    denoiser = CountingDenoiser(HashDenoiser(VOCAB, seed % 97, bonus={SPECIAL.expand: bonus, SPECIAL.delete: bonus}))
    events = list(infill(denoiser, spec_for(policy), template, params))
    result = final_result(events)
    check_accounts(result, denoiser, events)

    tokens, final = replay(events, len(parts))
    assert tokens == [list(hole) for hole in result.holes]
    assert all(all(hole) for hole in final)
    assert max_nfe is None or result.nfe <= max_nfe
    for given_hole, hole in zip(given_holes, result.holes, strict=True):
        length = given_hole.known_length
        assert stop is None or 13 not in hole
        assert len(hole) == length if length and stop is None else len(hole) <= (length or 6)
        # A stop may end a hole before its draft does.
        marks = zip(hole, given_hole.draft or (), given_hole.frozen or (), strict=False)
        assert all(token == given for token, given, is_frozen in marks if is_frozen)

    given_ids = [SPECIAL.canvas] + [token for text, _ in parts for token in text]
    frames = [event for event in events if isinstance(event, Frame)]
    for frame in frames:
        prompt = [t for t, state in zip(frame.token_ids, frame.state, strict=True) if state is State.PROMPT]
        assert prompt == given_ids
    if stop is not None:
        assert final_result(infill(denoiser, spec_for(policy), template, params)) == result
        return
    for before, after in pairwise(frames):
        for hole in range(len(parts)):
            old, new = (
                [
                    token
                    for token, state, number in zip(frame.token_ids, frame.state, frame.hole, strict=True)
                    if state is State.FINAL and number == hole
                ]
                for frame in (before, after)
            )
            assert is_subsequence(old, new)
    assert final_result(infill(denoiser, spec_for(policy), template, params)) == result


@settings(max_examples=20)
@given(seeds, temperatures, st.integers(1, 8), st.integers(0, 7))
def test_selection_of_a_row_does_not_depend_on_the_batch(seed: int, temperature: float, count: int, row: int) -> None:
    row %= count
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, VOCAB, generator=random) * 3
    is_forbidden = torch.rand(count, VOCAB, generator=random) < 0.5
    is_forbidden[:, 3] = False

    def call(rows: slice) -> tuple[list[int], list[float], list[float]]:
        size = logits[rows].shape[0]
        found = select(
            logits[rows],
            is_forbidden=is_forbidden[rows],
            temperature=torch.full((size,), temperature),
            seed=torch.arange(count)[rows] + seed,
            positions=(torch.arange(count) * 5)[rows],
            step=torch.full((size,), 2),
        )
        return found.token_ids.tolist(), found.confidence.tolist(), found.entropy.tolist()

    alone, together = call(slice(row, row + 1)), call(slice(0, count))
    assert [values[0] for values in alone] == [values[row] for values in together]
    assert not is_forbidden[row, alone[0][0]]
