"""The likeliest tokens beside each written one: ranked by hand, and through resizes, edits, remasks, drafts, stops."""

import math

import pytest
import torch

from quicksilver.decoding import (
    Adjustments,
    Canvas,
    ConfidenceThreshold,
    Hole,
    JointThreshold,
    ReMDM,
    Result,
    SamplingParams,
    State,
    Text,
    adjust,
    final_result,
    generate,
    generate_autoregressive,
    infill,
    select,
)
from quicksilver.decoding.alternatives import Alternatives, ranked
from quicksilver.decoding.selection import likeliest_tokens
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from tests.fakes import SPECIAL, CountingDenoiser, HashDenoiser, fake_spec

VOCAB = 24
TEXT = range(10, VOCAB)
REVISING = [ReMDM(steps=6, eta=0.5), JointThreshold(threshold=0.2, edit_threshold=0.15, max_edits=3)]


@pytest.mark.parametrize(("vocab_size", "count"), [(1, 3), (8, 5), (70, 20), (70, 70)])
def test_selection_ranks_the_softmax_by_hand(vocab_size: int, count: int) -> None:
    """Few different values, so that ties are common, also at the last place."""
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randint(-3, 12, (50, vocab_size), generator=generator) / 4.0
    is_forbidden = torch.rand(50, vocab_size, generator=generator) < 0.3
    is_withheld = torch.rand(50, vocab_size, generator=generator) < 0.1
    is_forbidden[:, 0] = is_withheld[:, 0] = False
    rows = torch.arange(50)
    changes = Adjustments(row=rows, token_ids=rows % vocab_size, penalty=torch.full((50,), 1.5), bias=torch.ones(50))
    rules = {"is_forbidden": is_forbidden, "is_withheld": is_withheld, "adjustments": changes}
    given = {name: torch.arange(50) for name in ("seed", "positions", "step")}
    found = select(logits, temperature=rows % 2 * 1.5, num_alternatives=count, **rules, **given).alternatives
    assert found is not None
    assert likeliest_tokens(logits, count, **rules).tokens() == found.tokens()
    for row, named in enumerate(found.tokens()):
        values = adjust(logits, changes)[row].tolist()
        allowed = [token for token in range(vocab_size) if not is_forbidden[row, token]]
        total = sum(math.exp(values[token]) for token in allowed)
        choosable = [token for token in allowed if not is_withheld[row, token]]
        expected = sorted(choosable, key=lambda token: (-values[token], token))[:count]
        assert [token for token, _ in named] == expected
        assert [p for _, p in named] == pytest.approx([math.exp(values[token]) / total for token in expected])


def test_nothing_is_named_unasked() -> None:
    given = {name: torch.arange(1) for name in ("seed", "positions", "step")}
    rules = {"is_forbidden": torch.zeros(1, 4, dtype=torch.bool), "temperature": torch.zeros(1)}
    assert select(torch.zeros(1, 4), **rules, **given).alternatives is None
    assert write(HashDenoiser(VOCAB), count=0).alternatives == ()


def test_equals_at_the_edge_are_the_lowest() -> None:
    values = torch.zeros(2, 1000)
    values[1, 700:] = 1.0
    _, index = ranked(values, 3)
    assert index.tolist() == [[0, 1, 2], [700, 701, 702]]


@pytest.mark.parametrize("count", [-1, 21])
def test_only_so_many_can_be_asked_for(count: int) -> None:
    with pytest.raises(ConfigError, match=r"num_alternatives must lie in \[0, 20\]"):
        SamplingParams(num_alternatives=count)


def test_the_canvas_carries_them() -> None:
    prompt, masks = Canvas.of_prompt([11]), Canvas.of_masks(3, mask_id=2, hole=0)
    canvas = Canvas.join([prompt, masks])
    assert canvas.alternatives is None
    where, ids = torch.tensor([False, True, False, True]), torch.tensor([0, 20, 21, 22])
    named = Alternatives(token_ids=torch.stack([ids, ids + 1], dim=1), probability=torch.full((4, 2), 0.25))
    canvas = canvas.commit(where, ids, torch.full((4,), 0.5), step=1, state=State.DRAFT, alternatives=named)
    of_20, of_22 = ((20, 0.25), (21, 0.25)), ((22, 0.25), (23, 0.25))
    assert canvas.alternatives.tokens() == ((), of_20, (), of_22)
    assert canvas.take(torch.tensor([3, 1, 1])).alternatives.tokens() == (of_22, of_20, of_20)
    assert Canvas.join([prompt, canvas, prompt]).alternatives.tokens() == ((), (), of_20, (), of_22, ())
    assert canvas.remask(ids == 20, 2).alternatives.tokens() == ((), (), (), of_22)
    edited = canvas.edit(ids == 20, ids, torch.full((4,), 0.5), step=2, alternatives=named.rows(torch.tensor([3] * 4)))
    assert edited.alternatives.tokens() == ((), of_22, (), of_22)


