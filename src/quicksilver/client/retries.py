"""Whether to ask again, and when. Only before an answer has begun: half an answer is never asked for twice."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_RETRIED = frozenset({408, 409, 429})
_FIRST_S, _MOST_S = 0.5, 8.0
"""Waits where the server names none: doubled every time."""
_LONGEST_WAIT_S = 60.0
"""A server that wants a longer one gets its refusal reported instead."""


def wait_after_status(response: httpx.Response, num_tries: int) -> float | None:
    """Seconds to wait before the next try; None: there is none.

    ``x-should-retry`` goes before the status, ``retry-after-ms`` before ``retry-after``.
    """
    told = response.headers.get("x-should-retry")
    is_worth_it = told == "true" or (told != "false" and (response.status_code in _RETRIED or response.is_server_error))
    if not is_worth_it:
        return None
    wanted = _wanted_wait(response.headers)
    if wanted is None:
        return _backoff(num_tries)
    return wanted if wanted <= _LONGEST_WAIT_S else None


def wait_after_failure(error: httpx.RequestError, num_tries: int) -> float | None:
    """The same where there was no answer. One that takes too long is not asked for again: it would take as long."""
    is_worth_it = isinstance(error, httpx.NetworkError | httpx.ConnectTimeout | httpx.RemoteProtocolError)
    return _backoff(num_tries) if is_worth_it else None


def _wanted_wait(headers: httpx.Headers) -> float | None:
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _seconds(headers.get(name, ""), unit_s)
        if seconds is not None and seconds >= 0:
            return seconds
    return None


def _seconds(value: str, unit_s: float) -> float | None:
    try:
        return float(value) * unit_s
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    # HTTP's dates are UTC; the parser leaves out the zone where a date says -0000.
    return max((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _backoff(num_tries: int) -> float:
    # Spread over a quarter, or clients that were refused together come again together.
    return min(_FIRST_S * 2 ** (num_tries - 1), _MOST_S) * random.uniform(0.75, 1.0)
