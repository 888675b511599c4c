"""Bias and penalties against a plain loop over single logits, and what the samplers count as visible."""

import random

import pytest
import torch
from torch import Tensor

from quicksilver.decoding import (
    Adjustments,
    Canvas,
    ConfidenceThreshold,
    Hole,
    JointThreshold,
    SamplingParams,
    State,
    Text,
    adjust,
    canvas_adjustments,
    final_result,
    generate,
    generate_autoregressive,
    infill,
    select,
    token_adjustments,
)
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from tests.fakes import SPECIAL, CountingDenoiser, ScriptedDenoiser, fake_spec

VOCAB = 24


def plain(row: list[float], params: SamplingParams, seen: list[int], written: list[int]) -> list[float]:
    """One row, token by token."""
    result = []
    for token, logit in enumerate(row):
        if token in seen:
            logit = logit / params.repetition_penalty if logit > 0 else logit * params.repetition_penalty
        logit += dict(params.logit_bias).get(token, 0.0)
        logit -= params.frequency_penalty * written.count(token)
        if token in written:
            logit -= params.presence_penalty
        result.append(logit)
    return result


def random_params(rng: random.Random) -> SamplingParams:
    biased = rng.sample(range(VOCAB), rng.randrange(4))
    return SamplingParams(
        logit_bias=tuple((token, rng.uniform(-5, 5)) for token in biased),
        repetition_penalty=rng.choice([1.0, 0.7, 1.3, 2.0]),
        presence_penalty=rng.choice([0.0, 0.6, -1.5]),
        frequency_penalty=rng.choice([0.0, 0.4, -0.3]),
    )


def test_a_batch_of_requests_equals_a_plain_loop() -> None:
    for case in range(40):
        rng = random.Random(case)
        params, texts, sizes = [], [], []
        for _ in range(rng.randint(1, 4)):
            params.append(random_params(rng))
            written = [rng.randrange(VOCAB) for _ in range(rng.randrange(8))]
            texts.append(([rng.randrange(VOCAB) for _ in range(rng.randrange(6))] + written, written))
            sizes.append(rng.randint(0, 3))
        parts = [
            token_adjustments(
                p,
                seen_ids=torch.tensor(seen, dtype=torch.int64),
                written_ids=torch.tensor(written, dtype=torch.int64),
                num_rows=size,
            )
            for p, (seen, written), size in zip(params, texts, sizes, strict=True)
        ]
        logits = torch.randn(sum(sizes), VOCAB, generator=torch.Generator().manual_seed(case)) * 4
        logits[:, 5] = 0.0
        logits[:, 6] = -torch.inf
        before = logits.clone()
        joined = Adjustments.join(parts, sizes)
        found = adjust(logits, joined)
        owner = [request for request, size in enumerate(sizes) for _ in range(size)]
        expected = [plain(row, params[i], *texts[i]) for row, i in zip(logits.tolist(), owner, strict=True)]
        assert torch.allclose(found, torch.tensor(expected).reshape(found.shape), rtol=1e-5, atol=1e-5)
        assert torch.equal(logits, before)
        if joined is not None:
            for start in range(len(owner) + 1):
                part = adjust(logits[start : start + 2], joined.rows(start, min(start + 2, len(owner))))
                assert torch.equal(part, found[start : start + 2])


def test_no_entries_where_nothing_is_asked() -> None:
    ids = torch.tensor([10, 11])
    assert token_adjustments(SamplingParams(), seen_ids=ids, written_ids=ids, num_rows=3) is None
    assert Adjustments.join([None, None], [2, 1]) is None
    biased = token_adjustments(SamplingParams(logit_bias=((7, 1.0),)), seen_ids=ids, written_ids=ids, num_rows=3)
    assert biased is not None
    assert (biased.row.tolist(), biased.token_ids.tolist()) == ([0, 1, 2], [7, 7, 7])


def test_visible_is_told_by_state() -> None:
    """The prompt holds the literal mask token and counts; masks do not, nor does the noise that may stand at them."""
    masks = Canvas.of_masks(4, mask_id=15, hole=0)
    at = torch.tensor([False, True, True, False])
    drafts = masks.commit(at, torch.full((4,), 12), torch.ones(4), step=1, state=State.DRAFT)
    canvas = Canvas.join([Canvas.of_prompt([SPECIAL.mask, 12]), drafts])
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=1.0)
    found = adjust(torch.full((1, VOCAB), 8.0), canvas_adjustments(params, canvas, 1))
    expected = torch.full((1, VOCAB), 8.0)
    expected[0, SPECIAL.mask], expected[0, 12] = 4.0, 4.0 - 0.5 - 2.0
    assert torch.equal(found, expected)


def choose(logits: Tensor, adjustments: Adjustments | None, temperature: float = 0.0) -> tuple[list[int], list[float]]:
    is_forbidden = torch.zeros(1, logits.shape[1], dtype=torch.bool)
    is_forbidden[0, 0] = True
    count = logits.shape[0]
    found = select(
        logits,
        is_forbidden=is_forbidden,
        temperature=torch.full((count,), temperature),
        seed=torch.full((count,), 3),
        positions=torch.arange(count),
        step=torch.zeros(count, dtype=torch.int64),
        adjustments=adjustments,
    )
    return found.token_ids.tolist(), found.confidence.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_numbers_of_a_candidate_are_those_of_the_adjusted_logits(temperature: float) -> None:
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(4))
    params = SamplingParams(logit_bias=((0, 100.0), (3, 1.5)), repetition_penalty=1.4)
    adjustments = token_adjustments(params, seen_ids=torch.tensor([2, 4]), written_ids=torch.tensor([4]), num_rows=50)
    adjusted = choose(adjust(logits, adjustments), None, temperature)
    assert choose(logits, adjustments, temperature) == adjusted
    assert adjusted != choose(logits, None, temperature)
    assert 0 not in adjusted[0]  # forbidden, whatever its bias


