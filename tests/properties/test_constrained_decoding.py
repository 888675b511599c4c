"""Whatever a request asks for beside its constraint, the answer satisfies it: the reference samplers, random networks.

``test_engine_equality`` holds the engine to the same events, in batches of requests with and without constraints.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from quicksilver.decoding import Done, Hole
from quicksilver.engine.request import Filling, Request
from tests.engine_requests import constrained, random_request, reference_events
from tests.properties.test_engine_equality import SPECS, denoiser_of


def answers(request: Request, name: str, seed: int) -> list[tuple[int, ...]]:
    *_, last = reference_events(denoiser_of(seed % 3), SPECS[name], request)
    assert isinstance(last, Done)
    return list(last.result.holes)


def check(request: Request, found: list[tuple[int, ...]]) -> None:
    """Every answer that has a constraint satisfies it."""
    if isinstance(request.task, Filling):
        holes = [part for part in request.task.template if isinstance(part, Hole)]
        known = [(hole.constraint, tokens) for hole, tokens in zip(holes, found, strict=True)]
    else:
        known = [(request.params.constraint, found[0])]
    for automaton, tokens in known:
        if automaton is None:
            continue
        state = automaton.walk(tokens)
        assert state is not None
        assert automaton.is_accepting[state]
        assert not set(tokens) & set(request.params.forbidden_ids)


@pytest.mark.parametrize("name", SPECS)
@given(seed=st.integers(0, 2**30))
# Without shrinking: an example takes a second.
@settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_the_answer_satisfies_the_constraint(name, seed):
    rng = random.Random(seed)
    request = random_request(rng, SPECS[name])
    # A limit of forwards may cut an answer short.
    request = replace(request, params=replace(request.params, max_nfe=None), has_frames=False)
    request = constrained(rng, SPECS[name], request)
    check(request, answers(request, name, seed))
