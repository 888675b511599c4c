"""How much a key may ask in a minute: an exact sliding window in memory, on an injected clock.

A charge counts for the minute after its admission. So the requests admitted within any 60 s, and the input and output
tokens charged to them, never exceed the limits, however they arrive. Output is charged at its most when a request is
admitted, and settled to what it took when it ends. A restart of the process forgets the window.
"""

import operator
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import NamedTuple

from quicksilver.errors import ConfigError, InputError, RateLimitError

WINDOW_S = 60.0


class Amounts(NamedTuple):
    """What requests take of a key's minute."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def plus(self, other: "Amounts") -> "Amounts":
        return Amounts(*map(operator.add, self, other))

    def minus(self, other: "Amounts") -> "Amounts":
        return Amounts(*map(operator.sub, self, other))


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a key may take in a minute; None is without limit.

    Raises:
        ConfigError: a limit is below 1.
    """

    requests_per_minute: int | None = 1_000
    input_tokens_per_minute: int | None = 1_000_000
    output_tokens_per_minute: int | None = 100_000

    def __post_init__(self) -> None:
        for resource, limit in self.by_resource().items():
            if limit is not None and limit < 1:
                raise ConfigError(f"a limit of {limit} {_words(resource)} a minute lets nothing pass: give 1 or more")

    def by_resource(self) -> dict[str, int | None]:
        """The limits under the names of `Amounts`."""
        return dict(zip(Amounts._fields, astuple(self), strict=True))

    def exceeded_by(self, amounts: Amounts) -> str | None:
        """The first resource of which the amounts are more than a minute has."""
        for (resource, limit), amount in zip(self.by_resource().items(), amounts, strict=True):
            if limit is not None and amount > limit:
                return resource
        return None


@dataclass(slots=True, eq=False)
class Charge:
    """What an admitted request counts for; `RateLimiter.settle` changes it."""

    key_id: str
    admitted_s: float
    amounts: Amounts


@dataclass(frozen=True, kw_only=True, slots=True)
class RateState:
    """How a key stands with its limits at one moment."""

    limits: Limits
    used: Amounts
    """What is charged for the last minute."""
    reset_s: float
    """Seconds until nothing is charged any more, if nothing else comes."""

    def headers(self) -> dict[str, str]:
        """``x-ratelimit-*`` as OpenAI's clients read them; ``tokens`` are those of input and output together.

        What has no limit has no headers.
        """
        limits, used = self.limits.by_resource(), self.used._asdict()
        of_input, of_output = limits["input_tokens"], limits["output_tokens"]
        limits["tokens"] = None if of_input is None or of_output is None else of_input + of_output
        used["tokens"] = self.used.input_tokens + self.used.output_tokens
        headers = {}
        for resource, limit in limits.items():
            if limit is not None:
                name = resource.replace("_", "-")
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, limit - used[resource]))
                headers[f"x-ratelimit-reset-{name}"] = f"{round(self.reset_s, 3):g}s"
        return headers


class RateLimiter:
    """The last minute of every key. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing charged.

        Args:
            clock: seconds since any moment; never goes back.
        """
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def admit(self, key_id: str, limits: Limits, *, input_tokens: int, max_output_tokens: int) -> Charge:
        """Charge a request to its key.

        Raises:
            RateLimitError: the key has to wait.
            InputError: the request alone is more than a minute has, so waiting would not help.
        """
        amounts = Amounts(1, input_tokens, max_output_tokens)
        resource = limits.exceeded_by(amounts)
        if resource is not None:
            raise InputError(
                f"the request may take {amounts._asdict()[resource]:,} {_words(resource)}, the API key has "
                f"{limits.by_resource()[resource]:,} a minute: "
                + ("lower max_tokens" if resource == "output_tokens" else "send less")
            )
        with self._lock:
            now_s = self._clock()
            window = self._window(key_id, now_s)
            resource = limits.exceeded_by(window.used.plus(amounts))
            if resource is not None:
                wait_s = window.wait_s(amounts, limits, now_s)
                raise RateLimitError(f"too many {_words(resource)} in a minute: try again in {wait_s:.1f} s", wait_s)
            charge = Charge(key_id, now_s, amounts)
            window.add(charge)
            return charge

    def settle(self, charge: Charge, output_tokens: int) -> None:
        """Charge the output that a request took, instead of the most that it could have taken."""
        with self._lock:
            amounts = charge.amounts._replace(output_tokens=output_tokens)
            self._window(charge.key_id, self._clock()).change(charge, amounts)

    def state(self, key_id: str, limits: Limits) -> RateState:
        """How the key stands now."""
        with self._lock:
            now_s = self._clock()
            window = self._window(key_id, now_s)
            return RateState(limits=limits, used=window.used, reset_s=window.reset_s(now_s))

    def _window(self, key_id: str, now_s: float) -> "_Window":
        window = self._windows.setdefault(key_id, _Window())
        window.forget(now_s)
        return window


class _Window:
    """The charges of one key in the last minute, oldest first, and their sum."""

    def __init__(self) -> None:
        self._charges: deque[Charge] = deque()
        self.used = Amounts()

    def add(self, charge: Charge) -> None:
        self._charges.append(charge)
        self.used = self.used.plus(charge.amounts)

    def change(self, charge: Charge, amounts: Amounts) -> None:
        # Charges of one moment are forgotten together, so this tells whether it still counts.
        if self._charges and charge.admitted_s >= self._charges[0].admitted_s:
            self.used = self.used.minus(charge.amounts).plus(amounts)
        charge.amounts = amounts

    def forget(self, now_s: float) -> None:
        while self._charges and self._charges[0].admitted_s + WINDOW_S <= now_s:
            self.used = self.used.minus(self._charges.popleft().amounts)

    def wait_s(self, amounts: Amounts, limits: Limits, now_s: float) -> float:
        """Seconds until so many of the oldest charges are forgotten that the amounts fit; 0 if they fit now."""
        used, wait_s, charges = self.used, 0.0, iter(self._charges)
        while limits.exceeded_by(used.plus(amounts)) is not None:
            oldest = next(charges)
            used = used.minus(oldest.amounts)
            wait_s = oldest.admitted_s + WINDOW_S - now_s
        return wait_s

    def reset_s(self, now_s: float) -> float:
        return self._charges[-1].admitted_s + WINDOW_S - now_s if self._charges else 0.0


def _words(resource: str) -> str:
    return resource.replace("_", " ")
