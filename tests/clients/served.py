"""What the scripts of all clients share; only the standard library, for they run in environments of their own."""

import json
import os
import time
import urllib.request
from collections.abc import Callable

ROOT = os.environ["QUICKSILVER_CLIENTS_URL"]
"""Of the server, without a path."""
V1 = f"{ROOT}/v1"
MODEL = "quicksilver-coder"
KEY = "any"
PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\n\nprint(add(1, 2))\n"
CHAT = [{"role": "user", "content": "def mean(xs):"}]


def get(path: str) -> str:
    with urllib.request.urlopen(ROOT + path, timeout=60) as response:
        return response.read().decode()


def raised(kind: type[Exception], call: Callable[..., object], **sent: object) -> Exception:
    """The exception of this kind that a call ends with; fails if it ends otherwise."""
    try:
        call(**sent)
    except kind as error:
        return error
    raise AssertionError(f"not refused: {sent}")


def num_aborted() -> float:
    """Requests that the server ended because nobody listens any more."""
    [line] = [line for line in get("/metrics").splitlines() if line.startswith("quicksilver_aborts_total")]
    return float(line.split()[1])


def require_freed(aborted_before: float, timeout_s: float = 20.0) -> None:
    """Fail unless the server has ended a request early and runs none."""
    end = time.monotonic() + timeout_s
    while json.loads(get("/health"))["num_running"] or num_aborted() <= aborted_before:
        assert time.monotonic() < end, "the hang-up freed nothing"
        time.sleep(0.02)
