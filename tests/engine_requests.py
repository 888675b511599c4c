"""Random requests for the engine, and the reference's answer to each."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from quicksilver import decoding
from quicksilver.api.network import StaleRecompute
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.decoding import (
    POLICY_NAMES,
    REVISION_NAMES,
    Cache,
    Draft,
    Edit,
    Event,
    Frame,
    Hole,
    JointThreshold,
    SamplingParams,
    Text,
    make_policy,
)
from quicksilver.decoding.ends import Ends
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.engine.request import Continuation, Filling, Request
from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser
from tests.automata import random_automaton
from tests.fakes import SPECIAL

VOCAB_SIZE = 61
FIRST_TEXT_ID = 10
"""See ``tests.fakes.SPECIAL``."""


class EndsWith:
    """A stop rule: the text ends before the first occurrence of a token that is a multiple of ``divisor``."""

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor

    def __call__(self, token_ids: Sequence[int]) -> int | None:
        return next((at for at, token in enumerate(token_ids) if token % self.divisor == 0), None)


def _tokens(rng: random.Random, low: int, high: int) -> tuple[int, ...]:
    # Few different tokens, so that requests share prefixes; the literal mask may be among them.
    return tuple(rng.choice((2, 11, 12, 13, 14, 15)) for _ in range(rng.randint(low, high)))


def _draft(rng: random.Random) -> Hole:
    size = rng.randint(1, 5)
    frozen = tuple(rng.random() < 0.3 for _ in range(size)) if rng.random() < 0.5 else None
    return Hole(draft=tuple(rng.randint(FIRST_TEXT_ID, VOCAB_SIZE - 1) for _ in range(size)), frozen=frozen)


def _template(rng: random.Random, has_known_lengths: bool) -> Filling:
    parts: list[Text | Hole] = [Text(token_ids=_tokens(rng, 0, 6))]
    for _ in range(rng.randint(1, 3)):
        kinds = ["known", "draft"] if has_known_lengths else ["known", "draft", "unknown", "unknown", "capped"]
        match rng.choice(kinds):
            case "known":
                parts.append(Hole(length=rng.randint(1, 5)))
            case "draft":
                parts.append(_draft(rng))
            case "capped":
                parts.append(Hole(max_length=rng.randint(1, 5)))
            case _:
                parts.append(Hole())
        parts.append(Text(token_ids=_tokens(rng, 1, 5)))
    return Filling(template=tuple(parts))


def _params(rng: random.Random, spec: DiffusionSpec) -> SamplingParams:
    params = SamplingParams(
        seed=rng.randrange(2**40),
        temperature=rng.choice((0.0, 0.0, 0.7, 1.0)),
        vocab_size=VOCAB_SIZE,
        max_nfe=rng.choice((None, None, None, 1, 3, 6)),
        top_k=rng.choice((None, None, 5)),
        top_p=rng.choice((None, None, 0.8)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.3)),
        frequency_penalty=rng.choice((0.0, 0.0, 0.5)),
        presence_penalty=rng.choice((0.0, 0.0, 0.4)),
        logit_bias=rng.choice(((), (), ((20, 2.0), (1, 3.0)))),
        draft_threshold=rng.choice((0.1, 0.5)),
        forbidden_ids=rng.choice(((), (30, 31))),
    )
    # By its own counter, so that tests which rely on a seed's requests go on drawing them.
    params = replace(params, num_alternatives=random.Random(params.seed).choice((0, 0, 1, 3, 20)))
    if spec.objective is Objective.AUTOREGRESSIVE:
        return params
    if spec.objective is Objective.UNIFORM:
        return replace(params, policy=make_policy("renoise", steps=5))
    name = rng.choice([name for name in POLICY_NAMES if name != "renoise"])
    policy = make_policy(name, steps=4) if name == "remdm" else make_policy(name)
    if isinstance(policy, JointThreshold) and random.Random(params.seed).random() < 0.5:
        policy = JointThreshold(edit_threshold=0.2, max_edits=None, max_post_steps=5)
    elif not policy.revises:
        # By its own counter, as above; low thresholds, so that random logits revise.
        revision = random.Random(params.seed + 1).choice(("none", *REVISION_NAMES))
        policy = make_policy(name, revision=revision, edit_threshold=0.2 if revision in ("edit", "remask") else None)
    return replace(params, policy=policy)


def _with_cache(rng: random.Random, params: SamplingParams) -> SamplingParams:
    cache = rng.choice((Cache.EXACT, *Cache))
    return replace(params, cache=cache, refresh_every=None if cache is Cache.EXACT else rng.choice((None, 1, 2, 3)))


def random_request(rng: random.Random, spec: DiffusionSpec) -> Request:
    """Any request the checkpoint can serve."""
    request = _without_constraint(rng, spec)
    # By its own counter, as in ``_params``.
    own = random.Random(request.params.seed + 2)
    return constrained(own, spec, request) if own.random() < 0.3 else request


def constrained(rng: random.Random, spec: DiffusionSpec, request: Request) -> Request:
    """The request with constraints that it can meet, of its response or of some of its holes."""
    params = replace(request.params, stop=None)
    for _ in range(20):
        if isinstance(request.task, Filling):
            template = tuple(
                replace(part, constraint=_automaton(rng)) if isinstance(part, Hole) and rng.random() < 0.7 else part
                for part in request.task.template
            )
            found = replace(request, params=params, task=Filling(template=template))
        else:
            found = replace(request, params=replace(params, constraint=_automaton(rng)))
        try:
            for _ in _events(_flat, spec, found):  # an event may come before the constraint is looked at
                pass
        except ConfigError:  # no text fits
            continue
        return found
    return request


def _automaton(rng: random.Random) -> TokenAutomaton:
    return random_automaton(
        rng, VOCAB_SIZE, rng.randint(1, 6), eos_id=SPECIAL.eos, first_id=FIRST_TEXT_ID, density=rng.choice((0.5, 0.9))
    )


def _flat(token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
    """A network that knows nothing."""
    return torch.zeros(len(token_ids), VOCAB_SIZE)


def _without_constraint(rng: random.Random, spec: DiffusionSpec) -> Request:
    params = _params(rng, spec)
    is_ar = spec.objective is Objective.AUTOREGRESSIVE
    priority = rng.choice((0, 0, 1))
    if not is_ar and rng.random() < 0.5:
        template = _template(rng, has_known_lengths=spec.objective is Objective.UNIFORM)
        params = _with_cache(rng, replace(params, stop=rng.choice((None, None, EndsWith(7)))))
        return Request(task=template, params=params, priority=priority, has_frames=True)
    params = replace(
        params,
        max_tokens=rng.randint(1, 14),
        block_length=None if is_ar else rng.choice((None, 2, 8)),
        stop_ids=rng.choice(((), (), (12, 40))),
        stop=rng.choice((None, None, EndsWith(7))),
    )
    if Layout.BLOCK_CAUSAL not in spec.layouts:
        params = replace(_with_cache(rng, params), ends=rng.choice((None, *Ends)))
        if params.ends is Ends.HELD and spec.objective is Objective.UNIFORM:
            params = replace(params, ends=None)  # noise is denoised in whole blocks
    task = Continuation(prompt_ids=_tokens(rng, 1, 20))
    return Request(task=task, params=params, priority=priority, has_frames=True)


def reference_events(denoiser: Denoiser, spec: DiffusionSpec, request: Request) -> list[Event]:
    """What the reference sampler says of a request."""
    return list(_events(StaleRecompute(denoiser, spec.prediction_shift), spec, request))


def _events(logits_fn: Callable[..., Any], spec: DiffusionSpec, request: Request) -> Iterable[Event]:
    params = request.params
    if isinstance(request.task, Filling):
        return decoding.infill(logits_fn, spec, request.task.template, params)
    sampler = decoding.generate
    if spec.objective is Objective.AUTOREGRESSIVE:
        sampler = decoding.generate_autoregressive
    return sampler(logits_fn, spec, request.task.prompt_ids, params)


def without_rounding(events: Sequence[Event]) -> list[Event]:
    """Events with probabilities rounded: another order of sums may change their last bit."""
    return [_rounded(event) for event in events]


def _rounded(event: Event) -> Event:
    if isinstance(event, decoding.Done):
        result = event.result
        trace = tuple(replace(entry, confidence=round(entry.confidence, 5)) for entry in result.trace)
        confidence = tuple(tuple(round(c, 5) for c in hole) for hole in result.confidence)
        alternatives = tuple(
            tuple(tuple((token, round(p, 5)) for token, p in named) for named in hole) for hole in result.alternatives
        )
        return replace(event, result=replace(result, trace=trace, confidence=confidence, alternatives=alternatives))
    if isinstance(event, Draft | Edit | Frame):
        return replace(event, confidence=tuple(round(c, 5) for c in event.confidence))
    assert "confidence" not in {f.name for f in fields(event)}
    return event
