"""Blocks get shorter while many requests run, but only where the request said they may."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.decoding import Resize, SamplingParams, make_policy
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.load import block_length_under_load
from quicksilver.engine.request import Continuation, Request
from tests.fakes import fake_spec
from tests.tiny import random_denoiser

LENGTHS = (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("num_running", "expected"), [(0, 16), (1, 16), (4, 16), (5, 8), (8, 8), (9, 4), (16, 4), (17, 4), (1000, 4)]
)
def test_all_windows_fit_one_forward_as_long_as_they_can(num_running, expected):
    assert block_length_under_load(LENGTHS, 16, num_running, 64) == expected


def test_only_divisors_of_what_is_wanted_are_taken():
    assert block_length_under_load((4, 6), 12, 10, 64) == 6
    assert block_length_under_load((4, 6), 8, 10, 64) == 4
    assert block_length_under_load((5,), 16, 1000, 64) == 16


@given(
    num_blocks=st.integers(1, 6),
    wanted=st.sampled_from(LENGTHS),
    loads=st.lists(st.integers(0, 40), min_size=1),
    budget=st.integers(1, 100),
)
def test_no_block_crosses_the_grid_of_the_wanted_length(num_blocks, wanted, loads, budget):
    offset, step = 0, 0
    while offset < num_blocks * wanted:
        length = block_length_under_load(LENGTHS, wanted, loads[step % len(loads)], budget, offset=offset)
        assert length in LENGTHS
        assert offset // wanted == (offset + length - 1) // wanted
        offset, step = offset + length, step + 1
    assert offset == num_blocks * wanted


def blocks_of(may_follow_load: bool, num_others: int, has_causal_context: bool = True) -> tuple[list[int], tuple]:
    """Lengths of the blocks that one request opened, and its tokens, beside some others."""
    spec = replace(fake_spec(), has_causal_context=has_causal_context, block_length=8, trained_block_lengths=(2, 4, 8))
    engine = Engine(random_denoiser(), spec, EngineConfig(row_budget=16))
    params = SamplingParams(max_tokens=16, seed=3, temperature=1.0, policy=make_policy("fixed_steps", steps=2))
    other = Request(task=Continuation(prompt_ids=(11, 12)), params=params)
    tickets = [engine.submit(other) for _ in range(num_others)]
    ticket = engine.submit(
        Request(task=Continuation(prompt_ids=(13, 14, 15)), params=params, may_follow_load=may_follow_load)
    )
    while not ticket.is_ended:
        engine.step()
        engine.check_integrity()
    for each in tickets:
        engine.abort(each)
    opened = [event.added for event in ticket.events if isinstance(event, Resize) and event.added > 0]
    return opened, ticket.result.token_ids


def test_a_request_that_may_not_follow_never_depends_on_load():
    assert blocks_of(False, 0) == blocks_of(False, 6)


def test_a_request_that_may_follow_does():
    alone, _ = blocks_of(True, 0)
    beside, _ = blocks_of(True, 6)
    assert set(alone) == {8}
    assert beside[:2] == [2, 2]
    assert sum(beside) <= 16


def test_blocks_stay_where_a_blocks_keys_depend_on_where_it_ends():
    assert set(blocks_of(True, 6, has_causal_context=False)[0]) == {8}


def test_blocks_grow_again_on_their_grid_and_need_no_more_positions():
    spec = replace(fake_spec(), has_causal_context=True, block_length=8, trained_block_lengths=(2, 4, 8))
    engine = Engine(random_denoiser(), spec, EngineConfig(row_budget=16))
    params = SamplingParams(
        max_tokens=24,
        policy=make_policy("fixed_steps", steps=1),
        forbidden_ids=(),
        logit_bias=((spec.special.eos, -100.0),),
    )
    others = [engine.submit(Request(task=Continuation(prompt_ids=(11,)), params=params)) for _ in range(6)]
    task = Continuation(prompt_ids=(13, 14, 15))
    ticket = engine.submit(Request(task=task, params=params, may_follow_load=True))
    engine.step()
    for each in others:
        engine.abort(each)
    while not ticket.is_ended:
        engine.step()
    # 2 under load, another at the end of that forward; alone again, 4 fits the grid, then 8.
    opened = [event.added for event in ticket.events if isinstance(event, Resize) and event.added > 0]
    assert opened == [2, 2, 4, 8, 8]
    assert len(ticket.result.token_ids) == 24
    assert ticket.sequence.most_positions == 3 + 24
