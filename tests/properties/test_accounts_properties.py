"""Limits hold in every minute, and the bills add up, whatever requests do."""

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.errors import InputError, QuotaError, RateLimitError
from quicksilver.server.accounts import Accounts, Limits, RateLimiter
from quicksilver.server.accounts.limits import WINDOW_S, Amounts
from tests.usages import make_usage

counts = st.none() | st.integers(1, 30)
LIMITS = st.builds(Limits, requests_per_minute=counts, input_tokens_per_minute=counts, output_tokens_per_minute=counts)
# Quarters of a second, so that sums of moments are exact. Pauses of a minute and just beside it matter most.
PAUSES = st.integers(0, 40).map(lambda quarters: quarters / 4) | st.sampled_from([30.0, 59.75, 60.0, 60.25, 200.0])
REQUESTS = st.lists(
    st.tuples(PAUSES, st.integers(0, 20), st.integers(0, 20), st.none() | st.integers(0, 20)), max_size=40
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def most_in_a_minute(charges: list[tuple[float, int, int, int]], column: int) -> int:
    """The most of one column within any 60 s, by trying each window that ends with a charge."""
    moments = [charge[0] for charge in charges]
    return max(
        (
            sum(charge[column] for charge in charges[bisect_right(moments, at - WINDOW_S) : bisect_right(moments, at)])
            for at in moments
        ),
        default=0,
    )


@given(LIMITS, REQUESTS)
def test_no_minute_admits_more_than_the_limits(limits, requests):
    clock = Clock()
    limiter = RateLimiter(clock)
    admitted = []
    charges = []
    for pause_s, input_tokens, output_tokens, settled in requests:
        clock.now_s += pause_s
        try:
            charge = limiter.admit("key", limits, input_tokens=input_tokens, max_output_tokens=output_tokens)
        except (RateLimitError, InputError):
            continue
        charges.append(charge)
        admitted.append((clock.now_s, 1, input_tokens, output_tokens))
        if settled is not None:
            # Any request that has run, be it long ago, settles to no more than it was charged.
            index = settled % len(charges)
            at, _, read, most = admitted[index]
            written = min(settled, most)
            admitted[index] = (at, 1, read, written)
            limiter.settle(charges[index], written)
        used = limiter.state("key", limits).used
        assert min(used) >= 0
        assert used == tuple(
            sum(row[column] for row in admitted if row[0] > clock.now_s - WINDOW_S) for column in (1, 2, 3)
        )
    for column, limit in enumerate(limits.by_resource().values(), 1):
        assert limit is None or most_in_a_minute(admitted, column) <= limit


@given(LIMITS, REQUESTS)
def test_what_is_refused_fits_exactly_when_it_was_told(limits, requests):
    clock = Clock()
    limiter = RateLimiter(clock)

    def wait_s(input_tokens: int, output_tokens: int) -> float:
        try:
            limiter.admit("key", limits, input_tokens=input_tokens, max_output_tokens=output_tokens)
        except RateLimitError as error:
            return error.retry_after_s
        return 0.0

    for pause_s, *tokens, _ in requests:
        clock.now_s += pause_s
        if limits.exceeded_by(Amounts(1, *tokens)) is not None:
            with pytest.raises(InputError):
                wait_s(*tokens)
        elif told_s := wait_s(*tokens):
            assert 0 < told_s <= WINDOW_S
            clock.now_s += told_s - 0.25
            assert wait_s(*tokens) == 0.25
            clock.now_s += 0.25
            assert wait_s(*tokens) == 0


@given(REQUESTS)
def test_keys_do_not_share_their_minutes(requests):
    clock = Clock()
    limits = Limits(requests_per_minute=3)
    alone, shared = RateLimiter(clock), RateLimiter(clock)

    def is_admitted(limiter: RateLimiter, key_id: str) -> bool:
        try:
            limiter.admit(key_id, limits, input_tokens=0, max_output_tokens=0)
        except RateLimitError:
            return False
        return True

    for pause_s, *_ in requests:
        clock.now_s += pause_s
        is_admitted(shared, "other")
        assert is_admitted(alone, "key") == is_admitted(shared, "key")


@settings(max_examples=20)
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["reserve", "finish", "fail", "again"]), st.integers(0, 40), st.integers(0, 40)),
        max_size=25,
    )
)
def test_the_used_tokens_are_the_sum_of_the_bills(tmp_path_factory, actions):
    """Whatever is admitted, finished, failed or billed again: no more than the grant, and every bill once."""
    accounts = Accounts.open(f"sqlite:///{tmp_path_factory.mktemp('sum') / 'accounts.db'}")
    key, secret = accounts.create_key("laptop", granted_tokens=100)
    running: list[int] = []
    billed = {}
    for number, (action, held, used) in enumerate(actions):
        if action == "reserve":
            is_covered = held <= 100 - sum(bill.tokens for bill in billed.values()) - sum(running)
            try:
                accounts.reserve(key.id, held)
                running.append(held)
                assert is_covered
            except QuotaError:
                assert not is_covered
        elif action == "again" and billed:
            assert not accounts.record(next(iter(billed.values())))
        elif running and action != "again":
            held = running.pop()
            if action == "finish":
                bill = make_usage(f"r{number}", key.id, input_tokens=min(held, used), cached_tokens=0, output_tokens=0)
                assert accounts.record(bill)
                billed[bill.request_id] = bill
            accounts.release(key.id, held)
    found = accounts.find(secret)
    accounts.close()
    assert found.used_tokens == sum(bill.tokens for bill in billed.values()) <= 100
