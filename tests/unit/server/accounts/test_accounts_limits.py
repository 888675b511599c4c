"""Limits, headers and waiting; the properties are in tests/properties."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from quicksilver.errors import ConfigError, InputError, RateLimitError
from quicksilver.server.accounts import Limits, RateLimiter
from quicksilver.server.errors import retry_headers


def test_a_limit_that_lets_nothing_pass_is_an_error():
    with pytest.raises(ConfigError, match="a limit of 0 input tokens a minute"):
        Limits(input_tokens_per_minute=0)


def test_a_request_waits_until_enough_is_forgotten():
    now_s = 0.0
    limiter = RateLimiter(lambda: now_s)
    limits = Limits(output_tokens_per_minute=100)
    limiter.admit("key", limits, input_tokens=1, max_output_tokens=40)
    now_s = 10.0
    limiter.admit("key", limits, input_tokens=1, max_output_tokens=50)
    now_s = 15.0
    with pytest.raises(RateLimitError, match=r"too many output tokens in a minute: try again in 45\.0 s") as refused:
        limiter.admit("key", limits, input_tokens=1, max_output_tokens=30)
    assert refused.value.retry_after_s == 45
    with pytest.raises(RateLimitError, match=r"in 55\.0 s"):
        limiter.admit("key", limits, input_tokens=1, max_output_tokens=60)


def test_settling_makes_room_at_once():
    limiter = RateLimiter(lambda: 0.0)
    limits = Limits(output_tokens_per_minute=100)
    charge = limiter.admit("key", limits, input_tokens=1, max_output_tokens=100)
    limiter.settle(charge, 20)
    limiter.settle(charge, 20)
    assert limiter.state("key", limits).used == (1, 1, 20)
    limiter.admit("key", limits, input_tokens=1, max_output_tokens=80)


def test_what_never_fits_is_not_told_to_wait():
    limits = Limits(output_tokens_per_minute=100)
    with pytest.raises(InputError, match=r"101 output tokens, the API key has 100 a minute: lower max_tokens"):
        RateLimiter().admit("key", limits, input_tokens=1, max_output_tokens=101)


def test_headers_of_a_state():
    now_s = 0.0
    limiter = RateLimiter(lambda: now_s)
    limits = Limits(requests_per_minute=10, input_tokens_per_minute=1000, output_tokens_per_minute=100)
    limiter.admit("key", limits, input_tokens=200, max_output_tokens=30)
    now_s = 58.87655
    assert limiter.state("key", limits).headers() == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "1.123s",
        "x-ratelimit-limit-input-tokens": "1000",
        "x-ratelimit-remaining-input-tokens": "800",
        "x-ratelimit-reset-input-tokens": "1.123s",
        "x-ratelimit-limit-output-tokens": "100",
        "x-ratelimit-remaining-output-tokens": "70",
        "x-ratelimit-reset-output-tokens": "1.123s",
        "x-ratelimit-limit-tokens": "1100",
        "x-ratelimit-remaining-tokens": "870",
        "x-ratelimit-reset-tokens": "1.123s",
    }


def test_what_has_no_limit_has_no_headers():
    limits = Limits(requests_per_minute=10, input_tokens_per_minute=None)
    headers = RateLimiter().state("key", limits).headers()
    assert {name.split("-", 3)[3] for name in headers} == {"requests", "output-tokens"}
    assert headers["x-ratelimit-reset-requests"] == "0s"


def test_waiting_is_rounded_up():
    assert retry_headers(0.0001).items() >= {"retry-after": "1", "retry-after-ms": "1"}.items()
    assert retry_headers(59.9991).items() >= {"retry-after": "60", "retry-after-ms": "60000"}.items()


def test_threads_share_one_minute():
    limiter = RateLimiter()
    limits = Limits(requests_per_minute=50)

    def is_admitted(_: int) -> bool:
        try:
            limiter.admit("key", limits, input_tokens=1, max_output_tokens=1)
        except RateLimitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(is_admitted, range(400))) == 50
