"""Usage to record in tests."""

from datetime import UTC, datetime

from quicksilver.server.accounts import Usage


def make_usage(request_id: str, key_id: str | None, **changes) -> Usage:
    """A request of 15 tokens that ended in the first microsecond of a day; what is not given is the same for all."""
    fields = {
        "route": "/v1/completions",
        "model": "tiny",
        "input_tokens": 10,
        "cached_tokens": 4,
        "output_tokens": 5,
        "nfe": 3,
        "started_at": datetime(2026, 11, 24, 23, 59, 59, 999_999, tzinfo=UTC),
        "finished_at": datetime(2026, 11, 25, 0, 0, 0, 1, tzinfo=UTC),
        "finish_reason": "stop",
    }
    return Usage(request_id=request_id, key_id=key_id, **(fields | changes))