def write(denoiser, *template, count: int = 4, **options) -> Result:
    params = SamplingParams(num_alternatives=count, vocab_size=VOCAB, **options)
    template = template or (Text(token_ids=(11, 12)), Hole(length=5), Text(token_ids=(13,)))
    return final_result(infill(denoiser, fake_spec(), template, params))


def assert_named(named, logits, confidence: float, token_id: int, count: int = 4) -> None:
    """The likeliest text tokens of a row, with the ratios of their probabilities and the size of the written one's."""
    values = logits.tolist()
    assert [token for token, _ in named] == sorted(TEXT, key=lambda token: (-values[token], token))[:count]
    for token, probability in named:
        expected = confidence * math.exp(values[token] - values[token_id])
        assert probability == pytest.approx(expected, rel=1e-4)


def seen_by(denoiser: CountingDenoiser, step: int, position: int):
    """Logits of a position at a forward, from 1."""
    canvas, blocks = denoiser.canvases[step - 1], denoiser.block_ids[step - 1]
    return denoiser.inner(torch.tensor(canvas), torch.tensor(blocks))[position]


def test_they_follow_a_hole_that_changes_its_length() -> None:
    resized = 0
    for seed in range(8):
        bonus = {SPECIAL.expand: 5.5, SPECIAL.delete: 4.0}
        denoiser = CountingDenoiser(HashDenoiser(VOCAB, seed=seed, sharpness=9.0, bonus=bonus))
        result = write(
            denoiser, Text(token_ids=(11,)), Hole(), Text(token_ids=(12,)), policy=ConfidenceThreshold(threshold=0.4)
        )
        resized += len({len(canvas) for canvas in denoiser.canvases}) > 1
        # Nothing is ever written over, so a step's tokens stand in the hole as they stood on its canvas.
        written = [entry for entry in result.trace if entry.token_id in TEXT]
        for at, token in enumerate(result.holes[0]):
            step = result.step_committed[0][at]
            rank = result.step_committed[0][:at].count(step)
            entry = [each for each in written if each.step == step][rank]
            assert entry.token_id == token
            logits = seen_by(denoiser, step, entry.position)
            assert_named(result.alternatives[0][at], logits, result.confidence[0][at], token)
    assert resized > 3


@pytest.mark.parametrize("policy", REVISING, ids=["remasks", "edits"])
@pytest.mark.parametrize("in_place", [True, False])
def test_they_are_those_of_the_last_writing(policy, in_place: bool) -> None:
    rewritten = 0
    for seed in range(6):
        denoiser = CountingDenoiser(HashDenoiser(VOCAB, seed=seed))
        options = {"policy": policy, "seed": seed, "temperature": 1.0}
        if in_place:
            result, start = write(denoiser, **options), 3
        else:
            params = SamplingParams(num_alternatives=4, forbidden_ids=(SPECIAL.eos,), max_tokens=6, **options)
            result, start = final_result(generate(denoiser, fake_spec(), (11, 12, 13), params)), 3
        last = {entry.position - start: entry for entry in result.trace}
        rewritten += len(result.trace) > len(last)
        for at, token in enumerate(result.holes[0]):
            assert (last[at].token_id, last[at].step) == (token, result.step_committed[0][at])
            logits = seen_by(denoiser, last[at].step, last[at].position)
            assert_named(result.alternatives[0][at], logits, result.confidence[0][at], token)
    assert rewritten > 2


def test_a_drafts_are_those_of_the_look_that_judged_it() -> None:
    denoiser = CountingDenoiser(HashDenoiser(VOCAB, seed=3))
    hole = Hole(draft=(10, 11, 12, 13), frozen=(True, False, False, False))
    result = write(denoiser, Text(token_ids=(14,)), hole, draft_threshold=0.0)
    assert (result.holes, result.nfe) == (((10, 11, 12, 13),), 1)
    assert result.alternatives[0][0] == ()
    for at in (1, 2, 3):
        logits = seen_by(denoiser, 1, 2 + at)
        assert_named(result.alternatives[0][at], logits, result.confidence[0][at], result.holes[0][at])


def test_token_by_token_and_before_a_stop() -> None:
    denoiser = CountingDenoiser(HashDenoiser(VOCAB, seed=1))
    params = SamplingParams(
        num_alternatives=4,
        max_tokens=6,
        forbidden_ids=(SPECIAL.eos,),
        stop=lambda ids: 3 if len(ids) == 5 else None,
    )
    spec = fake_spec(Objective.AUTOREGRESSIVE)
    result = final_result(generate_autoregressive(denoiser, spec, (11, 12), params))
    assert len(result.holes[0]) == len(result.alternatives[0]) == 3
    for at, token in enumerate(result.holes[0]):
        logits = seen_by(denoiser, at + 1, 2 + at)
        assert_named(result.alternatives[0][at], logits, result.confidence[0][at], token)
