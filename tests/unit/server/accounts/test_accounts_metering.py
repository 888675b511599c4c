"""A request's way through limits, grant and bill."""

import threading

import pytest

from quicksilver.errors import InputError, QuotaError, RateLimitError, StorageError
from quicksilver.server.accounts import Limits, Meter, RateLimiter
from tests.usages import make_usage


@pytest.fixture
def meter(accounts):
    return Meter(accounts, RateLimiter(lambda: 0.0))


@pytest.fixture
def key(accounts):
    limits = Limits(requests_per_minute=4, output_tokens_per_minute=100)
    return accounts.create_key("laptop", limits=limits, granted_tokens=60)[0]


def used(meter, key):
    return meter.limiter.state(key.id, key.limits).used


def left(meter, key) -> int:
    """What the next request could take of the grant."""
    for tokens in range(60, -1, -1):
        try:
            meter.accounts.reserve(key.id, tokens)
        except QuotaError:
            continue
        meter.accounts.release(key.id, tokens)
        return tokens
    raise AssertionError("less than nothing is left")


def test_a_billed_request_counts_as_what_it_took(meter, key):
    with meter.admit(key, input_tokens=10, max_output_tokens=30) as admission:
        assert (used(meter, key), left(meter, key)) == ((1, 10, 30), 20)
        admission.bill(make_usage("r1", key.id))
        assert (used(meter, key), left(meter, key)) == ((1, 10, 5), 45)
        admission.bill(make_usage("r1", key.id))
    assert (used(meter, key), left(meter, key)) == ((1, 10, 5), 45)


def test_a_request_that_fails_costs_nothing(meter, key):
    with pytest.raises(ZeroDivisionError), meter.admit(key, input_tokens=10, max_output_tokens=30):
        raise ZeroDivisionError
    assert (used(meter, key), left(meter, key)) == ((1, 10, 0), 60)


def test_a_bill_that_cannot_be_written_is_told_and_holds_nothing(meter, key):
    with (
        pytest.raises(StorageError, match="no API key key_x"),
        meter.admit(key, input_tokens=10, max_output_tokens=30) as admission,
    ):
        admission.bill(make_usage("r1", "key_x"))
    assert left(meter, key) == 60


def test_a_request_beyond_the_grant_takes_no_tokens_of_the_minute(meter, key):
    with pytest.raises(QuotaError):
        meter.admit(key, input_tokens=10, max_output_tokens=51)
    assert (used(meter, key), left(meter, key)) == ((1, 10, 0), 60)


def test_a_request_beyond_the_minute_holds_nothing_of_the_grant(meter, key):
    for _ in range(4):
        meter.admit(key, input_tokens=1, max_output_tokens=1)
    with pytest.raises(RateLimitError):
        meter.admit(key, input_tokens=1, max_output_tokens=1)
    with pytest.raises(InputError):
        meter.admit(key, input_tokens=1, max_output_tokens=101)
    assert left(meter, key) == 60 - 8


def test_tokens_are_held_until_the_bill_is_written_even_if_the_task_has_gone(meter, key, monkeypatch):
    """A task that is cancelled leaves the context while its thread still writes."""
    is_writing, may_write = threading.Event(), threading.Event()
    record = meter.accounts.record

    def slow(usage):
        is_writing.set()
        may_write.wait(10)
        return record(usage)

    monkeypatch.setattr(meter.accounts, "record", slow)
    with meter.admit(key, input_tokens=10, max_output_tokens=30) as admission:
        thread = threading.Thread(target=admission.bill, args=(make_usage("r1", key.id),))
        thread.start()
        is_writing.wait(10)
    assert left(meter, key) == 20
    may_write.set()
    thread.join(10)
    assert left(meter, key) == 45


def test_a_bill_that_starts_after_the_task_has_gone_counts_all_the_same(meter, key):
    with meter.admit(key, input_tokens=10, max_output_tokens=30) as admission:
        pass
    admission.bill(make_usage("r1", key.id))
    assert (used(meter, key), left(meter, key)) == ((1, 10, 5), 45)
