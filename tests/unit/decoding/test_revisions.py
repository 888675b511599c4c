"""Revisions: what is known later changes what was written earlier, within bounds, and never breaks a constraint."""

from dataclasses import replace

import pytest
import torch

from quicksilver.decoding import (
    REVISION_NAMES,
    ConfidenceThreshold,
    Edit,
    FixedCount,
    FixedSteps,
    Hole,
    JointThreshold,
    MaskAndRepredict,
    RandomRemasks,
    Remask,
    RemaskRate,
    ReMDM,
    Result,
    Revising,
    SamplingParams,
    Text,
    TokenEdits,
    final_result,
    generate,
    infill,
    make_policy,
)
from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec
from quicksilver.errors import ConfigError
from tests.automata import automaton_of_texts
from tests.fakes import SPECIAL, HashDenoiser, UniformDenoiser, fake_spec

VOCAB = 20
FIRST, WRONG, RIGHT, THIRD, FOURTH, FIFTH, OTHER_THIRD = 10, 11, 12, 13, 14, 15, 16
BEFORE = 17
HOLE = (Text(token_ids=(BEFORE,)), Hole(length=5), Text(token_ids=(18,)))


class KnowsTheSecondByTheFifth:
    """Sure of all but the fifth token; sees that the second is wrong once the fifth stands there."""

    def __call__(self, token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
        rows = [(FIRST, 0.97), (WRONG, 0.95), (THIRD, 0.95), (FOURTH, 0.96), (FIFTH, 0.6)]
        start = token_ids.tolist().index(BEFORE) + 1
        if token_ids[start + 4] == FIFTH:
            rows[1], rows[2], rows[4] = (RIGHT, 0.999), (THIRD, 0.6), (FIFTH, 0.97)
            if token_ids[start + 1] == RIGHT:
                rows[2] = (OTHER_THIRD, 0.99)
        logits = torch.zeros(len(token_ids), VOCAB)
        for position, (token, probability) in enumerate(rows, start):
            logits[position] = torch.tensor((1 - probability) / (VOCAB - 1)).log()
            logits[position, token] = torch.tensor(probability).log()
        return logits


def fill(revision: str, denoiser=None, hole: Hole | None = None, **params) -> tuple[Result, list]:
    policy = make_policy("confidence_threshold", revision=revision)
    template = HOLE if hole is None else (HOLE[0], hole, HOLE[2])
    events = list(
        infill(denoiser or KnowsTheSecondByTheFifth(), fake_spec(), template, SamplingParams(policy=policy, **params))
    )
    return final_result(events), events


def test_the_second_token_is_mended_when_the_fifth_is_known() -> None:
    kept, _ = fill("none")
    assert kept.holes == ((FIRST, WRONG, THIRD, FOURTH, FIFTH),)
    assert kept.nfe == 2
    edited, events = fill("edit")
    assert edited.holes == ((FIRST, RIGHT, OTHER_THIRD, FOURTH, FIFTH),)
    assert [(event.start, event.token_ids) for event in events if isinstance(event, Edit)] == [
        (1, (RIGHT,)),
        (2, (OTHER_THIRD,)),
    ]
    remasked, events = fill("remask")
    assert remasked.holes == edited.holes
    assert [(event.start, event.stop) for event in events if isinstance(event, Remask)] == [(1, 2), (2, 3)]
    assert remasked.num_edits == 0


@pytest.mark.parametrize("revision", ["edit", "remask"])
def test_under_a_constraint_tokens_change_together(revision) -> None:
    """The second alone may not change: one step replaces it and the third, which alone would stay."""
    texts = [(FIRST, WRONG, THIRD, FOURTH, FIFTH), (FIRST, RIGHT, OTHER_THIRD, FOURTH, FIFTH)]
    automaton = automaton_of_texts(texts, VOCAB, eos_id=SPECIAL.eos)
    kept, _ = fill("none", hole=Hole(length=5, constraint=automaton))
    assert kept.holes == (texts[0],)
    changed, events = fill(revision, hole=Hole(length=5, constraint=automaton))
    assert changed.holes == (texts[1],)
    starts = [(event.start, event.start + 2) for event in events if isinstance(event, Edit)]
    starts += [(event.start, event.stop) for event in events if isinstance(event, Remask)]
    assert starts == [(1, 3)]


@pytest.mark.parametrize("name", REVISION_NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_a_constraint_holds_through_every_revision(name, seed) -> None:
    texts = [(10, 11, 12, 13), (10, 12, 11, 13), (14, 11, 12, 15), (14, 15, 15, 15)]
    automaton = automaton_of_texts(texts, VOCAB, eos_id=SPECIAL.eos)
    policy = make_policy("fixed_steps", steps=3, revision=name)
    if isinstance(policy, Revising) and isinstance(policy.revision, TokenEdits | MaskAndRepredict):
        policy = replace(policy, revision=replace(policy.revision, threshold=0.1))
    if isinstance(policy, Revising) and isinstance(policy.revision, RandomRemasks):
        policy = replace(policy, revision=replace(policy.revision, eta=0.7))
    params = SamplingParams(policy=policy, temperature=1.0, seed=seed)
    template = (HOLE[0], Hole(length=4, constraint=automaton), HOLE[2])
    result = final_result(infill(HashDenoiser(VOCAB, seed=seed), fake_spec(), template, params))
    assert result.holes[0] in texts


class WritesTens:
    """10 everywhere, with the same confidence."""

    def __call__(self, token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(token_ids.shape[0], VOCAB).index_fill(1, torch.tensor([10]), 1.0)


class Contradicts:
    """Wants 11 where 10 stands and the other way round, for ever; writes 10 at masks."""

    def __call__(self, token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(token_ids.shape[0], VOCAB)
        for position, token in enumerate(token_ids.tolist()):
            logits[position, 11 if token == 10 else 10] = 10.0
        return logits


def test_a_circle_of_masks_is_noticed() -> None:
    revision = MaskAndRepredict(max_changes=1000, max_post_steps=1000)
    policy = Revising(unmasking=ConfidenceThreshold(), revision=revision)
    result = final_result(generate(Contradicts(), fake_spec(), (), SamplingParams(policy=policy, max_tokens=4)))
    assert result.nfe == 3  # written, masks again, written as before
    assert result.holes == ((10, 10, 10, 10),)


@pytest.mark.parametrize("max_changes", [0, 1, 3])
def test_changes_of_a_position_are_limited(max_changes) -> None:
    revision = RandomRemasks(eta=1.0, rate=RemaskRate.RESCALE, max_changes=max_changes)
    policy = Revising(unmasking=FixedCount(), revision=revision)
    events = list(generate(WritesTens(), fake_spec(), (), SamplingParams(policy=policy, max_tokens=4)))
    remasked = [offset for event in events if isinstance(event, Remask) for offset in range(event.start, event.stop)]
    assert all(remasked.count(offset) <= max_changes for offset in range(4))
    assert bool(remasked) == (max_changes > 0)


def test_remasks_end_with_the_last_mask() -> None:
    """As in ReMDM the step that unmasks everything remasks nothing."""
    policy = Revising(unmasking=FixedSteps(steps=1), revision=RandomRemasks(eta=1.0))
    params = SamplingParams(policy=policy, max_tokens=4)
    assert final_result(generate(WritesTens(), fake_spec(), (), params)).nfe == 1


def test_names_and_what_the_checkpoint_asks_for() -> None:
    defaults = DecodingDefaults(revision="edit", edit_threshold=0.8, max_edits=3, max_post_steps=2)
    edits = TokenEdits(threshold=0.8, max_changes=3, max_post_steps=2)
    plain = ConfidenceThreshold(threshold=defaults.threshold)
    assert make_policy("confidence_threshold", defaults=defaults) == Revising(unmasking=plain, revision=edits)
    assert make_policy("confidence_threshold", revision="none", defaults=defaults) == plain
    assert make_policy("joint_threshold", revision="none", defaults=defaults) == plain
    assert isinstance(make_policy("joint_threshold", defaults=defaults), JointThreshold)
    assert make_policy("fixed_steps", steps=3, revision="remask", defaults=defaults) == Revising(
        unmasking=FixedSteps(steps=3),
        revision=MaskAndRepredict(threshold=0.8, max_changes=3, max_post_steps=2),
    )
    assert make_policy("fixed_steps", revision="remdm_conf").revision == RandomRemasks(eta=1.0, by_confidence=True)
    assert isinstance(make_policy("remdm", defaults=defaults), ReMDM)


def test_joint_threshold_is_its_two_parts() -> None:
    params = {"max_tokens": 12, "temperature": 1.0}
    joint = JointThreshold(threshold=0.3, edit_threshold=0.2)
    parts = Revising(unmasking=ConfidenceThreshold(threshold=0.3), revision=TokenEdits(threshold=0.2))
    for seed in range(5):
        runs = [
            list(generate(HashDenoiser(VOCAB), fake_spec(), (12,), SamplingParams(policy=each, seed=seed, **params)))
            for each in (joint, parts)
        ]
        assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: make_policy("fixed_steps", revision="rewrite"), "no revision 'rewrite'"),
        (lambda: make_policy("remdm", revision="none"), "leave revision out"),
        (lambda: make_policy("renoise", revision="edit"), "leave revision out"),
        (lambda: make_policy("self_speculative", revision="edit"), "leave revision out"),
        (lambda: make_policy("fixed_steps", defaults=DecodingDefaults(revision="x")), "the checkpoint asks for"),
        (lambda: Revising(unmasking=JointThreshold(), revision=TokenEdits()), "takes no other revision"),
        (lambda: MaskAndRepredict(max_changes=None), "bounds the forwards"),
        (lambda: RandomRemasks(eta=2.0), "eta"),
        (lambda: TokenEdits(max_post_steps=0), "max_post_steps"),
    ],
)
def test_what_cannot_be(call, said) -> None:
    with pytest.raises(ConfigError, match=said):
        call()


def test_edits_need_a_checkpoint_that_saw_wrong_tokens() -> None:
    spec: DiffusionSpec = fake_spec(edit_rate=0.0)
    params = SamplingParams(policy=make_policy("fixed_steps", revision="edit"))
    with pytest.raises(ConfigError, match="never saw wrong ones"):
        final_result(generate(UniformDenoiser(VOCAB), spec, (10,), params))
    params = replace(params, policy=make_policy("fixed_steps", revision="remdm_cap"), max_tokens=2)
    assert final_result(generate(WritesTens(), spec, (10,), params)).holes == ((10, 10),)
