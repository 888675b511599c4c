"""The samplers against short, independent ones on plain lists: greedy and sampled, threshold policy."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from quicksilver.decoding import ConfidenceThreshold, Hole, SamplingParams, Text, final_result, generate, infill
from quicksilver.diffusion.counter_rng import counter_uniform
from tests.fakes import SPECIAL, HashDenoiser, fake_spec

VOCAB = 18
MASK, EOS, EXPAND, DELETE = SPECIAL.mask, SPECIAL.eos, SPECIAL.expand, SPECIAL.delete
TEXT_IDS = list(range(10, VOCAB))


def before_a_pair(token_ids: Sequence[int]) -> int | None:
    """A stop rule: the response ends before the first two equal tokens in a row."""
    pairs = [i for i, (first, second) in enumerate(pairwise(token_ids)) if first == second]
    return pairs[0] if pairs else None


OPTIONS = SamplingParams(
    logit_bias=((12, 1.0), (13, -2.0), (EXPAND, 0.5)),
    repetition_penalty=1.2,
    presence_penalty=0.2,
    frequency_penalty=0.3,
    stop_ids=(11,),
    stop=before_a_pair,
)


def choose(
    row: list[float], allowed: list[int], temperature: float, seed: int, key: int, step: int
) -> tuple[int, float]:
    """Token and its probability at temperature 1 among the allowed ones."""
    total = sum(math.exp(row[token]) for token in allowed)
    score = {token: row[token] for token in allowed}
    if temperature:
        chance = counter_uniform(1, seed, key, step, torch.arange(VOCAB)).tolist()
        score = {token: row[token] / temperature - math.log(-math.log(chance[token])) for token in allowed}
    token = max(allowed, key=lambda t: (score[t], -t))
    return token, math.exp(row[token]) / total


def adjusted(row: list[float], params: SamplingParams, seen: list[int], written: list[int]) -> list[float]:
    """Bias and penalties, token by token."""
    row = [
        logit / params.repetition_penalty ** (1 if logit > 0 else -1) if token in seen else logit
        for token, logit in enumerate(row)
    ]
    row = [
        logit - params.presence_penalty * (token in written) - params.frequency_penalty * written.count(token)
        for token, logit in enumerate(row)
    ]
    return [logit + dict(params.logit_bias).get(token, 0.0) for token, logit in enumerate(row)]


def pick(confidence: dict[int, float], threshold: float) -> set[int]:
    best = max(confidence, key=lambda i: (confidence[i], -i))
    return {i for i, value in confidence.items() if value >= threshold} | {best}


def with_held_ends(found: dict[int, tuple[int, float]], step: int) -> dict[int, float]:
    """Confidence by position, where an end is no surer than what is in front of it, but for the median at first."""
    confidence, least = {}, 1.0
    for i, (token, p) in sorted(found.items()):
        least = min(least, p)
        confidence[i] = least if token == EOS else p
    median = None
    for i, (token, p) in sorted(found.items(), reverse=True):
        if token != EOS or p <= 0.5:
            break
        median = i
    return confidence if step or median is None else confidence | {median: 1.0}


def plain_generate(
    denoiser: HashDenoiser, prompt: list[int], threshold: float, temperature: float, params: SamplingParams
) -> tuple[list[int], int]:
    size, ends, max_tokens = len(prompt), {EOS, *params.stop_ids}, params.max_tokens or 0
    ids, blocks, nfe = list(prompt), [i // 4 for i in range(size)], 0
    while len(ids) - size < max_tokens:
        start = len(ids)
        ids += [MASK] * 4
        blocks += [blocks[-1] + 1 if blocks else 0] * 4
        stop = min(start + 4, size + max_tokens)
        masked, open_, end, step = set(range(start, start + 4)), set(range(start, stop)), stop, 0
        while open_:
            logits = denoiser(torch.tensor(ids), torch.tensor(blocks)).tolist()
            nfe += 1
            seen = [token for i, token in enumerate(ids) if i not in masked]
            rows = {i: adjusted(logits[i], params, seen, seen[size:]) for i in open_}
            found = {i: choose(rows[i], [EOS, *TEXT_IDS], temperature, params.seed, i, step) for i in open_}
            for i in pick(with_held_ends(found, step), threshold):
                ids[i] = found[i][0]
                masked.discard(i)
                open_.discard(i)
                end = min(end, i) if ids[i] in ends else end
            open_ = {i for i in open_ if i < end}
            step += 1
        kept = params.stop(ids[size:end]) if params.stop else None
        if kept is not None:
            return ids[size : size + kept], nfe
        if end < stop:
            return ids[size:end], nfe
    return ids[size : size + max_tokens], nfe


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 1.1])
def test_generate_equals_a_plain_loop(threshold: float, temperature: float) -> None:
    for case in range(4):
        denoiser = HashDenoiser(VOCAB, seed=case, sharpness=5.0, bonus={EOS: -1.0})
        prompt = [10 + (case + i) % 5 for i in range(case)]
        for options in (SamplingParams(), OPTIONS):
            params = replace(
                options,
                policy=ConfidenceThreshold(threshold=threshold),
                temperature=temperature,
                seed=case,
                max_tokens=10,
            )
            result = final_result(generate(denoiser, fake_spec(), prompt, params))
            expected, nfe = plain_generate(denoiser, prompt, threshold, temperature, params)
            assert list(result.token_ids) == expected
            assert result.nfe == nfe


def plain_rows(
    denoiser: HashDenoiser, left: list[int], hole: list[int | None], right: list[int], params: SamplingParams
) -> list[list[float]]:
    """One forward: the adjusted logits of the hole, in which None is a mask."""
    ids = [SPECIAL.canvas, *left, *(MASK if token is None else token for token in hole), *right]
    logits = denoiser(torch.tensor(ids), torch.zeros(len(ids), dtype=torch.int64)).tolist()
    written = [token for token in hole if token is not None]
    seen = [SPECIAL.canvas, *left, *written, *right]
    return [adjusted(logits[1 + len(left) + i], params, seen, written) for i in range(len(hole))]


def plain_review(
    denoiser: HashDenoiser, left: list[int], given: Hole, right: list[int], params: SamplingParams
) -> list[int | None]:
    """A drafted hole after the first forward."""
    hole: list[int | None] = []
    rows = plain_rows(denoiser, left, list(given.draft or ()), right, params)
    for row, token, is_frozen in zip(rows, given.draft or (), given.frozen or (), strict=True):
        probability = math.exp(row[token]) / sum(math.exp(row[other]) for other in TEXT_IDS)
        hole.append(token if is_frozen or probability >= params.draft_threshold else None)
    return hole


def plain_rest(hole: list[int | None], params: SamplingParams) -> list[int | None]:
    """A hole up to the end of its first stop among written neighbours."""
    for start in range(len(hole)):
        for end in range(start, len(hole) + 1):
            written = [token for token in hole[start:end] if token is not None]
            if len(written) == end - start and params.stop and params.stop(written) is not None:
                return hole[:end]
    return hole


def plain_infill(
    denoiser: HashDenoiser,
    left: list[int],
    right: list[int],
    threshold: float,
    temperature: float,
    params: SamplingParams,
    given: Hole,
) -> tuple[list[int], int]:
    """One hole between two texts, of unknown length or drafted."""
    hole: list[int | None] = [None] * 3
    level = float(counter_uniform(6, params.seed, torch.tensor(0), torch.tensor(0))) if temperature else 0.5
    budget, nfe, step = 12, 0, 0
    if given.draft is not None:
        hole, budget, nfe = plain_rest(plain_review(denoiser, left, given, right, params), params), 0, 1
    while None in hole:
        everywhere = plain_rows(denoiser, left, hole, right, params)
        nfe += 1
        lengths = [EXPAND] * (budget > 0 and len(hole) < 6) + [DELETE] * (budget > 0)
        rows = {i: everywhere[i] for i, token in enumerate(hole) if token is None}
        total = {i: sum(math.exp(row[token]) for token in TEXT_IDS + lengths) for i, row in rows.items()}
        chance = {i: {token: math.exp(row[token]) / total[i] for token in lengths} for i, row in rows.items()}
        gone = set()
        for i in reversed(range(len(hole))):
            if budget == 0 or i not in rows or chance[i].get(DELETE, 0.0) <= level:
                break
            gone.add(i)
            budget -= 1
        length, doubled = len(hole) - len(gone), set()
        for i in reversed(rows):
            if i not in gone and budget > 0 and length < 6 and chance[i].get(EXPAND, 0.0) > 1 - level:
                doubled.add(i)
                budget, length = budget - 1, length + 1
        if gone or doubled:
            hole = [token for i, token in enumerate(hole) if i not in gone for _ in range(1 + (i in doubled))]
            continue
        found = {i: choose(row, TEXT_IDS, temperature, params.seed, i, step) for i, row in rows.items()}
        share = {i: sum(math.exp(row[token]) for token in TEXT_IDS) / total[i] for i, row in rows.items()}
        for i in pick({i: p * share[i] for i, (_, p) in found.items()}, threshold):
            hole[i] = found[i][0]
        hole = plain_rest(hole, params)
        step += 1
    text = [token for token in hole if token is not None]
    kept = params.stop(text) if params.stop else None
    return text[:kept], nfe


DRAFTED = Hole(draft=(10, 12, 10, 14, 15), frozen=(False, False, False, True, False))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.1])
@pytest.mark.parametrize("given", [Hole(), DRAFTED], ids=["unknown", "drafted"])
def test_infill_equals_a_plain_loop(given: Hole, threshold: float, temperature: float) -> None:
    for case in range(5):
        bonus = {EXPAND: (case % 4) - 1.0, DELETE: (case % 3) - 1.0}
        denoiser = HashDenoiser(VOCAB, seed=case, sharpness=5.0, bonus=bonus)
        left, right = [10, 11, MASK][: case % 4], [12, 13][: case % 3]
        template = (Text(token_ids=tuple(left)), given, Text(token_ids=tuple(right)))
        for options in (SamplingParams(), replace(OPTIONS, stop_ids=())):
            params = replace(
                options,
                policy=ConfidenceThreshold(threshold=threshold),
                temperature=temperature,
                seed=case,
                draft_threshold=0.15,
            )
            result = final_result(infill(denoiser, fake_spec(), template, params))
            expected, nfe = plain_infill(denoiser, left, right, threshold, temperature, params, given)
            assert list(result.token_ids) == expected
            assert result.nfe == nfe