def at_once(**options: object) -> SamplingParams:
    return SamplingParams(policy=ConfidenceThreshold(threshold=0.0), **options)


def test_a_bias_rules_every_sampler() -> None:
    denoiser = ScriptedDenoiser((10,), (0.5,), VOCAB)
    bias = ((13, 50.0), (SPECIAL.pad, 100.0))
    assert final_result(generate(denoiser, fake_spec(), (), at_once(logit_bias=bias, max_tokens=4))).token_ids == (
        (13,) * 4
    )
    filled = final_result(infill(denoiser, fake_spec(), (Hole(length=2),), at_once(logit_bias=bias)))
    assert filled.token_ids == (13, 13)
    assert min(filled.confidence[0]) > 0.99
    params = SamplingParams(logit_bias=bias, max_tokens=2)
    spec = fake_spec(Objective.AUTOREGRESSIVE)
    assert final_result(generate_autoregressive(denoiser, spec, (), params)).token_ids == (13, 13)


def test_penalties_count_what_stands_at_that_step() -> None:
    """Logits 10: 3.0, 11: 2.5, 12: 2.0 and one token per forward; each 10 lowers the next one's logit."""

    class Fixed:
        def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
            logits = torch.full((token_ids.shape[0], VOCAB), -9.0)
            logits[:, 10], logits[:, 11], logits[:, 12] = 3.0, 2.5, 2.0
            return logits

    def written(prompt: tuple[int, ...] = (), **penalty: float) -> tuple[int, ...]:
        params = SamplingParams(policy=ConfidenceThreshold(threshold=1.1), max_tokens=4, **penalty)
        result = final_result(generate(Fixed(), fake_spec(), prompt, params))
        spec = fake_spec(Objective.AUTOREGRESSIVE)
        params = SamplingParams(max_tokens=4, **penalty)
        assert final_result(generate_autoregressive(Fixed(), spec, prompt, params)).token_ids == result.token_ids
        return result.token_ids

    assert written() == (10, 10, 10, 10)
    assert written(presence_penalty=0.8) == (10, 11, 10, 10)  # 3.0, 2.5 | 2.2, 2.5 | 2.2, 1.7, 2.0
    assert written(frequency_penalty=0.7) == (10, 11, 10, 12)  # 3.0 | 2.3, 2.5 | 2.3, 1.8, 2.0 | 1.6, 1.8, 2.0
    assert written((10, 10), frequency_penalty=0.7) == (10, 11, 10, 12)  # the prompt was not written
    assert written((10,), repetition_penalty=1.4) == (11, 10, 10, 10)  # 2.14, 2.5 | 2.14, 1.79, 2.0


def test_a_draft_may_push_itself_out() -> None:
    """The policy revises: at the second step every 10 that stands there counts against 10."""
    denoiser = CountingDenoiser(ScriptedDenoiser((10,), (0.9,), VOCAB))
    policy = JointThreshold(threshold=0.5, edit_threshold=0.01, max_edits=1)
    params = SamplingParams(policy=policy, frequency_penalty=2.0)
    result = final_result(infill(denoiser, fake_spec(), (Text(token_ids=(10,)), Hole(length=4)), params))
    assert denoiser.canvases[1][2:] == [10] * 4
    assert result.token_ids == (11,) * 4


def test_lengths_see_the_bias() -> None:
    denoiser = ScriptedDenoiser((10,), (0.9,), VOCAB)
    params = at_once(logit_bias=((SPECIAL.delete, 50.0),))
    assert final_result(infill(denoiser, fake_spec(), (Hole(),), params)).holes == ((),)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"logit_bias": ((3, 101.0),)}, r"logit_bias of token id 3 must lie in \[-100, 100\], got 101"),
        ({"logit_bias": ((3, float("nan")),)}, "logit_bias of token id 3"),
        ({"logit_bias": ((3, 1.0), (3, 2.0))}, "logit_bias names a token id more than once"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must lie in \[0.01, 100\], got 0.0"),
        ({"presence_penalty": 2.5}, r"presence_penalty must lie in \[-2, 2\], got 2.5"),
        ({"frequency_penalty": float("inf")}, r"frequency_penalty must lie in \[-2, 2\], got inf"),
    ],
)
def test_bad_values_are_errors(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**bad)


def test_a_bias_outside_the_vocabulary_is_an_error() -> None:
    denoiser = ScriptedDenoiser((10,), (0.9,), VOCAB)
    params = SamplingParams(logit_bias=((99, 1.0),))
    for run in (
        generate(denoiser, fake_spec(), (10,), params),
        infill(denoiser, fake_spec(), (Hole(),), params),
        generate_autoregressive(denoiser, fake_spec(Objective.AUTOREGRESSIVE), (10,), params),
    ):
        with pytest.raises(ConfigError, match="logit_bias: token id 99 is outside the vocabulary of 24"):
            final_result(run)
